"""What a key is searched over, as it is written, into a `Choice` or an `Interval`: Hydra's sweep grammar, and YAML."""

from __future__ import annotations

import logging
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from asparagus.compose.overrides import SWEEP
from asparagus.compose.points import same
from asparagus.errors import ConfigError, one_of
from asparagus.space import Choice, Interval

if TYPE_CHECKING:
    from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep

Domain = Interval | Choice
CHOICE, WHEN = "choice", "when"
OF_INTERVAL = ("low", "high", "log", "step", "int")
MARKS = {CHOICE, "low", "high"}
"""Keys that tell a domain from a section that holds several."""
TAGS = ("log", "int")
KEY = "key"
EQUALS = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\\.|(?P<equals>=)""", re.DOTALL)
EMPTY = re.compile(r"(?:choice|shuffle|sort)\(\s*\)")
MOST_SHUFFLED = 100_000

log = logging.getLogger("asparagus")


def value_of(text: str) -> Any:
    """Return the plain value that a text is on the command line; the text itself where it is no value of Hydra's."""
    from hydra.errors import HydraException

    try:
        parsed = _parsed(text)
    except HydraException:
        return text
    return text if parsed.is_sweep_override() else parsed.value()


def domain_of(key: str, text: str, *, options: Sequence[str] = ()) -> Domain | None:
    """Return what a text in Hydra's grammar says to search; None where it is one value.

    Args:
        key: What is searched; begins every problem.
        text: `a,b`, `choice(...)`, `range(...)`, `interval(...)`, `tag(log, ...)`, `glob(*)`.
        options: Of the group, where the key is one.

    Raises:
        ConfigError: It is several values, and they cannot be meant.
    """
    from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, RangeSweep
    from hydra.errors import HydraException

    if EMPTY.fullmatch(text.strip()):
        raise _empty(key, text)
    try:
        parsed = _parsed(text)
    except HydraException as error:
        if SWEEP.match(text):
            raise ConfigError(_unreadable(key, text, error)) from error
        return None
    value: Any = parsed.value()
    if isinstance(value, ChoiceSweep):
        return _choice_of(key, text, value)
    if isinstance(value, RangeSweep):
        return _range_of(key, text, value)
    if isinstance(value, IntervalSweep):
        return _interval_of(key, text, value)
    return _glob_of(key, text, value, options) if isinstance(value, Glob) else None


