"""Questions to the record: which runs, what a run came from, what came from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asparagus.errors import RecordError
from asparagus.record.asked import Asked
from asparagus.record.reader import Reader
from asparagus.record.summary import RunSummary
from asparagus.secrets import without_passwords

__all__ = ["INIT_FROM", "RERUN", "SWEEP", "Edge", "Lineage", "Relative", "RunSummary", "lineage", "list_runs"]

INIT_FROM, RERUN, SWEEP = "init_from", "rerun", "sweep"
"""The kinds of edges; of several between two generations, the one that stands first here is told."""
RUN_FOLDER = re.compile(r"/(?P<task>[^/]+)/(?P<stage>[^/]+)/run_id=\d+/")
NEWEST = 5


@dataclass(frozen=True)
class Edge:
    """What a run came from."""

    kind: str
    older: int | None
    """`None` for weights that no run of ours wrote."""
    checkpoint: str | None = None


@dataclass(frozen=True)
class Relative:
    """A run on a line of descent, `distance` edges away."""

    run: RunSummary
    checkpoint: str | None
    """The checkpoint that the younger of the two started from."""
    kind: str
    distance: int
    via: int
    """The run at the near end of the edge."""
    missing: str | None = None
    """What is gone of it, though it should be on this machine."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `asp lineage --json` prints of it."""
        run = self.run
        return {
            "run_id": run.run_id,
            "stage": run.stage,
            "task": run.task,
            "checkpoint": self.checkpoint,
            "kind": self.kind,
            "via": self.via,
            "missing": self.missing,
        }


@dataclass(frozen=True)
class Lineage:
    """A run between its ancestors and descendants, nearest first."""

    run: RunSummary
    ancestors: list[Relative]
    descendants: list[Relative]
    origin: str | None = None
    """The weights file that the oldest ancestor started from, when no recorded run wrote it."""
    missing: str | None = None
    """What is gone of the run itself, though it should be on this machine."""
    is_cut: bool = False
    """There are more descendants than were asked for."""

    def describe(self) -> str:
        """Return the tree that `asp lineage` draws."""
        from asparagus.record.descent import lines

        return "\n".join(lines(self))

    def to_dict(self) -> dict[str, Any]:
        """Return what `asp lineage --json` prints."""
        return {
            "run_id": self.run.run_id,
            "ancestors": [relative.to_dict() for relative in self.ancestors],
            "descendants": [relative.to_dict() for relative in self.descendants],
            "origin": self.origin,
            "missing": self.missing,
        }


def list_runs(reader: Reader, asked: Asked | None = None) -> list[RunSummary]:
    """Return recorded runs; all of them, the newest first, unless asked otherwise."""
    return reader.runs(asked or Asked(limit=None))


def lineage(reader: Reader, run_id: int, *, models: Path | None = None, limit: int | None = None) -> Lineage:
    """Follow the edges from a run, both ways.

    Args:
        reader: The record.
        run_id: The run's number.
        models: The models folder of this machine, in which the folders of its runs have to be.
        limit: Return no more descendants than this, the nearest.

    Raises:
        RecordError: No such run is recorded.
    """
    run = _get(reader, run_id)
    ancestors = _ancestors(reader, run)
    descendants, is_cut = _descendants(reader, run, limit)
    places = _Places(models)
    return Lineage(
        run,
        [places.checked(relative) for relative in ancestors],
        [places.checked(relative) for relative in descendants],
        _origin([run, *(relative.run for relative in ancestors)]),
        places.gone(run),
        is_cut,
    )


def edges(run: RunSummary) -> Iterator[Edge]:
    """Yield what a run came from."""
    if run.parent_checkpoint:
        yield Edge(INIT_FROM, run.parent_id, run.parent_checkpoint)
    if run.rerun_of is not None:
        yield Edge(RERUN, run.rerun_of)
    if run.sweep_id is not None:
        yield Edge(SWEEP, run.sweep_id)


def _get(reader: Reader, run_id: int) -> RunSummary:
    found = reader.by_numbers([run_id])
    if found:
        return found[0]
    newest = ", ".join(str(run.run_id) for run in reader.runs(Asked(limit=NEWEST)))
    known = f"The newest there: {newest}." if newest else "No run is."
    raise RecordError(
        f"run {run_id}: is not recorded in {without_passwords(reader.uri)}. {known} asp runs lists those that are."
    )


