"""Making a task of files that are ready as they are: they stay where they lie, and are listed (SEEDS A.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from asparagus.data.conversion import KINDS, NAME
from asparagus.data.files import write_json
from asparagus.data.layout import DATASET_FILE, PATHS_FILE, Task, read_task
from asparagus.data.sources import files_below
from asparagus.data.split import Division, Fold, Seeds, divide, plain_name, warn_of_subjects, write_division
from asparagus.data.subjects import SUBJECTS, shown, subjects_of
from asparagus.errors import DataError, one_of

SUFFIXES = (".pt", ".nii.gz", ".nii", ".png")
"""What the loaders read."""
LABELLED = ("cls", "reg")
MANUAL = "split_manual"
LEAST = 2
SEED, FOLDS = 42, 5


@dataclass(frozen=True)
class Registration:
    """What is to be a task."""

    name: str
    kind: str
    n_classes: int = 1
    n_modalities: int = 1
    dimensions: int = 3
    folder: Path | None = None
    """Where the files are; excludes lists of them."""
    extension: str = ".pt"
    percents: tuple[int, int, int] = (80, 10, 10)
    n_folds: int = FOLDS
    seed: int = SEED
    subjects: str | None = None
    """Whose files stay together; a key of SUBJECTS."""
    train: Sequence[str] = ()
    val: Sequence[str] = ()
    test: Sequence[str] = ()

    @cached_property
    def files(self) -> list[str]:
        """Every file, sorted; hidden ones are nobody's cases, and links to folders are followed."""
        if self.folder is None:
            return sorted({*self.train, *self.val, *self.test})
        return sorted(str(file) for file in files_below(self.folder.absolute(), (self.extension,)))

    def files_root(self, task_folder: Path) -> str | None:
        """Return where the files lie; None if that is the task's own folder, with which they may move."""
        if all(Path(file).is_relative_to(task_folder) for file in self.files):
            return None
        return "/" if self.folder is None else str(self.folder.absolute())


def register(data_root: Path, asked: Registration) -> Task:
    """Write `paths.json`, the split and `dataset.json` of a task whose files lie elsewhere.

    Raises:
        DataError: Every problem at once; nothing was written.
    """
    problems = [*_problems(data_root, asked)]
    if problems:
        raise DataError("\n".join(problems))
    folder = data_root.absolute() / asked.name
    root = asked.files_root(folder)
    task = Task(asked.name, folder, asked.n_classes, asked.n_modalities, asked.dimensions, files_root=root)
    name, division = _division(asked, task)
    if asked.subjects is None and asked.folder is not None:
        warn_of_subjects(name, asked.files, task, "--subjects BIDS and its like keep")
    write_json(folder / PATHS_FILE, asked.files)
    write_division(task, name, division)
    write_json(folder / DATASET_FILE, _about(asked, root))
    return read_task(data_root, asked.name)


def split_of(asked: Registration) -> str:
    """Return what the split is called."""
    if asked.folder is None:
        return MANUAL
    return f"{asked.subjects or ''}{plain_name(asked.percents)}"


def _problems(data_root: Path, asked: Registration) -> Iterator[str]:
    if not NAME.fullmatch(asked.name):
        yield f"--task: {asked.name!r} is no name for a task. Letters, digits, '_', '-' and '.': Task500_Mine."
    elif (data_root / asked.name / DATASET_FILE).exists():
        yield f"--task: {data_root / asked.name} is a task already, and was left as it is. Give another name."
    if asked.kind not in KINDS:
        yield one_of("--kind", asked.kind, KINDS)
    for option in ("n_classes", "n_modalities"):
        if getattr(asked, option) < 1:
            yield f"--{option}: {getattr(asked, option)} is not at least 1."
    if asked.extension not in SUFFIXES:
        yield one_of("--extension", asked.extension, SUFFIXES, see="Convert others: asp data new-conversion.")
    yield from _of_lists(asked) if asked.folder is None else _of_folder(asked, asked.folder)


def _of_folder(asked: Registration, folder: Path) -> Iterator[str]:
    if asked.train or asked.val or asked.test:
        yield "--train, --val, --test: lists of files, and a folder was given too. Give percents, or no folder."
    try:
        plain_name(asked.percents)
    except DataError as error:
        yield str(error).replace("--vals", "--train, --val, --test", 1)
    if asked.n_folds < 1 or asked.seed < 0:
        yield f"--n_folds, --seed: {asked.n_folds}, {asked.seed}. At least 1, and not negative."
    if asked.subjects is not None and asked.subjects not in SUBJECTS:
        yield one_of("--subjects", asked.subjects, SUBJECTS)
    if not folder.is_dir():
        yield f"--folder: {folder} is no folder."
        return
    files = asked.files
    if len(files) < LEAST:
        yield f"--folder: {folder} holds {len(files)} files *{asked.extension}, and a task needs at least {LEAST}."
    yield from _of_files("--folder", files, asked)


def _of_lists(asked: Registration) -> Iterator[str]:
    if not asked.train or not asked.val:
        yield "--train, --val: both need files, where no --folder is given to take them from."
    parts = {"--train": asked.train, "--val": asked.val, "--test": asked.test}
    for option, files in parts.items():
        if away := [file for file in files if not Path(file).is_absolute()]:
            yield f"{option}: {len(away)} paths are not absolute: {shown(away)}. Workers look from another folder."
        if lost := [file for file in files if Path(file).is_absolute() and not Path(file).is_file()]:
            yield f"{option}: {len(lost)} files are not there: {shown(lost)}."
        if doubles := sorted({file for file in files if list(files).count(file) > 1}):
            yield f"{option}: named twice: {shown(doubles)}."
        yield from _of_files(option, files, asked)
    for one, other in (("--train", "--val"), ("--train", "--test"), ("--val", "--test")):
        if both := sorted(set(parts[one]) & set(parts[other])):
            yield f"{one}, {other}: {len(both)} files are in both: {shown(both)}."


def _of_files(option: str, files: Sequence[str], asked: Registration) -> Iterator[str]:
    if foreign := [file for file in files if not file.endswith(SUFFIXES)]:
        yield f"{option}: the loaders read {', '.join(SUFFIXES)}, and not {shown(foreign)}. Convert them."
    if asked.kind in LABELLED and (bare := [file for file in files if not file.endswith(".pt")]):
        yield f"{option}: a {asked.kind} case is [data, label] in a .pt, and {shown(bare)} is none. Convert them."


def _division(asked: Registration, task: Task) -> tuple[str, Division]:
    if asked.folder is None:
        fold: Fold = {"train": list(asked.train), "val": list(asked.val)}
        return MANUAL, Division([fold], list(asked.test))
    files = asked.files
    groups = subjects_of(files, asked.subjects, task) if asked.subjects else {file: [file] for file in files}
    seeds = Seeds(asked.seed, asked.seed + 1)
    return split_of(asked), divide(groups, asked.percents, seeds, folds=asked.n_folds)


def _about(asked: Registration, files_root: str | None) -> dict[str, Any]:
    config = {
        "kind": asked.kind,
        "n_classes": asked.n_classes,
        "n_modalities": asked.n_modalities,
        "dimensions": asked.dimensions,
        **({} if files_root is None else {"files_root": files_root}),
    }
    total = len(asked.files)
    metadata = {
        "n_classes": asked.n_classes,
        "n_modalities": asked.n_modalities,
        "files_source_directory_total": total,
        "files_target_directory_total": total,
        "files_delta_after_processing": 0,
    }
    return {"name": asked.name, "dataset_config": config, "metadata": metadata, "preprocessing_config": None}
