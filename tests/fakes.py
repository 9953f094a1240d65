"""Callbacks that a test puts into a real run by `_target_`: one kills its own process, one raises, one is slow."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytorch_lightning as pl
import torch


class KillOnce(pl.Callback):
    """SIGKILL this process, as a lost node or the kernel would, once in the life of the file `mark`.

    The epoch before begins a second late, so that what was done until then has been told of (once a second).

    Args:
        mark: Made when it strikes.
        epoch: In this epoch.
        batch: After this batch; None: at the epoch's start, right after the checkpoint of the epoch before.
        rank: On this rank.
    """

    def __init__(self, mark: str, epoch: int, batch: int | None = None, rank: int = 0) -> None:
        self.mark, self.epoch, self.batch, self.rank = Path(mark), epoch, batch, rank

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch - 1 and not self.mark.exists():
            time.sleep(1.1)
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


class Stuck(pl.Callback):
    """Sleep once, or stop the whole process, as a rank that hangs does.

    Args:
        batch: After this batch of the first epoch.
        seconds: For so long; None: the process is stopped (SIGSTOP).
        rank: On this rank.
        mark: Made when it strikes; it strikes once in the life of that file.
    """

    def __init__(self, batch: int, seconds: float | None = None, rank: int = 0, mark: str | None = None) -> None:
        self.batch, self.seconds, self.rank, self.mark = batch, seconds, rank, Path(mark) if mark else None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        here = (trainer.current_epoch, batch_idx, trainer.global_rank) == (0, self.batch, self.rank)
        if not here or (self.mark is not None and self.mark.exists()):
            return
        if self.mark is not None:
            self.mark.touch()
        if self.seconds is None:
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            time.sleep(self.seconds)


class RaiseOnce(pl.Callback):
    """Raise at a step: an error that may pass, or memory that runs out.

    Args:
        kind: `OSError`, `MemoryError`, `hardware`, `bug`, or `limit`: of the address space, which the kernel enforces.
        epoch: At the first batch of this epoch.
        rank: On this rank.
        mark: Counts how often it has struck.
        times: So often.
        above: Only with batches larger than this.
    """

    def __init__(self, kind: str, mark: str, epoch: int = 1, rank: int = 0, times: int = 1, above: int = 0) -> None:
        self.kind, self.mark, self.epoch, self.rank, self.times, self.above = (
            kind,
            Path(mark),
            epoch,
            rank,
            times,
            above,
        )

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        struck = len(self.mark.read_text()) if self.mark.exists() else 0
        here = (trainer.current_epoch, batch_idx, trainer.global_rank) == (self.epoch, 0, self.rank)
        if not here or struck >= self.times or len(batch["image"]) <= self.above:
            return
        self.mark.write_text("x" * (struck + 1))
        if self.kind == "limit":
            _run_out_of_memory()
        raise {
            "OSError": OSError(116, "Stale file handle"),
            "MemoryError": MemoryError(),
            "hardware": RuntimeError("CUDA error: uncorrectable ECC error encountered"),
            "bug": ValueError("boom: a bug of the user's own"),
        }[self.kind]


def _run_out_of_memory() -> None:
    """Ask for more than this process may have: torch's own allocator is refused by the kernel."""
    import resource

    import torch

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
    try:
        torch.empty(1 << 31, dtype=torch.uint8).fill_(1)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class Nan(pl.Callback):
    """Make the weights no numbers at an epoch's start.

    Args:
        epoch: Which.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            for weight in pl_module.parameters():
                weight.data.fill_(float("nan"))


class HoldAt(pl.Callback):
    """Waits at the start of an epoch until a file is there, and a moment longer."""

    def __init__(self, epoch: int, file: str, seconds: float = 0.0) -> None:
        self.epoch, self.file, self.seconds = epoch, Path(file), seconds

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.current_epoch < self.epoch:
            return
        while not self.file.exists():
            time.sleep(0.1)
        if trainer.current_epoch == self.epoch:
            time.sleep(self.seconds)


class Backend(pl.Callback):
    """Writes what ranks speak with each other."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_start(self, trainer, pl_module) -> None:
        if trainer.is_global_zero and torch.distributed.is_initialized():
            self.file.write_text(torch.distributed.get_backend())
