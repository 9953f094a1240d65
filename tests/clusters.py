"""What a test of a cluster waits for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asparagus.journal import Event, JournalReader


def wait_for(what: Callable[[], Any], timeout: float) -> Any:
    """Wait until something is so, and return it."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.1)
    raise TimeoutError


def events_of(folder: Path, kind: str) -> list[Event]:
    """Return the events of one kind in a run's journal, as far as it is written."""
    journal = folder / "journal.jsonl"
    return [event for event in JournalReader(journal).read() if event["kind"] == kind] if journal.is_file() else []
