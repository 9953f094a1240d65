"""The dataset layout (SEEDS A6, A7): which files make a task, and how they are read. Standard library only."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asparagus.data import MAKERS
from asparagus.data.files import NIFTI, TENSOR, read_json
from asparagus.errors import DataError, did_you_mean
from asparagus.storage.tasks import size_in_store

DATASET_FILE = "dataset.json"
PATHS_FILE = "paths.json"
CARD_FILE, CARD_PAGE = "card.json", "card.html"
CASE_SUFFIXES = (TENSOR, NIFTI)
OTHER_FILES = (DATASET_FILE, PATHS_FILE, CARD_FILE)
BACKUP = "backup_"
NO_SPLITS = (BACKUP, ".")
"""How files begin that are no splits: what `update-paths` keeps, and hidden ones."""
PARTS = ("train", "val")
DIMENSIONS = {"2D": 2, "3D": 3}
LOST_SHOWN = 3


@dataclass(frozen=True)
class Task:
    """A dataset as `dataset.json` describes it."""

    name: str
    folder: Path
    n_classes: int
    n_modalities: int
    dimensions: int
    """Spatial dimensions of a case: 2 or 3."""
    shape: tuple[int, ...] | None = None
    """Spatial shape in voxels when all cases share one, else None."""
    class_names: tuple[str, ...] | None = None
    files_root: str | None = None
    """Where its cases lie when that is not its own folder (`asp data register`): their paths stay as they are."""


def read_task(data_root: str | Path, name: str) -> Task:
    """Read `<data_root>/<name>/dataset.json`.

    Raises:
        DataError: there is no such task (the known and the nearest ones are named) or its file is malformed.
    """
    folder = Path(data_root).absolute() / name
    if not (folder / DATASET_FILE).is_file():
        raise DataError(_no_such_task(Path(data_root), name))
    content = read_json(folder / DATASET_FILE)
    if not isinstance(content, dict):
        raise DataError(f"{folder / DATASET_FILE}: expected a JSON object, found {type(content).__name__}.")
    return _task(folder, name, content)


def known_tasks(data_root: str | Path) -> list[str]:
    """Return the names of the tasks in `data_root`, sorted; empty when the folder does not exist."""
    return sorted(path.parent.name for path in Path(data_root).glob(f"*/{DATASET_FILE}"))


def named(data_root: str | Path, name: str) -> str:
    """Return the task that a name means: itself, or the only one that begins with it: `SEG001` is `SEG001_Name`."""
    known = known_tasks(data_root)
    longer = [task for task in known if task.startswith(f"{name}_")]
    return longer[0] if name not in known and len(longer) == 1 else name


def known_splits(task: Task) -> list[str]:
    """Return the names of the splits that the task has, sorted."""
    return sorted(path.stem for path in lists_of_paths(task.folder) if path.name not in OTHER_FILES)


def lists_of_paths(folder: Path) -> list[Path]:
    """Return the files of a task that list paths, `paths.json` among them: no backup, nor what is beside a case."""
    there = {path.name for path in folder.iterdir()}
    return sorted(
        folder / name
        for name in there
        if name.endswith(".json")
        and (name == PATHS_FILE or name not in OTHER_FILES)
        and not name.startswith(NO_SPLITS)
        and not any(f"{name.removesuffix('.json')}{suffix}" in there for suffix in CASE_SUFFIXES)
    )


def read_paths(task: Task) -> list[Path]:
    """Read `paths.json`: every case file, re-rooted (see `reroot`).

    Raises:
        DataError: the file is missing, malformed or empty.
    """
    file = task.folder / PATHS_FILE
    if not file.is_file():
        raise DataError(f"{file}: missing. It lists the case files as absolute paths; convert the dataset again.")
    return _paths(file, "", read_json(file), task)


def read_split(task: Task, split: str, fold: int) -> dict[str, list[Path]]:
    """Read one fold of `<task>/<split>.json`, a list of dicts of absolute paths, as `{"train": [...], "val": [...]}`.

    Paths are re-rooted (see `reroot`), so data that was moved is still found.

    Raises:
        DataError: no such split, no such fold, a malformed file, or an empty part.
    """
    file, folds = _folds(task, split)
    if not isinstance(fold, int) or not 0 <= fold < len(folds):
        raise DataError(f"data.fold: {fold!r} is not a fold. {file} holds folds 0 to {len(folds) - 1}.")
    return {part: [reroot(path, task) for path in listed] for part, listed in stored_fold(file, folds, fold).items()}


def read_test(task: Task, test_split: str | None, split: str, fold: int) -> list[Path]:
    """Read which cases are tested on: those that a test split lists, or those of a `test` part of the split's fold.

    Paths are re-rooted (see `reroot`); a case that is listed twice is one.

    Args:
        task: Whose cases.
        test_split: Name of a file in the task's folder: a list of paths, or folds with a `test` part; None for the
            split's own.
        split: Name of the split file.
        fold: Which of its folds.

    Returns:
        The cases; none where no test split is named and the split's fold has no such part.

    Raises:
        DataError: no such file or fold, a malformed file, no test cases in it, or cases that are not there.
    """
    file = task.folder / f"{test_name(test_split, split)}.json"
    if file.name in OTHER_FILES or not file.is_file():
        raise DataError(f"data.test_split: no file {file.name} with test cases in {task.folder}. {_tests(task, file)}")
    content = read_json(file)
    has_folds = isinstance(content, list) and bool(content) and isinstance(content[0], dict)
    listed = _test_part(file, content, fold) if has_folds else content
    if test_split is None and not (has_folds and listed):
        return []
    if listed is None:
        raise DataError(f"data.test_split: fold {fold} of {file} has no 'test' part. {_tests(task, file)}")
    cases = list(dict.fromkeys(_paths(file, f"fold {fold}, 'test'" if has_folds else "", listed, task)))
    if lost := [case for case in cases if not case.is_file() and size_in_store(case) is None]:
        shown = ", ".join(str(case) for case in lost[:LOST_SHOWN]) + (", ..." if len(lost) > LOST_SHOWN else "")
        raise DataError(
            f"data.test_split: {len(lost)} of the {len(cases)} test cases in {file} are not there: {shown}. Convert or "
            f"copy them again, or name another file. {_tests(task, file)}"
        )
    return cases


def test_name(test_split: str | None, split: str) -> str:
    """Return what the test data are called: the name of the file that lists them, without `.json`."""
    return split if test_split is None else test_split.removesuffix(".json")


def too_few_to_test(cases: int, workers: int) -> str:
    """Say that some of the workers would have nothing to test; nothing where there are cases enough, or none at all."""
    if not 0 < cases < workers:
        return ""
    return (
        f"data.test_split: {cases} test cases for {workers} workers leave a worker without one. Ask for "
        f"resources.workers of at most {cases}, or use a test split with more cases."
    )


def reroot(stored: str, task: Task) -> Path:
    """Return where a stored absolute path is now: what follows `/<task name>/` in it, joined to the task's folder.

    A path without the task's name in it is left as it is: it was registered in place and belongs elsewhere.
    """
    return task.folder / inside(stored, task)  # joining an absolute path gives that path


def inside(stored: str, task: Task) -> str:
    """Return a stored path relative to the task's folder, wherever that was then; a foreign one as it stands."""
    if task.files_root is not None:
        return stored
    _, known, after = stored.rpartition(f"/{task.name}/")
    return after if known else stored


