"""A run's own account of what happened: rank 0 appends JSON lines, the driver and the recorder read them.

It is the one channel between a training and everyone who watches it, in one process or over many nodes. It lies in
the run folder, so it outlives workers, drivers and tracking servers, and it is written before a checkpoint is: what a
resumed run does not repeat has been written down.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import IO, Any, TypedDict

from asparagus.errors import RunError

JOURNAL = "journal.jsonl"
"""In the run folder."""
POLL_S = 0.1
FLUSH_S = 0.2
"""Metrics wait at most this long (counted at the next append) before a reader can see them."""


class Event(TypedDict, total=False):
    """One line: `kind` and `time` always; the rest by kind."""

    kind: str
    time: float
    run_id: int
    folder: str
    step: int
    epoch: int
    values: dict[str, float]
    attempt: int
    news: str
    checkpoint: str
    split: str
    file: str | None
    trials: int
    metrics: tuple[str, ...]


class Journal:
    """Append to the journal at `path`: the one writer, for as long as it is open.

    Args:
        path: The file; made if it is not there.
        patience_s: How long to wait for another writer to leave: of a training that was killed, the worker or what
            loads its data may live on for seconds.

    Raises:
        RunError: Another writer stays.
    """

    def __init__(self, path: Path, *, patience_s: float = 60.0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", buffering=1 << 16)
        _be_the_one(self._file, path, patience_s)
        torn = _ends_torn(path)
        self._flushed = time.monotonic()
        if torn:  # a writer was killed in the middle of a line: its half stays, alone, and readers pass over it
            self._file.write("\n")

    def append(self, kind: str, *, flush: bool = True, **fields: Any) -> None:
        """Add one event; `flush=False` leaves it in memory for up to `FLUSH_S`."""
        self._file.write(json.dumps({"kind": kind, "time": time.time(), **fields}) + "\n")
        if flush or time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system: a killed process loses nothing that was flushed."""
        self._file.flush()
        self._flushed = time.monotonic()

    def sync(self) -> None:
        """Flush to the disk itself: a lost node loses nothing that was synced."""
        self.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        self._file.close()


class JournalReader:
    """Read the events at `path` from where the last `read` ended. A file that is not there yet is an empty one."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset

    def read(self) -> list[Event]:
        """Return the events that are new; half a line is left for the next time."""
        return [event for _, event in self.numbered()]

    def numbered(self) -> list[tuple[int, Event]]:
        """Return the events that are new, each with the offset at which its line ends."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                block = file.read()
        except FileNotFoundError:
            return []
        found = []
        for line in block[: block.rfind(b"\n") + 1].splitlines(keepends=True):
            self.offset += len(line)
            if event := _parse(line):
                found.append((self.offset, event))
        return found


def _be_the_one(file: IO[str], path: Path, patience_s: float) -> None:
    """Lock an open file for this process; the lock ends with it."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                raise RunError(
                    f"{path}: another process still writes it after {patience_s:g} s, so the same run is being trained "
                    f"twice. Find it with: fuser {path}"
                ) from None
            time.sleep(POLL_S)
        except OSError:  # a file system without locks: object stores, some NFS
            return
        else:
            return


def _parse(line: bytes) -> Event | None:
    try:
        event: Event = json.loads(line)
    except ValueError:  # the half line of a killed writer
        return None
    return event if isinstance(event, dict) and "kind" in event else None


def _ends_torn(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:  # no such file, or an empty one
        return False
