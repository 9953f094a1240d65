"""Splits: paths.json -> `<name>.json`, five folds, and `TEST...json`, written once (SEEDS A11 to A14)."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from asparagus.data.files import write_json
from asparagus.data.layout import Task, canonical, inside, read_paths, read_task
from asparagus.data.subjects import SUBJECTS, patients, subjects_of
from asparagus.errors import DataError, one_of

FOLDS = 5
SEED_80_20 = 963421
SEED_OF_FILES = 28300211
SEED_OF_SUBJECTS = 283123111
"""Upstream's: the test cases are drawn by the seed; fold i of files by seed + i + 1, of subjects by seed + i."""
WHOLE = 100

SPLITS = (
    "split_80_20",
    "split_40_10_50",
    "split_80_10_10",
    *(f"{family}split_40_10_50" for family in SUBJECTS),
)
"""Names that upstream has functions of; any other percents can stand in them."""
NAME = re.compile(rf"({'|'.join(SUBJECTS)})?split(?:_(\d+)_(\d+)_(\d+))?")
USUAL = (40, 10, 50)
"""Percents of a subject split whose name has none."""

Fold = dict[str, list[str]]

log = logging.getLogger(__name__)


class Division(NamedTuple):
    """Who is trained on, validated on and tested on."""

    folds: list[Fold]
    test: list[str]


class Seeds(NamedTuple):
    """What chance follows."""

    test: int
    first_fold: int


def split_80_20(files: Sequence[str]) -> list[Fold]:
    """Return five different random 80/20 folds; fold 0 is upstream's.

    Upstream draws all five from one seed, so they are identical (a defect, SEEDS A12): here fold i uses seed + i.

    Raises:
        DataError: fewer than two files.
    """
    return divide({file: [file] for file in files}, (80, 20, 0), Seeds(SEED_80_20, SEED_80_20)).folds


def divide(
    groups: Mapping[str, list[str]], percents: tuple[int, int, int], seeds: Seeds, *, folds: int = FOLDS
) -> Division:
    """Draw test cases, and folds of the others; what is in one group stays in one part.

    Args:
        groups: Name -> its files: a subject's, or a file's own.
        percents: Of the groups: train, val and test; 100 together.
        seeds: Of the test cases, and of fold 0; fold i uses i more.
        folds: How many.

    Raises:
        DataError: Too few groups for that.
    """
    train, val, test = percents
    rest, tested = _draw(sorted(groups), test / WHOLE, seeds.test)
    drawn = [_draw(sorted(rest), val / (train + val), seeds.first_fold + fold) for fold in range(folds)]
    parts = [{"train": _files(groups, trained), "val": _files(groups, validated)} for trained, validated in drawn]
    return Division(parts, _files(groups, tested))


def split_named(name: str) -> tuple[str, str | None, tuple[int, int, int]]:
    """Return what a split is called in full, whose subjects it keeps together (None: nobody's), and its percents.

    Raises:
        DataError: No such split, or percents that are none.
    """
    if name == "split_80_20":
        return name, None, (80, 20, 0)
    found = NAME.fullmatch(name)
    if found is None or (found[1] is None and found[2] is None):
        see = "Other percents can stand in their places: split_70_10_20; or give --vals 70 10 20."
        raise DataError(one_of("--fn", name, SPLITS, see=see))
    percents = _checked("--fn", [int(found[i]) for i in (2, 3, 4)]) if found[2] else USUAL
    return f"{found[1] or ''}{plain_name(percents)}", found[1], percents


def plain_name(percents: Sequence[int]) -> str:
    """Return the name of a split by percents: `split_40_10_50`.

    Raises:
        DataError: They are not three that make 100, or leave nobody to train or validate on.
    """
    return "split_{:02d}_{:02d}_{:02d}".format(*_checked("--vals", percents))


def test_file(name: str) -> str:
    """Return what the file with the test cases of a split is called, without `.json`; as upstream calls it."""
    return name.replace("split_", "TEST_")


