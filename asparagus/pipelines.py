"""An experiment of several stages, carried out: each a run of its own, started from the best checkpoint before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from asparagus.api import plan_for_cluster, plan_of
from asparagus.compose import Request
from asparagus.compose.pipeline import StageRequest, stages_of
from asparagus.plan import Plan
from asparagus.spec import OF_STAGE, Spec

if TYPE_CHECKING:
    from asparagus.driver import Outcome


def plans_of(request: Request) -> list[tuple[str, Plan]]:
    """Plan every stage; those that start from a run that is not there yet, without it.

    Raises:
        RequestError: Every problem of the first stage that has one.
    """
    return [(stage.name, _without_parent(stage)) for stage in stages_of(request)]


def plans_for_cluster(request: Request) -> list[tuple[StageRequest, Plan]]:
    """Plan every stage for a cluster that will carry them out, without looking for what lies there.

    Raises:
        RequestError: Every problem of the first stage that has one.
    """
    stages = stages_of(request)
    return [
        (stage, plan_for_cluster(_from(stage, f"{OF_STAGE}{stage.source}") if stage.source else stage.request))
        for stage in stages
    ]


def run_specs(
    stages: Iterable[tuple[str, str | None, Spec]], carry_out: Callable[[Plan], Outcome]
) -> Iterator[tuple[str, Outcome]]:
    """Carry out stages that were composed elsewhere, in turn.

    Args:
        stages: The name of each, the stage that it starts from, and its spec.
        carry_out: Trains a plan.

    Yields:
        The name of each stage, and how it ended.

    Raises:
        AsparagusError: A stage could not be planned, or failed; those before it are kept.
    """
    stages = list(stages)
    for _, _, spec in stages:
        plan_of(spec)  # a mistake in the last stage is found before the first one trains
    ended: dict[str, int] = {}
    for name, source, spec in stages:
        asked = spec if source is None else dataclasses.replace(spec, init_from=f"run:{ended[source]}/best")
        outcome = carry_out(plan_of(asked))
        ended[name] = outcome.run_id
        yield name, outcome


def _without_parent(stage: StageRequest) -> Plan:
    return plan_of(_from(stage, f"{OF_STAGE}{stage.source}") if stage.source else stage.request)


def _from(stage: StageRequest, init_from: str) -> Request:
    return dataclasses.replace(stage.request, overrides=(*stage.request.overrides, f"init_from={init_from}"))


def run_pipeline(request: Request, carry_out: Callable[[Plan], Outcome]) -> Iterator[tuple[str, Outcome]]:
    """Carry out the stages in turn; what has finished before is shown, so the same command goes on where it was left.

    Args:
        request: A config with a section `pipeline`.
        carry_out: Trains a plan.

    Yields:
        The name of each stage, and how it ended.

    Raises:
        AsparagusError: A stage could not be planned, or failed; those before it are kept.
    """
    stages = stages_of(request)
    plans_of(request)  # a mistake in the last stage is found before the first one trains
    ended: dict[str, int] = {}
    for stage in stages:
        asked = stage.request if stage.source is None else _from(stage, f"run:{ended[stage.source]}/best")
        outcome = carry_out(plan_of(asked))
        ended[stage.name] = outcome.run_id
        yield stage.name, outcome
