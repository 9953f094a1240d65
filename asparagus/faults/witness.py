"""What is put into a training to see each step, to stop at the one after which something breaks, and to break there."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from asparagus.checkpoint.folder import STATE
from asparagus.faults.asked import FULL_DISK, KILL_WORKER

STEPS = "steps"
REACHED, STRUCK = "reached-", "struck-"
POLL_S = 0.02
LITTLE = 64 * 1024
"""Bytes that a file may have on a full disk: lines of a log, and no checkpoint."""


@dataclass(frozen=True)
class Step:
    """One step of rank 0, as it was taken."""

    time: float
    """Seconds since the epoch."""
    pid: int
    step: int


def steps_in(folder: Path) -> list[Step]:
    """Return the steps that were taken so far, in order."""
    file = folder / STEPS
    if not file.is_file():
        return []
    lines = (line.split() for line in file.read_text(encoding="utf-8").splitlines())
    return [Step(float(at), int(pid), int(step)) for at, pid, step in lines]


class Witness(pl.Callback):
    """Write down each step of rank 0; after some of them, break, or wait until somebody outside has broken something.

    Args:
        folder: Seen by the training and by who rehearses.
        faults: What breaks, and after which step: `{kill_worker: [50]}`.
    """

    def __init__(self, folder: str, faults: Mapping[str, list[int]]) -> None:
        self._folder = Path(folder)
        self._faults = {step: kind for kind, steps in faults.items() for step in steps}
        self._last = -1

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """See the step, which several batches may share."""
        if not trainer.is_global_zero or trainer.global_step == self._last:
            return
        self._last = step = trainer.global_step
        with (self._folder / STEPS).open("a", encoding="utf-8") as file:
            file.write(f"{time.time()} {os.getpid()} {step}\n")
        for at in sorted(self._faults):
            if at <= step and not (self._folder / f"{STRUCK}{at}").exists():
                self._strike(at, self._faults[at], trainer)

    def _strike(self, step: int, kind: str, trainer: pl.Trainer) -> None:
        """Break, once in the life of the folder."""
        struck = self._folder / f"{STRUCK}{step}"
        if kind == KILL_WORKER:
            struck.write_text(str(time.time()), encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == FULL_DISK:
            struck.write_text(str(time.time()), encoding="utf-8")
            _fill(Path(trainer.default_root_dir))
        else:
            reached = self._folder / f"{REACHED}{step}"
            writing = reached.with_name("." + reached.name)  # whoever looks finds it whole
            writing.write_text(str(os.getpid()), encoding="utf-8")
            writing.replace(reached)
            while not struck.exists():
                time.sleep(POLL_S)


def _fill(run: Path) -> None:
    """Let the kernel refuse this process what a full disk would: a file as large as a checkpoint."""
    written = [path.stat().st_size for path in (run / "checkpoints").glob(f"*/{STATE}")]
    room = max(LITTLE, min(written, default=0) // 2)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # write then fails, as it does on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
