"""What the record answers of a run: its tags and metrics, as values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from asparagus.record import tracking


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
    mode: str = ""
    best: float | None = None
    """The monitored metric of the best checkpoint, until there is one: its latest value."""
    metrics: dict[str, float] = field(default_factory=dict)
    parent_id: int | None = None
    parent_checkpoint: str | None = None
    rerun_of: int | None = None
    sweep_id: int | None = None
    experiment_id: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    """Those that were asked for."""

    @classmethod
    def from_tags(
        cls,
        mlflow_run_id: str,
        tags: Mapping[str, str],
        *,
        metrics: Mapping[str, float],
        started: float,
        experiment_id: str = "",
        show: Iterable[str] = (),
    ) -> Self | None:
        """Return what a list shows of an MLflow run; `None` if it is none of ours.

        Args:
            mlflow_run_id: Its id.
            tags: All of it that are known.
            metrics: Their latest values.
            started: When, in seconds since the epoch.
            experiment_id: Where it is.
            show: Tags to keep as they are.
        """
        run_id = _number(tags.get(tracking.RUN_ID))
        if run_id is None:
            return None
        monitor = tags.get(tracking.MONITOR, "")
        return cls(
            run_id=run_id,
            stage=tags.get(tracking.STAGE, ""),
            task=tags.get(tracking.TASK, ""),
            state=tags.get(tracking.STATE, ""),
            folder=tags.get(tracking.FOLDER, ""),
            mlflow_run_id=mlflow_run_id,
            monitor=monitor,
            mode=tags.get(tracking.MODE, ""),
            best=_real(tags.get(tracking.BEST), metrics.get(monitor)),
            metrics={name: value for name, value in metrics.items() if not name.startswith(tracking.SYSTEM_METRIC)},
            parent_id=_number(tags.get(tracking.PARENT)),
            parent_checkpoint=tags.get(tracking.PARENT_CHECKPOINT),
            rerun_of=_number(tags.get(tracking.RERUN_OF)),
            sweep_id=_number(tags.get(tracking.SWEEP_ID)),
            started=started,
            experiment_id=experiment_id,
            tags={key: tags[key] for key in show if key in tags},
        )

    @property
    def score(self) -> str:
        """The best value of the monitored metric in words; nothing where none was measured."""
        return f"{self.monitor} {self.best:.4g}" if self.best is not None else ""

    def to_dict(self) -> dict[str, Any]:
        """Return what `asp runs --json` prints; a value that is not a number is null."""
        edge = {"run_id": self.parent_id, "checkpoint": self.parent_checkpoint}
        return {
            "run_id": self.run_id,
            "stage": self.stage,
            "task": self.task,
            "state": self.state,
            "metrics": {name: value if math.isfinite(value) else None for name, value in self.metrics.items()},
            "folder": self.folder,
            "mlflow_run_id": self.mlflow_run_id,
            "init_from": edge if self.parent_checkpoint else None,
            "rerun_of": self.rerun_of,
            "sweep_id": self.sweep_id,
        }


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _real(text: str | None, otherwise: float | None) -> float | None:
    try:
        return float(text) if text else otherwise
    except ValueError:
        return otherwise
