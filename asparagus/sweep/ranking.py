"""Which trials count, and which of them is better. Pure: lists of trials in, and nothing asked of a storage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from asparagus.space import Values
from asparagus.sweep.trial_table import INFEASIBLE, INHERITED, RUN_ID, outcome

FINISHED, PRUNED, CAPPED, DIVERGED = "finished", "pruned", "capped", "diverged"
OUT_OF_MEMORY, FAILED, LOST = "out_of_memory", "failed", "lost"
STATES: Mapping[str, TrialState] = {
    FINISHED: TrialState.COMPLETE,
    PRUNED: TrialState.PRUNED,
    CAPPED: TrialState.PRUNED,
    DIVERGED: TrialState.PRUNED,
    OUT_OF_MEMORY: TrialState.PRUNED,
    FAILED: TrialState.FAIL,
    LOST: TrialState.FAIL,
}
"""What Optuna is told of an outcome; samplers look at no trial that has failed."""
FAILURES = (OUT_OF_MEMORY, FAILED, LOST)
UNCOUNTED = (INFEASIBLE, INHERITED)
BEST_FIRST = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
Directions = Sequence[StudyDirection]


@dataclass(frozen=True)
class Ranked:
    """A trial that is over."""

    number: int
    params: Values
    """Its point."""
    values: tuple[float, ...]
    """Of the metrics: the last ones, for a trial that was stopped; empty where nothing was measured."""
    run_id: int | None
    outcome: str


def counts(trial: FrozenTrial) -> bool:
    """Tell whether a trial is over, was trained, and belongs to this sweep."""
    return trial.state.is_finished() and outcome(trial) not in UNCOUNTED


def ranked(trial: FrozenTrial, point: Callable[[Mapping[str, Any]], Values]) -> Ranked:
    """Return a trial as it is told; `point` spells its parameters."""
    values = tuple(trial.values or ())
    return Ranked(trial.number, point(trial.params), values, trial.user_attrs.get(RUN_ID), outcome(trial))


def in_order(trials: Iterable[FrozenTrial], directions: Directions) -> list[FrozenTrial]:
    """Return the trials that count, the best first.

    Trials that were trained to their end come before those that were stopped, however good these looked: budgets that
    differ are not compared. Those come by how far they got.
    """
    counted = [trial for trial in trials if counts(trial)]
    best = {trial.number for trial in front(counted, directions)}

    def place(trial: FrozenTrial) -> tuple[Any, ...]:
        loss = _losses(trial, directions)[0]
        state = TrialState.FAIL if outcome(trial) in FAILURES else trial.state
        group = (BEST_FIRST.index(state), outcome(trial) == DIVERGED, trial.number not in best)
        steps = 0 if trial.state is TrialState.COMPLETE else -(trial.last_step or 0)
        return (*group, steps, loss, trial.number)

    return sorted(counted, key=place)


def best(trials: Iterable[FrozenTrial], directions: Directions) -> FrozenTrial | None:
    """Return the best trial that was trained to its end, the first of equals; by the first of several metrics."""
    complete = [trial for trial in trials if counts(trial) and trial.state is TrialState.COMPLETE]
    return min(complete, key=lambda trial: (_losses(trial, directions)[0], trial.number), default=None)


def front(trials: Iterable[FrozenTrial], directions: Directions) -> list[FrozenTrial]:
    """Return the trials that no other one beats in every metric, best by the first one first."""
    complete = [trial for trial in trials if counts(trial) and trial.state is TrialState.COMPLETE]
    losses = {trial.number: _losses(trial, directions) for trial in complete}
    rising = sorted(complete, key=lambda trial: (losses[trial.number], trial.number))
    found: list[FrozenTrial] = []
    for trial in rising:  # who beats a trial stands before it
        if not any(_beats(losses[other.number], losses[trial.number]) for other in found):
            found.append(trial)
    return found


def without_better(trials: Iterable[FrozenTrial], directions: Directions) -> int:
    """Return how many trials have ended since the last one that was better than all before, or joined the front."""
    counted = [trial for trial in trials if counts(trial)]
    ends = [_end(trial) for trial in counted]
    one = len(directions) == 1
    leading = [best(counted, directions)] if one else front(counted, directions)
    last = max((_end(trial) for trial in leading if trial is not None), default=None)
    return len(ends) if last is None else sum(end > last for end in ends)


def _losses(trial: FrozenTrial, directions: Directions) -> tuple[float, ...]:
    signs = [-1 if direction is StudyDirection.MAXIMIZE else 1 for direction in directions]
    values = trial.values if trial.values and len(trial.values) == len(signs) else [math.nan] * len(signs)
    losses = (sign * value for sign, value in zip(signs, values, strict=True))
    return tuple(math.inf if math.isnan(loss) else loss for loss in losses)


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(mine <= theirs for mine, theirs in zip(one, other, strict=True))


def _end(trial: FrozenTrial) -> tuple[float, int]:
    assert trial.datetime_complete is not None
    return trial.datetime_complete.timestamp(), trial.number
