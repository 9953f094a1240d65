"""Checkpoints of a whole sweep: those of its best trials stay, the others' make room."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from asparagus.checkpoint.folder import manifests
from asparagus.checkpoint.removal import remove


def keep_best(folders: Iterable[Path], keep: int) -> int:
    """Remove the checkpoints of all runs but the first ones; one that is held stays. Returns how many went.

    Args:
        folders: Of the runs of trials that are over, best first.
        keep: So many keep theirs.
    """
    gone = 0
    for folder in list(folders)[keep:]:
        place = folder / "checkpoints"
        gone += sum(remove(place / found.name) for found in manifests(place))
    return gone
