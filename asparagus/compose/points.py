"""The points of a space: which there are, how many, one at random, and whether a given one belongs to it. Pure."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from asparagus.compose.constraints import holds
from asparagus.errors import ConfigError, did_you_mean
from asparagus.space import Choice, Dimension, Interval, Space, Values

MOST = 100_000
"""Combinations that are gone through to count points."""
DRAWN = 2000
"""Points that are tried before a space counts as empty."""
CLOSE = 1e-9


def satisfied(space: Space, values: Mapping[str, Any]) -> bool:
    """Tell whether values meet every constraint of a space."""
    return all(holds(constraint, values) for constraint in space.constraints)


def points(space: Space) -> Iterator[Values]:
    """Yield every point of a space that can be counted; the last dimension turns fastest."""
    return (values for values in _combinations(space.dimensions, {}) if satisfied(space, values))


def count(space: Space) -> int | None:
    """Return how many points a space has; None where they cannot be counted, or not in a blink."""
    sizes = [dimension.size for dimension in space.dimensions]
    if None in sizes:
        return None
    counted = [size for size in sizes if size is not None]
    if not space.constraints and not any(dimension.when for dimension in space.dimensions):
        return math.prod(counted)
    if max(counted, default=0) > MOST:
        return None
    tried = list(itertools.islice(_combinations(space.dimensions, {}), MOST + 1))
    return None if len(tried) > MOST else sum(satisfied(space, values) for values in tried)


def drawn(space: Space, chance: random.Random, given: Mapping[str, Any] | None = None) -> Values:
    """Return a point at random, whether or not it meets the constraints; some of its values may be given."""
    values: Values = {}
    for dimension in space.dimensions:
        if given and dimension.key in given:
            values[dimension.key] = given[dimension.key]
        elif dimension.exists(values):
            values[dimension.key] = _drawn(dimension, chance)
    return values


def is_empty(space: Space) -> bool:
    """Tell whether no point meets the constraints; of many points, so many are tried that a search would give up."""
    if not space.constraints:
        return False
    total = count(space)
    if total is not None:
        return total == 0
    chance = random.Random(0)  # noqa: S311 - no secret
    return not any(satisfied(space, drawn(space, chance)) for _ in range(DRAWN))


def placed(space: Space, given: Mapping[str, Any], where: str) -> Values:
    """Return a point that somebody gave, as the space spells its values; it may leave dimensions open.

    Raises:
        ConfigError: It is not of this space; every reason, each beginning with `where`.
    """
    known = {dimension.key: dimension for dimension in space.dimensions}
    values: Values = {}
    problems = []
    for key, value in given.items():
        if key not in known:
            near = did_you_mean(key, known)
            problems.append(f"{where}: {key} is not searched. {near} Searched: {', '.join(known)}.".replace("  ", " "))
        elif (found := _member(known[key].domain, value)) is None:
            problems.append(f"{where}: {key}={value!r} is outside of the space: {told(known[key].domain)}.")
        else:
            values[key] = found[0]
    idle = [key for key in values if _is_idle(known[key], values)]
    problems += [f"{where}: {key} exists only where {_condition(known[key])}." for key in idle]
    if not problems:
        broken = [constraint for constraint in space.constraints if not holds(constraint, values)]
        problems += [f"{where}: breaks the constraint {constraint!r}." for constraint in broken]
    if problems:
        raise ConfigError(*problems)
    return values


def told(domain: Interval | Choice) -> str:
    """Return a domain as a person reads it."""
    if isinstance(domain, Choice):
        return f"it is one of {', '.join(map(repr, domain.values))}"
    kind = "a whole number" if domain.integer else "a number"
    step = f", in steps of {domain.step:g}" if domain.step else ""
    return f"it is {kind} from {domain.low:g} to {domain.high:g}{step}"


def is_in(domain: Interval | Choice, value: Any) -> bool:
    """Tell whether a dimension can have a value."""
    return _member(domain, value) is not None


def same(one: Any, other: Any) -> bool:
    """Tell whether two plain values are the same: 1 is 1.0, and true is not 1."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _combinations(dimensions: Sequence[Dimension], values: Values) -> Iterator[Values]:
    if not dimensions:
        yield dict(values)
        return
    first, rest = dimensions[0], dimensions[1:]
    if not first.exists(values):
        yield from _combinations(rest, values)
        return
    for value in first.listed():
        yield from _combinations(rest, {**values, first.key: value})


def _drawn(dimension: Dimension, chance: random.Random) -> Any:
    domain, size = dimension.domain, dimension.size
    if size is not None and size <= MOST:
        return chance.choice(dimension.listed())
    assert isinstance(domain, Interval)
    if size is not None:
        value = domain.low + chance.randrange(size) * (domain.step or 1)
        return int(value) if domain.integer else value
    low, high = (math.log(domain.low), math.log(domain.high)) if domain.log else (domain.low, domain.high)
    value = chance.uniform(low, high)
    value = math.exp(value) if domain.log else value
    value = min(max(value, domain.low), domain.high)
    return round(value) if domain.integer else value


def _member(domain: Interval | Choice, value: Any) -> tuple[Any] | None:
    """Return a value as its dimension spells it, alone in a tuple; None where it is not one of its values."""
    if isinstance(domain, Choice):
        return next(((known,) for known in domain.values if same(known, value)), None)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not domain.low <= value <= domain.high:
        return None
    step = domain.step or (1 if domain.integer else None)
    if step is not None:
        place = (value - domain.low) / step
        if abs(place - round(place)) > CLOSE * max(1.0, abs(place)):
            return None
    return (round(value) if domain.integer else float(value),)


def _is_idle(dimension: Dimension, values: Values) -> bool:
    """Tell whether a dimension is there for nothing beside what was given of others."""
    return any(key in values and values[key] not in allowed for key, allowed in dimension.when.items())


def _condition(dimension: Dimension) -> str:
    parts = [f"{key} is {' or '.join(map(repr, allowed))}" for key, allowed in dimension.when.items()]
    return " and ".join(parts)