def make_split(data_root: str | Path, task_name: str, fn_name: str) -> Path:
    """Write `<task>/<fn_name>.json`, and `TEST...json` where it has test cases, from `paths.json`.

    What says the same already is left alone.

    Returns:
        The file of the folds.

    Raises:
        DataError: no such task or split, too few cases, cases of no subject, or a file of that name with another
            content.
    """
    name, family, percents = split_named(fn_name)
    task = read_task(data_root, task_name)
    files = [str(path) for path in read_paths(task)]
    division = _divided(files, family, percents, task) if name != "split_80_20" else Division(split_80_20(files), [])
    if family is None:
        warn_of_subjects(name, files, task, "BIDSsplit_40_10_50 and its like keep")
    write_division(task, name, division)
    return task.folder / f"{name}.json"


def warn_of_subjects(name: str, files: Sequence[str], task: Task, who: str) -> None:
    """Warn that a split went by files, if their paths name subjects; `who` keeps them together."""
    if found := patients(files, task):
        text = "%s: the paths name subjects (%s), and a subject may now be in two parts. %s subjects together."
        log.warning(text, name, next(iter(found)), who)


def made_by(data_root: str | Path, task_name: str, fn_name: str) -> list[Path]:
    """Do what `make_split` does, and return every file that it wrote."""
    folds = make_split(data_root, task_name, fn_name)
    test = folds.with_name(f"{test_file(folds.stem)}.json")
    return [folds, test] if test != folds and test.is_file() and fn_name != "split_80_20" else [folds]


def write_division(task: Task, name: str, division: Division) -> None:
    """Write a split and its test cases, each whole or not at all; what says the same already is left alone.

    Raises:
        DataError: A file of that name has another content; nothing is written.
    """
    contents: dict[Path, Any] = {task.folder / f"{name}.json": division.folds}
    if division.test:
        contents = {task.folder / f"{test_file(name)}.json": division.test, **contents}
    for file, content in contents.items():
        if file.exists():
            _same_or_raise(file, content, task)
    for file, content in contents.items():
        if not file.exists():
            write_json(file, content)


def _divided(files: list[str], family: str | None, percents: tuple[int, int, int], task: Task) -> Division:
    if family is None:
        return divide({file: [file] for file in files}, percents, Seeds(SEED_OF_FILES, SEED_OF_FILES + 1))
    return divide(subjects_of(files, family, task), percents, Seeds(SEED_OF_SUBJECTS, SEED_OF_SUBJECTS))


def _draw(names: list[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Return the others and the drawn; upstream's very draw."""
    if share == 0:
        return names, []
    from sklearn.model_selection import train_test_split  # the client lists splits without it

    try:
        others, drawn = train_test_split(names, test_size=share, random_state=seed)
    except ValueError as error:
        raise DataError(
            f"{len(names)} cases or subjects cannot be split so that {share:.0%} are apart: each part needs one. "
            "Convert more cases, or ask for other percents."
        ) from error
    return others, drawn


def _files(groups: Mapping[str, list[str]], names: list[str]) -> list[str]:
    return [file for name in names for file in groups[name]]


def _checked(where: str, percents: Sequence[int]) -> tuple[int, int, int]:
    if len(percents) != len(USUAL) or sum(percents) != WHOLE or min(percents) < 0 or 0 in percents[:2]:
        raise DataError(
            f"{where}: {' '.join(map(str, percents))} is not train, val and test in percent: three whole numbers that "
            "make 100, with something to train and to validate on. E.g. 40 10 50."
        )
    return percents[0], percents[1], percents[2]


def _same_or_raise(file: Path, content: Any, task: Task) -> None:
    """Compare up to the folder: a task that was moved has the same split with other absolute paths."""
    try:
        same = canonical(_relative(json.loads(file.read_text()), task)) == canonical(_relative(content, task))
    except (ValueError, TypeError, AttributeError):
        same = False
    if not same:
        raise DataError(
            f"{file}: exists with another content and is left as it is: runs may depend on it. "
            "Rename or delete it to make the split anew."
        )


def _relative(content: Any, task: Task) -> Any:
    if isinstance(content, str):
        return inside(content, task)
    if isinstance(content, list):
        return [_relative(part, task) for part in content]
    return {key: _relative(part, task) for key, part in content.items()}
