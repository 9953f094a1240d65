"""What a test of a cluster waits for."""

from __future__ import annotations

import subprocess
import sys
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


def nodes_of(address: str) -> int:
    """Count the nodes that a head knows, in a process of its own: a driver stays connected."""
    look = f"import ray; ray.init('{address}', logging_level='ERROR'); print(sum(n['Alive'] for n in ray.nodes()))"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=60, check=False)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else 0
