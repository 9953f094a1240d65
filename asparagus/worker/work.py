"""One assignment, fitted on this rank."""

from __future__ import annotations

import json
import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from asparagus.attempts import begin_attempt, log_of
from asparagus.callbacks.checkpoints import CheckpointWriter
from asparagus.callbacks.exploit import OtherSettings
from asparagus.callbacks.figures import Figures
from asparagus.callbacks.finite import FiniteLoss
from asparagus.callbacks.journal_logger import Heartbeat, JournalLogger
from asparagus.callbacks.predictions import Predictions
from asparagus.callbacks.same_test_set import SameTestSet
from asparagus.callbacks.steps import FREEZES, UNUSED, WAITING
from asparagus.checkpoint.folder import STATE, newest_whole
from asparagus.checkpoint.full_disk import full_disk, is_full
from asparagus.checkpoint.transfer import take_over
from asparagus.errors import ConfigError, LeftError
from asparagus.journal import JOURNAL, Journal, JournalReader
from asparagus.secrets import WithoutSecrets, references
from asparagus.spec import Assignment, Exploit, Spec
from asparagus.stopwatch import WATCH, Phase
from asparagus.targets import instantiate, locate, parameters_of, target_of
from asparagus.worker.beat import Beat, accounted, watched_alone
from asparagus.worker.coming import ComingBatches
from asparagus.worker.elastic import WorldSizes, at_size, by_hand
from asparagus.worker.evaluate import joined, must_have, test_the_best
from asparagus.worker.here import HERE
from asparagus.worker.leaving import LeaveInTime
from asparagus.worker.parts import Parts
from asparagus.worker.ranks import Ranks
from asparagus.worker.resume import check_state
from asparagus.worker.stored import stored
from asparagus.worker.system_metrics import measured

GIVEN = ("trainer", "module", "datamodule", "ckpt_path")
"""What a script of the user's own is called with, in the order of `Trainer.fit`."""

log = logging.getLogger("asparagus")


def work(assignment: Assignment, ranks: Ranks) -> dict[str, Any]:
    """Train: from the run's newest whole checkpoint if there is one, else from its parent's weights or from nothing.

    A fit that has ended by itself is followed by a test of the best checkpoint, where there are test data.

    Returns:
        `metrics`: what was measured last, and `epoch`, `step`: how far it got.

    Raises:
        AsparagusError: The data or the weights do not fit what was asked.
    """
    with stored(assignment, ranks) as here:
        return _work(here, ranks)


def _work(assignment: Assignment, ranks: Ranks) -> dict[str, Any]:
    folder = Path(assignment.folder)
    WATCH.lap(Phase.DATA)  # out of a store, where there is one
    _take_place(assignment, ranks)
    with (
        _saying_if_the_disk_is_full(assignment),
        _journal(folder, ranks) as journal,
        accounted(journal),
        _logging_to(assignment, ranks.rank),
        measured(assignment),
        watched_alone(assignment.spec.failures.hung_after_min if ranks.alone else None),
    ):
        if journal is not None and HERE.news:
            journal.append("retry", attempt=HERE.attempt, news=HERE.news)
        trainer, module, datamodule = build(assignment, ranks, journal)
        start = _start(assignment, module)
        if start is None and assignment.parent is not None:
            _begin_from(assignment, module, journal)
        WATCH.lap(Phase.MODEL)
        with _interruptible():
            _run(assignment.spec, trainer, module, datamodule, start)
            WATCH.lap(Phase.SCRIPT if assignment.spec.script else Phase.END)
            reached = {"step": trainer.global_step, "epoch": trainer.current_epoch}
            metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
            if start is not None and not metrics:  # lost after its last epoch: there was nothing left to measure
                metrics = _measured_before(folder)
            if assignment.spec.run.mode == "fit" and not assignment.spec.script:
                metrics = joined(metrics, test_the_best(assignment, trainer, module, datamodule, journal))
        if journal is not None:
            journal.append("end", **reached)
        return {"metrics": metrics, **reached}


def _take_place(assignment: Assignment, ranks: Ranks) -> None:
    """Be this run's rank, where nobody has said so yet: a process by itself takes the number of its try."""
    if HERE.folder != assignment.folder or ranks.alone:
        HERE.folder, HERE.rank = assignment.folder, ranks.rank
        HERE.attempt = begin_attempt(Path(assignment.folder))
    HERE.secrets = set(references(assignment.spec.to_dict()))


@contextmanager
def _journal(folder: Path, ranks: Ranks) -> Iterator[Journal | None]:
    """Have the journal open for as long as this process trains the run; rank 0 writes it."""
    if ranks.rank != 0:
        yield None
        return
    journal = Journal(folder / JOURNAL)
    try:
        yield journal
    finally:
        journal.close()


