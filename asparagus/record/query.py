"""Questions to the record: which runs, what a run came from, what came from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities import Run

from asparagus.errors import RecordError
from asparagus.record.store import RUN_ID, TAG, Store

INIT_FROM = "init_from"


@dataclass(frozen=True)
class RunSummary:
    """One run in a list."""

    run_id: int
    stage: str
    task: str
    state: str
    folder: str
    mlflow_run_id: str
    started: float
    """Seconds since the epoch."""
    monitor: str = ""
    best: float | None = None
    """The monitored metric of the best checkpoint, until there is one: its latest value."""
    metrics: dict[str, float] = field(default_factory=dict)
    parent_id: int | None = None
    parent_checkpoint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what `asp runs --json` prints."""
        edge = {"run_id": self.parent_id, "checkpoint": self.parent_checkpoint}
        return {
            "run_id": self.run_id,
            "stage": self.stage,
            "task": self.task,
            "state": self.state,
            "metrics": self.metrics,
            "folder": self.folder,
            "mlflow_run_id": self.mlflow_run_id,
            "init_from": edge if self.parent_checkpoint else None,
            "sweep_id": None,
        }


@dataclass(frozen=True)
class Relative:
    """A run on a line of descent, `distance` edges away."""

    run: RunSummary
    checkpoint: str | None
    """The checkpoint that the younger of the two started from."""
    kind: str
    distance: int

    def to_dict(self) -> dict[str, Any]:
        """Return what `asp lineage --json` prints of it."""
        run = self.run
        return {
            "run_id": run.run_id,
            "stage": run.stage,
            "task": run.task,
            "checkpoint": self.checkpoint,
            "kind": self.kind,
        }


@dataclass(frozen=True)
class Lineage:
    """A run between its ancestors and descendants, nearest first."""

    run: RunSummary
    ancestors: list[Relative]
    descendants: list[Relative]
    origin: str | None = None
    """The weights file that the oldest ancestor started from, when no recorded run wrote it."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `asp lineage --json` prints."""
        return {
            "run_id": self.run.run_id,
            "ancestors": [relative.to_dict() for relative in self.ancestors],
            "descendants": [relative.to_dict() for relative in self.descendants],
        }


def list_runs(store: Store, *, stage: str | None = None, task: str | None = None) -> list[RunSummary]:
    """Return recorded runs, newest first."""
    clauses = [f"tags.`{RUN_ID}` != ''"]
    clauses += [f"tags.`{TAG}stage` = '{stage}'"] if stage else []
    clauses += [f"tags.`{TAG}task` = '{task}'"] if task else []
    return sorted(map(summary, store.runs(" and ".join(clauses))), key=lambda run: run.run_id, reverse=True)


def lineage(store: Store, run_id: int) -> Lineage:
    """Follow the edges from a run, both ways.

    Raises:
        RecordError: No such run is recorded.
    """
    run = summary(_get(store, run_id))
    ancestors: list[Relative] = []
    youngest, origin = run, None
    while youngest.parent_checkpoint:
        if youngest.parent_id is None or (older := store.run_of(youngest.parent_id)) is None:
            origin = youngest.parent_checkpoint
            break
        ancestors.append(Relative(summary(older), youngest.parent_checkpoint, INIT_FROM, len(ancestors) + 1))
        youngest = ancestors[-1].run
    return Lineage(run, ancestors, _descendants(store, [run]), origin)


def _descendants(store: Store, generation: Sequence[RunSummary], distance: int = 1) -> list[Relative]:
    """Return children, then their children: one question to the store per parent."""
    found = [
        Relative(child, child.parent_checkpoint, INIT_FROM, distance)
        for parent in generation
        for child in sorted(_children(store, parent.run_id), key=lambda run: run.run_id)
    ]
    return found + (_descendants(store, [relative.run for relative in found], distance + 1) if found else [])


def _children(store: Store, run_id: int) -> Iterable[RunSummary]:
    return map(summary, store.runs(f"tags.`{TAG}init_from.run_id` = '{run_id}'"))


def _get(store: Store, run_id: int) -> Run:
    run = store.run_of(run_id)
    if run is None:
        raise RecordError(f"run {run_id}: is not recorded in {store.uri}. asp runs lists those that are.")
    return run


def summary(run: Run) -> RunSummary:
    """Return what a list shows of an MLflow run of ours."""
    tags = run.data.tags
    parent = tags.get(f"{TAG}init_from.run_id")
    return RunSummary(
        run_id=int(tags[RUN_ID]),
        stage=tags.get(f"{TAG}stage", ""),
        task=tags.get(f"{TAG}task", ""),
        state=tags.get(f"{TAG}state", ""),
        folder=tags.get(f"{TAG}folder", ""),
        mlflow_run_id=run.info.run_id,
        started=run.info.start_time / 1000,
        monitor=tags.get(f"{TAG}monitor", ""),
        best=float(tags[f"{TAG}best"]) if f"{TAG}best" in tags else run.data.metrics.get(tags.get(f"{TAG}monitor", "")),
        metrics=dict(run.data.metrics),
        parent_id=int(parent) if parent else None,
        parent_checkpoint=tags.get(f"{TAG}init_from.checkpoint"),
    )
