"""How a space is searched: names of samplers and schedulers, their arguments, what is compared, and when it ends."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from asparagus.check.target import call, nameless
from asparagus.compose.sweep_section import disk_of, seconds_of
from asparagus.errors import ConfigError, one_of
from asparagus.secrets import references, without_passwords
from asparagus.space import SAMPLERS, SCHEDULERS, SweepOptions, named, one_or_more, sampler_named

MODES = ("min", "max")
NONE, PBT, CMAES = "none", "pbt", "cmaes"
OPTUNAS = {
    "random": "RandomSampler",
    "tpe": "TPESampler",
    CMAES: "CmaEsSampler",
    "gp": "GPSampler",
    "nsga2": "NSGAIISampler",
    "nsga3": "NSGAIIISampler",
    "qmc": "QMCSampler",
}
"""Samplers of Optuna's that take arguments, as it calls them; the others go through all points."""
TUNES = {
    "asha": "ASHAScheduler",
    "hyperband": "HyperBandScheduler",
    "median": "MedianStoppingRule",
    PBT: "PopulationBasedTraining",
}
OURS = frozenset(
    {
        *("metric", "mode", "time_attr", "stop_last_trials", "hyperparam_mutations", "custom_explore_fn"),
        *("warn_independent_sampling", "warn_asynchronous_seeding", "search_space"),
    }
)
"""Arguments of theirs that the sweep fills in."""
STORAGE = re.compile(r"journal:.+|(?:sqlite|postgresql|mysql|mssql|oracle)(?:\+\w+)?://.+")
LARGEST_SEED = 2**32 - 1


def options(asked: SweepOptions) -> Iterator[str]:
    """Yield what is wrong with how a space is searched."""
    for rule in (_numbers, _caps, _sampler, _scheduler, _compared, _resume, _storage):
        yield from rule(asked)


def scheduler_of(asked: SweepOptions) -> str:
    """Return the name of the scheduler; `none` where there is none."""
    return named(asked.scheduler)[0] or NONE


def _numbers(asked: SweepOptions) -> Iterator[str]:
    for name in ("trials", "concurrency", "patience", "max_failures", "keep_best", "recycle_after"):
        number = getattr(asked, name)
        if number is not None and number < 1:
            yield f"sweep.{name}: {number} is too small. The least is 1; leave it out for no limit."
    if asked.warm_start is not None and asked.warm_start < 1:
        yield f"sweep.from: {asked.warm_start} is no number of a sweep. asp runs --stage sweep lists them."
    if not 0 <= asked.seed <= LARGEST_SEED:
        yield f"sweep.seed: {asked.seed} is not between 0 and {LARGEST_SEED}."
    if asked.gpu_hours is not None and not 0 < asked.gpu_hours < math.inf:
        yield f"sweep.gpu_hours: {asked.gpu_hours:g} leaves hours for nothing. Give more than 0, or leave it out."


def _caps(asked: SweepOptions) -> Iterator[str]:
    read: tuple[tuple[Any, Callable[[Any], Any]], ...] = ((asked.time, seconds_of), (asked.disk, disk_of))
    for value, reads in read:
        try:
            if value is not None:
                reads(value)
        except ConfigError as error:
            yield from error.problems


def _sampler(asked: SweepOptions) -> Iterator[str]:
    where = "sweep.sampler"
    name, arguments = sampler_named(asked.sampler)
    if name not in SAMPLERS:
        yield from _no_name(where, asked.sampler, SAMPLERS)
        return
    seed = arguments.pop("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        yield f"{where}.seed: {seed!r} is no seed. Give a whole number from 0 to {LARGEST_SEED}."
    if name == CMAES and len(one_or_more(asked.metric)) > 1:
        yield f"{where}: cmaes compares one metric, and sweep.metric has several. Take nsga2 or tpe."
    if name in OPTUNAS:
        yield from _takes(where, f"optuna.samplers.{OPTUNAS[name]}", arguments)
    else:
        yield from (f"{where}.{key}: {name} takes no arguments. Leave it out." for key in arguments)


def _scheduler(asked: SweepOptions) -> Iterator[str]:
    where = "sweep.scheduler"
    name, arguments = named(asked.scheduler)
    name = NONE if asked.scheduler is None else name
    if name not in SCHEDULERS:
        yield from _no_name(where, asked.scheduler, SCHEDULERS)
        return
    if name != NONE and len(one_or_more(asked.metric)) > 1:
        yield (
            f"{where}: {name} compares one metric while trials run, and sweep.metric has several. Give one metric, or "
            f"{where}=none."
        )
    if name in TUNES:
        yield from _takes(where, f"ray.tune.schedulers.{TUNES[name]}", arguments)
    else:
        yield from (f"{where}.{key}: none takes no arguments. Leave it out." for key in arguments)


def _no_name(where: str, setting: Any, known: tuple[str, ...]) -> Iterator[str]:
    """Say what is wrong with what should be a name, or a section with one."""
    names = ", ".join(sorted(known))
    if isinstance(setting, str):
        yield one_of(where, setting, known)
    elif not isinstance(setting, Mapping):
        yield f"{where}: {setting!r} given, but it is a name, or a section: {{name: ...}}. Known: {names}."
    elif named(setting)[0] is None:
        yield from nameless(where, setting, known)
    else:
        yield one_of(f"{where}.name", setting.get("name", setting.get("_target_")), known)


def _takes(where: str, path: str, arguments: Mapping[str, Any]) -> Iterator[str]:
    ours = [key for key in arguments if key in OURS]
    yield from (f"{where}.{key}: is filled in by the sweep. Leave it out." for key in ours)
    left = {key: value for key, value in arguments.items() if key not in ours}
    yield from call(where, path, left, OURS | {"seed"}, whole=False, named_by="name")


def _compared(asked: SweepOptions) -> Iterator[str]:
    metrics, modes = one_or_more(asked.metric), one_or_more(asked.mode)
    yield from (one_of("sweep.mode", mode, MODES) for mode in modes if mode not in MODES)
    twice = [metric for metric in dict.fromkeys(metrics) if metrics.count(metric) > 1]
    yield from (f"sweep.metric: {metric!r} is given twice. Leave one out." for metric in twice)
    if modes and len(modes) != max(1, len(metrics)):
        yield (
            f"sweep.mode: {len(modes)} given ({', '.join(modes)}) for {max(1, len(metrics))} metric(s) "
            f"({', '.join(metrics) or 'the monitor'}). Give min or max for each."
        )


def _resume(asked: SweepOptions) -> Iterator[str]:
    resume = asked.resume
    if not isinstance(resume, int) or (not isinstance(resume, bool) and resume < 1):
        yield f"sweep.resume: {resume!r} given, but it is true, false, or the number of a sweep to go on with."


def _storage(asked: SweepOptions) -> Iterator[str]:
    storage = asked.storage
    if storage is None:
        return
    if without_passwords(storage) != storage and not any(references(storage)):
        yield (
            "sweep.storage: a password is written here in plain text. Put it into an environment variable (or .env), "
            "and write ${secret:NAME_OF_THE_VARIABLE} in its place."
        )
    elif not storage.startswith("${") and not STORAGE.fullmatch(storage):
        yield (
            f"sweep.storage: {storage!r} is no storage of Optuna's. Give journal:/path/to/file, or a URL: "
            "sqlite:////path/to/file, postgresql://user@host/name."
        )
