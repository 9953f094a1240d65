"""Runs that the tracking store has not been told all of: a file for each, from its beginning until its end is told."""

from __future__ import annotations

import contextlib
from pathlib import Path

from asparagus.record.numbers import OURS
from asparagus.secrets import without_passwords

BACKLOG = OURS / "backlog"
"""`<number>`: a file that says which store."""


def put_off(models: Path, run_id: int, uri: str) -> bool:
    """Note that a store is to be told of a run: if need be later, and by somebody else. Returns whether it is new."""
    (models / BACKLOG).mkdir(parents=True, exist_ok=True)
    try:
        with (models / BACKLOG / str(run_id)).open("x", encoding="utf-8") as entry:
            entry.write(without_passwords(uri))
    except FileExistsError:
        return False
    return True


def waiting(models: Path) -> list[int]:
    """Return the numbers of the runs that a store is to be told of, smallest first; of those in training too."""
    return sorted(int(path.name) for path in (models / BACKLOG).glob("[0-9]*"))


def waits_for(models: Path, run_id: int, uri: str) -> bool:
    """Tell whether it is this store that is to be told of a run, or whatever store there is."""
    with contextlib.suppress(FileNotFoundError):
        return (models / BACKLOG / str(run_id)).read_text(encoding="utf-8") in ("", without_passwords(uri))
    return False


def told(models: Path, run_id: int) -> None:
    """Note that the store knows all."""
    (models / BACKLOG / str(run_id)).unlink(missing_ok=True)
