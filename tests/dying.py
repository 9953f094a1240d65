"""Work that kills its process: imported by each process of a pool, so it imports next to nothing."""

from __future__ import annotations

import os
import signal

from asparagus.errors import DataError


def die_of_two(job: int) -> None:
    """Be killed by 2, and refuse 3."""
    if job == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if job == 3:
        raise DataError("three")
