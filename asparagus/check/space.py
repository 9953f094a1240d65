"""A space against the experiment that it is a space of: every key is there, and searching it can find something."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asparagus.check.logged import is_among, logged
from asparagus.check.sweep import PBT, scheduler_of
from asparagus.check.sweep import options as check_options
from asparagus.compose.dimensions import needs
from asparagus.compose.points import drawn, satisfied
from asparagus.compose.trial import words_of
from asparagus.errors import ConfigError, RequestError, did_you_mean
from asparagus.identity import OF_LOADERS, PARTS, WITHOUT
from asparagus.plan import Plan
from asparagus.space import MONITOR, Choice, Dimension, Interval, Space, SweepOptions, Values, one_or_more
from asparagus.spec import Spec

PlanOfValues = Callable[[Values], Plan | Sequence[Plan] | None]
"""Composes, checks and plans a trial, each of its stages; may return nothing."""

ALL_OF = 12
"""Choices of so many values are looked at one by one, others at their first and last."""
TRIED = 200
"""Points at random, to find one that meets the constraints."""
DECIDING = {*PARTS, "init_from", "transfer"}
ELSEWHERE = {field.name for field in dataclasses.fields(Spec)} - DECIDING
"""Sections that say where a run takes place, and what becomes of it."""
OF_RUN = ("run.mode", "run.resume_from_checkpoint")
"""What of `run` decides."""
SECTIONS = ("trainer", "model")
"""Whose keys in `WITHOUT` never decide."""
OPTIM = re.compile(r"optim\.(?!name$|sched$|_)\w+")
"""A setting that an optimizer has in its parameter groups."""
PAUSING = ("hyperband", PBT)
PLACE = re.compile(r" \[command line: [^\]]*\]+$")


@dataclass(frozen=True)
class Look:
    """What planning at one point came to."""

    dimension: Dimension
    values: Values
    plans: tuple[Plan, ...] = ()
    problems: tuple[str, ...] = ()
    is_plain: bool = True
    """All that is not looked at has its first value."""


def check_space(space: Space, options: SweepOptions, plan_of_values: PlanOfValues) -> None:
    """Check what is searched, and how, before anything is spent on it.

    Args:
        space: What is searched.
        options: How; settled.
        plan_of_values: Plans a trial; is called at both ends of every dimension, and for each option of a group.

    Raises:
        ConfigError: Every problem, one line each.
    """
    problems = [*check_options(options)]
    problems += [_in_vain(dimension.key) for dimension in space.dimensions if is_ignored(dimension.key)]
    if scheduler_of(options) == PBT:
        problems += _mutable(space)
    looks = [_look(dimension, point, plan_of_values) for dimension, point in _points(space)]
    problems += _told(looks, space)
    if not any(look.problems for look in looks):
        problems += _without_effect(space, looks)
        problems += _measured(options, looks)
    if problems:
        raise ConfigError(*dict.fromkeys(problems))


def is_ignored(key: str) -> bool:
    """Tell whether a key has no part in the identity of a run, whatever the experiment."""
    key = key.rpartition(":")[2].partition("@")[0].replace("/", ".")
    section, _, rest = key.partition(".")
    if section in ELSEWHERE:
        return not any(f"{key}.".startswith(f"{other}.") for other in OF_RUN)
    if section in SECTIONS and rest.partition(".")[0] in WITHOUT[section]:
        return True
    return section == "data" and rest.rpartition(".")[2] in OF_LOADERS


def _in_vain(key: str) -> str:
    return (
        f"{key}: does not change the weights: runs that differ in it are the same run, and searching it finds nothing. "
        f"Give it one value."
    )


def _mutable(space: Space) -> Iterator[str]:
    """Population based training changes settings of an optimizer that is being used."""
    for dimension in space.dimensions:
        key, domain = dimension.key, dimension.domain
        if not OPTIM.fullmatch(key):
            yield (
                f"{key}: pbt changes settings in the middle of a training, and this one cannot be. It can change "
                "numbers of the optimizer: optim.lr, optim.weight_decay, optim.momentum. Give it one value, or take "
                "sweep.scheduler=asha."
            )
        elif isinstance(domain, Choice) and (texts := [value for value in domain.values if not _is_number(value)]):
            yield f"{key}: {texts[0]!r} is no number, and pbt changes numbers alone. Take sweep.scheduler=asha for it."
        elif dimension.when:
            yield f"{key}: exists only beside some values of others, and pbt changes all settings of all trials."


def _points(space: Space) -> Iterator[tuple[Dimension, tuple[Values, bool]]]:
    """Yield each dimension with points at which to look at it, and whether all else there has its first value."""
    known = {dimension.key: dimension for dimension in space.dimensions}
    for dimension in space.dimensions:
        around = {key: allowed[0] for key, allowed in needs(dimension.key, known).items()}
        for value in _ends(dimension):
            found = _completed(space, {**around, dimension.key: value})
            if found is not None:
                yield dimension, found


def _ends(dimension: Dimension) -> tuple[Any, ...]:
    domain = dimension.domain
    if isinstance(domain, Interval):
        return (domain.low, domain.high)
    values = domain.values
    return values if len(values) <= ALL_OF else (values[0], values[-1])


def _completed(space: Space, given: Mapping[str, Any]) -> tuple[Values, bool] | None:
    """Return a point with these values that meets the constraints; None where none is found."""
    values: Values = {}
    for dimension in space.dimensions:
        if dimension.key in given:
            values[dimension.key] = given[dimension.key]
        elif dimension.exists(values):
            values[dimension.key] = _ends(dimension)[0]
    if satisfied(space, values):
        return values, True
    chance = random.Random(0)  # noqa: S311 - no secret
    tries = (drawn(space, chance, given) for _ in range(TRIED))
    found = next((point for point in tries if satisfied(space, point)), None)
    return None if found is None else (found, False)


def _look(dimension: Dimension, point: tuple[Values, bool], plan_of_values: PlanOfValues) -> Look:
    values, is_plain = point
    try:
        planned = plan_of_values(dict(values))
    except RequestError as error:
        problems = error.problems if isinstance(error, ConfigError) else tuple(str(error).splitlines())
        return Look(dimension, values, problems=problems, is_plain=is_plain)
    plans = (planned,) if isinstance(planned, Plan) else tuple(planned or ())
    return Look(dimension, values, plans, is_plain=is_plain)


def _told(looks: Sequence[Look], space: Space) -> Iterator[str]:
    """Yield every problem once, with the values that it comes with where others do not have it."""
    found: dict[str, str] = {}
    for look in looks:
        for problem in look.problems:
            found.setdefault(PLACE.sub("", problem), problem)
    keys = {dimension.key for dimension in space.dimensions}
    for text, problem in found.items():
        failing = [look.values for look in looks if any(PLACE.sub("", one) == text for one in look.problems)]
        passing = [look.values for look in looks if look.values not in failing]
        yield problem + _where(problem.partition(": ")[0], failing, passing, keys)


def _where(key: str, failing: Sequence[Values], passing: Sequence[Values], keys: set[str]) -> str:
    """Say with which values of other keys a problem comes; nothing where its own value alone makes it."""
    if not passing:
        return ""
    first = {name: value for name, value in failing[0].items() if all(other.get(name) == value for other in failing)}
    own = [name for name, value in first.items() if all(other.get(name) != value for other in passing)]
    others = [name for name in own if name != key]
    if not others or key in own:
        return ""
    shown = " ".join(words_of({name: first[name] for name in others}))
    advice = f" If it belongs to some of these alone, say so: sweep.space.{key}.when." if key in keys else ""
    return f" This is so with {shown}.{advice}"


def _without_effect(space: Space, looks: Sequence[Look]) -> Iterator[str]:
    """Yield keys whose values all make the same run here."""
    for dimension in space.dimensions:
        mine = [look for look in looks if look.dimension is dimension and look.is_plain and look.plans]
        identities = {tuple(plan.identity for plan in look.plans) for look in mine}
        if len(mine) > 1 and len(identities) == 1 and not is_ignored(dimension.key):
            yield _in_vain(dimension.key)


def _measured(options: SweepOptions, looks: Sequence[Look]) -> Iterator[str]:
    """Check what is compared against what the last stage logs, where all that logs is known; and the scheduler."""
    planned = [look.plans for look in looks if look.plans]
    name = scheduler_of(options)
    if any(len(plans) > 1 for plans in planned) and name in PAUSING:
        yield f"sweep.scheduler: {name} puts trials aside, which those of a pipeline cannot be. Take asha or median."
    for metric in one_or_more(options.metric):
        if metric == MONITOR:
            continue
        of_each = [logged(plans[-1].spec) for plans in planned]
        if not of_each or any(names is None or is_among(metric, names) for names in of_each):
            continue
        known = sorted(set().union(*(names for names in of_each if names)))
        near = did_you_mean(metric, known)
        names = ", ".join(known)
        yield f"sweep.metric: {planned[0][-1].spec.stage} logs no {metric!r}. {near} It logs: {names}.".replace(
            "  ", " "
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
