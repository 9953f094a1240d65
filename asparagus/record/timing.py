"""Where the time of a run went, attempt by attempt: joined from what its processes told the journal.

An attempt is counted as its logs are (`logs/attempt=A`): from the start of a launch, or from where the attempt before
it ended, to where it ended itself. Within a process, phases are monotonic durations; what lies between the accounts of
two processes is a difference of wall clocks, and nothing where those of two machines disagree by more than that.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asparagus.errors import RecordError
from asparagus.journal import Event, JournalReader
from asparagus.record.numbers import find_folder, of_sweep
from asparagus.record.run_folder import RunFolder, is_running
from asparagus.stopwatch import END, LAUNCH, TIMING, Phase

ORDER = {str(phase): place for place, phase in enumerate(Phase)}


@dataclass
class Attempt:
    """One attempt at a run, as far as it is known."""

    launch: int
    """Which launch of the run it belongs to, from 1."""
    began: float
    """Seconds since the epoch."""
    ended: float
    number: int | None = None
    """None for a launch that ended before its training began."""
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds of each."""

    @property
    def seconds(self) -> float:
        """All phases together."""
        return sum(self.phases.values())

    def book(self, phase: str, seconds: float) -> None:
        """Add to a phase."""
        self.phases[phase] = self.phases.get(phase, 0.0) + seconds

    def take(self, event: Mapping[str, Any], between: Phase) -> None:
        """Add what one process tells; `between` is what was done since the one before it."""
        if event["began"] > self.ended:
            self.book(str(between), event["began"] - self.ended)
        for phase, seconds in event["phases"].items():
            self.book(phase, seconds)
        self.ended = event["ended"]

    def to_dict(self) -> dict[str, Any]:
        """Return what `asp show N --timing --json` prints of it."""
        return {
            "attempt": self.number,
            "launch": self.launch,
            "began": self.began,
            "ended": self.ended,
            "seconds": self.seconds,
            "phases": shares(self.phases),
        }


@dataclass(frozen=True)
class Timing:
    """Where the time of a run went."""

    run_id: int
    is_running: bool
    attempts: Sequence[Attempt]

    def to_dict(self) -> dict[str, Any]:
        """Return what `asp show N --timing --json` prints."""
        return {
            "run_id": self.run_id,
            "is_running": self.is_running,
            "attempts": [attempt.to_dict() for attempt in self.attempts],
        }


@dataclass(frozen=True)
class SweepTiming:
    """Where the time of a sweep's trials went, all attempts of each together."""

    sweep_id: int
    trials: Sequence[Mapping[str, float]]
    """The seconds of each phase, for each run of a trial that has begun."""
    untold: int
    """Runs of which nothing is known."""

    @property
    def total(self) -> dict[str, float]:
        """The sum over all runs."""
        return added(self.trials)

    def median(self, phase: str) -> float:
        """Return what a phase took in one run, in the median; 0 for a run that had none of it."""
        return statistics.median(one.get(phase, 0.0) for one in self.trials)

    def to_dict(self) -> dict[str, Any]:
        """Return what `asp show SWEEP --timing --json` prints."""
        phases = {name: {**told, "median_seconds": self.median(name)} for name, told in shares(self.total).items()}
        return {
            "sweep_id": self.sweep_id,
            "runs": len(self.trials),
            "runs_without_timing": self.untold,
            "seconds": sum(self.total.values()),
            "phases": phases,
        }


def timing_of(folder: RunFolder, run_id: int, *, of_trial: bool = False) -> Timing:
    """Return where the time of a run went, so far.

    Raises:
        RecordError: Its journal does not tell.
    """
    attempts = attempts_of(JournalReader(folder.journal).read(), Phase.SWEEP if of_trial else Phase.LOST)
    if not attempts:
        raise RecordError(_untold(folder, run_id))
    return Timing(run_id, is_running(folder), attempts)


def timing_of_sweep(models: Path, sweep_id: int) -> SweepTiming:
    """Return where the time of a sweep's trials went, so far.

    Raises:
        RecordError: None of them tells.
    """
    told = []
    numbers = of_sweep(models, sweep_id)
    for run_id in numbers:
        try:
            folder = find_folder(models, run_id)
            timing = timing_of(RunFolder(folder, folder.parent.name), run_id, of_trial=True)
        except RecordError:  # thrown away since, or of before times were kept: counted below
            continue
        told.append(added(attempt.phases for attempt in timing.attempts))
    if not told:
        raise RecordError(
            f"sweep {sweep_id}: none of its {len(numbers)} runs tells where its time went: they have not begun, or are "
            "of a version that did not note it. To know, sweep again under a new number: run.resume=false"
        )
    return SweepTiming(sweep_id, told, len(numbers) - len(told))


def attempts_of(events: Iterable[Event], between: Phase = Phase.LOST) -> list[Attempt]:
    """Join what a run's processes told.

    Args:
        events: Of its journal, in order.
        between: What the time between two attempts of one launch is called.
    """
    found: list[Attempt] = []
    accounts: list[dict[str, Any]] = [dict(event) for event in events if event["kind"] == TIMING]
    for told in accounts:
        if told["by"] == LAUNCH or not found:
            launch = found[-1].launch + 1 if found else 1
            found.append(Attempt(launch, told["began"], told["began"]))
        last = found[-1]
        if told["by"] in (LAUNCH, END):
            last.take(told, Phase.END)
        elif last.number in (None, told["attempt"]):
            last.take(told, Phase.WORKERS if last.number is None else Phase.LOST)
            last.number = told["attempt"]
        else:
            found.append(Attempt(last.launch, last.ended, last.ended, told["attempt"]))
            found[-1].take(told, between)
    return found


def added(phases: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the sum of each phase."""
    found: dict[str, float] = {}
    for phase, seconds in ((phase, one[phase]) for one in phases for phase in one):
        found[phase] = found.get(phase, 0.0) + seconds
    return found


def rows(phases: Mapping[str, float]) -> Iterator[tuple[str, float, float]]:
    """Yield each phase with its seconds and its share of all, in the order of a launch."""
    whole = sum(phases.values()) or 1.0
    for name in sorted(phases, key=lambda name: ORDER.get(name, len(ORDER))):
        yield name, phases[name], phases[name] / whole


def shares(phases: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return `seconds` and `share` of each phase."""
    return {name: {"seconds": seconds, "share": share} for name, seconds, share in rows(phases)}


def _untold(folder: RunFolder, run_id: int) -> str:
    if is_running(folder):
        return f"run {run_id}: it has only just begun. Ask again in a few seconds: asp show {run_id} --timing"
    return (
        f"run {run_id}: {folder.journal} does not tell where its time went: it ended before its training began, or is "
        f"of a version that did not note it. To know, train it again under a new number: asp rerun {run_id}"
    )
