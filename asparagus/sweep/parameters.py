"""A space as Optuna sees it: each dimension under a name, as a distribution over what Optuna can store."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from asparagus.errors import ConfigError
from asparagus.space import Choice, Dimension, Interval, Space, Values

Stored = None | bool | int | float | str
NEAR = 1e-6
"""A number may be off its step by this much of the step."""


@dataclass(frozen=True)
class Parameter:
    """One dimension, and how Optuna calls and stores it."""

    name: str
    dimension: Dimension
    distribution: BaseDistribution

    @property
    def key(self) -> str:
        """The dimension's key."""
        return self.dimension.key

    @property
    def countable(self) -> bool:
        """Tell whether its values can be listed."""
        return not isinstance(self.distribution, FloatDistribution) or self.distribution.step is not None

    def suggest(self, trial: optuna.Trial) -> Any:
        """Have Optuna choose, or say what it chose before; returns the value that is meant."""
        domain = self.distribution
        if isinstance(domain, CategoricalDistribution):
            return self.meant(trial.suggest_categorical(self.name, domain.choices))
        if isinstance(domain, IntDistribution):
            return self.meant(trial.suggest_int(self.name, domain.low, domain.high, step=domain.step, log=domain.log))
        assert isinstance(domain, FloatDistribution)
        return self.meant(trial.suggest_float(self.name, domain.low, domain.high, step=domain.step, log=domain.log))

    def listed(self) -> Sequence[Any]:
        """Return its values in order, if it is countable."""
        domain = self.distribution
        if isinstance(self.dimension.domain, Choice):
            return self.dimension.domain.values
        if isinstance(domain, IntDistribution):
            return range(domain.low, domain.high + 1, domain.step)
        assert isinstance(domain, FloatDistribution)
        return [_exact(domain, place) for place in range(_place(domain, domain.high) + 1)]

    def drawn(self, chance: random.Random) -> Any:
        """Return one of its values at random: of numbers on a logarithmic scale, each order of magnitude as often."""
        domain = self.distribution
        if isinstance(domain, CategoricalDistribution) or (self.countable and not getattr(domain, "log", False)):
            return chance.choice(self.listed())
        assert isinstance(domain, IntDistribution | FloatDistribution)
        if not domain.log:
            return chance.uniform(domain.low, domain.high)
        value = math.exp(chance.uniform(math.log(domain.low), math.log(domain.high)))
        value = min(max(value, domain.low), domain.high)
        return round(value) if isinstance(domain, IntDistribution) else value

    def meant(self, stored: Any) -> Any:
        """Return the value that a stored one stands for."""
        domain = self.distribution
        if isinstance(self.dimension.domain, Choice):
            return self.dimension.domain.values[int(domain.to_internal_repr(stored))]
        if isinstance(domain, IntDistribution):
            return int(stored)
        assert isinstance(domain, FloatDistribution)
        return float(stored) if domain.step is None else _exact(domain, _place(domain, stored))

    def stored(self, value: Any) -> Stored:
        """Return how Optuna stores a value.

        Raises:
            ValueError: It is none of the dimension's.
        """
        if isinstance(self.dimension.domain, Choice):
            return self._label(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{value!r} is not a number")  # noqa: TRY004 - one kind of error for all that does not fit
        domain = self.distribution
        assert isinstance(domain, IntDistribution | FloatDistribution)
        if not domain.low <= value <= domain.high:
            raise ValueError(f"{value!r} is not between {domain.low} and {domain.high}")
        if domain.step is None:
            return float(value)
        exact = _exact(domain, _place(domain, value))
        if abs(exact - value) > NEAR * domain.step:
            raise ValueError(f"{value!r} is not on a step of {domain.step} from {domain.low}; {exact} is")
        return int(exact) if isinstance(domain, IntDistribution) else exact

    def place(self, stored: Any) -> float:
        """Return which of its values it is, however the number was rounded on its way."""
        domain = self.distribution
        if isinstance(domain, CategoricalDistribution):
            return domain.to_internal_repr(stored)
        assert isinstance(domain, IntDistribution | FloatDistribution)
        return float(stored) if domain.step is None else float(_place(domain, stored))

    def _label(self, value: Any) -> Stored:
        domain = self.dimension.domain
        assert isinstance(domain, Choice)
        assert isinstance(self.distribution, CategoricalDistribution)
        texts = [text_of(one) for one in domain.values]
        if text_of(value) in texts:
            return self.distribution.choices[texts.index(text_of(value))]
        for one, label in zip(domain.values, self.distribution.choices, strict=True):
            if one == value and isinstance(one, bool) == isinstance(value, bool):  # 1 for 1.0
                return label
        raise ValueError(f"{value!r} is none of {', '.join(texts)}")


class Parameters:
    """The parameters of a space, each after those that it depends on.

    A key may come more than once, under conditions that exclude each other (a learning rate for each optimizer): to
    Optuna those are parameters of different names.

    Raises:
        ConfigError: A dimension is empty, or an interval that Optuna cannot draw from.
    """

    def __init__(self, space: Space) -> None:
        if not space.dimensions:
            raise ConfigError("sweep.space: it is empty. Give a key several values: optim.lr=0.1,0.01")
        often = Counter(dimension.key for dimension in space.dimensions)
        self.space = space
        self._all = tuple(_parameter(dimension, often[dimension.key]) for dimension in space.dimensions)

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self._all)

    def suggest(self, trial: optuna.Trial) -> Values:
        """Have Optuna choose a point."""
        values: Values = {}
        for one in self._all:
            if one.dimension.exists(values):
                values[one.key] = one.suggest(trial)
        return values

    def drawn(self, chance: random.Random) -> Values:
        """Return a point at random."""
        values: Values = {}
        for one in self._all:
            if one.dimension.exists(values):
                values[one.key] = one.drawn(chance)
        return values

    def values(self, params: Mapping[str, Any]) -> Values:
        """Return the point that Optuna has stored, as far as it has."""
        values: Values = {}
        for one in self._all:
            if one.name in params and one.dimension.exists(values):
                values[one.key] = one.meant(params[one.name])
        return values

    def point(self, values: Mapping[str, Any]) -> dict[str, Stored]:
        """Return how Optuna stores a point.

        Raises:
            ValueError: It does not lie in the space, has a key too many, or lacks one.
        """
        there = [one for one in self._all if one.dimension.exists(values)]
        lacking = [one.key for one in there if one.key not in values]
        if lacking or len(there) != len(values):
            other = sorted({*values} - {one.key for one in there})
            raise ValueError(
                f"lacks {', '.join(lacking)}" if lacking else f"has {', '.join(other)}, which is not there"
            )
        return {one.name: one.stored(values[one.key]) for one in there}

    def fixed(self, values: Mapping[str, Any]) -> dict[str, Stored]:
        """Return how Optuna stores a part of a point, the rest of which is for a sampler to choose.

        Raises:
            ConfigError: A key is not searched, or not beside the others; or a value is none of its own.
        """
        found = {}
        for key, value in values.items():
            if not any(one.key == key for one in self._all):
                known = ", ".join(dict.fromkeys(one.key for one in self._all))
                raise ConfigError(f"sweep.points: {key} is not searched. These are: {known}.")
            here = [one for one in self._all if one.key == key and _may_exist(one.dimension, values)]
            if not here:
                raise ConfigError(f"sweep.points: {key} is not there beside the other values of {dict(values)}.")
            try:
                found.update({one.name: one.stored(value) for one in here})
            except ValueError as error:
                raise ConfigError(f"sweep.points: {key}: {error}.") from None
        return found

    def identity(self, params: Mapping[str, Any]) -> frozenset[tuple[str, float]]:
        """Return which point it is, for comparing."""
        return frozenset((one.name, one.place(params[one.name])) for one in self._all if one.name in params)


