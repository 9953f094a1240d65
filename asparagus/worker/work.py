"""One assignment, fitted on this rank."""

from __future__ import annotations

import inspect
import json
import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch

from asparagus.callbacks.checkpoints import CheckpointWriter
from asparagus.callbacks.journal_logger import Heartbeat, JournalLogger
from asparagus.callbacks.seeds import EpochSeeds
from asparagus.checkpoint.folder import STATE, newest_whole
from asparagus.checkpoint.transfer import read_weights, transfer
from asparagus.data.layout import read_task
from asparagus.journal import Journal
from asparagus.spec import Assignment, Spec
from asparagus.stages import STAGES
from asparagus.stages.build import build_module
from asparagus.targets import instantiate, locate
from asparagus.worker.ranks import Ranks

log = logging.getLogger("asparagus")


def work(assignment: Assignment, ranks: Ranks) -> dict[str, Any]:
    """Train: from the run's newest whole checkpoint if there is one, else from its parent's weights or from nothing.

    Returns:
        `metrics`: what was measured last, and `epoch`, `step`: how far it got.

    Raises:
        AsparagusError: The data or the weights do not fit what was asked.
    """
    folder = Path(assignment.folder)
    journal = Journal(folder / "journal.jsonl") if ranks.rank == 0 else None
    with _logging_to(folder, assignment.spec.stage, ranks.rank):
        trainer, module, datamodule = build(assignment, ranks, journal)
        start = newest_whole(folder / "checkpoints")
        if start is not None:
            log.info("going on from %s", start)
        elif assignment.parent is not None:
            _begin_from(assignment, module, journal)
        with _interruptible():
            trainer.fit(
                module, datamodule=datamodule, ckpt_path=str(start / STATE) if start else None, weights_only=True
            )
        if journal is not None:
            journal.append("end", step=trainer.global_step, epoch=trainer.current_epoch)
            journal.close()
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        return {"metrics": metrics, "step": trainer.global_step, "epoch": trainer.current_epoch}


def build(
    assignment: Assignment, ranks: Ranks, journal: Journal | None
) -> tuple[pl.Trainer, pl.LightningModule, pl.LightningDataModule]:
    """Build what `Trainer.fit` needs, on this rank."""
    spec, stage = assignment.spec, STAGES[assignment.spec.stage]
    pl.seed_everything(spec.seed, workers=True, verbose=False)
    task = read_task(spec.paths.data, spec.task)
    given = {
        "root": spec.paths.data,
        "task": spec.task,
        "kind": stage.kind,
        "dimensions": spec.model.get("dimensions", "3D"),
        "seed": spec.seed,
        "rank": ranks.rank,
        "world_size": ranks.world_size,
    }
    datamodule, knows_ranks = build_datamodule(spec.data, given)
    module = build_module(
        stage, spec.model, spec.optim, spec.loss, task, patch_size=spec.data.get("patch_size"), seed=spec.seed
    )
    folder = Path(assignment.folder)
    trainer = pl.Trainer(
        **_trainer_arguments(spec, ranks),
        logger=JournalLogger(journal, folder),
        callbacks=[
            EpochSeeds(spec.seed),
            *(instantiate(section, key=f"callbacks.{name}") for name, section in spec.callbacks.items()),
            Heartbeat(journal),
            CheckpointWriter(folder / "checkpoints", spec.checkpoint, ranks.commit, journal),
        ],
        enable_checkpointing=True,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=not knows_ranks,
        default_root_dir=folder,
    )
    return trainer, module, datamodule


def build_datamodule(section: dict[str, Any], given: dict[str, Any]) -> tuple[pl.LightningDataModule, bool]:
    """Build the data module with what it takes of `given`.

    Returns:
        It, and whether it takes `rank` and `world_size`, and so shards its data itself.
    """
    parameters = inspect.signature(locate(section["_target_"], key="data")).parameters
    taken = {key: value for key, value in given.items() if key in parameters and key not in section}
    return instantiate(section, key="data", extra=taken), {"rank", "world_size"} <= parameters.keys()


def _trainer_arguments(spec: Spec, ranks: Ranks) -> dict[str, Any]:
    asked = {key: value for key, value in spec.trainer.items() if key != "strategy"}
    return {**asked, **ranks.trainer_arguments(spec.trainer.get("strategy") or "auto")}


def _begin_from(assignment: Assignment, module: torch.nn.Module, journal: Journal | None) -> None:
    """Take the parent's weights over and say which."""
    parent = assignment.parent
    assert parent is not None
    options = assignment.spec.transfer
    source = f"run {parent.run_id} ({Path(parent.checkpoint).name})" if parent.run_id else parent.checkpoint
    weights = read_weights(Path(parent.checkpoint))
    report = transfer(module, weights, source=source, decoder=options.decoder, strict=options.strict)
    if journal is None:
        return
    log.info(report.describe())
    (Path(assignment.folder) / "transfer.json").write_text(_json(report.to_dict()), encoding="utf-8")
    journal.append(
        "transfer", text=report.describe(), taken=len(report.taken), left=len(report.left), fresh=len(report.fresh)
    )


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C be Ctrl-C: Lightning turns it into an exit with status 1, and ignores further ones."""
    try:
        yield
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise end.__context__ from None


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
def _logging_to(folder: Path, stage: str, rank: int) -> Iterator[None]:
    """Send logs, warnings and prints of this rank to `<stage>.log`; those of other ranks to a log of their own."""
    name = f"{stage}.log" if rank == 0 else f"{stage}.rank{rank}.log"
    handler = logging.FileHandler(folder / name, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    before, propagating = root.level, _stop_own_handlers()
    root.addHandler(handler)
    root.setLevel(min(before, logging.INFO) if before else logging.INFO)
    logging.captureWarnings(capture=True)
    try:
        with warnings.catch_warnings(), redirect_stdout(cast("Any", _Lines())):
            yield
    finally:
        logging.captureWarnings(capture=False)
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()
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
