"""What came of an evaluation box, read from the folders of its runs: the table, as it stands at this moment."""

from __future__ import annotations

import contextlib
import json
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asparagus.checkpoint.folder import best_of, manifests
from asparagus.errors import RecordError
from asparagus.journal import JournalReader
from asparagus.record.numbers import find_folder, of_trial
from asparagus.record.run_files import read_run
from asparagus.record.run_folder import FINISHED, RunFolder, is_running
from asparagus.record.sweeps import SWEEP, asked_of
from asparagus.spec import TrialOf

ROW, INIT_FROM, SEED, SCRATCH = "row", "init_from", "seed", "scratch"
"""Keys of a trial; and what it has in place of a checkpoint that was trained from none."""


@dataclass(frozen=True)
class Result:
    """One run of the box."""

    run_id: int | None
    state: str
    value: float | None
    """Of the metric, at the run's best checkpoint: so far, for a run that has not finished."""
    seed: Any = None


@dataclass(frozen=True)
class Cell:
    """One row from one checkpoint: what its runs, which differ in the seed alone, came to."""

    row: str
    """With what is varied besides, after a dot."""
    init_from: str
    stage: str
    task: str
    metric: str
    mode: str
    results: tuple[Result, ...]

    @property
    def values(self) -> list[float]:
        """Of the runs that have finished."""
        return [one.value for one in self.results if one.state == FINISHED and one.value is not None]

    @property
    def mean(self) -> float | None:
        """Over the runs that have finished."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """The standard deviation over them (n - 1); None of fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class BoxTable:
    """All cells of a box."""

    sweep_id: int
    state: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    """Checkpoints, as they were written; `scratch` first."""
    cells: Mapping[tuple[str, str], Cell]

    def gain(self, cell: Cell) -> float | None:
        """Return by how much a cell is better than its row from scratch: above 0 is better, whatever is measured."""
        base = self.cells.get((cell.row, SCRATCH))
        if base is None or cell.init_from == SCRATCH or base.mean is None or cell.mean is None:
            return None
        return cell.mean - base.mean if cell.mode == "max" else base.mean - cell.mean

    def of_row(self, row: str) -> Iterator[Cell | None]:
        """Yield the cells of a row, column by column; None where there is none."""
        return (self.cells.get((row, column)) for column in self.columns)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        cells = [
            {**asdict(cell), "n": len(cell.values), "mean": cell.mean, "sd": cell.sd, "gain": self.gain(cell)}
            for cell in self.cells.values()
        ]
        return {"sweep_id": self.sweep_id, "state": self.state, "cells": cells}


def collect(models: Path, sweep_id: int) -> BoxTable:
    """Read the table of an evaluation box: of one that is under way or was interrupted too.

    Raises:
        RecordError: There is no such sweep, or it is no evaluation box.
    """
    path = find_folder(models, sweep_id)
    asked = asked_of(path)
    if not asked.get("is_box"):
        raise RecordError(f"sweep {sweep_id} is no evaluation box. What came of it: asp show {sweep_id}")
    searched = {one["key"]: one["domain"].get("values", ()) for one in asked["space"]["dimensions"]}
    trials = _trials(RunFolder(path, SWEEP))
    found: dict[tuple[str, str], list[tuple[Result, Mapping[str, str]]]] = {}
    for number, values in sorted(trials.items()):
        run_ids = of_trial(models, TrialOf(sweep_id, number))
        key = (_row_of(values), str(values[INIT_FROM]))
        found.setdefault(key, []).append(_result(models, run_ids[-1] if run_ids else None, values.get(SEED)))
    cells = {key: _cell(key, results) for key, results in found.items()}
    names = [str(name) for name in searched[ROW]]
    rows = sorted(dict.fromkeys(row for row, _ in cells), key=lambda row: names.index(row.partition(" · ")[0]))
    left = [name for name in names if not any(row.partition(" · ")[0] == name for row in rows)]
    columns = tuple(str(value) for value in searched[INIT_FROM])
    state = str(read_run(path).state.get("state", "running"))
    return BoxTable(sweep_id, state, (*rows, *left), columns, cells)


def _trials(folder: RunFolder) -> dict[int, dict[str, Any]]:
    """Return the values of every trial that was begun."""
    events: list[dict[str, Any]] = [dict(event) for event in JournalReader(folder.journal).read()]
    return {event["number"]: event["values"] for event in events if event["kind"] == "trial_started"}


def _row_of(values: Mapping[str, Any]) -> str:
    rest = [f"{key.rpartition(':')[2]}={value}" for key, value in values.items() if key not in (ROW, INIT_FROM, SEED)]
    return " · ".join([str(values[ROW]), *rest])


def _result(models: Path, run_id: int | None, seed: Any) -> tuple[Result, Mapping[str, str]]:
    """Return what a run came to, and what it is."""
    nothing = dict.fromkeys(("stage", "task", "metric", "mode"), "")
    if run_id is None:
        return Result(None, "waiting", None, seed), nothing
    with contextlib.suppress(RecordError):  # moved, or thrown away
        files = read_run(find_folder(models, run_id))
        tags = files.record.get("tags", {})
        monitor, mode = str(tags.get("asparagus.monitor", "")), str(tags.get("asparagus.mode", "max"))
        state = "running" if is_running(files.folder) else str(files.state.get("state", "lost"))
        metric, value = _measured(files.folder, files.metrics, monitor)
        told = {"stage": files.folder.stage, "task": str(files.spec.get("task", "")), "metric": metric, "mode": mode}
        return Result(run_id, state, value, seed), told
    return Result(run_id, "gone", None, seed), nothing


def _measured(folder: RunFolder, metrics: Mapping[str, float], monitor: str) -> tuple[str, float | None]:
    """Return the metric of a run and its value: on test data, where the best checkpoint was tested."""
    tested = f"test/{monitor.removeprefix('val/')}"
    if tested in metrics:
        return tested, _finite(metrics[tested])
    best = best_of(manifests(folder.checkpoints))
    return monitor, _finite(best.metrics[monitor] if best and monitor in best.metrics else metrics.get(monitor))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _cell(key: tuple[str, str], found: list[tuple[Result, Mapping[str, str]]]) -> Cell:
    row, init_from = key
    told = next((about for _, about in found if about["metric"].startswith("test/")), None)
    about = told or next((about for _, about in found if about["metric"]), found[0][1])
    # A run that was not tested yet is not averaged with those that were.
    results = tuple(
        one if other["metric"] == about["metric"] else Result(one.run_id, one.state, None, one.seed)
        for one, other in found
    )
    return Cell(row, init_from, **about, results=results)


def plain(table: BoxTable) -> dict[str, Any]:
    """Return the table as JSON and YAML have it: no tuples."""
    values: dict[str, Any] = json.loads(json.dumps(table.to_dict()))
    return values
