"""Plans the runs of one trial after another, as if each had been launched alone."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from asparagus.api import planned
from asparagus.check import Findings, check
from asparagus.compose import Request, config_of, spec_of
from asparagus.compose.origins import located
from asparagus.compose.pipeline import StageRequest, of_stage
from asparagus.compose.trial import config_with, request_with
from asparagus.errors import ConfigError
from asparagus.plan import Plan
from asparagus.spec import OF_STAGE, Spec

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from asparagus.compose.space import ComposedSweep
    from asparagus.space import SweepOptions


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
            config = config_with(composed(asked.request), asked.request, own)
            names = [one.name for one in self.requests]
            source = None if asked.source is None or before is None else before[names.index(asked.source)]
            return planned(_of_trial(spec_of(config, request), asked, source), self.look)
        except ConfigError as error:
            raise ConfigError(*located(error.problems, request)) from error


@cache
def composed(request: Request) -> DictConfig:
    """Compose what all trials share, once in a process: it is most of the work of planning one."""
    return config_of(request)


def _of_trial(spec: Spec, asked: StageRequest, parent: int | None) -> Spec:
    """Return the spec of a run that has no number or name of its own choosing, and the run before as its parent."""
    run = dataclasses.replace(spec.run, id=None, name=None, rerun_of=None)
    if asked.source is None:
        return dataclasses.replace(spec, run=run)
    source = f"{OF_STAGE}{asked.source}" if parent is None else f"run:{parent}/best"
    return dataclasses.replace(spec, run=run, init_from=source)


def folders() -> dict[str, str]:
    """Return where the folders are, for a desk that may have been started with another environment."""
    return {name: value for name, value in os.environ.items() if name.startswith("ASPARAGUS_")}


def must_make_sense(
    composed: ComposedSweep, options: SweepOptions, plans_of_values: Callable[[Mapping[str, Any]], Sequence[Plan]]
) -> None:
    """Check a space: every dimension at both of its ends.

    Raises:
        ConfigError: Every problem of it, and of how it is searched, each with where it was written.
    """
    from asparagus.check.space import check_space

    try:
        check_space(composed.space, options, plans_of_values)
    except ConfigError as error:
        raise ConfigError(*composed.located(error.problems)) from error
