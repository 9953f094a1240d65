"""A sampler that proposes every point of a space once.

Optuna's `GridSampler` knows no conditions, cannot complete a point that leaves a dimension open, and trains points that
were asked for first a second time; its `BruteForceSampler` goes through the space at random. Both stop the study from
inside, which a study that is asked and told refuses with an error.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from asparagus.space import Values
from asparagus.sweep.parameters import Parameter, Parameters, Stored
from asparagus.sweep.trial_table import INHERITED, outcome

DRAWS = 1000
"""After so many points at random that were all proposed before, the first that is left is taken."""
FIXED = "fixed_params"
"""Where Optuna keeps what a trial was enqueued with."""
Identity = frozenset[tuple[str, float]]
Point = dict[str, Stored]


class EveryPoint(BaseSampler):
    """Proposes every point once, in the order of the space or scattered over it.

    What was proposed is read from the study, so that nothing is repeated or left out after a restart, with several
    trials in flight, or beside points that were asked for first.

    Args:
        parameters: Of a space that can be counted.
        feasible: Tells whether a point is worth a trial.
        scatter: The seed of an order at random, for who looks at a part of the space; None: the space's own.
    """

    def __init__(
        self, parameters: Parameters, feasible: Callable[[Values], bool], *, scatter: int | None = None
    ) -> None:
        self._parameters, self._feasible, self._scatter = parameters, feasible, scatter
        self._proposed: set[Identity] = set()
        self._over: set[int] = set()
        self._rest = self._points()
        self._next: Point | None = next(self._rest, None)
        self._picked: Point = {}

    def is_exhausted(self, study: optuna.Study) -> bool:
        """Tell whether every point was proposed."""
        taken = self._taken(study, but=-1)
        while self._next is not None and self._parameters.identity(self._next) in taken:
            self._next = next(self._rest, None)
        return self._next is None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Pick the point of a trial; returns what its parameters are drawn from."""
        known = {**trial.system_attrs.get(FIXED, {}), **trial.params}
        self._picked = self._pick(study, trial.number, known) or {}
        return {one.name: one.distribution for one in self._parameters if one.name in self._picked}

    def sample_relative(
        self,
        study: optuna.Study,  # noqa: ARG002 - Optuna's own
        trial: FrozenTrial,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Any]:
        """Return the point that was picked."""
        return dict(self._picked)

    def sample_independent(
        self,
        study: optuna.Study,  # noqa: ARG002 - Optuna's own
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,  # noqa: ARG002
    ) -> Any:
        """Return any value: no point is left that agrees with what the trial was given."""
        one = next(one for one in self._parameters if one.name == param_name)
        return one.stored(one.drawn(self._chance(trial.number)))

    def _pick(self, study: optuna.Study, number: int, known: Mapping[str, Any]) -> Point | None:
        """Return a point that was not proposed yet and agrees with what is known of it."""
        taken = self._taken(study, but=number)
        wanted = dict(self._parameters.identity(known))

        def is_new(point: Point) -> bool:
            identity = self._parameters.identity(point)
            return identity not in taken and all(dict(identity).get(name, at) == at for name, at in wanted.items())

        if not wanted and self._scatter is None:
            return None if self.is_exhausted(study) else self._next
        if self._scatter is not None:
            chance = self._chance(number)
            drawn = (self._parameters.drawn(chance) for _ in range(DRAWS))
            if (found := next((point for point in self._stored(drawn) if is_new(point)), None)) is not None:
                return found
        return next((point for point in self._points() if is_new(point)), None)

    def _taken(self, study: optuna.Study, *, but: int) -> set[Identity]:
        """Return the points of all trials but one. Those of another sweep count for nothing: they are trained here."""
        underway = set()
        for trial in study.get_trials(deepcopy=False):
            if trial.number == but or trial.number in self._over or outcome(trial) == INHERITED:
                continue
            identity = self._parameters.identity(trial.params)
            if trial.state.is_finished():
                self._over.add(trial.number)
                self._proposed.add(identity)
            elif trial.state is TrialState.RUNNING:
                underway.add(identity)
        return self._proposed | underway

    def _points(self) -> Iterator[Point]:
        return self._stored(_combinations([*self._parameters], {}))

    def _stored(self, points: Iterator[Values]) -> Iterator[Point]:
        return (self._parameters.point(values) for values in points if self._feasible(values))

    def _chance(self, number: int) -> random.Random:
        return random.Random(f"{self._scatter}:{number}")  # noqa: S311 - no secret


def _combinations(parameters: Sequence[Parameter], values: Values) -> Iterator[Values]:
    if not parameters:
        yield values
        return
    first, rest = parameters[0], parameters[1:]
    if not first.dimension.exists(values):
        yield from _combinations(rest, values)
        return
    for value in first.listed():
        yield from _combinations(rest, {**values, first.key: value})
