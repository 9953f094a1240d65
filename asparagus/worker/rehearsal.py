"""A rehearsal of a plan, in this process and on little: what only torch can tell, before a machine is taken."""

from __future__ import annotations

import logging
import math
import re
import sys
import tempfile
import traceback
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from asparagus.callbacks.journal_logger import scalars
from asparagus.checkpoint.transfer import take_over
from asparagus.errors import AsparagusError
from asparagus.secrets import hide, references, reveal, without_passwords
from asparagus.spec import Parent, Spec
from asparagus.stages.build import lazy_weights
from asparagus.worker.evaluate import can_test
from asparagus.worker.little import describe, first_batch, naming_data, shrink
from asparagus.worker.monitors import BEST, Listener, Logged, Schedules, logged_by, no_validation, watched
from asparagus.worker.parts import Parts
from asparagus.worker.ranks import InProcess
from asparagus.worker.resume import check_state
from asparagus.worker.work import script_takes

TIMEOUT_S = 5.0
HERE = Path(__file__).parents[1]
CREDENTIALS = re.compile(r"//[^/]*@")
MB = 1e6
LEFT_OUT = (
    "logger",
    "callbacks",
    "plugins",
    "devices",
    "num_nodes",
    "strategy",
    "precision",
    "accelerator",
    "profiler",
)
"""Trainer arguments that belong to the real run: the rehearsal is short, here, and leaves nothing behind."""


@dataclass(frozen=True)
class Finding:
    """What one look found."""

    what: str
    found: str
    ok: bool = True

    def line(self) -> str:
        """Return it as a line."""
        return f"{'ok' if self.ok else 'BAD':<4} {self.what:<10} {self.found}"


class Rehearsal:
    """The looks that build on each other: a model that cannot be built is not trained.

    Args:
        spec: As planned.
        parent: Where its first weights come from.
    """

    _parts: Parts
    _batch_shapes: str
    _callbacks: dict[str, Callback]
    _logged: Logged

    def __init__(self, spec: Spec, parent: Parent | None) -> None:
        self._spec = spec
        self._parent = parent

    def looks(self) -> Iterator[Finding]:
        """Yield what each look found; ends with the first that nothing can follow."""
        looks = (self._script, self._data, self._shapes, self._build, self._weights, self._batch, self._monitors)
        for look in (*looks, self._test):
            try:
                with _quiet():
                    yield from look()
            except AsparagusError as error:
                yield Finding(look.__name__.lstrip("_"), str(error), ok=False)
                return
            except Exception as error:  # noqa: BLE001 - the user's own code may raise anything: it is what we look for
                text = f"{type(error).__name__}: {error}".strip() + _own_line(error)
                yield Finding(look.__name__.lstrip("_"), text, ok=False)
                return

    def _script(self) -> Iterator[Finding]:
        if self._spec.script:
            takes = ", ".join(script_takes(self._spec))
            yield Finding("script", f"{self._spec.script['_target_']} is called with {takes}, in place of trainer.fit")

    def _data(self) -> Iterator[Finding]:
        """Take one batch; what it looks like is told when it went through."""
        with naming_data(self._spec.data):
            self._parts = Parts(self._spec, InProcess())
            self._parts.prepare()
            self._batch_shapes = describe(first_batch(self._parts.datamodule, self._spec.run.mode))
        yield from ()

    def _shapes(self) -> Iterator[Finding]:
        """Build the module on the meta device, where weights have shapes and take no memory."""
        try:
            with torch.device("meta"):
                module = self._parts.build_module()
        except AsparagusError:
            raise
        except Exception as error:  # noqa: BLE001 - code that cannot run there is built for real in the next look
            yield Finding(
                "shapes", f"cannot be built on the meta device ({type(error).__name__}); built for real below"
            )
            return
        lazy = lazy_weights(module)
        ready = [parameter for name, parameter in module.named_parameters() if name not in lazy]
        weights = sum(parameter.numel() for parameter in ready)
        memory = sum(parameter.numel() * parameter.element_size() for parameter in ready)
        rest = f", and {len(lazy)} lazy weights" if lazy else ""
        yield Finding("shapes", f"{type(module).__name__}: {weights:,} weights, {memory / MB:.1f} MB{rest}")

    def _build(self) -> Iterator[Finding]:
        parts = self._parts
        _ = parts.module
        with tempfile.TemporaryDirectory() as folder:
            self._callbacks = parts.asked_callbacks()
            built = [*self._callbacks.values(), *parts.loggers(Path(folder), first=False)]
        names = ", ".join(type(thing).__name__ for thing in [parts.datamodule, *built])
        yield Finding("built", names)

    def _weights(self) -> Iterator[Finding]:
        module, run = self._parts.module, self._spec.run
        if run.resume_from_checkpoint is not None:
            path = Path(run.resume_from_checkpoint).expanduser()
            yield Finding("weights", check_state(path, module, run.mode))
        elif self._parent is not None:
            report = take_over(module, self._parent, self._spec.transfer, mode=run.mode)
            yield Finding("weights", report.describe())

    def _batch(self) -> Iterator[Finding]:
        """Put one small batch through training and validation, optimizer and schedule included."""
        module, datamodule = self._parts.module, self._parts.datamodule
        heard, schedules = Listener(module), Schedules()
        with tempfile.TemporaryDirectory() as folder:
            trainer = self._trainer(folder, schedules)
            shrink(module)
            if self._spec.run.mode == "fit":
                trainer.fit(module, datamodule=datamodule)
            else:
                look = trainer.validate if self._spec.run.mode == "validate" else trainer.test
                look(module, datamodule=datamodule, verbose=False)
            metrics = scalars(trainer)
        known, others = logged_by(self._callbacks)
        silent = no_validation(self._parts.spec.trainer)
        self._logged = Logged({*metrics, *known}, heard, schedules, silent, others)
        nan = [name for name, value in metrics.items() if math.isnan(value)]
        told = f"not a number: {', '.join(nan)}" if nan else _few(metrics)
        yield Finding("batch", f"{self._batch_shapes} through {self._spec.run.mode}: {told}", ok=not nan)

    def _trainer(self, folder: str, watching: Callback) -> pl.Trainer:
        asked = {key: value for key, value in self._parts.trainer_arguments().items() if key not in LEFT_OUT}
        short = {
            "max_epochs": 1,
            "max_steps": -1,
            "limit_train_batches": 1,
            "limit_val_batches": 1,
            "limit_test_batches": 1,
            "val_check_interval": 1.0,
            "check_val_every_n_epoch": 1,
            "accumulate_grad_batches": 1,
            "log_every_n_steps": 1,
            "overfit_batches": 0.0,
            "num_sanity_val_steps": 0,
            "fast_dev_run": False,
        }
        return pl.Trainer(
            **{
                **asked,
                **short,
                "accelerator": "cpu",
                "devices": 1,
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "default_root_dir": folder,
                "callbacks": [watching],
            }
        )

    def _monitors(self) -> Iterator[Finding]:
        """Look whether what makes a checkpoint the best, and what callbacks watch, is among what is logged."""
        if self._spec.run.mode != "fit":
            return
        spec = self._parts.spec
        for key, metric in watched(spec, self._callbacks):
            told, ok = self._logged.judge(key, metric)
            yield Finding("best by", told, ok) if key == BEST else Finding("monitor", f"{key}: {told}", ok)
        for key, told, ok in self._logged.judge_schedules(spec, self._parts.module):
            yield Finding("monitor", f"{key}: {told}", ok)

    def _test(self) -> Iterator[Finding]:
        """Put one small batch through the test that will follow the fit, where one will."""
        module, datamodule = self._parts.module, self._parts.datamodule
        if self._spec.run.mode != "fit" or self._spec.script or not can_test(module, datamodule):
            return
        with tempfile.TemporaryDirectory() as folder:
            trainer = self._trainer(folder, Schedules())
            trainer.test(module, datamodule=datamodule, verbose=False)
            metrics = scalars(trainer)
        yield Finding("test", f"of the best checkpoint, after the fit: {_few(metrics)}")