def text_of(value: Any) -> str:
    """Return a plain value as JSON."""
    return json.dumps(value, sort_keys=True, default=str)


def _parameter(dimension: Dimension, often: int) -> Parameter:
    when = ", ".join(f"{key}={'|'.join(map(str, allowed))}" for key, allowed in dimension.when.items())
    name = f"{dimension.key} ({when})" if often > 1 else dimension.key
    domain = dimension.domain
    try:
        return Parameter(name, dimension, _choices(domain) if isinstance(domain, Choice) else _numbers(domain))
    except ValueError as error:
        raise ConfigError(f"sweep.space: {dimension.key}: {error}") from error


def _choices(choice: Choice) -> CategoricalDistribution:
    """Return values that Optuna can store and tell apart: it takes 1, 1.0 and true for the same, and no lists."""
    plain = [value if isinstance(value, Stored) else text_of(value) for value in choice.values]
    if len({*plain}) < len(plain):
        plain = [text_of(value) for value in choice.values]
    if len({*plain}) < len(plain):
        raise ValueError(f"{', '.join(map(str, plain))}: one of them is there twice.")
    return CategoricalDistribution(plain)


def _numbers(interval: Interval) -> IntDistribution | FloatDistribution:
    low, high, step = interval.low, interval.high, interval.step
    if high < low:
        raise ValueError(f"the interval from {low} to {high} is empty.")
    if interval.integer:
        whole = int(step or 1)
        first = -int(-low // 1)
        if high < first:
            raise ValueError(f"there is no whole number from {low} to {high}.")
        return IntDistribution(first, first + (int(high // 1) - first) // whole * whole, log=interval.log, step=whole)
    if step is None:
        return FloatDistribution(low, high, log=interval.log)
    end = float(_decimal(low) + (_decimal(high) - _decimal(low)) // _decimal(step) * _decimal(step))
    return FloatDistribution(low, end, log=interval.log, step=step)


def _may_exist(dimension: Dimension, values: Mapping[str, Any]) -> bool:
    """Tell whether a dimension may be there beside these values and others that are not known yet."""
    return all(key not in values or values[key] in allowed for key, allowed in dimension.when.items())


def _place(domain: IntDistribution | FloatDistribution, value: float) -> int:
    assert domain.step is not None
    return round((value - domain.low) / domain.step)


def _exact(domain: IntDistribution | FloatDistribution, place: int) -> float:
    """Return a value on a step as people write it: 0.3, where adding up floats gives 0.30000000000000004."""
    return float(_decimal(domain.low) + place * _decimal(domain.step))


def _decimal(number: float | None) -> Decimal:
    return Decimal(str(number))
