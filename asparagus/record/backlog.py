"""Runs that a tracking store has not been told all of: a file for each, from its beginning until its end is told."""

from __future__ import annotations

import hashlib
from pathlib import Path

from asparagus.record.numbers import OURS
from asparagus.secrets import without_passwords

BACKLOG = OURS / "backlog"
"""`<number>.<store>`: empty files."""
DIGITS = 12


def put_off(models: Path, run_id: int, uri: str) -> None:
    """Note that a store is to be told of a run: if need be later, and by somebody else."""
    (models / BACKLOG).mkdir(parents=True, exist_ok=True)
    _entry(models, run_id, uri).touch()


def waiting(models: Path, uri: str) -> list[int]:
    """Return the numbers of the runs that a store is to be told of, smallest first; of those in training too."""
    found = (models / BACKLOG).glob(f"[0-9]*.{_name(uri)}")
    return sorted(int(path.stem) for path in found)


def waits(models: Path, run_id: int, uri: str) -> bool:
    """Tell whether a store is to be told of a run."""
    return _entry(models, run_id, uri).exists()


def told(models: Path, run_id: int, uri: str) -> None:
    """Note that a store knows all."""
    _entry(models, run_id, uri).unlink(missing_ok=True)


def _entry(models: Path, run_id: int, uri: str) -> Path:
    return models / BACKLOG / f"{run_id}.{_name(uri)}"


def _name(uri: str) -> str:
    """Name a store as it can be a file's name; one with another password is the same."""
    return hashlib.sha256(without_passwords(uri).encode()).hexdigest()[:DIGITS]
