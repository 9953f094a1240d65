"""Optuna's samplers by name: which there are, what they take, and how one is made for a sweep."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import CategoricalDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from asparagus.errors import ConfigError, did_you_mean, one_of
from asparagus.space import Values, sampler_named
from asparagus.sweep.grid import EveryPoint
from asparagus.sweep.parameters import Parameter, Parameters
from asparagus.sweep.storage import quiet

WHERE = "sweep.sampler"
GRID, BRUTE_FORCE, TPE, CMAES = "grid", "brute_force", "tpe", "cmaes"
FOR_CODE = ("Callable", "Base", "FrozenTrial", "ndarray")
"""Arguments of these kinds cannot be written in an experiment."""
PLAIN: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "None": (type(None),),
}
CMAES_MOVES = 2
"""So many numbers at least."""
SEEDS = 2**32


@dataclass(frozen=True)
class Need:
    """What a sampler has to serve.

    `seed` and `asked` together decide what is drawn: the same twice for a new study, and after a restart, when `asked`
    trials are in the study already, something else than before.
    """

    parameters: Parameters
    objectives: int
    concurrency: int
    seed: int
    asked: int = 0
    trials: int | None = None
    feasible: Callable[[Values], bool] = lambda _: True

    @property
    def drawing(self) -> int:
        """The seed of what this process draws."""
        return (self.seed + self.asked) % SEEDS


@dataclass(frozen=True)
class Kind:
    """A sampler of Optuna's."""

    made: type[BaseSampler]
    ours: tuple[str, ...] = ()
    """Arguments that are not the user's to set."""
    arguments: Callable[[Need, Mapping[str, Any]], dict[str, Any]] = lambda need, _: {"seed": need.drawing}
    """What it is given beside those of the user."""
    must_fit: Callable[[Need], None] = lambda _: None
    """Refuses what it cannot search."""
    remark: Callable[[Need, Mapping[str, Any]], str | None] = lambda *_: None
    """What it does otherwise than one might think."""

    def takes(self) -> dict[str, str]:
        """Return the arguments that an experiment may give, and the types of each."""
        found = inspect.signature(self.made).parameters
        return {
            name: str(one.annotation)
            for name, one in found.items()
            if name not in (*self.ours, "seed") and not any(kind in str(one.annotation) for kind in FOR_CODE)
        }


def build_sampler(setting: Any, need: Need) -> BaseSampler:
    """Build a sampler.

    Args:
        setting: `sweep.sampler`: a name, or a mapping of `name` and arguments as Optuna calls them. None: grid where
            all points are to be trained, else tpe.
        need: What it has to serve.

    Raises:
        ConfigError: There is no such sampler, it does not take an argument, or cannot search such a space.
    """
    name, arguments = sampler_named(setting)
    if name is None and setting is not None:
        raise ConfigError(f"{WHERE}: it has no name. Write {{name: tpe, ...}}; known: {', '.join(SAMPLERS)}.")
    name = name or _default(need)
    if name not in SAMPLERS:
        raise ConfigError(one_of(WHERE, name, SAMPLERS))
    seed = arguments.pop("seed", need.seed)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ConfigError(f"{WHERE}.seed: {seed!r} is not a whole number.")
    need = Need(**{**vars(need), "seed": seed})
    kind = SAMPLERS[name]
    if kind is None:
        _must_take(name, arguments, {})
        return _every_point(name, need)
    _must_take(name, arguments, kind.takes())
    kind.must_fit(need)
    try:
        with quiet():
            return kind.made(**{**kind.arguments(need, arguments), **arguments})
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{WHERE}: {name} refuses {arguments}: {error}") from error


def remark_on(setting: Any, need: Need) -> str | None:
    """Return what somebody who chose a sampler for such a space may not expect of it."""
    name, arguments = sampler_named(setting)
    kind = SAMPLERS[name or _default(need)]
    return kind.remark(need, arguments) if kind else None


def _default(need: Need) -> str:
    if any(one.dimension.size is None for one in need.parameters):
        return TPE
    return GRID if need.trials is None or need.trials >= _size(need.parameters) else TPE


def _size(parameters: Parameters) -> int:
    """Return how many points there are at most."""
    return math.prod(len(one.listed()) for one in parameters)


def _every_point(name: str, need: Need) -> BaseSampler:
    endless = [one.key for one in need.parameters if not one.countable]
    if endless:
        raise ConfigError(
            f"{WHERE}: {name} trains every point, and those of {', '.join(endless)} cannot be counted: an interval "
            "without a step. List its values, or choose random or tpe."
        )
    scattered = name == BRUTE_FORCE or (need.trials is not None and need.trials < _size(need.parameters))
    return EveryPoint(need.parameters, need.feasible, scatter=need.seed if scattered else None)


