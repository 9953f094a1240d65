"""Where a sweep's workers of their own wait after each epoch: whether they go on is decided in another process."""

from __future__ import annotations

import time
from typing import Any

import ray
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from asparagus.stopwatch import WATCH, Phase

ASK_S = 0.05


class AtTheDesk(Checkpoint):
    """Has workers of their own wait for the sweep, whose trial follows them in another process.

    Args:
        desk: The sweep's.
        run_id: Of the run that they train.
        attempt: Which attempt at it they are.
    """

    def __init__(self, desk: Any, run_id: int, attempt: int) -> None:
        self._desk, self._run_id, self._attempt = desk, run_id, attempt

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's
        """Say that the epoch has ended, its checkpoint whole, and wait; the other ranks wait for the first one."""
        here = (self._run_id, self._attempt, trainer.current_epoch)
        WATCH.lap(Phase.CALLBACKS)
        while trainer.is_global_zero and not ray.get(self._desk.arrive.remote(*here)):
            time.sleep(ASK_S)
        trainer.strategy.barrier()
        WATCH.lap(Phase.SWEEP)
