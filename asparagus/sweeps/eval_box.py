"""From an evaluation box to one sweep: each row of it from scratch and from each checkpoint, all checked before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asparagus.check import Findings, check
from asparagus.compose import Request
from asparagus.compose.eval_box import INIT_FROM, NONE_GIVEN, ROW, SCRATCH, EvalBox
from asparagus.compose.pipeline import SEPARATOR, StageRequest
from asparagus.compose.points import satisfied
from asparagus.compose.space import ComposedSweep, compose_sweep, settled
from asparagus.errors import ConfigError, RequestError
from asparagus.plan import Plan
from asparagus.record.sizes import checkpoint_bytes
from asparagus.space import MONITOR, Choice, Dimension, Space, Values, sample
from asparagus.spec import OF_STAGE, Spec
from asparagus.stages import STAGES
from asparagus.sweep_plan import SweepPlan, cell_name
from asparagus.sweeps.planner import TrialPlanner, composed, folders, must_make_sense

Look = Callable[[Spec], Findings]


@dataclass(frozen=True)
class BoxPlanner:
    """Plans the one run of a trial: of the row and from the checkpoint that are among its values."""

    rows: Mapping[str, TrialPlanner]
    baselines: Mapping[str, str]
    """The stage that trains a row from scratch, where there is one."""
    stages = 1

    def plan(self, stage: int, values: Mapping[str, Any], *, before: Sequence[int] | None) -> Plan:
        """Return the plan of a trial.

        Args:
            stage: 0.
            values: Of the trial.
            before: Nothing: no run of a box waits for another one.

        Raises:
            RequestError: These values do not make an experiment.
        """
        rest = {key: value for key, value in values.items() if key not in (ROW, INIT_FROM)}
        name, init_from = values[ROW], values[INIT_FROM]
        own = {INIT_FROM: init_from}
        if init_from == SCRATCH:
            own = {INIT_FROM: None, "stage": self.baselines[name]}
        return self.rows[name].plan(stage, {**own, **rest}, before=before)


def plan_box(box: EvalBox, request: Request, look: Look) -> tuple[SweepPlan, BoxPlanner]:
    """Compose, check and plan an evaluation box.

    Raises:
        ConfigError: Every problem of every row from every checkpoint, and of what else is varied.
    """
    if not box.init_from:
        raise ConfigError(NONE_GIVEN)
    planner = _planner(box.rows, look)
    asked = compose_sweep(dataclasses.replace(request, overrides=box.swept(list(planner.baselines))))
    space = _with_conditions(asked.space, planner.baselines)
    asked = dataclasses.replace(asked, space=space, options=dataclasses.replace(asked.options, metric=MONITOR))
    try:
        options = settled(asked.options, space)
    except ConfigError as error:
        raise ConfigError(*asked.located(error.problems)) from error
    options = dataclasses.replace(options, mode=options.mode or "max")
    plans = _cells(asked, planner)
    must_make_sense(asked, options, lambda values: (planner.plan(0, values, before=None),))
    weights = tuple(checkpoint_bytes(plan.spec) for plan in plans.values())
    stages, names = tuple(plans.values()), tuple(plans)
    return SweepPlan(stages, names, space, options, is_box=True, checkpoint_bytes=weights), planner


def look_at_data(box: EvalBox) -> dict[str, Plan | RequestError]:
    """Plan each row as if its checkpoint were there: what is wrong is the row itself, or its data are missing."""
    planner = _planner(box.rows, check)
    found: dict[str, Plan | RequestError] = {}
    for name in box.chosen:
        try:
            found[name] = planner.plan(0, {ROW: name, INIT_FROM: f"{OF_STAGE}checkpoint"}, before=None)
        except RequestError as error:
            found[name] = error
    return found


def _planner(rows: Sequence[StageRequest], look: Look) -> BoxPlanner:
    environment = folders()
    stages = {row.name: STAGES.get(str(composed(row.request).get("stage"))) for row in rows}
    baselines = {name: stage.scratch for name, stage in stages.items() if stage is not None and stage.scratch}
    return BoxPlanner({row.name: TrialPlanner((row,), environment, look) for row in rows}, baselines)


def _with_conditions(space: Space, baselines: Mapping[str, str]) -> Space:
    """Return the space without what makes no sense: a row's own keys in others, scratch where there is no such stage.

    What is searched for one row (`seg:optim.lr`) exists beside that row alone.
    """
    dimensions = tuple(_of_its_row(dimension) for dimension in space.dimensions)
    (names,) = (one.domain.values for one in dimensions if one.key == ROW and isinstance(one.domain, Choice))
    never = [name for name in names if name not in baselines]
    allowed = (f"{INIT_FROM} != {SCRATCH!r} or {ROW} not in {never}",) if never else ()
    return Space(dimensions, (*space.constraints, *allowed))


def _of_its_row(dimension: Dimension) -> Dimension:
    row, separator, _ = dimension.key.partition(SEPARATOR)
    return dataclasses.replace(dimension, when={**dimension.when, ROW: (row,)}) if separator else dimension


def _cells(asked: ComposedSweep, planner: BoxPlanner) -> dict[str, Plan]:
    """Plan every row from scratch and from every checkpoint, all else as it is first.

    Raises:
        ConfigError: Every problem, once, with the rows that have it.
    """
    choices = {dimension.key: dimension.domain for dimension in asked.space.dimensions}
    plans: dict[str, Plan] = {}
    problems: dict[str, list[str]] = {}
    for values in _pairs(asked.space, choices):
        try:
            name = cell_name(values[ROW], values[INIT_FROM])
            plans[name] = planner.plan(0, values, before=None)
        except RequestError as error:
            for problem in str(error).splitlines():
                problems.setdefault(problem, []).append(values[ROW])
    if problems:
        told = (f"{problem} [row {', '.join(dict.fromkeys(rows))}]" for problem, rows in problems.items())
        raise ConfigError(*told)
    return plans


def _pairs(space: Space, choices: Mapping[str, Any]) -> list[Values]:
    found = []
    for row in choices[ROW].values:
        for init_from in choices[INIT_FROM].values:
            values = _first(space, {ROW: row, INIT_FROM: init_from})
            found += [values] if satisfied(space, values) else []
    return found


def _first(space: Space, given: Values) -> Values:
    """Return the first point beside some values."""
    fixed = tuple(
        dataclasses.replace(one, domain=Choice((given[one.key],))) if one.key in given else one
        for one in space.dimensions
    )
    return sample(Space(fixed))
