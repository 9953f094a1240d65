"""Callbacks that a test puts into a real run by `_target_`: one kills its own process, one raises, one is slow."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytorch_lightning as pl


class KillOnce(pl.Callback):
    """SIGKILL this process, as a lost node or the kernel would, once in the life of the file `mark`.

    Args:
        mark: Made when it strikes.
        epoch: In this epoch.
        batch: After this batch; None: at the epoch's start, right after the checkpoint of the epoch before.
        rank: On this rank.
    """

    def __init__(self, mark: str, epoch: int, batch: int | None = None, rank: int = 0) -> None:
        self.mark, self.epoch, self.batch, self.rank = Path(mark), epoch, batch, rank

    def on_train_epoch_start(self, trainer, pl_module):
        if self.batch is None:
            self._strike(trainer)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.batch == batch_idx:
            self._strike(trainer)

    def _strike(self, trainer):
        if trainer.current_epoch == self.epoch and trainer.global_rank == self.rank and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Boom(pl.Callback):
    """Raise, as a user's own code does."""

    def on_train_start(self, trainer, pl_module):
        raise ValueError("boom: a bug of the user's own")


class Slow(pl.Callback):
    """Make every batch take `seconds`, so that a test can act in the middle of a run."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        time.sleep(self.seconds)


class Hold(pl.Callback):
    """Wait at the start of an epoch until the file `go` is in a folder; who waits has a file of its own there.

    Args:
        folder: Where.
        epoch: At the start of this epoch.
    """

    def __init__(self, folder: str, epoch: int) -> None:
        self.folder, self.epoch = Path(folder), epoch

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch != self.epoch:
            return
        (self.folder / f"waits-{os.getpid()}").touch()
        while not (self.folder / "go").exists():
            time.sleep(0.05)


class Fuse(pl.Callback):
    """Raise once in the life of the file `mark`: in the first attempt, at the start of an epoch.

    Args:
        mark: Made when it breaks.
        epoch: At the start of this epoch.
    """

    def __init__(self, mark: str, epoch: int) -> None:
        self.mark, self.epoch = Path(mark), epoch

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch and not self.mark.exists():
            self.mark.touch()
            raise ValueError("the fuse has blown")


class TestFuse(pl.Callback):
    """Raise once in the life of the file `mark`: when a test begins.

    Args:
        mark: Made when it breaks.
    """

    __test__ = False  # no class of tests

    def __init__(self, mark: str) -> None:
        self.mark = Path(mark)

    def on_test_start(self, trainer, pl_module):
        if not self.mark.exists():
            self.mark.touch()
            raise ValueError("the fuse has blown")


class Interrupt(pl.Callback):
    """Be Ctrl-C once in the life of the file `mark`, in the first batch.

    Args:
        mark: Made when it strikes.
    """

    def __init__(self, mark: str) -> None:
        self.mark = Path(mark)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if not self.mark.exists():
            self.mark.touch()
            raise KeyboardInterrupt
