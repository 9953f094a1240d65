"""What came of a sweep: its trials, the best of them, its plots, and which checkpoints make room."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asparagus.checkpoint.folder import best_in
from asparagus.errors import RecordError
from asparagus.record.numbers import find_folder
from asparagus.record.run_folder import RunFolder
from asparagus.space import MONITOR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asparagus.sweep.ranking import Ranked
    from asparagus.sweep.study import Study

log = logging.getLogger("asparagus")


@dataclass(frozen=True)
class SweepOutcome:
    """How a sweep ended."""

    sweep_id: int
    mlflow_run_id: str
    state: str
    folder: str
    trials: list[dict[str, Any]] = field(default_factory=list)
    """Those that are over, best first: `number`, `run_id`, `state`, `params`, `values`."""
    best: Any = None
    """The best trial; a list of those that no other one beats, where several metrics are compared."""
    reason: str | None = None
    """What ended it before its last trial."""
    repeated: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        values = dataclasses.asdict(self)
        return {key: value for key, value in values.items() if key != "repeated"}


def measured(study: Study, metrics: Sequence[str]) -> dict[str, float]:
    """Return what the sweep's own run is said to have measured: the best of its trials."""
    best = None if len(metrics) > 1 or MONITOR in metrics else study.best()
    counts = {"trials": float(study.counted()), "trials/failed": float(study.failures())}
    return counts if best is None else {metrics[0]: best.values[0], **counts}


def draw(study: Study, folder: RunFolder, metrics: Sequence[str]) -> None:
    """Draw what people look at; a disk that is full must not change how the sweep ended."""
    from asparagus.sweep.plots import write_plots

    try:
        write_plots(study.optuna, folder.plots, metrics=metrics)
    except OSError as error:
        log.warning("the plots cannot be written (%s)", error.strerror)


def outcome_of(study: Study, sweep_id: int, folder: RunFolder, facts: dict[str, Any]) -> SweepOutcome:
    """Return how a sweep stands, from its study."""
    ranking = [_row(study, ranked, folder) for ranked in study.ranking()]
    comparable = study.objectives == 1 and MONITOR not in (study.optuna.metric_names or ())
    best = study.best() if comparable else None
    front = [_row(study, ranked, folder) for ranked in study.front()] if study.objectives > 1 else None
    return SweepOutcome(
        sweep_id=sweep_id,
        mlflow_run_id=str(facts["mlflow_run_id"]),
        state=str(facts["state"]),
        folder=str(folder.path),
        trials=ranking,
        best=front if front is not None else _row(study, best, folder) if best else None,
    )


def _row(study: Study, ranked: Ranked, folder: RunFolder) -> dict[str, Any]:
    row = {
        "number": ranked.number,
        "run_id": ranked.run_id,
        "state": ranked.outcome,
        "params": ranked.params,
        "values": list(ranked.values),
        "metrics": dict(zip(study.optuna.metric_names or (), ranked.values, strict=False)),
    }
    if ranked.run_id is None or ranked.outcome != "finished":
        return row
    home = _folder_of(folder, ranked.run_id)
    if home is None:
        return row
    return {**row, "checkpoint": best_in(home / "checkpoints")}


def make_room(study: Study, folder: RunFolder, keep: int) -> None:
    """Remove the checkpoints of all trials that are over but the best."""
    from asparagus.sweep.keep import keep_best

    runs = [ranked.run_id for ranked in study.ranking() if ranked.run_id is not None]
    found = [path for run_id in runs if (path := _folder_of(folder, run_id)) is not None]
    keep_best(found, keep)


def _folder_of(sweep: RunFolder, run_id: int) -> Path | None:
    try:
        return find_folder(sweep.path.parents[2], run_id)
    except RecordError:  # moved, or thrown away meanwhile
        return None
