"""What a rehearsal cost: seconds without a step, steps taken twice, and whether the record is whole."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asparagus.faults.asked import KILL_TRACKING, Fault
from asparagus.faults.witness import Step

INCHES = (9.0, 4.0)
DOTS_PER_INCH = 110


@dataclass(frozen=True)
class Cost:
    """What one fault cost."""

    fault: Fault
    struck: float | None
    """Seconds since the epoch; None: the training never came so far."""
    still_s: float | None = None
    """From the last step before it to the first one after it; None: there was none."""
    steps_twice: int = 0
    """Steps that had to be taken again."""


@dataclass(frozen=True)
class Books:
    """What the record holds of the run, held against the run's own journal."""

    doubles: tuple[str, ...]
    """Metrics of which a step is there more than once, `name@step`."""
    missing: tuple[str, ...]
    """What the journal has and the record has not."""
    points: int
    """Metric values that were recorded."""


@dataclass(frozen=True)
class Report:
    """All that came of a rehearsal."""

    costs: tuple[Cost, ...]
    books: Books | None
    """None where no run was recorded."""
    finished: bool
    launches: int
    seconds: float
    steps: int
    """The last one."""
    folder: str

    @property
    def is_good(self) -> bool:
        """Whether everything struck, the training finished, and nothing is missing or double."""
        whole = self.books is not None and not self.books.doubles and not self.books.missing
        return self.finished and whole and all(cost.struck is not None for cost in self.costs)

    def to_dict(self) -> dict[str, Any]:
        """Return it as nested plain values."""
        return {**dataclasses.asdict(self), "good": self.is_good}

    def describe(self) -> str:
        """Return it as a page."""
        width = max(len(str(cost.fault)) for cost in self.costs)
        lines = [f"{'fault':<{width}}  without a step  steps taken twice"]
        lines += [f"{cost.fault!s:<{width}}  {self._told(cost)}" for cost in self.costs]
        ended = (
            f"finished after {self.steps} steps" if self.finished else f"NOT FINISHED: it ended at step {self.steps}"
        )
        lines += ["", f"training  {ended}, {self.seconds:.0f} s, {self.launches} launches", *self._books()]
        return "\n".join([*lines, f"folder    {self.folder}"])

    def _told(self, cost: Cost) -> str:
        if cost.struck is None:
            return f"NEVER REACHED: the training ended at step {self.steps}; name an earlier one"
        if cost.still_s is None and self.finished:
            return "nothing: the training finished before it was felt"
        if cost.still_s is None:
            return "NOT SURVIVED: no step came after it (launch.log says why)"
        return f"{cost.still_s:>12.1f} s  {cost.steps_twice:>17}"

    def _books(self) -> list[str]:
        if self.books is None:
            return ["record    NO RUN was recorded"]
        told = f"record    {self.books.points} values: "
        if not (self.books.doubles or self.books.missing):
            return [f"{told}none is missing, none is there twice"]
        rows = (("MISSING", self.books.missing), ("TWICE", self.books.doubles))
        parts = [f"{len(names)} {what} ({', '.join(names[:3])}, ...)" for what, names in rows if names]
        return [told + "; ".join(parts)]


def costs(faults: Sequence[Fault], struck: Sequence[float | None], steps: Sequence[Step]) -> tuple[Cost, ...]:
    """Return what each fault cost.

    A fault that ends a process is over with the first step of the next one; another, with the next step.

    Args:
        faults: In the order of their steps.
        struck: When each did, seconds since the epoch.
        steps: Of rank 0, as they were taken.
    """
    return tuple(_cost(fault, at, steps) for fault, at in zip(faults, struck, strict=True))


def _cost(fault: Fault, struck: float | None, steps: Sequence[Step]) -> Cost:
    before = [step for step in steps if struck is not None and step.time <= struck]
    known = {step.pid for step in before}
    after = [step for step in steps[len(before) :] if fault.kind == KILL_TRACKING or step.pid not in known]
    if not after or not before:
        return Cost(fault, struck)
    first = after[0]
    last = [step for step in steps if step.time < first.time][-1]
    return Cost(fault, struck, first.time - last.time, max(0, last.step - first.step + 1))


def books(told: Iterable[tuple[str, int]], recorded: Iterable[tuple[str, int]]) -> Books:
    """Hold the values of a run's journal against those of the record, each by metric and step."""
    counted, expected = Counter(recorded), set(told)
    named = [f"{name}@{step}" for (name, step), times in sorted(counted.items()) if times > 1]
    missing = [f"{name}@{step}" for name, step in sorted(expected - set(counted))]
    return Books(tuple(named), tuple(missing), len(counted))


def draw(report: Report, steps: Sequence[Step], path: Path) -> None:
    """Draw the steps over time, with a line where something broke."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # by itself: pyplot would look for a display
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    field = figure.subplots()
    begun = steps[0].time if steps else 0.0
    for pid in dict.fromkeys(step.pid for step in steps):
        own = [step for step in steps if step.pid == pid]
        field.plot([step.time - begun for step in own], [step.step for step in own], marker=".", markersize=3)
    for cost in report.costs:
        if cost.struck is not None:
            at = cost.struck - begun
            field.axvline(at, color="crimson", linewidth=1)
            field.annotate(
                f" {cost.fault.kind}", (at, 0.02), xycoords=("data", "axes fraction"), rotation=90, color="crimson"
            )
    field.set_xlabel("seconds since the first step")
    field.set_ylabel("step (a colour for each process)")
    field.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=DOTS_PER_INCH)