def fingerprint(task: Task, split_name: str) -> str:
    """Return a sha256 over dataset.json, the split's relative paths and each case file's size; no case is read.

    Moving the data keeps the fingerprint; another case, another split or another size changes it.

    Raises:
        DataError: the split cannot be read, or a case file that it names is missing.
    """
    file, folds = _folds(task, split_name)
    stored = [stored_fold(file, folds, fold) for fold in range(len(folds))]
    names = [{part: [inside(path, task) for path in fold[part]] for part in PARTS} for fold in stored]
    every = sorted({name for fold in names for part in PARTS for name in fold[part]})
    folder = str(task.folder)
    sizes = {name: _size(os.path.join(folder, name)) for name in every}  # noqa: PTH118 - a Path each takes thrice as long
    content = [read_json(task.folder / DATASET_FILE), names, sizes]
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def stored_fold(file: Path, folds: list[Any], fold: int) -> dict[str, list[str]]:
    """Return the paths of one fold's `train` and `val` as they stand in the file.

    Raises:
        DataError: They do not stand there as they should.
    """
    if not isinstance(folds[fold], dict):
        raise DataError(f"{file}: fold {fold} is not a dict of 'train' and 'val'.")
    return {part: _stored(file, f"fold {fold}, {part!r}", folds[fold].get(part)) for part in PARTS}


