"""Which runs started from a checkpoint and are still there: from the holds, from the runs, from what parents noted."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from asparagus.checkpoint import holds
from asparagus.record.numbers import REGISTER, all_numbers, folder_name
from asparagus.record.run_files import children_of
from asparagus.record.run_folder import RunFolder
from asparagus.storage import kept

Children = Mapping[tuple[int, str], set[int]]
"""Number of a run and name of its checkpoint -> the runs that started from it."""


def run_folders(models: Path) -> Iterator[tuple[int, RunFolder]]:
    """Yield the numbers and folders of all runs that lie where they were trained, the oldest first."""
    found = [(run_id, folder) for run_id in all_numbers(models) if (folder := _registered(models, run_id))]
    kept.see_runs([folder.path for _, folder in found])
    for run_id, folder in found:
        if folder.path.is_dir():
            yield run_id, folder


def _registered(models: Path, run_id: int) -> RunFolder | None:
    """Return where a run is registered to lie; a register that was cut short names no folder."""
    try:
        about = json.loads((models / REGISTER / f"{run_id}.json").read_text(encoding="utf-8"))
        return RunFolder(models / folder_name(about["task"], about["stage"], run_id), about["stage"])
    except (OSError, ValueError, KeyError):
        return None


def living_children(models: Path) -> Children:
    """Return who started from what, as the runs themselves say: of old ones, no checkpoint knows."""
    found: dict[tuple[int, str], set[int]] = defaultdict(set)
    for run_id, folder in run_folders(models):
        if (parent := parent_of(folder.path)) is not None:
            found[parent].add(run_id)
    return found


def children_of_checkpoint(folder: RunFolder, run_id: int, name: str, living: Children) -> set[int]:
    """Return the runs that started from a checkpoint, from every side that knows.

    Args:
        folder: The parent's.
        run_id: The parent's.
        name: The checkpoint's.
        living: From `living_children`.
    """
    elsewhere = {child for child, where in children_of(folder) if parent_of(Path(where)) == (run_id, name)}
    return living.get((run_id, name), set()) | elsewhere | set(holds.children(folder.checkpoints / name))


def parent_of(folder: Path) -> tuple[int, str] | None:
    """Return the number and the checkpoint's name that the run in a folder started from, if it was a run's."""
    try:
        parent: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))["init_from"] or {}
        return int(parent["run_id"]), Path(parent["checkpoint"]).name
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