def _must_take(name: str, arguments: Mapping[str, Any], takes: Mapping[str, str]) -> None:
    for key, value in arguments.items():
        if key not in takes:
            parts = (f"{WHERE}.{key}: {name} does not take it.", did_you_mean(key, takes), "It takes:")
            raise ConfigError(f"{' '.join(part for part in parts if part)} {', '.join([*takes, 'seed'])}.")
        kinds = [kind.strip() for kind in takes[key].split("|")]
        if all(kind in PLAIN for kind in kinds) and not any(_is(value, kind) for kind in kinds):
            raise ConfigError(f"{WHERE}.{key}: {value!r} is not {' or '.join(kinds)}.")


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, PLAIN[kind]) and (kind == "bool" or not isinstance(value, bool))


def _tpe(need: Need, given: Mapping[str, Any]) -> dict[str, Any]:
    """Have trials that are not over yet count as bad ones, and each branch of a space with conditions for itself."""
    branches = any(one.dimension.when for one in need.parameters) and need.objectives == 1
    return {
        "seed": need.drawing,
        "constant_liar": need.concurrency > 1,
        "warn_independent_sampling": False,
        **({"group": True} if branches and given.get("multivariate") is not False else {}),
    }


def _quiet_apart(need: Need, _: Mapping[str, Any]) -> dict[str, Any]:
    apart = RandomSampler(seed=need.drawing)
    return {"seed": need.drawing, "independent_sampler": apart, "warn_independent_sampling": False}


def _qmc(need: Need, given: Mapping[str, Any]) -> dict[str, Any]:
    """Go on with the sequence where it was left: the study knows how far, if the seed is the same."""
    return {**_quiet_apart(need, given), "seed": need.seed % SEEDS}


def _must_fit_cmaes(need: Need) -> None:
    moved = [one.key for one in need.parameters if _is_moved(one)]
    if need.objectives > 1:
        raise ConfigError(f"{WHERE}: cmaes compares one metric, and here are {need.objectives}. Choose nsga2 or tpe.")
    if len(moved) < CMAES_MOVES:
        raise ConfigError(
            f"{WHERE}: cmaes moves at least {CMAES_MOVES} numbers at once, and this space has {len(moved)} that are "
            f"always there ({', '.join(moved) or 'none'}). Write numbers as interval(low, high), or choose tpe or gp."
        )


def _is_moved(one: Parameter) -> bool:
    fixed = isinstance(one.distribution, CategoricalDistribution) or one.distribution.single()
    return not fixed and not one.dimension.when


def _remark_on_cmaes(need: Need, _: Mapping[str, Any]) -> str | None:
    return _apart(CMAES, [one for one in need.parameters if not _is_moved(one) and not one.distribution.single()])


def _remark_on_branches(name: str) -> Callable[[Need, Mapping[str, Any]], str | None]:
    return lambda need, _: _apart(name, [one for one in need.parameters if one.dimension.when])


def _apart(name: str, parameters: list[Parameter]) -> str | None:
    keys = ", ".join(dict.fromkeys(one.key for one in parameters))
    return f"{WHERE}: {name} cannot steer {keys}: drawn at random" if keys else None


def _remark_on_generations(name: str) -> Callable[[Need, Mapping[str, Any]], str | None]:
    def remark(need: Need, given: Mapping[str, Any]) -> str | None:
        size = given.get("population_size", inspect.signature(NSGAIISampler).parameters["population_size"].default)
        if need.trials is None or need.trials > size:
            return None
        hint = f"{{name: {name}, population_size: {max(2, need.trials // 4)}}}"
        return f"{WHERE}: all {need.trials} trials are {name}'s first generation, at random: {hint} has more of them"

    return remark


SAMPLERS: dict[str, Kind | None] = {
    GRID: None,
    BRUTE_FORCE: None,
    "random": Kind(RandomSampler),
    TPE: Kind(TPESampler, ("warn_independent_sampling",), _tpe),
    CMAES: Kind(CmaEsSampler, ("warn_independent_sampling",), _quiet_apart, _must_fit_cmaes, _remark_on_cmaes),
    "gp": Kind(GPSampler, ("warn_independent_sampling",), _quiet_apart, remark=_remark_on_branches("gp")),
    "nsga2": Kind(NSGAIISampler, remark=_remark_on_generations("nsga2")),
    "nsga3": Kind(NSGAIIISampler, remark=_remark_on_generations("nsga3")),
    "qmc": Kind(
        QMCSampler, ("warn_independent_sampling", "warn_asynchronous_seeding"), _qmc, remark=_remark_on_branches("qmc")
    ),
}
"""None: every point once, by `grid.py`."""
