"""Whose a case is, as its path says: a subject that is trained on must not be one that is validated or tested on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path

from asparagus.data.layout import Task, inside
from asparagus.errors import DataError

SUBJECTS: dict[str, re.Pattern[str]] = {
    "BIDS": re.compile(r"/(sub-[A-Za-z0-9]+)(?=[/_])"),
    "ABVIB": re.compile(r"(ABVIB/\d+)/"),
    "PatientID": re.compile(r"/(PatientID_[0-9]+)/"),
    "MCSA": re.compile(r"/(MCSA_\d+)/"),
    "UCSD": re.compile(r"/(UCSD-PTGBM-\d+_)"),
}
"""Where a path names a subject, by what data are arranged like."""
SHOWN = 3


def subjects_of(files: Iterable[str], family: str, task: Task) -> dict[str, list[str]]:
    """Return the files of each subject, sorted.

    Raises:
        DataError: Files that name no subject in this way.
    """
    found: dict[str, list[str]] = {}
    nameless = []
    for file in sorted(files):
        if match := SUBJECTS[family].search(_below(file, task)):
            found.setdefault(match[1], []).append(file)
        else:
            nameless.append(file)
    if nameless:
        raise DataError(
            f"{family}split: {len(nameless)} paths of {task.name} name no subject as {SUBJECTS[family].pattern!r} "
            f"looks for it: {shown(nameless)}. Use split_40_10_50, if each case is a subject of its own."
        )
    return found


def patients(files: Iterable[str], task: Task) -> dict[str, list[str]]:
    """Return the files of each subject that a path names, in whichever way; those of no subject are left out."""
    found: dict[str, list[str]] = {}
    for file in files:
        below = _below(file, task)
        match = next(filter(None, (pattern.search(below) for pattern in SUBJECTS.values())), None)
        if match:
            found.setdefault(match[1], []).append(file)
    return found


def overlaps(parts: Mapping[str, Iterable[object]], task: Task) -> list[str]:
    """Return what is in two parts of a split and must not be: files, then subjects; one sentence each.

    Args:
        parts: `train`, `val` and `test` -> paths.
        task: Whose.
    """
    of_part = {part: {str(file) for file in files} for part, files in parts.items()}
    people = {part: patients(files, task) for part, files in of_part.items()}
    pairs = [*combinations(of_part, 2)]
    return [
        f"{len(both)} {what} are in both {one} and {other}: {shown(sorted(both))}"
        for what, sets in (("cases", of_part), ("subjects", people))
        for one, other in pairs
        if (both := set(sets[one]) & set(sets[other]))
    ]


def must_be_apart(parts: Mapping[str, Iterable[object]], task: Task, *, allowed: bool = False) -> None:
    """Refuse a split that tests or validates on cases or subjects that are trained on.

    Raises:
        DataError: What is in two parts, and what to do.
    """
    if not allowed and (found := overlaps(parts, task)):
        raise DataError(
            f"data.split: {task.name}: {'; '.join(found)}. Make a split that keeps subjects together (asp-split -t "
            f"{task.name} --fn BIDSsplit_40_10_50), or say that it is meant: data.subject_overlap=true."
        )


def shown(names: list[str]) -> str:
    """Return the first few names."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _below(file: str, task: Task) -> str:
    """Return a path from the folder of the task's cases on: what lies above is nobody's subject."""
    if task.files_root is not None:
        return f"/{Path(file).relative_to(task.files_root)}" if Path(file).is_relative_to(task.files_root) else file
    return f"/{task.name}/{found}" if (found := inside(file, task)) != file else file
