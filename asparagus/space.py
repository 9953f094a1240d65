"""What a sweep searches and how, as it was asked: frozen, typed, plain enough for JSON. Standard library only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Values = dict[str, Any]
"""One point of a space: dotted keys, as an override spells them, with plain values."""

SAMPLERS = ("grid", "random", "tpe", "cmaes", "gp", "nsga2", "nsga3", "qmc", "brute_force")
"""Names that `sweep.sampler` may have."""
SCHEDULERS = ("asha", "hyperband", "median", "pbt", "none")
"""Names that `sweep.scheduler` may have."""
MONITOR = "monitor"
"""`sweep.metric`: of each run what makes its own checkpoints the best; runs of several stages have no other in common,
and none of them is the best."""
SPELLINGS = {"nsgaii": "nsga2", "nsgaiii": "nsga3", "bruteforce": "brute_force", "motpe": "tpe"}
"""What a sampler may be called besides, once `Sampler` and dashes are taken away."""


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both ends included."""

    low: float
    high: float
    log: bool = False
    """Look at the orders of magnitude evenly."""
    step: float | None = None
    integer: bool = False


@dataclass(frozen=True)
class Choice:
    """One of several plain values: numbers, texts, null, lists, sections, or options of a group."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Dimension:
    """One key whose value is searched."""

    key: str
    """As an override spells it: `optim.lr`, or a group (`model`); `<stage>:<key>` for a stage of a pipeline."""
    domain: Interval | Choice
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """It exists only where each of these other keys has one of these values."""

    def exists(self, values: Mapping[str, Any]) -> bool:
        """Tell whether it is there beside these values of other keys."""
        return all(key in values and values[key] in allowed for key, allowed in self.when.items())

    @property
    def size(self) -> int | None:
        """How many values it has; None where they cannot be counted."""
        domain = self.domain
        if isinstance(domain, Choice):
            return len(domain.values)
        step = domain.step or (1 if domain.integer else None)
        return None if step is None or domain.log else int((domain.high - domain.low) / step + 1e-9) + 1

    def listed(self) -> tuple[Any, ...]:
        """Return its values, for those that can be counted."""
        domain = self.domain
        if isinstance(domain, Choice):
            return domain.values
        assert self.size is not None
        step = domain.step or 1
        found = [round(domain.low + place * step, 12) for place in range(self.size)]  # 0.1 + 2 * 0.1 is 0.3
        return tuple(int(value) if domain.integer else value for value in found)


@dataclass(frozen=True)
class Space:
    """What is searched: dimensions in an order in which each comes after those that it depends on."""

    dimensions: tuple[Dimension, ...]
    constraints: tuple[str, ...] = ()
    """Conditions on the values, as `model.depth * data.batch_size <= 64`; points that break one are not trained."""

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Space:
        """Rebuild a space from `to_dict`'s result."""
        made = []
        for given in values["dimensions"]:
            domain = given["domain"]
            part = Choice(tuple(domain["values"])) if "values" in domain else Interval(**domain)
            made.append(Dimension(given["key"], part, {key: tuple(allowed) for key, allowed in given["when"].items()}))
        return cls(tuple(made), tuple(values["constraints"]))


@dataclass(frozen=True)
class SweepOptions:
    """The section `sweep`: how the space is searched."""

    trials: int | None = None
    """How many are trained; None: every point of a space that can be counted, else 20."""
    concurrency: int | None = None
    """How many at a time; None: as many as the cluster holds."""
    metric: Any = None
    """What is compared (several: a list); None: the monitor of the last stage."""
    mode: Any = None
    """`min` or `max` (several: a list)."""
    sampler: Any = None
    """A name (grid, random, tpe, cmaes, gp, nsga2, ...) or `{name: tpe, n_startup_trials: 5}`."""
    scheduler: Any = None
    """asha, hyperband, median, pbt or none, or `{name: asha, grace_period: 2}`."""
    seed: int = 12345
    storage: str | None = None
    """Of Optuna's study, as an RDB URL or `journal:<file>`; None: `study.db` in the sweep's own folder."""
    resume: Any = True
    """Go on with the same sweep if there is one; false: a new one; a number: that one."""
    warm_start: int | None = None
    """`sweep.from`: a sweep whose trials the sampler learns from."""
    space: dict[str, Any] = field(default_factory=dict)
    constraints: tuple[str, ...] = ()
    points: tuple[dict[str, Any], ...] = ()
    """Points to try first."""
    time: Any = None
    """Hours of training, or `30min`, `2h`, `1d`; time in which the sweep did not run does not count."""
    gpu_hours: float | None = None
    disk: int | str | None = None
    """Bytes that its runs may take: `50GB`."""
    patience: int | None = None
    """End after so many trials without a better one."""
    max_failures: int = 10
    """End after so many trials that failed by themselves."""
    keep_best: int | None = None
    """Keep the checkpoints of so many best trials; None: of all."""
    recycle_after: int | None = None
    """Trials after which a worker is replaced by a fresh process; None: when it fails or grows."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def sample(space: Space) -> Values:
    """Return one point: the first value of every dimension that exists beside those before it."""
    values: Values = {}
    for dimension in space.dimensions:
        if dimension.exists(values):
            domain = dimension.domain
            first = domain.values[0] if isinstance(domain, Choice) else domain.low
            whole = isinstance(domain, Interval) and domain.integer
            values[dimension.key] = int(first) if whole else first
    return values


def one_or_more(value: Any) -> tuple[str, ...]:
    """Return the names of a setting that takes one or a list."""
    if value is None:
        return ()
    return tuple(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else (str(value),)


def named(setting: Any) -> tuple[str | None, dict[str, Any]]:
    """Split a sampler or scheduler into its name (None where it has none) and its arguments.

    Args:
        setting: A name alone, or with arguments: `{name: asha, grace_period: 2}`.
    """
    if setting is None or not isinstance(setting, Mapping):
        return None if setting is None else str(setting), {}
    arguments = {str(key): value for key, value in setting.items() if key not in {"name", "_target_"}}
    name = setting.get("name") or setting.get("_target_")
    return None if name is None else str(name), arguments


def sampler_named(setting: Any) -> tuple[str | None, dict[str, Any]]:
    """Split a sampler as `named` does, with the name that we have for it: that of Optuna's class means the same."""
    name, arguments = named(setting)
    if name is None:
        return None, arguments
    short = name.rpartition(".")[2].lower().removesuffix("sampler").replace("-", "_")
    bare = short.replace("_", "")
    return short if short in SAMPLERS else SPELLINGS.get(bare, bare), arguments