def rehearse(spec: Spec, parent: Parent | None) -> Iterator[Finding]:
    """Yield findings, one by one, as they are known.

    Args:
        spec: As planned.
        parent: Where its first weights come from.
    """
    names = set(references(spec.to_dict()))
    for finding in Rehearsal(spec, parent).looks():
        yield replace(finding, found=hide(finding.found, names))
    yield _tracking(str(reveal(spec.site.tracking_uri or "")))


def _own_line(error: BaseException) -> str:
    """Return where in code of one's own an exception came from, as ` [file:line]`; nothing if in none."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [place for place in frames if "site-packages" not in place[0] and HERE not in Path(place[0]).parents]
    own = [place for place in own if not place[0].startswith(("<", sys.base_prefix))]
    return f" [{own[-1][0]}:{own[-1][1]}]" if own else ""


def _tracking(uri: str) -> Finding:
    """Ask a tracking server whether it is there; a file's folder was tried by the check."""
    door = f"{CREDENTIALS.sub('//', uri).rstrip('/')}/health"
    uri = without_passwords(uri)
    if not uri.startswith("http"):
        return Finding("tracking", f"{uri}: its folder can be written to")
    try:
        with urllib.request.urlopen(door, timeout=TIMEOUT_S) as answer:  # nosec B310  # noqa: S310 - http only
            return Finding("tracking", f"{uri} answers {answer.status}")
    except (urllib.error.URLError, OSError) as error:
        advice = "Start it (mlflow server), or unset MLFLOW_TRACKING_URI"
        return Finding("tracking", f"{uri} does not answer ({error}). {advice}", ok=False)


def _few(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in list(metrics.items())[:4])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advice for long trainings off the screen: this one is short on purpose."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
