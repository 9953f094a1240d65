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
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden

from asparagus.callbacks.journal_logger import scalars
from asparagus.checkpoint.transfer import take_over
from asparagus.errors import AsparagusError
from asparagus.secrets import hide, references, reveal, without_passwords
from asparagus.spec import Parent, Spec
from asparagus.worker.parts import Parts
from asparagus.worker.ranks import InProcess

ITEMS = 2
"""Of a batch that are enough to see shapes; one would upset batch norm."""
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

    def __init__(self, spec: Spec, parent: Parent | None) -> None:
        self._spec = spec
        self._parent = parent
        self._parts: Parts | None = None
        self._logged: set[str] = set()

    def looks(self) -> Iterator[Finding]:
        """Yield what each look found; ends with the first that nothing can follow."""
        for look in (self._shapes, self._build, self._weights, self._batch, self._monitor):
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

    def _shapes(self) -> Iterator[Finding]:
        """Build the module on the meta device, where weights have shapes and take no memory."""
        try:
            with torch.device("meta"):
                module = Parts(self._spec, InProcess()).module
        except AsparagusError:
            raise
        except Exception as error:  # noqa: BLE001 - code that cannot run there is built for real in the next look
            yield Finding(
                "shapes", f"cannot be built on the meta device ({type(error).__name__}); built for real below"
            )
            return
        weights = sum(parameter.numel() for parameter in module.parameters())
        memory = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
        yield Finding("shapes", f"{type(module).__name__}: {weights:,} weights, {memory / MB:.1f} MB")

    def _build(self) -> Iterator[Finding]:
        self._parts = Parts(self._spec, InProcess())
        with tempfile.TemporaryDirectory() as folder:
            built = [*self._parts.callbacks()[1:], *self._parts.loggers(Path(folder), first=False)]
        names = ", ".join(type(thing).__name__ for thing in [self._parts.datamodule, *built])
        yield Finding("built", names)

    def _weights(self) -> Iterator[Finding]:
        if self._parent is None or self._parts is None:
            return
        yield Finding("weights", take_over(self._parts.module, self._parent, self._spec.transfer).describe())

    def _batch(self) -> Iterator[Finding]:
        """Put one small batch through training and validation, optimizer and schedule included."""
        assert self._parts is not None
        module, datamodule = self._parts.module, self._parts.datamodule
        shapes = _describe(_first_batch(datamodule))
        with tempfile.TemporaryDirectory() as folder:
            trainer = self._trainer(folder)
            _shrink(module)
            if self._spec.run.mode == "fit":
                trainer.fit(module, datamodule=datamodule)
            else:
                look = trainer.validate if self._spec.run.mode == "validate" else trainer.test
                look(module, datamodule=datamodule, verbose=False)
            metrics = scalars(trainer)
        self._logged = set(metrics)
        nan = [name for name, value in metrics.items() if math.isnan(value)]
        told = f"not a number: {', '.join(nan)}" if nan else _few(metrics)
        yield Finding("batch", f"{shapes} through {self._spec.run.mode}: {told}", ok=not nan)

    def _trainer(self, folder: str) -> pl.Trainer:
        assert self._parts is not None
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
                "callbacks": [],
            }
        )

    def _monitor(self) -> Iterator[Finding]:
        """Look whether what makes a checkpoint the best is among what was logged."""
        monitor = self._spec.checkpoint.monitor
        if monitor is None or self._spec.run.mode != "fit":
            return
        beside = ", ".join([*self._spec.callbacks, *self._spec.plugins])
        if monitor not in self._logged and beside:
            yield Finding("best by", f"{monitor} is not logged by the module; it has to come from {beside}")
            return
        there = monitor in self._logged
        logged = ", ".join(sorted(self._logged)) or "nothing"
        advice = "" if there else f" is not logged. Logged: {logged}. Set checkpoint.monitor to one of them"
        yield Finding("best by", f"{monitor}{advice or ' is logged'}", ok=there)


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
        with urllib.request.urlopen(door, timeout=TIMEOUT_S) as answer:  # noqa: S310 - http only
            return Finding("tracking", f"{uri} answers {answer.status}")
    except (urllib.error.URLError, OSError) as error:
        advice = "Start it (mlflow server), or unset MLFLOW_TRACKING_URI"
        return Finding("tracking", f"{uri} does not answer ({error}). {advice}", ok=False)


def _first_batch(datamodule: pl.LightningDataModule) -> Any:
    datamodule.prepare_data()
    datamodule.setup("fit")
    if not is_overridden("train_dataloader", datamodule):
        return None
    return _small(next(iter(datamodule.train_dataloader())))


def _shrink(module: pl.LightningModule) -> None:
    """Have the module see small batches: what Lightning would transfer to a device is cut on the way."""
    transfer_batch = module.transfer_batch_to_device

    def small(batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return transfer_batch(_small(batch), device, dataloader_idx)

    module.transfer_batch_to_device = small


def _small(batch: Any) -> Any:
    if isinstance(batch, torch.Tensor):
        return batch[:ITEMS] if batch.ndim else batch
    if isinstance(batch, Mapping):
        return {key: _small(value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_small(value) for value in batch))
    if isinstance(batch, (list, tuple)):
        whole = all(isinstance(value, (torch.Tensor, Mapping, list, tuple)) for value in batch)
        return type(batch)(_small(value) for value in batch) if whole else type(batch)(batch[:ITEMS])
    return batch


def _describe(batch: Any) -> str:
    if isinstance(batch, torch.Tensor):
        return f"{list(batch.shape)}"
    if isinstance(batch, Mapping):
        return ", ".join(f"{key} {_describe(value)}" for key, value in batch.items())
    if isinstance(batch, (list, tuple)):
        return ", ".join(_describe(value) for value in batch)
    return type(batch).__name__


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
