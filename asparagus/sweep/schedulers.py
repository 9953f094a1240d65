"""Tune's schedulers by name: which trials are stopped early, paused, or go on from a better one's state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune import loguniform, quniform, randint, uniform
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from asparagus.errors import ConfigError, did_you_mean
from asparagus.space import Choice, Dimension, Space, SweepOptions
from asparagus.sweep.pausing import Bands, Bounded, Population

TIME = "epoch"
"""What schedulers count in: the epochs of a stage, from 1."""
VALUE = "value"
"""What they compare in the last stage: the sweep's metric."""
MONITOR = "monitor"
"""What they compare in the stages before: each one's own."""
OURS = ("time_attr", "metric", "mode", "stop_last_trials", "hyperparam_mutations", "custom_explore_fn")
"""Arguments that are not the user's to set."""
NONE, PBT = "none", "pbt"
MAKERS: dict[str, Callable[..., TrialScheduler]] = {
    "asha": ASHAScheduler,
    "hyperband": Bands,
    "median": MedianStoppingRule,
    PBT: Population,
    NONE: FIFOScheduler,
}
PAUSING = ("hyperband", PBT)
"""Those that need many trials at once, and put some aside for a while."""


def named(setting: Any) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments of `sweep.scheduler` or `sweep.sampler`."""
    if isinstance(setting, Mapping):
        arguments = dict(setting)
        return str(arguments.pop("name", NONE)), arguments
    return str(setting or NONE), {}


def build_scheduler(
    options: SweepOptions, space: Space, *, epochs: int | None, modes: tuple[tuple[str, str], ...]
) -> TrialScheduler:
    """Build the scheduler of a sweep.

    Args:
        options: `scheduler` names it, with its arguments as Tune calls them.
        space: What population based training may change.
        epochs: The length of a whole training; trials end by themselves, no scheduler counts up to its end.
        modes: What is compared in each stage and which is better, `("value", "max")` for the last.

    Raises:
        ConfigError: An argument that the scheduler does not have.
    """
    name, arguments = named(options.scheduler)
    _must_take(name, arguments)
    if name == NONE:
        return FIFOScheduler()
    if len(modes) == 1:
        made = _one(name, arguments, space, epochs, *modes[0])
        if isinstance(made, Bounded):
            made.most = options.concurrency
        if isinstance(made, Population):
            made.epochs = epochs
        return made
    return ByStage([_one(name, arguments, space, epochs, metric, mode) for metric, mode in modes])


def _one(
    name: str, arguments: Mapping[str, Any], space: Space, epochs: int | None, metric: str, mode: str
) -> TrialScheduler:
    given: dict[str, Any] = {"time_attr": TIME, "metric": metric, "mode": mode, **arguments}
    if "max_t" in inspect.signature(MAKERS[name]).parameters and epochs is not None:
        given.setdefault("max_t", epochs + 1)  # beyond the last: a trial that gets there has ended by itself
    if name == "median":
        given.setdefault("grace_period", 1)
        given.setdefault("min_samples_required", 3)
    if name == PBT:
        given.setdefault("perturbation_interval", 1)
        mutations = {dimension.key: _mutation(dimension) for dimension in space.dimensions}
        given["hyperparam_mutations"] = {"values": mutations}
    return MAKERS[name](**given)


def _must_take(name: str, arguments: Mapping[str, Any]) -> None:
    takes = [key for key in inspect.signature(MAKERS[name]).parameters if key not in OURS]
    for key in arguments:
        if key not in takes:
            near = did_you_mean(key, takes)
            raise ConfigError(f"sweep.scheduler.{key}: {name} does not take it. {near} Known: {', '.join(takes)}.")


def _mutation(dimension: Dimension) -> Any:
    """Return what population based training draws from when it does not scale the other one's value."""
    domain = dimension.domain
    if isinstance(domain, Choice):
        return list(domain.values)
    if domain.integer:
        return randint(int(domain.low), int(domain.high) + 1)
    if domain.log:
        return loguniform(domain.low, domain.high)
    return quniform(domain.low, domain.high, domain.step) if domain.step else uniform(domain.low, domain.high)


class ByStage(TrialScheduler):
    """One scheduler for each stage of a pipeline: only what is measured alike is compared.

    Args:
        stages: A scheduler that stops trials, and pauses none, for each.
    """

    def __init__(self, stages: list[TrialScheduler]) -> None:
        super().__init__()
        self._stages = stages

    @property
    def last(self) -> TrialScheduler:
        """The one of the stage whose metric the sweep compares."""
        return self._stages[-1]

    def set_search_properties(self, metric: str | None, mode: str | None, **_: Any) -> bool:
        """Take nothing: each has its own."""
        return metric is None and mode is None

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Tell all."""
        for stage in self._stages:
            stage.on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Tell all."""
        for stage in self._stages:
            stage.on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Ask the one of the stage that was measured."""
        decision: str = self._stages[result["stage"]].on_trial_result(tune_controller, trial, result)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Tell the one of the stage that it ended in."""
        self._stages[result.get("stage", -1)].on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Tell all."""
        for stage in self._stages:
            stage.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Take the next one."""
        return self._stages[-1].choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        """Say what each has done."""
        return "\n".join(stage.debug_string() for stage in self._stages)
