"""A run that other machines train, followed from the driver's: its journal as it grows, the rest at its end."""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asparagus.errors import StoreError
from asparagus.storage.mirror import Mirror, mirror_of

FOLLOW_S = 1.0
WORKER = ".worker"
"""Written by a run's first worker, here and in the store: who finds another one here is on another machine."""

log = logging.getLogger("asparagus")


def sign(folder: Path) -> None:
    """Say, as a run's first worker, in which folder it writes."""
    if mirror := mirror_of(folder):
        mine = uuid.uuid4().hex
        (folder / WORKER).write_text(mine, encoding="utf-8")
        mirror.store.write(f"{mirror.key(folder)}/{WORKER}", mine.encode())


@contextmanager
def followed(folder: Path) -> Iterator[None]:
    """Have a run's journal here while others train it, and the rest of what they wrote when they have ended."""
    mirror = mirror_of(folder)
    if mirror is None:
        yield
        return
    (folder / WORKER).unlink(missing_ok=True)
    mirror.store.delete(f"{mirror.key(folder)}/{WORKER}")
    done = threading.Event()
    thread = threading.Thread(target=_follow, args=(mirror, folder, done), name="follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        fetch_the_rest(folder)


def _follow(mirror: Mirror, folder: Path, done: threading.Event) -> None:
    while not done.wait(FOLLOW_S):
        with contextlib.suppress(StoreError):  # it is away: the screen waits, the training does not
            if _is_elsewhere(mirror, folder):
                mirror.pull_journal(folder)


def _is_elsewhere(mirror: Mirror, folder: Path) -> bool:
    told = mirror.store.read(f"{mirror.key(folder)}/{WORKER}")
    here = (folder / WORKER).read_bytes() if (folder / WORKER).is_file() else b""
    return told is not None and told != here


def fetch_the_rest(folder: Path) -> None:
    """Have here what a run's workers on another machine have written; what they wrote here is here."""
    mirror = mirror_of(folder)
    if mirror is None:
        return
    try:
        if _is_elsewhere(mirror, folder):
            _put_own_logs_aside(mirror, folder)
            mirror.pull(folder)
    except StoreError as error:
        log.warning("%s What the workers wrote is on their machines.", error)


def _put_own_logs_aside(mirror: Mirror, folder: Path) -> None:
    """Give way to the workers' log: both go on from the same beginning."""
    for own in folder.glob("*.log"):
        here, theirs = own.read_bytes(), mirror.store.read(mirror.key(own))
        if theirs is not None and not theirs.startswith(here) and not here.startswith(theirs):
            own.rename(own.with_suffix(".driver.log"))
