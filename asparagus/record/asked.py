"""A question for runs: by stage, task, state, tag and metric, in which order, how many."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from asparagus.errors import RecordError
from asparagus.record import tracking
from asparagus.record.summary import RunSummary

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
    "!=": operator.ne,
}
BOUND = re.compile(r"\s*(?P<name>[^<>=!]+?)\s*(?P<op><=|>=|!=|<|>|=)\s*(?P<value>[^<>=!]+)")
RUN, STARTED, BEST = "run", "started", "best"
"""What runs are sorted by, other than the latest value of a metric."""
LIMIT = 100


@dataclass(frozen=True)
class Bound:
    """A condition on the latest value of a metric, e.g. `val/loss<0.3`; a value that is not a number meets none."""

    name: str
    op: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Bound:
        """Read `NAME<VALUE`.

        Raises:
            RecordError: It is no such thing.
        """
        found = BOUND.fullmatch(text)
        try:
            bound = cls(found["name"], found["op"], float(found["value"])) if found else None
        except ValueError:
            bound = None
        if bound is None or not math.isfinite(bound.value):
            raise RecordError(
                f"--metric: {text!r} is not NAME, one of {' '.join(OPERATORS)}, and a number. For example: "
                "--metric 'val/loss<0.3' (in quotes: < and > are the shell's)."
            )
        return bound

    def holds(self, value: float | None) -> bool:
        """Tell whether a metric's value meets the condition."""
        return value is not None and not math.isnan(value) and bool(OPERATORS[self.op](value, self.value))


@dataclass(frozen=True)
class Asked:
    """A question for runs; those that were deleted are never an answer."""

    stage: str | None = None
    task: str | None = None
    state: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    """Names as in MLflow, with exactly these values."""
    metrics: tuple[Bound, ...] = ()
    sort: str = RUN
    """`run`, `started`, `best` (the best by its own monitor first) or the name of a metric; the largest first."""
    ascending: bool = False
    """The other way round. Runs without a value to sort by are last both ways."""
    limit: int | None = LIMIT
    show: tuple[str, ...] = ()
    """Tags to bring along, beside those that every answer has."""

    @property
    def wanted(self) -> dict[str, str]:
        """Every tag that is asked for, with its value."""
        named = {tracking.STAGE: self.stage, tracking.TASK: self.task, tracking.STATE: self.state}
        return {**{tag: value for tag, value in named.items() if value is not None}, **self.tags}

    def is_met_by(self, tags: Mapping[str, str], metrics: Mapping[str, float]) -> bool:
        """Tell whether a run is asked for."""
        return all(tags.get(tag) == value for tag, value in self.wanted.items()) and all(
            bound.holds(metrics.get(bound.name)) for bound in self.metrics
        )

    def in_order(self, runs: Iterable[RunSummary]) -> list[RunSummary]:
        """Return runs sorted as asked for, no more than asked for."""
        newest_first = sorted(runs, key=lambda run: run.run_id, reverse=True)
        if self.sort == RUN:
            return (newest_first[::-1] if self.ascending else newest_first)[: self.limit]
        values = [(self._value(run), run) for run in newest_first]
        known = [(value, run) for value, run in values if value is not None and not math.isnan(value)]
        known.sort(key=lambda pair: pair[0], reverse=not self.ascending)
        unknown = [run for value, run in values if value is None or math.isnan(value)]
        return [*(run for _, run in known), *unknown][: self.limit]

    def _value(self, run: RunSummary) -> float | None:
        """Return what a run is sorted by; the larger the earlier."""
        if self.sort == STARTED:
            return run.started
        if self.sort == BEST:
            return -run.best if run.best is not None and run.mode == "min" else run.best
        return run.metrics.get(self.sort)
