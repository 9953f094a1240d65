"""A study as it stood at one moment, so that plots drawn one after another tell of the same trials."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from asparagus.sweep.trial_table import INFEASIBLE, INHERITED, outcome

PLAIN = (str, int, float, bool, type(None))
BINS = 40
"""So many places on an axis of a contour: those of a thousand trials would make a grid of a million cells."""
CONSTRAINTS = "constraints"
"""By this attribute Optuna knows a trial that is not feasible."""
Spelling = Callable[[str], str]


class Moment(optuna.Study):
    """Trials that can be read as a study, and no more.

    Args:
        trials: In the order of their numbers.
        metrics: What their values are called.
        directions: Of the metrics.
    """

    def __init__(
        self, trials: Sequence[FrozenTrial], metrics: Sequence[str], directions: Sequence[StudyDirection]
    ) -> None:
        storage = optuna.storages.InMemoryStorage()
        number = storage.create_new_study(directions)
        super().__init__(storage.get_study_name_from_id(number), storage)
        self.set_metric_names(list(metrics))
        self._held, self.metrics = list(trials), tuple(metrics)

    def get_trials(
        self,
        deepcopy: bool = True,  # noqa: ARG002, FBT001, FBT002 - Optuna's own
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return the trials that are in one of these states."""
        return [trial for trial in self._held if states is None or trial.state in states]

    @property
    def results(self) -> list[FrozenTrial]:
        """Those that were finished with a number for each metric."""
        done = self.get_trials(states=(TrialState.COMPLETE,))
        return [trial for trial in done if all(map(math.isfinite, trial.values))]

    def of(self, trials: Sequence[FrozenTrial]) -> Moment:
        """Return the same study of other trials."""
        return Moment(trials, self.metrics, self.directions)


def objective(moment: Moment, place: int) -> Moment:
    """Return a study of several metrics as one of a single one."""
    trials = [_changed(one, values=one.values and [one.values[place]]) for one in moment.get_trials()]
    return Moment(trials, [moment.metrics[place]], [moment.directions[place]])


def in_time(moment: Moment) -> Moment:
    """Return it for a timeline: without the trials that ran in another sweep; infeasible ones as Optuna knows them."""
    trials = [trial for trial in moment.get_trials() if outcome(trial) != INHERITED and trial.datetime_start]
    attributes: dict[str, Any] = {"state": TrialState.COMPLETE, "system_attrs": {CONSTRAINTS: (1.0,)}}
    return moment.of([_changed(one, **attributes) if outcome(one) == INFEASIBLE else one for one in trials])


def spelled(moment: Moment, spelling: Spelling) -> Moment:
    """Return it with every text as a way of drawing wants it; values that Optuna's plots cannot sort become texts."""
    trials = [_spelled(trial, spelling) for trial in moment.get_trials()]
    return Moment(trials, [spelling(name) for name in moment.metrics], moment.directions)


def is_numeric(distribution: BaseDistribution) -> bool:
    """Tell whether the values have an order; a choice among numbers has one."""
    if not isinstance(distribution, CategoricalDistribution):
        return True
    return all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in distribution.choices)


def rounded(moment: Moment, names: Sequence[str]) -> Moment:
    """Return it with these parameters brought to `BINS` places each, where they have more values than that."""
    trials = moment.results
    for name in names:
        values = np.array([trial.params.get(name, math.nan) for trial in trials], float)
        if len(np.unique(values[~np.isnan(values)])) > BINS:
            is_log = any(getattr(trial.distributions.get(name), "log", False) for trial in trials)
            near = _nearest(values, np.geomspace if is_log else np.linspace)
            trials = [
                _changed(one, params={**one.params, name: float(value)}) if name in one.params else one
                for one, value in zip(trials, near, strict=True)
            ]
    return moment.of(trials)


def meet(moment: Moment, names: Sequence[str]) -> bool:
    """Tell whether two of these parameters are there in one and the same trial."""
    return any({*pair} <= {*trial.params} for pair in itertools.combinations(names, 2) for trial in moment.results)


def _nearest(values: np.ndarray, spread: Callable[..., np.ndarray]) -> np.ndarray:
    places = spread(np.nanmin(values), np.nanmax(values), BINS)
    nearest: np.ndarray = places[np.abs(values[:, None] - places).argmin(axis=1)]
    return nearest


def _changed(trial: FrozenTrial, **attributes: Any) -> FrozenTrial:
    other = copy.copy(trial)
    for name, value in attributes.items():
        setattr(other, name, value)
    return other


def _spelled(trial: FrozenTrial, spelling: Spelling) -> FrozenTrial:
    return _changed(
        trial,
        params={spelling(name): _value(value, spelling) for name, value in trial.params.items()},
        distributions={spelling(name): _domain(one, spelling) for name, one in trial.distributions.items()},
        user_attrs={spelling(name): _value(value, spelling) for name, value in trial.user_attrs.items()},
    )


def _domain(distribution: BaseDistribution, spelling: Spelling) -> BaseDistribution:
    if not isinstance(distribution, CategoricalDistribution):
        return distribution
    return CategoricalDistribution([_value(choice, spelling) for choice in distribution.choices])


def _value(value: Any, spelling: Spelling) -> Any:
    if not isinstance(value, PLAIN):
        value = json.dumps(value, default=str)
    return spelling(value) if isinstance(value, str) else value