def _measured_before(folder: Path) -> dict[str, float]:
    """Return what the last epoch that was finished measured."""
    ends = [event["values"] for event in JournalReader(folder / JOURNAL).read() if event["kind"] == "epoch"]
    return ends[-1] if ends else {}


def build(
    assignment: Assignment, ranks: Ranks, journal: Journal | None
) -> tuple[pl.Trainer, pl.LightningModule, pl.LightningDataModule]:
    """Build what `Trainer.fit` needs, on this rank."""
    folder = Path(assignment.folder)
    spec, notes = at_size(assignment.spec, ranks.world_size)
    for note in notes:
        log.info(note)
    parts = Parts(spec, ranks)
    parts.prepare()
    WATCH.lap(Phase.DATA)
    module = parts.module
    writer = CheckpointWriter(folder / "checkpoints", spec.checkpoint, ranks.commit, journal, parts.secrets)
    WATCH.lap(Phase.MODEL)
    ours = ranks.trainer_arguments(_strategy(spec, ranks))  # where there are several, they meet
    WATCH.lap(Phase.MODEL if ranks.alone else Phase.WORKERS)
    asked = parts.trainer_arguments()
    weights = Path(assignment.parent.checkpoint).stem if assignment.parent else "now"
    predictions = Predictions(folder, spec.task, weights, maps=spec.run.save_predictions)
    if spec is not assignment.spec and not module.automatic_optimization:
        asked = by_hand(asked, assignment.spec)
    trainer = pl.Trainer(
        **{
            "enable_model_summary": False,
            "use_distributed_sampler": not parts.shards,
            "default_root_dir": folder,
            "devices": 1,
            **asked,
            **ours,
            "plugins": [*(asked.get("plugins") or []), *ours.get("plugins", [])] or None,
            "enable_progress_bar": False,  # the launcher shows how it goes
            "enable_checkpointing": True,
            "logger": [JournalLogger(journal, folder), *parts.loggers(folder, first=ranks.rank == 0)],
            "callbacks": [
                *parts.callbacks(),
                *([OtherSettings(other.optim)] if (other := _taken_over(assignment)) else []),
                Heartbeat(journal),
                *([WorldSizes(journal)] if spec.resources.is_elastic else []),
                predictions,
                SameTestSet(folder.parents[1], spec.task, journal),
                *([Figures(folder, spec.figures, predictions)] if _has_figures(assignment) else []),
                Beat(journal),
                FiniteLoss(),
                writer,
                ComingBatches(),
                LeaveInTime(writer, lambda: HERE.leave),
                *ranks.callbacks(),
            ],
        }
    )
    return trainer, module, parts.datamodule


def _has_figures(assignment: Assignment) -> bool:
    return assignment.has_figures and assignment.spec.figures.enabled


def _taken_over(assignment: Assignment) -> Exploit | None:
    """Return the other trial's state to go on from, until there is a checkpoint of one's own behind it."""
    own = newest_whole(Path(assignment.folder) / "checkpoints")
    taken = assignment.exploit
    return taken if taken is not None and (own.name if own else None) == taken.after else None


def _start(assignment: Assignment, module: pl.LightningModule) -> Path | None:
    """Return the state to go on from: the run's own newest, else the one that it was told to resume.

    Raises:
        RunError: The latter cannot be gone on from.
    """
    start = newest_whole(Path(assignment.folder) / "checkpoints")
    if (other := _taken_over(assignment)) is not None:
        log.info("going on from %s, of run %d", other.checkpoint, other.run_id)
        return Path(other.checkpoint) / STATE
    if start is not None:
        log.info("going on from %s", start)
        return start / STATE
    asked = assignment.spec.run.resume_from_checkpoint
    if asked is None:
        return None
    path = Path(asked).expanduser()
    log.info("resuming the whole state: %s", check_state(path, module, assignment.spec.run.mode))
    return path / STATE if path.is_dir() else path


def _run(
    spec: Spec, trainer: pl.Trainer, module: pl.LightningModule, datamodule: pl.LightningDataModule, start: Path | None
) -> None:
    """Do what the run is for: fit, look at validation or test data, or call a script of the user's own."""
    checkpoint = str(start) if start else None
    if spec.script:
        given = dict(zip(GIVEN, (trainer, module, datamodule, checkpoint), strict=True))
        extra = {name: given[name] for name in script_takes(spec)}
        call = instantiate({**spec.script, "_partial_": True}, key="script", extra=extra)
        call()  # out of `instantiate`: an error in there is the script's own
    elif spec.run.mode == "fit":
        trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
    else:
        must_have(spec.run.mode, module, datamodule)
        look = trainer.validate if spec.run.mode == "validate" else trainer.test
        look(module, datamodule=datamodule, ckpt_path=checkpoint, verbose=False, weights_only=True)


