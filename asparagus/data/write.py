"""Writing a task folder: every file atomically, `dataset.json` last, nothing of a user's ever overwritten."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from asparagus.data.files import replacing, write_json
from asparagus.data.layout import DATASET_FILE, PATHS_FILE, Task, canonical, read_task
from asparagus.errors import DataError

log = logging.getLogger(__name__)

SUFFIX = ".pt"
CASES_FOLDER = "cases"
# Says whose an unfinished folder is: an interrupted `make` goes on, a folder of someone else's is left alone.
UNFINISHED_FILE = ".unfinished.json"

Progress = Callable[[int, int], None]
"""Called with (cases done, cases in all)."""


class Case(NamedTuple):
    """One case as it is stored."""

    content: torch.Tensor | list[torch.Tensor]
    """[C,...] float32; segmentation: the label is the last channel; classification: [data, label]."""
    properties: dict[str, Any]


class Recipe(NamedTuple):
    """All that decides a made task's content."""

    name: str
    config: dict[str, Any]
    """The `dataset_config` of dataset.json."""
    arguments: dict[str, Any]
    """What the maker was called with: the `preprocessing_config` of dataset.json."""
    n_cases: int


def write_task(
    data_root: str | Path, recipe: Recipe, make_case: Callable[[int], Case], progress: Progress | None = None
) -> Task:
    """Write a task folder and return its task; the same recipe again changes nothing and fills in missing cases.

    Raises:
        DataError: the folder holds another recipe's task, or files that are not ours.
    """
    folder = Path(data_root).absolute() / recipe.name
    content = _dataset_json(recipe)
    complete = _may_write(folder, content)
    if not complete:
        write_json(folder / UNFINISHED_FILE, content)
    files = [folder / CASES_FOLDER / f"{recipe.name}_{i:04d}{SUFFIX}" for i in range(recipe.n_cases)]
    missing = [i for i, file in enumerate(files) if not (file.is_file() and file.with_suffix(".json").is_file())]
    for done, i in enumerate(missing, start=1):
        write_case(files[i], make_case(i))
        if progress:
            progress(recipe.n_cases - len(missing) + done, recipe.n_cases)
    if complete:
        log.info("%s is already in %s; %d missing cases made again.", recipe.name, folder, len(missing))
        return read_task(data_root, recipe.name)
    write_json(folder / PATHS_FILE, [str(file) for file in files])
    write_json(folder / DATASET_FILE, content)
    (folder / UNFINISHED_FILE).unlink()
    return read_task(data_root, recipe.name)


def write_case(file: Path, case: Case) -> None:
    """Write a case and its properties; its bytes depend on its content alone."""
    with replacing(file) as writing, writing.open("wb") as stream:  # to a path, torch would write the path too
        torch.save(case.content, stream)
    write_json(file.with_suffix(".json"), case.properties)


def _may_write(folder: Path, content: dict[str, Any]) -> bool:
    """Return whether the task is complete already; raise when the folder belongs to something else."""
    for name in (DATASET_FILE, UNFINISHED_FILE):
        if (folder / name).is_file():
            _same_or_raise(folder, json.loads((folder / name).read_text()), content)
            return name == DATASET_FILE
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder}: holds files but no {DATASET_FILE}; nothing was written. Pass another data folder.")
    return False


def _same_or_raise(folder: Path, there: dict[str, Any], asked: dict[str, Any]) -> None:
    if canonical(there) == canonical(asked):
        return
    raise DataError(
        f"{folder}: exists and was made with {_arguments(there)}, not {_arguments(asked)}; nothing was changed. "
        "Pass another data folder, or delete this one."
    )


def _arguments(content: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in content.get("preprocessing_config", {}).items()) or "no known arguments"


def _dataset_json(recipe: Recipe) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "dataset_config": recipe.config,
        "metadata": {
            "n_classes": recipe.config["n_classes"],
            "n_modalities": recipe.config["n_modalities"],
            "files_source_directory_total": recipe.n_cases,
            "files_target_directory_total": recipe.n_cases,
            "files_delta_after_processing": 0,
            "file_suffix": SUFFIX,
        },
        "preprocessing_config": recipe.arguments,
    }
