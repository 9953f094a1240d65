"""What the nodes of a run were busy with, from its folder to MLflow: the metrics that its page shows under `System`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from mlflow.entities import Metric, RunData

from asparagus.attempts import SYSTEM
from asparagus.record.tracking import SYSTEM_METRIC


class SystemReader:
    """Reads what is new in the files of all nodes.

    Args:
        folder: Of the run.
        started: When it first started: steps are seconds since then.
        reached: The largest step that the store has.
    """

    def __init__(self, folder: Path, started: float, reached: int = -1) -> None:
        self._folder, self._started, self._reached = folder / SYSTEM, started, reached
        self._offsets: dict[Path, int] = {}

    def read(self) -> list[Metric]:
        """Return what is new."""
        return [metric for path in sorted(self._folder.glob("*.jsonl")) for metric in self._of(path)]

    def _of(self, path: Path) -> Iterator[Metric]:
        with path.open("rb") as file:
            file.seek(self._offsets.get(path, 0))
            block = file.read()
        whole = block[: block.rfind(b"\n") + 1]
        self._offsets[path] = self._offsets.get(path, 0) + len(whole)
        for line in whole.splitlines():
            try:
                told = json.loads(line)
            except ValueError:  # the half line of a worker that was killed
                continue
            step = int(told["time"] - self._started)
            node = "" if told["node"] is None else f"node_{told['node']}/"
            if step > self._reached:
                for name, value in told["values"].items():
                    yield Metric(f"{SYSTEM_METRIC}{node}{name}", value, int(told["time"] * 1000), step)


def reached(known: RunData) -> int:
    """Return the largest step of what the store has of a run's nodes, -1 for none."""
    latest = known._metric_objs  # noqa: SLF001 - as MLflow's own monitor does: the public values have no steps
    return max((metric.step for metric in latest if metric.key.startswith(SYSTEM_METRIC)), default=-1)
