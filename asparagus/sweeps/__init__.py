"""From a request to a sweep: what `-m` is made of, on the client and at the desk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asparagus.api import prepare
from asparagus.check import Findings, check
from asparagus.compose import Request
from asparagus.compose.eval_box import eval_box_of
from asparagus.compose.pipeline import stages_of
from asparagus.compose.space import compose_sweep, settled
from asparagus.errors import ConfigError
from asparagus.plan import Plan
from asparagus.record.sizes import checkpoint_bytes
from asparagus.space import sample
from asparagus.spec import Spec
from asparagus.sweep_plan import SweepPlan, must_fit
from asparagus.sweeps.eval_box import plan_box
from asparagus.sweeps.planner import TrialPlanner, folders, must_make_sense

if TYPE_CHECKING:
    from asparagus.driver import Watcher
    from asparagus.driver.desk import Planner
    from asparagus.driver.sweep_outcome import SweepOutcome


def plan_sweep(request: Request, *, look: Callable[[Spec], Findings] = check) -> tuple[SweepPlan, Planner]:
    """Compose, check and plan a sweep, without starting anything.

    Args:
        request: A config, and overrides of which some have several values, or a section `sweep.space`; or an evaluation
            box.
        look: How a trial is checked: `check`, or `check_from_afar` for a cluster that will carry it out.

    Raises:
        ConfigError: Every problem of the experiment, the space and the options.
        PlanError: A trial can never run.
    """
    prepare()
    box = eval_box_of(request)
    plan, planner = _of_stages(request, look) if box is None else plan_box(box, request, look)
    plan = dataclasses.replace(plan, words=_typed(request))
    must_fit(plan)
    return plan, planner


def _of_stages(request: Request, look: Callable[[Spec], Findings]) -> tuple[SweepPlan, Planner]:
    composed = compose_sweep(request)
    stages = stages_of(composed.base)
    planner = TrialPlanner(stages, environment=folders(), look=look)
    try:
        options = settled(composed.options, composed.space)
    except ConfigError as error:
        raise ConfigError(*composed.located(error.problems)) from error
    first = sample(composed.space)
    plans = tuple(planner.plan(place, first, before=None) for place in range(len(stages)))
    names = tuple(stage.name or plan.spec.stage for stage, plan in zip(stages, plans, strict=True))
    weights = tuple(checkpoint_bytes(stage.spec) for stage in plans)
    plan = SweepPlan(plans, names, composed.space, options, checkpoint_bytes=weights)

    def plans_of_values(values: Mapping[str, Any]) -> tuple[Plan, ...]:
        return tuple(planner.plan(place, values, before=None) for place in range(planner.stages))

    must_make_sense(composed, options, plans_of_values)
    return plan, planner


def _typed(request: Request) -> tuple[str, ...]:
    """Return what launches the same once more."""
    folders = (f"--config-dir={folder.absolute()}" for folder in request.config_dirs)
    return (request.config, *request.overrides, *folders)


def launch_sweep(
    config: str | Path | Request, overrides: Iterable[str] = (), *, watcher: Watcher | None = None
) -> SweepOutcome:
    """Search: what `asp-launch CONFIG -m` does.

    ```python
    outcome = asparagus.launch_sweep("experiment/digits", ["optim.lr=1e-3,1e-2", "sweep.trials=2"])
    outcome.best["params"], outcome.best["metrics"]
    ```

    Args:
        config: A name on the search path, or a `.yaml` or `.py` file.
        overrides: As on the command line; some have several values, or the config has a section `sweep.space`.
        watcher: Called with every event; `asparagus.print_progress` prints what the command would.

    Returns:
        The trials, best first, and the best.

    Raises:
        RequestError: The request is wrong and nothing was started.
        RunError: It ended without a result.
    """
    from asparagus.submit import submit_sweep

    words = (overrides,) if isinstance(overrides, str) else tuple(overrides)
    request = config if isinstance(config, Request) else Request(str(config), words)
    plan, planner = plan_sweep(request)
    return submit_sweep(plan, planner, watcher or _quiet)


def _quiet(_: object) -> None:
    """See an event and say nothing."""
