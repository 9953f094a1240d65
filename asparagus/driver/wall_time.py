"""A job that may live for so many hours only: its run is asked to leave in time, as the scheduler would ask it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LEAVE_S = 300.0
"""Before the end: for a checkpoint to be written and the record to be closed."""
LEAVE_SHARE = 0.1
"""Of the whole, at most."""

log = logging.getLogger("asparagus")


@contextmanager
def leaving_in_time(max_hours: float | None) -> Iterator[None]:
    """Send this process what a scheduler sends before it takes a machine away, shortly before the hours are over.

    Args:
        max_hours: `site.max_hours`; None for no end.
    """
    if max_hours is None:
        yield
        return
    seconds = max_hours * 3600
    timer = threading.Timer(seconds - min(LEAVE_S, seconds * LEAVE_SHARE), _leave, [max_hours])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _leave(max_hours: float) -> None:
    log.warning("site.max_hours: %g h are nearly over: the run leaves; the same command goes on with it", max_hours)
    os.kill(os.getpid(), signal.SIGTERM)
