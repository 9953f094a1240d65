"""Whether files and folders are where they should be: `.env`, the folders, room in them, tasks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from asparagus.data.layout import known_tasks
from asparagus.doctor.findings import Finding, Surroundings, bad, ok, warn, why
from asparagus.paths import FAMILIES, FOLDERS, family_folders
from asparagus.storage import kept

WRITTEN = ("models", "results")
"""Folders that every training writes into; the others may be read only."""
GB = 1e9
ROOM_GB = 10.0
SHOWN = 5


def dotenv(around: Surroundings) -> Iterator[Finding]:
    """Say which `.env` counts."""
    if around.dotenv is None:
        yield ok(".env", "none here or above; the environment alone counts")
    elif around.dotenv_problem:
        yield bad(".env", f"{around.dotenv} cannot be read: {around.dotenv_problem}", "Make it a text file of yours.")
    else:
        yield ok(".env", str(around.dotenv))


def folders(around: Surroundings) -> Iterator[Finding]:
    """Say where each folder is, because of what, and whether it can be used."""
    for name in FOLDERS:
        yield _folder(name, around)
    for family, variable in FAMILIES.items():
        for folder in family_folders(family, around.env):
            yield _further_configs(variable, folder)


def room(around: Surroundings) -> Iterator[Finding]:
    """Look at the disk space where checkpoints and the record go."""
    for name in WRITTEN:
        if "://" not in (folder := getattr(around.paths, name)) and not unwritable(Path(folder)):
            yield judge_room(name, shutil.disk_usage(_existing(Path(folder))).free / GB)


def judge_room(name: str, free: float) -> Finding:
    """Compare the free space of a folder, in GB, with what checkpoints soon take."""
    if free >= ROOM_GB:
        return ok(f"{name}: space", f"{free:.0f} GB free")
    do = f"Make room there, or set ASPARAGUS_{name.upper()} to a folder with more."
    return warn(f"{name}: space", f"{free:.1f} GB free: checkpoints soon fill it", do)


def tasks(around: Surroundings) -> Iterator[Finding]:
    """Say which tasks there are to train on."""
    root = around.paths.data
    if "://" in root:
        return
    found = known_tasks(root)
    if not found:
        yield warn("tasks", f"none in {root}", "Make one to try things on: asp data make Task001_Digits")
        return
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    yield ok("tasks", f"{', '.join(found[:SHOWN])}{more}")


def unwritable(folder: Path) -> str:
    """Write where the folder is, or would come to be; nothing stays behind. Returns why not, or nothing."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder), buffering=0) as file:
            file.write(b"asparagus")
    except OSError as error:
        return why(error)
    return ""


def text_of(file: Path) -> str:
    """Return what a small file says; nothing where it is not there, or not ours to read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def elsewhere(name: str) -> str:
    """Return the advice to put a folder somewhere else."""
    return f"Set ASPARAGUS_{name.upper()} to a folder of yours."


def _folder(name: str, around: Surroundings) -> Finding:
    variable, folder = f"ASPARAGUS_{name.upper()}", getattr(around.paths, name)
    if around.env.get(variable) == "":
        return bad(variable, "is set, but empty", f"Set it to a folder ({FOLDERS[name]}), or unset it for {folder}.")
    where = f"{folder} ({_because(variable, around)})"
    if (uri := around.paths.stores.get(name)) is not None:
        told = next(kept.problems({name: uri}), "").partition(": ")[2]
        copy = f"{uri}, here {where}"
        return bad(variable, told, "Mend that, then: asp doctor") if told else ok(variable, copy)
    if "://" in folder:
        return warn(variable, f"{where}: URIs are not supported yet", elsewhere(name))
    problem = unwritable(Path(folder))
    if problem and name in WRITTEN:
        return bad(variable, f"{where} cannot be written: {problem}", elsewhere(name))
    if problem:
        return warn(
            variable,
            f"{where} cannot be written: {problem}",
            "Nothing if it is only read; else set it to a folder of yours.",
        )
    return ok(variable, where if Path(folder).is_dir() else f"{where} will be created")


def _further_configs(variable: str, folder: Path) -> Finding:
    if folder.is_dir():
        return ok(variable, str(folder))
    return warn(variable, f"{folder} is no folder", f"Make it, or take it out of {variable}.")


def _because(variable: str, around: Surroundings) -> str:
    """Return what decided where a folder is."""
    for name in (variable, "ASPARAGUS_HOME"):
        if around.env.get(name):
            return name if name in around.typed else f"{name} in {around.dotenv}"
    return "default"


def _existing(path: Path) -> Path:
    """Return the folder itself, or the nearest one above that is there."""
    return next(place for place in [path, *path.parents] if place.exists())
