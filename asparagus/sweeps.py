"""From a request to a sweep: what `-m` is made of, on the client and at the desk."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from asparagus.api import planned, prepare
from asparagus.check import Findings, check
from asparagus.compose import Request, config_of, spec_of
from asparagus.compose.origins import located
from asparagus.compose.pipeline import StageRequest, of_stage, stages_of
from asparagus.compose.space import ComposedSweep, compose_sweep, settled
from asparagus.compose.trial import config_with, request_with
from asparagus.errors import ConfigError
from asparagus.plan import Plan
from asparagus.record.sizes import checkpoint_bytes
from asparagus.space import sample
from asparagus.spec import OF_STAGE, Spec
from asparagus.sweep_plan import SweepPlan, must_fit

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from asparagus.driver import Watcher
    from asparagus.driver.sweep_outcome import SweepOutcome


@dataclass(frozen=True)
class TrialPlanner:
    """Plans the runs of one trial after another: composed and checked as if each had been launched alone."""

    requests: tuple[StageRequest, ...]
    environment: dict[str, str] = field(default_factory=dict)
    """Where the folders are: the desk may have been started with another environment."""
    look: Callable[[Spec], Findings] = check

    @property
    def stages(self) -> int:
        """Runs that one trial consists of."""
        return len(self.requests)

    def plan(self, stage: int, values: Mapping[str, Any], *, before: Sequence[int] | None) -> Plan:
        """Return the plan of a stage with the values of a trial, started from a run before it.

        Args:
            stage: Place in the pipeline.
            values: Of the trial.
            before: The runs of the stages before; None while they are not there.

        Raises:
            RequestError: These values do not make an experiment.
        """
        os.environ.update(self.environment)
        asked = self.requests[stage]
        own = of_stage(asked.name, values)
        request = request_with(asked.request, own)
        try:
            config = config_with(_composed(asked.request), asked.request, own)
            names = [one.name for one in self.requests]
            source = None if asked.source is None or before is None else before[names.index(asked.source)]
            return planned(_of_trial(spec_of(config, request), asked, source), self.look)
        except ConfigError as error:
            raise ConfigError(*located(error.problems, request)) from error


@cache
def _composed(request: Request) -> DictConfig:
    """Compose what all trials share, once in a process: it is most of the work of planning one."""
    return config_of(request)


def _of_trial(spec: Spec, asked: StageRequest, parent: int | None) -> Spec:
    """Return the spec of a run that has no number or name of its own choosing, and the run before as its parent."""
    run = dataclasses.replace(spec.run, id=None, name=None, rerun_of=None)
    if asked.source is None:
        return dataclasses.replace(spec, run=run)
    source = f"{OF_STAGE}{asked.source}" if parent is None else f"run:{parent}/best"
    return dataclasses.replace(spec, run=run, init_from=source)


def plan_sweep(request: Request, *, look: Callable[[Spec], Findings] = check) -> tuple[SweepPlan, TrialPlanner]:
    """Compose, check and plan a sweep, without starting anything.

    Args:
        request: A config, and overrides of which some have several values, or a section `sweep.space`.
        look: How a trial is checked: `check`, or `check_from_afar` for a cluster that will carry it out.

    Raises:
        ConfigError: Every problem of the experiment, the space and the options.
        PlanError: A trial can never run.
    """
    prepare()
    composed = compose_sweep(request)
    stages = stages_of(composed.base)
    planner = TrialPlanner(stages, environment=_folders(), look=look)
    try:
        options = settled(composed.options, composed.space)
    except ConfigError as error:
        raise ConfigError(*composed.located(error.problems)) from error
    first = sample(composed.space)
    plans = tuple(planner.plan(place, first, before=None) for place in range(len(stages)))
    names = tuple(stage.name or plan.spec.stage for stage, plan in zip(stages, plans, strict=True))
    weights = tuple(checkpoint_bytes(stage.spec) for stage in plans)
    plan = SweepPlan(plans, names, composed.space, options, words=_typed(request), checkpoint_bytes=weights)
    _check(plan, planner, composed)
    must_fit(plan)
    return plan, planner


def _typed(request: Request) -> tuple[str, ...]:
    """Return what launches the same once more."""
    folders = (f"--config-dir={folder.absolute()}" for folder in request.config_dirs)
    return (request.config, *request.overrides, *folders)


def _check(plan: SweepPlan, planner: TrialPlanner, composed: ComposedSweep) -> None:
    """Check the space: every dimension at both of its ends."""
    from asparagus.check.space import check_space

    def plan_of_values(values: Mapping[str, Any]) -> tuple[Plan, ...]:
        return tuple(planner.plan(place, values, before=None) for place in range(planner.stages))

    try:
        check_space(composed.space, plan.options, plan_of_values)
    except ConfigError as error:
        raise ConfigError(*composed.located(error.problems)) from error


def _folders() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("ASPARAGUS_")}


def sweep(request: Request, *, watcher: Watcher | None = None) -> SweepOutcome:
    """Search: what `asp-launch CONFIG -m` does.

    ```python
    outcome = asparagus.sweep(Request("experiment/digits", ("optim.lr=1e-3,1e-2",)))
    outcome.best["params"], outcome.best["values"]
    ```

    Args:
        request: A config, and overrides of which some have several values, or a section `sweep.space`.
        watcher: Called with every event.

    Returns:
        The trials, best first, and the best.

    Raises:
        RequestError: The request is wrong and nothing was started.
        RunError: It ended without a result.
    """
    from asparagus.submit import submit_sweep

    plan, planner = plan_sweep(request)
    return submit_sweep(plan, planner, watcher or _quiet)


def _quiet(_: object) -> None:
    """See an event and say nothing."""
