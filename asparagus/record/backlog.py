"""Runs whose end the tracking store could not be told: a file for each, until somebody tells it."""

from __future__ import annotations

from pathlib import Path

from asparagus.record.numbers import OURS

BACKLOG = OURS / "backlog"
"""`<number>`: an empty file."""


def put_off(models: Path, run_id: int) -> None:
    """Note that the store is to be told of a run later."""
    (models / BACKLOG).mkdir(parents=True, exist_ok=True)
    (models / BACKLOG / str(run_id)).touch()


def waiting(models: Path) -> list[int]:
    """Return the numbers of the runs that the store is to be told of, smallest first."""
    return sorted(int(path.name) for path in (models / BACKLOG).glob("[0-9]*"))


def told(models: Path, run_id: int) -> None:
    """Note that the store knows."""
    (models / BACKLOG / str(run_id)).unlink(missing_ok=True)