def canonical(content: Any) -> str:
    """Return JSON with one spelling: keys sorted, no whitespace."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _task(folder: Path, name: str, content: Mapping[str, Any]) -> Task:
    # Upstream's registered datasets hold these numbers in only one of the two places (SEEDS A.4): read both.
    config = {**content.get("metadata", {}), **content.get("dataset_config", {})}
    dimensions = config.get("dimensions", 3)
    if dimensions not in (2, 3):
        raise DataError(f"{folder / DATASET_FILE}: dimensions: {dimensions!r} is not 2 or 3.")
    return Task(
        name=name,
        folder=folder,
        n_classes=_count(folder, config, "n_classes"),
        n_modalities=_count(folder, config, "n_modalities"),
        dimensions=dimensions,
        shape=tuple(config["shape"]) if config.get("shape") else None,
        class_names=tuple(config["class_names"]) if config.get("class_names") else None,
        files_root=config.get("files_root"),
    )


def _count(folder: Path, config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise DataError(f"{folder / DATASET_FILE}: dataset_config.{key}: {value!r} is not a positive whole number.")
    return value


def _no_such_task(data_root: Path, name: str) -> str:
    known = known_tasks(data_root)
    parts = [f"task: no task {name!r} in {data_root}."]
    if name in MAKERS:
        parts.append(f"`asp data make {name}` builds it.")
    else:
        parts.append(did_you_mean(name, {*known, *MAKERS}))
    parts.append(f"Known there: {', '.join(known) or 'none'}. Makeable: {', '.join(sorted(MAKERS))}.")
    return " ".join(part for part in parts if part)


def _no_such_split(task: Task, split: str) -> str:
    known = known_splits(task)
    return " ".join(
        part
        for part in (
            f"data.split: no split {split!r} in {task.folder}.",
            did_you_mean(split, known),
            f"Known: {', '.join(known) or 'none'}.",
            f"`asp-split -t {task.name} --fn split_80_20` makes one.",
        )
        if part
    )


def _tests(task: Task, file: Path) -> str:
    """Say which other files there are."""
    known = [name for name in known_splits(task) if name != file.stem]
    near = did_you_mean(file.stem, known)
    return f"{near} There are: {', '.join(known) or 'none'}.".lstrip()


def _test_part(file: Path, folds: list[Any], fold: int) -> Any:
    """Return what a fold lists under `test`; None where it has no such part."""
    if not isinstance(fold, int) or not 0 <= fold < len(folds) or not isinstance(folds[fold], dict):
        raise DataError(f"data.fold: {fold!r} is not a fold. {file} holds folds 0 to {len(folds) - 1}.")
    return folds[fold].get("test")


def _folds(task: Task, split: str) -> tuple[Path, list[Any]]:
    """Return a split's file, and the folds in it."""
    file = task.folder / f"{split}.json"
    if file.name in OTHER_FILES or not file.is_file():
        raise DataError(_no_such_split(task, split))
    folds = read_json(file)
    if not isinstance(folds, list) or not folds:
        raise DataError(f"{file}: expected a list of folds, each {{'train': [...], 'val': [...]}}.")
    return file, folds


def _paths(file: Path, where: str, stored: Any, task: Task) -> list[Path]:
    return [reroot(path, task) for path in _stored(file, where, stored)]


def _stored(file: Path, where: str, stored: Any) -> list[str]:
    place = f"{file}: {where}" if where else str(file)
    if not isinstance(stored, list) or not all(isinstance(path, str) for path in stored):
        raise DataError(f"{place} is not a list of paths.")
    if not stored:
        raise DataError(f"{place} is empty: nothing to read. The task needs more cases, or another split.")
    return stored


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError as error:
        if (size := size_in_store(Path(path))) is not None:
            return size
        raise DataError(
            f"{path}: the case file cannot be seen ({error.strerror}). Convert or copy it again."
        ) from error
