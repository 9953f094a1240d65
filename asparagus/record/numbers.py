"""The register of a models folder: run numbers, and which runs have which identity or name.

A number is a small file that is taken by creating it. Creating a file that must not exist is atomic on every file
system worth training on, so 64 launches at once draw 64 numbers. The file stays when its run is deleted: no number is
ever used twice. It also says where the run lies, so that a parent is found without asking MLflow.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from asparagus.errors import RecordError
from asparagus.spec import Parent, TrialOf
from asparagus.storage import kept, names

OURS = Path(".asparagus")
REGISTER = OURS / "runs"
TRASH = names.TRASH
"""`run_id=<N>/`: the folders of runs that were thrown away (`asp rm`)."""
IDENTITIES = OURS / "identities"
"""`<identity>/<number>`: an empty file for each run of an identity."""
SWEEPS = OURS / "sweeps"
"""`<sweep>/<trial>-<stage>/<number>`: an empty file for each run of a trial."""
NAMES = OURS / "names"
"""`<task>/<stage>/<name>/<number>`: an empty file for each run that was given a name or a label."""


class SeveralFoldersError(RecordError):
    """More than one folder has a run's number: which is the run, only its user can know."""


def claim(models: Path, *, about: Mapping[str, Any], wanted: int | None = None, floor: int = 0) -> int:
    """Take a run number: larger than every number taken under `models`, and than `floor`.

    Args:
        models: The folder of all runs.
        about: What to write into the number's file: `stage`, `task`, and if there are any `identity`, `name`, `trial`.
        wanted: Take exactly this number.
        floor: The largest number that the tracking store knows.

    Raises:
        RecordError: The wanted number is taken or not positive.
    """
    register = models / REGISTER
    register.mkdir(parents=True, exist_ok=True)
    kept.see_register(models, at_least=0)
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


def enter(models: Path, run_id: int, about: Mapping[str, Any]) -> None:
    """Let a run be found by its identity and its name; before its folder is made, so that none is overlooked."""
    for folder in _entries(models, about):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(run_id)).touch()
        kept.put(folder / str(run_id))


def give_up(models: Path, run_id: int, about: Mapping[str, Any]) -> None:
    """Forget a number that was taken a moment ago and turned out to be another machine's."""
    for folder in _entries(models, about):
        (folder / str(run_id)).unlink(missing_ok=True)
        kept.take_away(folder / str(run_id))
    (models / REGISTER / f"{run_id}.json").unlink()
    kept.take_away(models / REGISTER / f"{run_id}.json")


def with_identity(models: Path, identity: str) -> list[int]:
    """Return the numbers of the runs that have this identity, newest first."""
    return _listed(models / IDENTITIES / identity)


def with_name(models: Path, task: str, stage: str, name: str) -> list[int]:
    """Return the numbers of the runs of a task and stage that have this name or label, newest first."""
    return _listed(_of_name(models, task, stage, name))


def of_trial(models: Path, trial: TrialOf) -> list[int]:
    """Return the numbers of the runs of a trial, newest first."""
    return _listed(models / SWEEPS / str(trial.sweep_id) / trial.name)


def of_sweep(models: Path, sweep_id: int) -> list[int]:
    """Return the numbers of all runs of a sweep's trials."""
    return sorted(int(path.name) for path in (models / SWEEPS / str(sweep_id)).glob("*/[0-9]*"))


@contextmanager
def one_at_a_time(models: Path, identity: str) -> Iterator[None]:
    """Let nobody else begin a run of this identity during the body: of two launches at once, one finds the other's."""
    folder = models / IDENTITIES
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{identity}.lock"), kept.alone(models, identity):
        kept.see_register(models, at_least=0)
        yield


def all_numbers(models: Path) -> list[int]:
    """Return every number that was taken under `models`, ascending."""
    kept.see_register(models)
    return sorted(_numbers(models / REGISTER))


def is_taken(models: Path, run_id: int) -> bool:
    """Tell whether a run has, or had, this number."""
    return (models / REGISTER / f"{run_id}.json").is_file()


def find_folder(models: Path, run_id: int) -> Path:
    """Return the folder of a run.

    Raises:
        RecordError: No such number was taken here, its folder is gone, or there are two of them.
    """
    folder = place_of(models, run_id)
    kept.see_run(folder)
    every = sorted(models.glob(f"[!.]*/*/{folder.name}"))
    if len(every) > 1:
        told = f"there are {len(every)} folders of it, {' and '.join(map(str, every))}"
        raise SeveralFoldersError(f"run {run_id}: {told}. Move all but the right one away.")
    if folder.is_dir():
        return folder
    if every:
        raise RecordError(f"run {run_id}: its folder is {every[0]} now. Move it back to {folder}.")
    if (models / TRASH / folder.name).is_dir():
        raise RecordError(f"run {run_id}: is in the trash. Bring it back: asp rm --restore {run_id}")
    raise RecordError(f"run {run_id}: its folder {folder} is gone. Was it moved or deleted?")


def place_of(models: Path, run_id: int) -> Path:
    """Return where the folder of a run belongs.

    Raises:
        RecordError: No such number was taken here.
    """
    kept.see_register(models)
    entry = models / REGISTER / f"{run_id}.json"
    if not entry.is_file():
        newest = sorted(_numbers(models / REGISTER))[-5:]
        known = f"The newest here: {', '.join(map(str, newest))}." if newest else "None was trained here yet."
        raise RecordError(f"run {run_id}: there is no such run under {models}. {known} All of them: asp runs.")
    about = json.loads(entry.read_text(encoding="utf-8"))
    return models / folder_name(about["task"], about["stage"], run_id)


def relocated(parent: Parent, models: Path) -> Parent | None:
    """Return a parent whose folder was moved where it lies now; `None` if its run or the checkpoint is not found."""
    if parent.run_id is None:
        return None
    try:
        folder = find_folder(models, parent.run_id)
    except RecordError:
        return None
    checkpoint = folder / "checkpoints" / Path(parent.checkpoint).name
    return dataclasses.replace(parent, folder=str(folder), checkpoint=str(checkpoint)) if checkpoint.exists() else None


def folder_name(task: str, stage: str, run_id: int) -> str:
    """Return where a run lies, relative to the models folder."""
    return f"{task}/{stage}/run_id={run_id}"


def _entries(models: Path, about: Mapping[str, Any]) -> Iterator[Path]:
    if about.get("identity"):
        yield models / IDENTITIES / about["identity"]
    if about.get("trial"):
        yield models / SWEEPS / about["trial"]
    if about.get("name"):
        yield _of_name(models, about["task"], about["stage"], about["name"])


def _of_name(models: Path, task: str, stage: str, name: str) -> Path:
    # A dot alone, or two, would be a place and no name.
    return models / NAMES / task / stage / urllib.parse.quote(name, safe=" ").replace(".", "%2E")


def _listed(folder: Path) -> list[int]:
    return sorted((int(path.name) for path in folder.glob("[0-9]*")), reverse=True)


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
    if kept.claim(register / f"{number}.json"):
        return True
    (register / f"{number}.json").unlink()
    return False