def _ancestors(reader: Reader, run: RunSummary) -> list[Relative]:
    """Return parents, then theirs, each run once: one question per generation."""
    found: list[Relative] = []
    generation, seen = [run], {run.run_id}
    while generation:
        wanted: dict[int, tuple[Edge, int]] = {}
        for young in generation:
            for edge in edges(young):
                if edge.older is not None and edge.older not in seen:
                    wanted.setdefault(edge.older, (edge, young.run_id))
        seen |= wanted.keys()
        known = _by_number(reader.by_numbers(wanted)) if wanted else {}
        distance = found[-1].distance + 1 if found else 1
        generation = []
        for number, (edge, via) in wanted.items():
            older = known.get(number)
            missing = None if older else f"run {number} is not recorded here: it was deleted, or is recorded elsewhere"
            older = older or _not_recorded(number, edge.checkpoint)
            found.append(Relative(older, edge.checkpoint, edge.kind, distance, via, missing))
            generation.append(older)
    return found


def _descendants(reader: Reader, run: RunSummary, limit: int | None) -> tuple[list[Relative], bool]:
    """Return children, then theirs, each run once, and whether there are more: one question per generation."""
    found: list[Relative] = []
    generation, seen, distance = [run.run_id], {run.run_id}, 1
    while generation:
        left = None if limit is None else limit - len(found)
        answer = reader.children(generation, limit=None if left is None else left + 1)
        children = list(_by_number(child for child in answer if child.run_id not in seen).values())
        if left is not None and len(answer) > left:
            newest = children[max(0, len(children) - left) :]
            return [*found, *_as_relatives(newest, generation, distance)], True
        found += _as_relatives(children, generation, distance)
        generation = [child.run_id for child in children]
        seen.update(generation)
        distance += 1
    return found, False


def _as_relatives(children: Iterable[RunSummary], generation: Sequence[int], distance: int) -> Iterator[Relative]:
    older = set(generation)
    for child in children:
        edge = next(edge for edge in edges(child) if edge.older in older)
        yield Relative(child, edge.checkpoint, edge.kind, distance, edge.older or 0)


def _by_number(runs: Iterable[RunSummary]) -> dict[int, RunSummary]:
    """Return runs by number, in their order; of two with one number, the one that started last."""
    found: dict[int, RunSummary] = {}
    for run in runs:
        if run.run_id not in found or run.started > found[run.run_id].started:
            found[run.run_id] = run
    return found


def _not_recorded(number: int, checkpoint: str | None) -> RunSummary:
    """Return what a checkpoint's path still tells of its run."""
    place = RUN_FOLDER.search(checkpoint or "")
    stage, task = (place["stage"], place["task"]) if place else ("", "")
    folder = checkpoint[: place.end() - 1] if place and checkpoint else ""
    return RunSummary(number, stage, task, "not recorded", folder, "", 0.0)


def _origin(line: Iterable[RunSummary]) -> str | None:
    foreign = (run.parent_checkpoint for run in line if run.parent_checkpoint and run.parent_id is None)
    return next(foreign, None)


class _Places:
    """What should lie in the models folder of this machine; each path is looked for once.

    Args:
        models: The folder, if there is one.
    """

    def __init__(self, models: Path | None) -> None:
        self._models = models
        self._is_gone: dict[str, bool] = {}

    def checked(self, relative: Relative) -> Relative:
        """Return a relative with what is gone of it."""
        missing = relative.missing or self.gone(relative.run)
        if not missing and relative.checkpoint and self._is_missing(relative.checkpoint):
            missing = f"the checkpoint {relative.checkpoint} is gone: moved or deleted"
        return replace(relative, missing=missing)

    def gone(self, run: RunSummary) -> str | None:
        """Say that the folder of a run is gone."""
        return f"its folder {run.folder} is gone: moved or deleted" if self._is_missing(run.folder) else None

    def _is_missing(self, path: str) -> bool:
        if path not in self._is_gone:
            is_ours = bool(path) and self._models is not None and Path(path).is_relative_to(self._models)
            self._is_gone[path] = is_ours and not Path(path).exists()
        return self._is_gone[path]
