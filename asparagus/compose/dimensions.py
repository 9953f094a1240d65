"""Dimensions beside one another: in what order they come, and whether each can ever exist. Pure."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from asparagus.compose.points import is_in, same, told
from asparagus.errors import ConfigError, did_you_mean
from asparagus.space import Dimension

WHERE = "sweep.space"

log = logging.getLogger("asparagus")

Dimensions = Mapping[str, Dimension]


def arranged(given: Dimensions, typed: Collection[str] = ()) -> tuple[Dimension, ...]:
    """Return dimensions in an order in which each comes after those that it depends on.

    Args:
        given: By key, in the order in which they were written.
        typed: Keys whose values were typed over those of a file: what depended on others of their values goes.

    Raises:
        ConfigError: Every condition that cannot be met.
    """
    left = _without_idle(given, typed)
    if problems := [*_unknown(left)]:
        raise ConfigError(*problems)
    ordered = _ordered(left)
    if problems := [*_never(left)]:
        raise ConfigError(*problems)
    return ordered


def _without_idle(given: Dimensions, typed: Collection[str]) -> dict[str, Dimension]:
    """Leave out what existed beside values that were typed away, and in each condition those values."""
    left = dict(given)
    for key in typed:
        for name, dimension in list(left.items()):
            if key not in dimension.when or key not in given:
                continue
            allowed = tuple(value for value in dimension.when[key] if is_in(given[key].domain, value))
            left[name] = dataclasses.replace(dimension, when={**dimension.when, key: allowed})
    while idle := [key for key, dimension in left.items() if _is_idle(dimension, given, left)]:
        for key in idle:
            log.warning("%s.%s: is not searched, for what it depends on was typed otherwise", WHERE, key)
            left.pop(key)
    return left


def _is_idle(dimension: Dimension, given: Dimensions, left: Dimensions) -> bool:
    return any(not allowed or (other in given and other not in left) for other, allowed in dimension.when.items())


def _unknown(dimensions: Dimensions) -> Iterator[str]:
    """Yield conditions on what is not searched, or on values that it never has."""
    for key, dimension in dimensions.items():
        where = f"{WHERE}.{key}.when"
        for other, allowed in dimension.when.items():
            if other not in dimensions:
                near = did_you_mean(other, [name for name in dimensions if name != key])
                searched = ", ".join(dimensions)
                yield f"{where}: {other} is not searched. {near} Searched: {searched}.".replace("  ", " ")
                continue
            domain = dimensions[other].domain
            never = [value for value in allowed if not is_in(domain, value)]
            yield from (f"{where}: {other} is never {value!r}: {told(domain)}." for value in never)


def _ordered(dimensions: Dimensions) -> tuple[Dimension, ...]:
    """Return each after those that it depends on, otherwise as they were written.

    Raises:
        ConfigError: Some depend on one another.
    """
    left, done = dict(dimensions), []
    while left:
        ready = next((key for key, one in left.items() if not any(other in left for other in one.when)), None)
        if ready is None:
            circle = " <- ".join(_circle(left))
            raise ConfigError(f"{WHERE}: {circle}: these depend on one another in a circle. Leave out one `when`.")
        done.append(left.pop(ready))
    return tuple(done)


def _circle(dimensions: Dimensions) -> list[str]:
    """Return the keys of a circle, the first one again at its end."""
    way = [next(iter(dimensions))]
    while True:
        following = next(other for other in dimensions[way[-1]].when if other in dimensions)
        if following in way:
            return [*way[way.index(following) :], following]
        way.append(following)


def _never(dimensions: Dimensions) -> Iterator[str]:
    """Yield dimensions whose conditions exclude one another."""
    for key in dimensions:
        for other, allowed in needs(key, dimensions).items():
            if not allowed:
                yield (
                    f"{WHERE}.{key}.when: can never be met, for {other} would need two values at once: one here, and "
                    "one for what this depends on. Make them agree."
                )


def needs(key: str, dimensions: Dimensions) -> dict[str, tuple[Any, ...]]:
    """Return which values of others a dimension needs, those that its conditions need themselves among them."""
    merged: dict[str, tuple[Any, ...]] = {}
    for other, allowed in dimensions[key].when.items():
        for name, values in [(other, allowed), *needs(other, dimensions).items()]:
            before = merged.get(name, values)
            merged[name] = tuple(value for value in before if any(same(value, one) for one in values))
    return merged
