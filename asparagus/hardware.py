"""What this machine has, without asking a driver. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path


def cpus_here() -> int:
    """Count the CPUs that this process may use; where the system keeps nobody to some of them, all."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus_here() -> int:
    """Count this machine's NVIDIA GPUs."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))