def spelled(section: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys of `sweep.space`, dotted, each with how its domain is written."""
    for name, node in section.items():
        key = f"{prefix}{name}"
        if isinstance(node, Mapping) and node and not MARKS & node.keys():
            yield from spelled(node, f"{key}.")
        else:
            yield key, node


def domain_in(key: str, node: Any, *, options: Sequence[str] = ()) -> Domain:
    """Return the domain that stands in a file.

    Raises:
        ConfigError: It is none.
    """
    where = f"sweep.space.{key}"
    if isinstance(node, list):
        return choice(where, node)
    if isinstance(node, str) and (found := domain_of(where, node, options=options)) is not None:
        return found
    if isinstance(node, Mapping) and node:
        return _mapped(where, node)
    said = "is empty" if node in ({}, None) else f"{node!r} is one value, and nothing is searched"
    raise ConfigError(
        f"{where}: {said}. Give a list of values, a text in Hydra's grammar (range(1,5), interval(0,1), "
        "tag(log,interval(1e-5,1e-1))), or {low: 0, high: 1}."
    )


def conditions_in(key: str, node: Any) -> dict[str, tuple[Any, ...]]:
    """Return beside which values of which other keys a dimension of a file exists.

    Raises:
        ConfigError: `when` is no mapping, or says nothing.
    """
    given = node.get(WHEN) if isinstance(node, Mapping) else None
    if given is None:
        return {}
    where = f"sweep.space.{key}.{WHEN}"
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(f"{where}: {given!r} given, but it is a section: {{other.key: value}}, or a list of values.")
    allowed = {}
    for other, values in given.items():
        allowed[str(other)] = tuple(values) if isinstance(values, list) else (values,)
        if not allowed[str(other)]:
            raise ConfigError(f"{where}: {other} has no values, so {key} would never exist. Give one or more.")
    return allowed


def choice(key: str, values: Sequence[Any]) -> Choice:
    """Return a choice between values; one that is given twice counts once.

    Raises:
        ConfigError: There are none.
    """
    if not values:
        raise _empty(key, "[]")
    left: list[Any] = []
    for value in values:
        if any(same(value, other) for other in left):
            log.warning("%s: %r is given twice, and tried once", key, value)
        else:
            left.append(value)
    return Choice(tuple(left))


def interval(key: str, low: Any, high: Any, *, log: bool = False, step: Any = None, integer: bool = False) -> Interval:
    """Return the numbers between two bounds.

    Raises:
        ConfigError: There are no such numbers.
    """
    _must_be_numbers(key, {"low": low, "high": high, "step": step}, whole=integer)
    if low >= high:
        turned = f"Write low={high:g}, high={low:g}." if low > high else "Give the value itself, without a search."
        raise ConfigError(f"{key}: from {low:g} to {high:g} there is nothing: low has to be below high. {turned}")
    if log and low <= 0:
        raise ConfigError(
            f"{key}: low is {low:g}, and on a logarithmic scale it has to be above 0. Raise it, or leave log out."
        )
    if log and step is not None:
        raise ConfigError(f"{key}: log and step exclude each other. Leave one out.")
    high = high if step is None else _last(key, low, high, step=step)
    kind = int if integer else float
    return Interval(kind(low), kind(high), log=log, step=None if step is None else kind(step), integer=integer)


def _must_be_numbers(key: str, given: Mapping[str, Any], *, whole: bool) -> None:
    for name, number in given.items():
        if number is None and name == "step":
            continue
        if not _is_number(number):
            raise ConfigError(f"{key}: {name} is {number!r}, and it is a number.")
        if whole and number != int(number):
            raise ConfigError(f"{key}: {name} is {number!r}, and whole numbers are searched. Round it.")


def _last(key: str, low: Any, high: Any, *, step: Any) -> Any:
    """Return the last number that steps come to."""
    if not 0 < step <= high - low:
        raise ConfigError(f"{key}: step is {step:g}, and it has to be above 0 and at most {high - low:g}.")
    exact = [Decimal(str(number)) for number in (low, high, step)]
    last = exact[0] + (exact[1] - exact[0]) // exact[2] * exact[2]
    return float(last)


def _mapped(where: str, node: Mapping[Any, Any]) -> Domain:
    known = (CHOICE, WHEN) if CHOICE in node else (*OF_INTERVAL, WHEN)
    if unknown := [str(name) for name in node if name not in known]:
        raise ConfigError(*(one_of(f"{where}.{name}", name, known) for name in unknown))
    if CHOICE in node:
        if not isinstance(node[CHOICE], list):
            raise ConfigError(f"{where}.{CHOICE}: {node[CHOICE]!r} given, but it is a list of values.")
        return choice(where, node[CHOICE])
    if missing := [name for name in ("low", "high") if node.get(name) is None]:
        raise ConfigError(f"{where}.{missing[0]}: is missing. An interval has both: {{low: 0, high: 1}}.")
    for name in TAGS:
        if not isinstance(node.get(name, False), bool):
            raise ConfigError(f"{where}.{name}: {node[name]!r} given, but it is true or false.")
    return interval(
        where,
        node["low"],
        node["high"],
        log=node.get("log", False),
        step=node.get("step"),
        integer=node.get("int", False),
    )


def _parsed(text: str) -> Override:
    """Return what Hydra reads; `=` in a value needs no quotes here."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    try:
        return parser.parse_override(f"{KEY}={text}")
    except HydraException:
        escaped = EQUALS.sub(lambda found: "\\=" if found["equals"] else found[0], text)
        if escaped == text:
            raise
        return parser.parse_override(f"{KEY}={escaped}")


def _unreadable(key: str, text: str, error: Exception) -> str:
    reason = str(error).splitlines()[0].rstrip(".")
    reason = reason.partition(f"while evaluating '{text}': ")[2] or reason
    return (
        f"{key}: {text} cannot be read: {reason}. Write a,b,c or choice(a,b), range(1,5), interval(0,1), "
        "tag(log,interval(1e-5,1e-1)); quote a text with commas or brackets ('a,b')."
    )


def _empty(key: str, text: str) -> ConfigError:
    return ConfigError(f"{key}: {text} is empty, and there is nothing to choose from. Give at least one value.")


def _choice_of(key: str, text: str, found: ChoiceSweep) -> Choice:
    from hydra.core.override_parser.types import Glob, Sweep

    if any(isinstance(value, (Glob, Sweep)) for value in found.list):
        raise ConfigError(f"{key}: {text} is a search in a search. Write one interval, range or choice.")
    if found.tags:
        raise ConfigError(f"{key}: {text}: tags say how an interval is searched, and this is a choice. Leave them out.")
    values = [_plain(value) for value in found.list]
    if found.shuffle:
        _shuffle(values, text)
    return choice(key, values)


def _range_of(key: str, text: str, found: RangeSweep) -> Domain:
    if unknown := found.tags - {"int"}:
        advice = "Write interval(low,high) for a logarithmic scale." if "log" in unknown else ""
        raise ConfigError(f"{key}: {text}: a range has no tag {', '.join(sorted(unknown))}. {advice}".strip())
    given = (found.start, found.stop, found.step)
    if not all(map(_is_number, given)) or not found.step:
        raise ConfigError(f"{key}: {text} is no range. Write range(start,stop) or range(start,stop,step), step not 0.")
    start, stop, step = (Decimal(str(number)) for number in given)
    number = max(0, math.ceil((stop - start) / step))
    integer = all(isinstance(part, int) for part in given) or "int" in found.tags
    if not number:
        raise ConfigError(f"{key}: {text} is empty: it ends before {stop}. Turn its ends, or the sign of its step.")
    if number == 1 or found.shuffle:
        if number > MOST_SHUFFLED:
            raise ConfigError(f"{key}: {text} has {number} values, too many to shuffle. Leave shuffle out.")
        listed = [_number(start + step * place, integer=integer) for place in range(number)]
        if found.shuffle:
            _shuffle(listed, text)
        return choice(key, listed)
    low, high = (_number(end, integer=integer) for end in sorted((start, start + step * (number - 1))))
    width = _number(abs(step), integer=integer)
    return interval(key, low, high, step=None if integer and width == 1 else width, integer=integer)


def _interval_of(key: str, text: str, found: IntervalSweep) -> Interval:
    for tag in sorted(found.tags - set(TAGS)):
        raise ConfigError(one_of(f"{key}: {text}: the tag", tag, TAGS))
    integer = "int" in found.tags or all(isinstance(end, int) for end in (found.start, found.end))
    return interval(key, found.start, found.end, log="log" in found.tags, integer=integer)


def _glob_of(key: str, text: str, found: Glob, options: Sequence[str]) -> Choice:
    if not options:
        raise ConfigError(f"{key}: {text} chooses among the options of a group, and {key} is none.")
    names: list[str] = found.filter(list(options))
    if not names:
        raise ConfigError(f"{key}: {text} fits no option. Known: {', '.join(options)}.")
    return Choice(tuple(names))


def _shuffle(values: list[Any], text: str) -> None:
    """Shuffle, in the same order each time: the same command goes on with the same sweep."""
    random.Random(text).shuffle(values)  # noqa: S311 - no secret


def _plain(value: Any) -> Any:
    """Return a value of Hydra's without its quotes."""
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return {_plain(key): _plain(part) for key, part in value.items()} if isinstance(value, dict) else value


def _number(exact: Decimal, *, integer: bool) -> float:
    """Return a number as it is searched; where whole ones are and this is none, as it is."""
    return int(exact) if integer and exact == int(exact) else float(exact)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