def script_takes(spec: Spec) -> list[str]:
    """Return which of `GIVEN` the script is called with.

    Raises:
        ConfigError: It is no function, or one that takes none of them and so could not train.
    """
    target = target_of(spec.script, "script")
    function = locate(target, key="script")
    parameters = parameters_of(function)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    takes = [name for name in GIVEN if open_ended or name in parameters]
    advice = f"Give a function that takes what it needs of {', '.join(GIVEN)}."
    if isinstance(function, type):
        raise ConfigError(f"script._target_: {target} is a class, and would be made, not called. {advice}")
    if not takes:
        raise ConfigError(f"script._target_: {target} takes {', '.join(parameters) or 'nothing'}. {advice}")
    return takes


def _begin_from(assignment: Assignment, module: torch.nn.Module, journal: Journal | None) -> None:
    """Take the parent's weights over and say which."""
    parent = assignment.parent
    assert parent is not None
    report = take_over(module, parent, assignment.spec.transfer, mode=assignment.spec.run.mode)
    if journal is None:
        return
    log.info(report.describe())
    (Path(assignment.folder) / "transfer.json").write_text(_json(report.to_dict()), encoding="utf-8")
    journal.append(
        "transfer", text=report.describe(), taken=len(report.taken), left=len(report.left), fresh=len(report.fresh)
    )


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"


def _strategy(spec: Spec, ranks: Ranks) -> str:
    """Return the strategy that is asked for; where parts freeze, ranks must not wait for gradients of theirs."""
    asked = str(spec.trainer.get("strategy") or "auto")
    return UNUSED if spec.has_callback(FREEZES) and not ranks.alone and asked in WAITING else asked


@contextmanager
def _saying_if_the_disk_is_full(assignment: Assignment) -> Iterator[None]:
    """End with what a person can do about it, and with the last good checkpoint, whatever could not be written."""
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        raise full_disk(error, Path(assignment.folder), assignment.run_id) from error


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C be Ctrl-C, which Lightning turns into an exit with status 1, and a SIGTERM what we make of it."""
    try:
        yield
    except SIGTERMException as end:
        raise LeftError(f"{HERE.leave or 'a SIGTERM'}: it has left, without a checkpoint of its own.") from end
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise end.__context__ from None


class _RunLog(logging.FileHandler):
    """The run's log, on a disk that may be full: what cannot be written is left out, and the run says why it ends."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not is_full(sys.exception()):
            super().handleError(record)

    def close(self) -> None:
        """Close it, whatever is left to write."""
        try:
            super().close()
        except OSError as error:
            if not is_full(error):
                raise


class _Lines:
    """A text stream that turns what is printed into log lines."""

    def __init__(self) -> None:
        self._half = ""

    def write(self, text: str) -> int:
        *lines, self._half = (self._half + text).split("\n")
        for line in lines:
            if line.strip():
                log.info(line)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back but the half line."""


@contextmanager
def _logging_to(assignment: Assignment, rank: int) -> Iterator[None]:
    """Send logs, warnings and prints of this rank to its log of this try; those of rank 0 to `<stage>.log` as well."""
    folder = Path(assignment.folder)
    files = [log_of(folder, HERE.attempt, rank), *([folder / f"{assignment.spec.stage}.log"] if rank == 0 else [])]
    files[0].parent.mkdir(parents=True, exist_ok=True)
    made = [_RunLog(file, encoding="utf-8") for file in files]
    root = logging.getLogger()
    before, propagating = root.level, _stop_own_handlers()
    for handler in made:
        handler.setFormatter(WithoutSecrets(assignment.spec.to_dict()))
        root.addHandler(handler)
    root.setLevel(min(before, logging.INFO) if before else logging.INFO)
    logging.captureWarnings(capture=True)
    try:
        with warnings.catch_warnings(), redirect_stdout(cast("Any", _Lines())):
            yield
    finally:
        logging.captureWarnings(capture=False)
        for handler in made:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(before)
        for logger, handlers in propagating:
            logger.handlers, logger.propagate = handlers, False


def _stop_own_handlers() -> list[tuple[logging.Logger, list[logging.Handler]]]:
    """Let Lightning's loggers speak through the root logger alone: their own handlers write to the screen."""
    changed = []
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        if logger.handlers:
            changed.append((logger, logger.handlers))
            logger.handlers, logger.propagate = [], True
    return changed
