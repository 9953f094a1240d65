"""A scheduler that is made anew, after a crash or for more trials, is told of the trials that had ended before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler

from asparagus.sweep.ranking import counts
from asparagus.sweep.schedulers import TIME, VALUE, ByStage


@dataclass(frozen=True)
class Ended:
    """A trial that is over, as far as a scheduler asks for it."""

    trial_id: str
    values: Mapping[int, float]
    """What was compared after each epoch, from 1."""

    def __hash__(self) -> int:
        return hash(self.trial_id)

    def results(self) -> list[dict[str, Any]]:
        """Return what it reported, in order."""
        return [{TIME: epoch, VALUE: self.values[epoch]} for epoch in sorted(self.values)]


def measured(trials: Iterable[FrozenTrial]) -> dict[int, dict[int, float]]:
    """Return what each trial of a sweep that is over reported after each step; of several metrics, nothing."""
    return {
        trial.number: dict(trial.intermediate_values)
        for trial in trials
        if counts(trial) and trial.state is not TrialState.FAIL
    }


def remind(scheduler: TrialScheduler, measured: Mapping[int, Mapping[int, float]]) -> None:
    """Tell a scheduler of trials that are over.

    ASHA has them in its rungs again, the median rule among those that it compares with. Of a pipeline, that is what the
    last stage measured. Hyperband halves brackets of trials that wait for one another, and population based training
    goes on from states of trials that are there: to both, one that is over means nothing.

    Args:
        scheduler: That no trial was added to.
        measured: Of each trial what was compared after each epoch.
    """
    ended = [Ended(f"{number:05d}_ended", values) for number, values in measured.items() if values]
    last = scheduler.last if isinstance(scheduler, ByStage) else scheduler
    if isinstance(last, ASHAScheduler):
        _into_rungs(last, ended)
    elif isinstance(last, MedianStoppingRule):
        _into_means(last, ended)


def _into_rungs(scheduler: ASHAScheduler, ended: Iterable[Ended]) -> None:
    for trial in ended:
        scheduler.on_trial_add(None, trial)
        for result in trial.results():
            scheduler.on_trial_result(None, trial, result)
        scheduler.on_trial_remove(None, trial)


def _into_means(scheduler: MedianStoppingRule, ended: Iterable[Ended]) -> None:
    for trial in ended:
        for result in trial.results():
            MedianStoppingRule.on_trial_complete(scheduler, None, trial, result)  # keeps a result, decides nothing
