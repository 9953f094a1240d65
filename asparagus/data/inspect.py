"""Looking at every case of a task, and at its splits: what a training would stumble over, before it does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from asparagus.data.datasets import LABELLED, load_case, read_content
from asparagus.data.files import read_json
from asparagus.data.layout import (
    DATASET_FILE,
    PARTS,
    PATHS_FILE,
    Task,
    known_splits,
    read_paths,
    read_task,
    reroot,
    stored_fold,
)
from asparagus.data.subjects import SHOWN, overlaps, shown
from asparagus.errors import DataError

PAIR = 2


def problems_of(data_root: Path, name: str, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Read all of a task and return every problem, each beginning with the file that it is in.

    Raises:
        DataError: There is no such task, or no list of its cases.
    """
    task = read_task(data_root, name)
    files = read_paths(task)
    found = [*_of_list(task, files)]
    for number, file in enumerate(files, start=1):
        found += _of_case(file, task)
        if progress:
            progress(number, len(files))
    for split in known_splits(task):
        found += _of_split(task, split, set(files))
    return found


def _of_list(task: Task, files: list[Path]) -> Iterator[str]:
    if doubles := sorted(str(file) for file, times in Counter(files).items() if times > 1):
        yield f"{task.folder / PATHS_FILE}: names cases twice: {shown(doubles)}. Convert or register the task again."


def _of_case(file: Path, task: Task) -> list[str]:
    if not file.is_file():
        return [f"{file}: is not there. Convert or copy it again; asp data update-paths, if the task was moved."]
    try:
        kind = _kind(file, task)
        case = load_case(file, kind)
    except DataError as error:
        return [str(error)]
    return [f"{file}: {problem}" for problem in (*_of_image(case.image, task), *_of_label(case.label, kind, task))]


def _of_image(image: Tensor, task: Task) -> Iterator[str]:
    shape = list(image.shape[1:])
    if len(shape) != task.dimensions:
        yield f"is {len(shape)}-D {shape}, and the task is {task.dimensions}-D."
    elif len(image) != task.n_modalities:
        yield f"has {len(image)} channels, and n_modalities is {task.n_modalities}."
    elif task.shape is not None and tuple(shape) != task.shape:
        yield f"its shape {shape} is not that of the task, {list(task.shape)}."
    if not torch.isfinite(image).all():
        yield "holds NaN or infinite values. Convert it again: a conversion refuses them."


def _of_label(label: Tensor | None, kind: str, task: Task) -> Iterator[str]:
    if label is None:
        return
    if kind == "reg" and not torch.isfinite(label).all():
        yield f"its label is {label.tolist()}, no number to regress on."
    values = [] if kind == "reg" else torch.unique(label).tolist()
    # A mapped case has its labels as they lie in the file, as floats.
    wrong = [f"{value:g}" for value in values if value not in range(task.n_classes)]
    if wrong:
        known = f"n_classes={task.n_classes} knows 0 to {task.n_classes - 1}"
        yield f"has labels [{', '.join(wrong[:SHOWN])}], and {known}."


def _kind(file: Path, task: Task) -> str:
    """Return what a case is for: as the task says, or, where it does not, as the file is laid out."""
    about = json.loads((task.folder / DATASET_FILE).read_text(encoding="utf-8"))
    if stated := {**about.get("metadata", {}), **(about.get("dataset_config") or {})}.get("kind"):
        return str(stated)
    content = read_content(file) if file.suffix == ".pt" else None
    if isinstance(content, list | tuple) and len(content) == PAIR:
        is_whole = not torch.as_tensor(content[1]).is_floating_point()
        return next(iter(LABELLED)) if is_whole else "reg"
    has_mask = task.n_classes > 1 or (isinstance(content, Tensor) and len(content) == task.n_modalities + 1)
    return "seg" if has_mask else "pretrain"


def _of_split(task: Task, split: str, known: set[Path]) -> Iterator[str]:
    file = task.folder / f"{split}.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        yield f"{file}: is no JSON ({error}). Make the split again: asp-split -t {task.name}."
        return
    test = _test_of(task, split)
    malformed = [*_malformed(file, content)]
    if malformed:
        yield from malformed
        return
    folds = [fold for fold in content if isinstance(fold, dict)] if isinstance(content, list) else []
    is_test = isinstance(content, list) and bool(content) and all(isinstance(path, str) for path in content)
    if not folds and not is_test:
        yield f"{file}: is neither folds of train and val, nor a list of test cases. What is it? Move it elsewhere."
    listed = [part for fold in folds for part in fold.values()] if folds else [content] if is_test else []
    named = {reroot(path, task) for part in listed for path in part}
    if lost := sorted(str(path) for path in named if not path.is_file()):
        yield f"{file}: names {len(lost)} files that are not there: {shown(lost)}. Make the split again, or copy them."
    if foreign := sorted(str(path) for path in named - known if path.is_file()):
        yield f"{file}: names cases that paths.json does not: {shown(foreign)}. Convert or register the task again."
    for number, fold in enumerate(folds):
        parts = {part: [reroot(path, task) for path in fold.get(part, ())] for part in (*PARTS, "test")}
        for problem in overlaps({**parts, "test": parts["test"] or test}, task):
            yield f"{file}: fold {number}: {problem}. BIDSsplit_40_10_50 and its like keep subjects together."


def _malformed(file: Path, content: object) -> Iterator[str]:
    """Yield which folds are not as a training needs them."""
    if not isinstance(content, list) or not any(isinstance(fold, dict) for fold in content):
        return
    for number in range(len(content)):
        try:
            stored_fold(file, content, number)
        except DataError as error:
            yield str(error)


def _test_of(task: Task, split: str) -> list[Path]:
    """Return the test cases that belong to a split by its name."""
    file = task.folder / f"{split.replace('split_', 'TEST_')}.json"
    if split == file.stem or not file.is_file():
        return []
    try:
        content = read_json(file)
    except DataError:  # which is told of that file
        return []
    return [reroot(path, task) for path in content if isinstance(path, str)] if isinstance(content, list) else []
