"""SIGTERM to the driver: the training writes a checkpoint and leaves, within the grace that there is."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from asparagus.attempts import LEAVE
from asparagus.worker.here import HERE, ask_to_leave


@contextmanager
def leaving(folder: Path, grace_s: float) -> Iterator[None]:
    """Answer a SIGTERM during the body: ask whoever trains to leave, and interrupt what has not left in time.

    Args:
        folder: Of the run; the wish lies in it, so that a training in other processes, on other machines, sees it.
        grace_s: How long it may take. A second SIGTERM waits no longer.
    """
    HERE.leave = ""
    (folder / LEAVE).unlink(missing_ok=True)  # of an attempt that was killed
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timer = threading.Timer(grace_s, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True

    def on_sigterm(_number: int, _frame: FrameType | None) -> None:
        if HERE.leave:
            os.kill(os.getpid(), signal.SIGINT)
            return
        why = f"a SIGTERM to the launch on {socket.gethostname()}"
        ask_to_leave(why)
        timer.start()
        with contextlib.suppress(OSError):  # a full disk: then the grace ends it
            (folder / LEAVE).write_text(f"{why}\n", encoding="utf-8")

    before = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)
        (folder / LEAVE).unlink(missing_ok=True)
