"""Run numbers: one small file per number under the models folder, taken by creating it. Standard library only.

Creating a file that must not exist is atomic on every file system worth training on, so 64 launches at once draw 64
numbers. The file stays when its run is deleted: no number is ever used twice. It also says where the run lies, so that
a parent is found without asking MLflow.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asparagus.errors import RecordError

REGISTER = Path(".asparagus") / "runs"


def claim(models: Path, *, about: Mapping[str, Any], wanted: int | None = None, floor: int = 0) -> int:
    """Take a run number: larger than every number taken under `models`, and than `floor`.

    Args:
        models: The folder of all runs.
        about: What to write into the number's file (`stage`, `task`).
        wanted: Take exactly this number.
        floor: The largest number that the tracking store knows.

    Raises:
        RecordError: The wanted number is taken or not positive.
    """
    register = models / REGISTER
    register.mkdir(parents=True, exist_ok=True)
    if wanted is not None:
        if wanted < 1 or not _take(register, wanted, about):
            raise RecordError(
                f"run.id: {wanted} is taken or not positive. Leave run.id out to get the next free number."
            )
        return wanted
    number = max([floor, *_numbers(register)]) + 1
    while not _take(register, number, about):
        number += 1
    return number


def is_taken(models: Path, run_id: int) -> bool:
    """Tell whether a run has, or had, this number."""
    return (models / REGISTER / f"{run_id}.json").is_file()


def find_folder(models: Path, run_id: int) -> Path:
    """Return the folder of a run.

    Raises:
        RecordError: No such number was taken here, or its folder is gone.
    """
    entry = models / REGISTER / f"{run_id}.json"
    if not entry.is_file():
        newest = sorted(_numbers(models / REGISTER))[-5:]
        known = f"The newest here: {', '.join(map(str, newest))}." if newest else "None was trained here yet."
        raise RecordError(f"run {run_id}: there is no such run under {models}. {known} All of them: asp runs.")
    about = json.loads(entry.read_text(encoding="utf-8"))
    folder = models / folder_name(about["task"], about["stage"], run_id)
    if not folder.is_dir():
        raise RecordError(f"run {run_id}: its folder {folder} is gone. Was it moved or deleted?")
    return folder


def folder_name(task: str, stage: str, run_id: int) -> str:
    """Return where a run lies, relative to the models folder."""
    return f"{task}/{stage}/run_id={run_id}"


def _numbers(register: Path) -> list[int]:
    return [int(path.stem) for path in register.glob("*.json") if path.stem.isdigit()]


def _take(register: Path, number: int, about: Mapping[str, Any]) -> bool:
    """Put the number's file in its place, whole, unless one is there."""
    with tempfile.NamedTemporaryFile("w", dir=register, suffix=".writing", encoding="utf-8") as file:
        file.write(json.dumps({"run_id": number, **about}) + "\n")
        file.flush()
        try:
            os.link(file.name, register / f"{number}.json")  # fails if the name exists, on NFS too
        except FileExistsError:
            return False
    return True
