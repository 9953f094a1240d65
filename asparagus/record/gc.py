"""What of all runs may be freed, and why the rest stays: checkpoints beyond their rule, and what killed processes left.

Looking changes nothing. A checkpoint goes only if its run has another whole one, nobody trains the run, and nothing
holds it: no run that started from it, no registered model, no pin.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asparagus.checkpoint.folder import TORN, best_of, is_whole, manifests, pick
from asparagus.checkpoint.holds import PINNED, child, hold, holds, release, told
from asparagus.checkpoint.removal import discard, leftovers, put_back, remove, size_of, stored
from asparagus.checkpoint.retention import Rule, Stored, best_names, dispensable, reasons, retained
from asparagus.errors import RecordError
from asparagus.record.children import Children, children_of_checkpoint, living_children, run_folders
from asparagus.record.numbers import find_folder
from asparagus.record.run_files import read_run
from asparagus.record.run_folder import FINISHED, RunFolder, is_running
from asparagus.storage import kept
from asparagus.storage.fetch import is_in_store

TRAINING = "is being trained"
UNKNOWN = "what its run keeps cannot be read"
ONLY_ONE = "the only one of its run"
DAMAGED = "torn"
LEFT = "left by a process that was killed"

log = logging.getLogger("asparagus")


@dataclass(frozen=True)
class Row:
    """A checkpoint, or what is left of one."""

    name: str
    bytes: int
    why: tuple[str, ...] = ()
    """Why it stays; nothing if it can go."""
    what: str = ""
    """What it is, other than a whole checkpoint."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `asp gc --json` prints of it."""
        return {"name": self.name, "bytes": self.bytes, "free": not self.why, "why": list(self.why), "what": self.what}


