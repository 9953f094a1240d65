"""The section `sweep` into `SweepOptions`: typed like the rest of a config, and what it leaves open settled."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from asparagus.checkpoint.retention import bytes_of
from asparagus.compose.points import MOST, count
from asparagus.compose.schema import SWEEP as SECTION
from asparagus.compose.schema import filled
from asparagus.errors import ConfigError
from asparagus.space import Space, SweepOptions, sampler_named

FROM, WARM_START = "from", "warm_start"
"""`from` is a word of Python, so the field is called otherwise."""
SEVERAL = ("constraints", "points")
"""Keys that may have one in place of a list."""
GRID, TPE = "grid", "tpe"
EXHAUSTIVE = (GRID, "brute_force")
"""Samplers that try every point."""
TRIALS = 20
"""Of a space that cannot be counted."""
DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)\s*(s|min|h|d)\s*)+")
PART = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)")
SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def options_of(section: Any) -> tuple[SweepOptions, list[str]]:
    """Return the options of a sweep and every problem that the section has.

    Args:
        section: Plain values; None where there is none.
    """
    if section is None:
        return SweepOptions(), []
    if not isinstance(section, Mapping):
        keys = ", ".join(_names())
        return SweepOptions(), [f"{SECTION}: {section!r} given, but this is a section with keys: {keys}."]
    given = {str(key): value for key, value in section.items()}
    problems = []
    if WARM_START in given:
        problems.append(f"{SECTION}.{WARM_START}: no such key. Did you mean '{SECTION}.{FROM}'?")
        given.pop(WARM_START)
    if FROM in given:
        given[WARM_START] = given.pop(FROM)
    for name in SEVERAL:
        if isinstance(given.get(name), (str, Mapping)):
            given[name] = [given[name]]
    defaults = dataclasses.asdict(SweepOptions())
    given = {name: defaults.get(name) if value is None else value for name, value in given.items()}
    values, found = filled(SweepOptions, given, SECTION)
    problems += [problem.replace(WARM_START, FROM) for problem in found]
    lists = {name: tuple(values[name]) for name in SEVERAL}
    return SweepOptions(**{**values, **lists}), problems


def settled(options: SweepOptions, space: Space) -> SweepOptions:
    """Return the options with the sampler and the number of trials that they leave open.

    Without a sampler, every point of a space that can be counted is tried, and of another one 20 that TPE proposes.

    Raises:
        ConfigError: Every point is to be tried, and they are not to be counted.
    """
    uncounted = [dimension.key for dimension in space.dimensions if dimension.size is None]
    sampler, _ = sampler_named(options.sampler)
    if options.sampler is None:
        sampler = TPE if uncounted or options.trials is not None else GRID
        options = dataclasses.replace(options, sampler=sampler)
    if sampler not in EXHAUSTIVE:
        return dataclasses.replace(options, trials=TRIALS if options.trials is None else options.trials)
    if uncounted:
        raise ConfigError(
            *(
                f"{SECTION}.sampler: {sampler} tries every value, and those of {key} cannot be counted. Give it a step "
                f"({key}=range(low,high,step)) or a list of values, or take {SECTION}.sampler={TPE}."
                for key in uncounted
            )
        )
    total = count(space)
    if options.trials is None and (total is None or total > MOST):
        shown = f"more than {MOST:,}" if total is None else f"{total:,}"
        raise ConfigError(
            f"{SECTION}.trials: the space has {shown} points, and {sampler} tries each. Say how many are tried "
            f"({SECTION}.trials=100)."
        )
    known = [number for number in (options.trials, total) if number is not None]
    return dataclasses.replace(options, trials=min(known))


def seconds_of(time: Any) -> float:
    """Return the seconds that `sweep.time` stands for: hours as a number, or `30min`, `2h`, `1d12h`.

    Raises:
        ConfigError: It is no time, or none at all.
    """
    text = str(time).strip()
    if isinstance(time, bool) or not (isinstance(time, (int, float)) or text):
        raise _no_time(time)
    if DURATION.fullmatch(text):
        seconds = sum(float(number) * SECONDS[unit] for number, unit in PART.findall(text))
    else:
        try:
            seconds = float(text) * SECONDS["h"]
        except ValueError as error:
            raise _no_time(time) from error
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{SECTION}.time: {time!r} leaves time for nothing. Give a time above 0, or leave it out.")
    return seconds


def disk_of(size: Any) -> int:
    """Return the bytes that `sweep.disk` stands for.

    Raises:
        ConfigError: It is no size, or nothing.
    """
    try:
        return bytes_of(size)
    except ConfigError as error:
        raise ConfigError(f"{SECTION}.disk: {error}") from error


def _no_time(time: Any) -> ConfigError:
    return ConfigError(f"{SECTION}.time: {time!r} is no time. Give hours as a number, or a text: 30min, 2h, 1d, 1d12h.")


def _names() -> list[str]:
    names = (field.name for field in dataclasses.fields(SweepOptions))
    return sorted(FROM if name == WARM_START else name for name in names)
