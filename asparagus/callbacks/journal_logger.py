"""Lightning's logging into the run's journal."""

from __future__ import annotations

import math
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers.logger import Logger

from asparagus.journal import Journal


class JournalLogger(Logger):
    """A Lightning logger whose lines the driver shows and the recorder sends to MLflow.

    Args:
        journal: Where to write; rank 0 alone has one.
        folder: The run folder, which Lightning calls the log directory.
    """

    def __init__(self, journal: Journal | None, folder: Path) -> None:
        super().__init__()
        self._journal = journal
        self._folder = folder

    @property
    def name(self) -> str:
        """Of the logger."""
        return "journal"

    @property
    def version(self) -> str:
        """Of the run: its folder's name."""
        return self._folder.name

    @property
    def log_dir(self) -> str:
        """Where callbacks that write files put them."""
        return str(self._folder)

    @property
    def save_dir(self) -> str:
        """Where callbacks that write files put them."""
        return str(self._folder)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the whole spec is recorded already."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write one line; `epoch` becomes a field of it."""
        if self._journal is None:
            return
        values = {key: float(value) for key, value in metrics.items() if key != "epoch"}
        if values:
            epoch = int(metrics.get("epoch", -1))
            self._journal.append("metrics", flush=False, step=int(step or 0), epoch=epoch, values=values)


class Heartbeat(Callback):
    """Tell the journal how far the training is: its length at the start, then the end of each epoch."""

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write how long it will be, and on what it runs."""
        if self._journal is None:
            return
        steps = trainer.estimated_stepping_batches
        self._journal.append(
            "start",
            epochs=trainer.max_epochs,
            steps=int(steps) if math.isfinite(steps) else None,
            epoch=trainer.current_epoch,
            step=trainer.global_step,
            world_size=trainer.world_size,
            pid=os.getpid(),
            device=str(trainer.strategy.root_device),
            parameters=sum(weight.numel() for weight in pl_module.parameters()),
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the epoch's metrics: in the journal before its checkpoint is written, so none is ever missing."""
        if self._journal is None:
            return
        values = scalars(trainer)
        # The step that Lightning's own end-of-epoch logging uses; what it logs again is recognised by it.
        step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1  # noqa: SLF001 - there is no public name for it
        self._journal.append("metrics", step=step, epoch=trainer.current_epoch, values=values)
        self._journal.append("epoch", step=trainer.global_step, epoch=trainer.current_epoch, values=values)


def scalars(trainer: Trainer) -> dict[str, float]:
    """Return what this epoch has logged as plain floats: nothing else survives the way through Ray.

    Lightning keeps the last validation's values; in an epoch without one (`check_val_every_n_epoch`) they are left out.
    """
    rhythm = trainer.check_val_every_n_epoch or 1
    validated = (trainer.current_epoch + 1) % rhythm == 0
    return {key: float(value) for key, value in trainer.callback_metrics.items() if validated or "val/" not in key}