@dataclass(frozen=True)
class Survey:
    """What lies in the checkpoints folder of a run."""

    run_id: int
    folder: RunFolder
    task: str
    rows: tuple[Row, ...]

    @property
    def freed(self) -> tuple[Row, ...]:
        """What can go."""
        return tuple(row for row in self.rows if not row.why)

    @property
    def bytes(self) -> int:
        """Of all of it."""
        return sum(row.bytes for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return what `asp gc --json` prints of it."""
        return {
            "run_id": self.run_id,
            "stage": self.folder.stage,
            "task": self.task,
            "folder": str(self.folder.path),
            "bytes": self.bytes,
            "checkpoints": [row.to_dict() for row in self.rows],
        }


@dataclass(frozen=True)
class Wish:
    """What is asked of a survey."""

    task: str | None = None
    stage: str | None = None
    keep_best: int | None = None
    """In place of what each run's own rule says."""
    quota: int | None = None
    """Bytes for all runs that are looked at, together."""


@dataclass(frozen=True)
class _Run:
    """A run on the way to its survey."""

    run_id: int
    folder: RunFolder
    task: str
    rule: Rule | None
    """None where it cannot be read: everything stays."""
    is_finished: bool
    is_training: bool
    found: tuple[Stored, ...]
    """The whole ones, children among their holds, oldest step first."""
    others: tuple[Row, ...]
    """Torn ones and leftovers."""


def survey(models: Path, wish: Wish) -> list[Survey]:
    """Look at all runs that have checkpoints; nothing is changed.

    Args:
        models: The folder of all runs.
        wish: Which runs, and what of them is to stay.
    """
    living = living_children(models)
    runs = [
        _look(run_id, folder, wish, living)
        for run_id, folder in run_folders(models)
        if wish.task in (None, folder.path.parent.parent.name) and wish.stage in (None, folder.stage)
    ]
    surveys = [_surveyed(run) for run in runs if run.found or run.others]
    return _within(surveys, runs, wish.quota) if wish.quota is not None else surveys


def free(found: Survey) -> tuple[Row, ...]:
    """Remove what of a run can go, unless it is being trained or held by now; returns what went.

    What somebody was about to remove, and is held, gets its name again.
    """
    gone: list[Row] = []
    if is_running(found.folder):
        return ()
    try:
        for path in leftovers(found.folder.checkpoints):
            put_back(path)
        for row in found.freed:
            path = found.folder.checkpoints / row.name
            if not is_running(found.folder) and (discard(path) if row.what else remove(path)):
                gone.append(row)
        if gone:
            kept.push_run(found.folder.path)
    except OSError as error:  # somebody else's run
        log.warning("run %d: %s", found.run_id, error)
    return tuple(gone)


def pin(models: Path, which: str) -> Path:
    """Let a checkpoint stay, whatever its rule says: `<run>/<checkpoint>`, or of `<run>` the best.

    Raises:
        RecordError: There is no such run or checkpoint.
    """
    folder, name = _named(models, which)
    measured = best_of(manifests(folder / "checkpoints")) is not None
    checkpoint, _ = pick(folder / "checkpoints", name or ("best" if measured else "last"))
    hold(checkpoint, PINNED)
    return checkpoint


def unpin(models: Path, which: str) -> list[Path]:
    """Take back a pin: of `<run>/<checkpoint>`, or all of `<run>`; returns the checkpoints that had one.

    Raises:
        RecordError: There is no such run or checkpoint.
    """
    folder, name = _named(models, which)
    checkpoints = folder / "checkpoints"
    asked = [pick(checkpoints, name)[0]] if name else [checkpoints / item.name for item in manifests(checkpoints)]
    pinned = [checkpoint for checkpoint in asked if PINNED in holds(checkpoint)]
    for checkpoint in pinned:
        release(checkpoint, PINNED)
    return pinned


def _named(models: Path, which: str) -> tuple[Path, str]:
    number, _, name = which.removeprefix("run:").partition("/")
    if not number.isdigit():
        raise RecordError(f"{which!r} names no checkpoint. Give a run's number, or <number>/<checkpoint>: 12/last.")
    return find_folder(models, int(number)), name


def _look(run_id: int, folder: RunFolder, wish: Wish, living: Children) -> _Run:
    found = [_with_children(item, folder, run_id, living) for item in stored(folder.checkpoints)]
    # Of a single one, no rule has a choice.
    rule = _rule(_asked(folder), wish.keep_best) if len(found) > 1 else Rule()
    torn = _torn(folder.checkpoints, found, rule, wish) if rule else []
    whole = tuple(item for item in found if item not in torn)
    others = [Row(item.name, item.bytes, tuple(map(told, item.holds)), DAMAGED) for item in torn]
    others += [_leftover(path) for path in leftovers(folder.checkpoints)]
    return _Run(
        run_id=run_id,
        folder=folder,
        task=folder.path.parent.parent.name,
        rule=rule,
        is_finished=_loaded(folder.state).get("state") == FINISHED,
        is_training=is_running(folder),
        found=whole,
        others=tuple(others),
    )


def _asked(folder: RunFolder) -> Any:
    """Return the section `checkpoint` of a run: from its plan, whose JSON is read a hundred times as fast as YAML."""
    spec = _loaded(folder.newest_plan).get("spec")
    return (
        spec["checkpoint"]
        if isinstance(spec, dict) and "checkpoint" in spec
        else read_run(folder.path).spec.get("checkpoint")
    )


def _loaded(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _rule(section: Any, keep_best: int | None) -> Rule | None:
    """Return what a run's own config keeps; one that cannot be read might keep anything."""
    if not isinstance(section, dict):
        return Rule(keep_best) if keep_best is not None else None
    own = section.get("keep_best", 1)
    return Rule(own if keep_best is None else keep_best, section.get("keep_every_n_epochs"))


def _with_children(item: Stored, folder: RunFolder, run_id: int, living: Children) -> Stored:
    children = children_of_checkpoint(folder, run_id, item.name, living)
    return replace(item, holds=tuple(dict.fromkeys([*item.holds, *map(child, sorted(children))])))


def _torn(checkpoints: Path, found: Sequence[Stored], rule: Rule, wish: Wish) -> list[Stored]:
    """Return those that are damaged among those that would stay for being the last or a best.

    Where nothing can go, nothing is read: no checkpoint is lost for one that is not whole.
    """
    torn: list[Stored] = []
    while True:
        left = [item for item in found if item not in torn]
        counting = retained([replace(item, holds=()) for item in left], Rule(rule.keep_best))
        if wish.quota is None and counting == {item.name for item in left}:
            return torn
        damaged = [
            item
            for item in left
            if item.name in counting
            and not is_in_store(checkpoints / item.name)
            and not is_whole(checkpoints / item.name, item.manifest)
        ]
        if not damaged:
            return torn
        torn += damaged


def _leftover(path: Path) -> Row:
    what = DAMAGED if path.name.startswith(TORN) else LEFT
    return Row(path.name, size_of(path), tuple(map(told, holds(path))), what)


def _surveyed(run: _Run) -> Survey:
    why = reasons(run.found, run.rule) if run.rule else {item.name: (UNKNOWN,) for item in run.found}
    rows = [Row(item.name, item.bytes, why[item.name]) for item in run.found]
    rows += [row if run.found or row.what != DAMAGED else replace(row, why=(*row.why, ONLY_ONE)) for row in run.others]
    if run.is_training:
        rows = [replace(row, why=(*row.why, TRAINING)) for row in rows]
    return Survey(run.run_id, run.folder, run.task, tuple(rows))


def _within(surveys: list[Survey], runs: Sequence[_Run], quota: int) -> list[Survey]:
    """Let more go, the least needed of all runs first, until the rest fits the quota or nothing may go any more."""
    used = sum(row.bytes for found in surveys for row in found.rows if row.why)
    going: set[tuple[int, str]] = set()
    for _, run_id, item in sorted((offer for run in runs for offer in _offers(run)), key=_order):
        if used <= quota:
            break
        going.add((run_id, item.name))
        used -= item.bytes
    return [
        replace(
            found, rows=tuple(replace(row, why=()) if (found.run_id, row.name) in going else row for row in found.rows)
        )
        for found in surveys
    ]


def _offers(run: _Run) -> Iterator[tuple[int, int, Stored]]:
    """Yield what a quota may cost a run, the least needed first, each with its place: a run keeps one in any case.

    That is the last of a run that can go on, and the best of one that is finished.
    """
    if run.is_training or run.rule is None or len(run.found) < 2:  # noqa: PLR2004
        return
    rule, last = run.rule, run.found[-1]
    bests = best_names(run.found, rule)
    first = next(iter(bests), "")
    offered = dispensable(run.found, rule)
    if run.is_finished and first and first != last.name:
        offered = [item for item in offered if item.name != first] + ([] if last.holds else [last])
    for item in offered:
        yield (2 if item.name in (first, last.name) else 1 if item.name in bests else 0), run.run_id, item


def _order(offer: tuple[int, int, Stored]) -> tuple[int, float]:
    place, _, item = offer
    return place, item.manifest.created
