"""Splits: paths.json -> `<name>.json`, five folds of train and val, written once (SEEDS A11, A12)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from asparagus.data.layout import canonical, read_paths, read_task
from asparagus.errors import DataError, one_of

FOLDS = 5
SEED_80_20 = 963421

Fold = dict[str, list[str]]


def split_80_20(files: list[str]) -> list[Fold]:
    """Return five different random 80/20 folds; fold 0 is upstream's.

    Upstream draws all five from one seed, so they are identical (a defect, SEEDS A12): here fold i uses seed + i.

    Raises:
        DataError: fewer than two files.
    """
    if len(files) < len(("train", "val")):
        raise DataError(f"split_80_20: {len(files)} case cannot be split into train and val; at least 2 are needed.")
    from sklearn.model_selection import train_test_split  # the client lists splits without it

    folds = []
    for fold in range(FOLDS):
        train, val = train_test_split(sorted(files), test_size=0.2, random_state=SEED_80_20 + fold)
        folds.append({"train": train, "val": val})
    return folds


SPLITS: dict[str, Callable[[list[str]], list[Fold]]] = {"split_80_20": split_80_20}
"""Every split function; the name is also the name of the file."""


def make_split(data_root: str | Path, task_name: str, fn_name: str) -> Path:
    """Write `<task>/<fn_name>.json` from `paths.json` and return it; a file that already says the same is left alone.

    Raises:
        DataError: no such task or split function, or a file of that name with another content.
    """
    if fn_name not in SPLITS:
        raise DataError(one_of("--fn", fn_name, SPLITS))
    task = read_task(data_root, task_name)
    folds = SPLITS[fn_name]([str(path) for path in read_paths(task)])
    file = task.folder / f"{fn_name}.json"
    if file.exists():
        _same_or_raise(file, folds, task_name)
        return file
    _write_once(file, folds)
    return file


def _same_or_raise(file: Path, folds: list[Fold], task_name: str) -> None:
    """Compare up to the folder: a task that was moved has the same split with other absolute paths."""
    try:
        there = json.loads(file.read_text())
        same = canonical(_inside(there, task_name)) == canonical(_inside(folds, task_name))
    except (ValueError, TypeError, AttributeError):
        same = False
    if not same:
        raise DataError(
            f"{file}: exists with another content and is left as it is: runs may depend on it. "
            "Rename or delete it to make the split anew."
        )


def _inside(folds: list[Fold], task_name: str) -> list[Fold]:
    return [{part: [path.rpartition(f"/{task_name}/")[2] for path in fold[part]] for part in fold} for fold in folds]


def _write_once(file: Path, folds: list[Fold]) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(folds, indent=4, sort_keys=True) + "\n")
    temporary.replace(file)
