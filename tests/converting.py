"""What a process does that a test kills: a conversion, or a split. Imported by that process, so its imports are few."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch

from asparagus.data.conversion import Conversion, Definition, Preprocessing
from asparagus.data.convert import Converted, convert
from asparagus.data.pool import in_processes
from asparagus.data.split import make_split

NAME = "Task500_Mine"


def convert_here(home: Path, workers: int = 1, *, after: float | None = None) -> Converted:
    """Convert `home/raw` to `home/data`; after so many seconds, be killed as by the kernel."""
    torch.set_num_threads(1)
    if after is not None:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, after)
    settings = Preprocessing("volume_wise_znorm", target_spacing=(1.0, 1.0, 1.0), min_slices=5)
    found = Definition(NAME, Path(f"{NAME}.py"), Conversion("pretrain", "raw", preprocessing=settings), None, None)
    return convert(found, home / "data", home, in_processes(workers))


def split_here(home: Path, *, after: float) -> None:
    """Divide the task, again and again, until killed: files of that name are taken away before each."""
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, after)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for name in ("split_40_10_50", "TEST_40_10_50"):
            (home / "data" / NAME / f"{name}.json").unlink(missing_ok=True)
        make_split(home / "data", NAME, "split_40_10_50")
