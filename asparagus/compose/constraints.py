"""Conditions on the values of a trial, as `model.depth * data.batch_size <= 64`: read, judged, worked out safely."""

from __future__ import annotations

import ast
import itertools
import keyword
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from asparagus.errors import ConfigError, did_you_mean
from asparagus.space import Choice, Dimension

WHERE = "sweep.constraints"
LONGEST = 1000
MOST_PARTS = 200
MOST_BITS = 1024
"""Of a power: nobody waits for 9 ** 9 ** 9."""
MOST_TRIED = 1000
"""Combinations of kinds of values that a condition is tried on."""
TOKEN = re.compile(
    r"""(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
      | (?P<number>(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?)
      | `(?P<quoted>[^`]+)`
      | (?P<key>[A-Za-z_]\w*(?::[A-Za-z_]\w*)?(?:\.\w+)*)""",
    re.VERBOSE,
)
CONSTANTS = {"true": "True", "false": "False", "null": "None"}
"""As YAML writes them."""
ADVICE = (
    "Compare keys, numbers and texts with + - * / // % **, < <= == != >= >, in, and, or, not; a key that is no dotted "
    "name stands in backquotes (`module/scheduler_spec`)."
)


@dataclass(frozen=True)
class Condition:
    """A constraint that was read."""

    text: str
    tree: ast.expr
    keys: Mapping[str, str]
    """Name in the tree -> key."""


def holds(constraint: str, values: Mapping[str, Any]) -> bool:
    """Tell whether values meet a constraint; one over a key that is not there holds.

    A condition that cannot be worked out (something is divided by zero, or too large) does not hold.

    Raises:
        ConfigError: It is no condition, or compares what cannot be compared.
    """
    condition = read(constraint)
    if any(key not in values for key in condition.keys.values()):
        return True
    given = {name: values[key] for name, key in condition.keys.items()}
    try:
        return bool(_value(condition.tree, given))
    except ArithmeticError:
        return False
    except TypeError as error:
        at = ", ".join(f"{key}={values[key]!r}" for key in dict.fromkeys(condition.keys.values()))
        raise ConfigError(f"{WHERE}: {constraint!r} cannot be worked out for {at}: {error}.") from error


def keys_of(constraint: str) -> tuple[str, ...]:
    """Return the keys that a constraint speaks of.

    Raises:
        ConfigError: It is no condition.
    """
    return tuple(dict.fromkeys(read(constraint).keys.values()))


def problems_of(constraints: Iterable[str], dimensions: Sequence[Dimension]) -> Iterator[str]:
    """Yield what is wrong with constraints over these dimensions."""
    known = {dimension.key: dimension for dimension in dimensions}
    for constraint in constraints:
        try:
            unknown = [key for key in keys_of(constraint) if key not in known]
            if not unknown:
                _try_on(constraint, [known[key] for key in keys_of(constraint)])
        except ConfigError as error:
            yield from error.problems
            continue
        for key in unknown:
            near = did_you_mean(key, known)
            searched = ", ".join(known) or "nothing"
            yield f"{WHERE}: {constraint!r}: {key} is not searched. {near} Searched: {searched}.".replace("  ", " ")


@lru_cache(maxsize=256)
def read(constraint: str) -> Condition:
    """Read a constraint.

    Raises:
        ConfigError: It is no condition.
    """
    keys: dict[str, str] = {}
    try:
        if len(constraint) > LONGEST:
            raise _refused(constraint[:40] + "...", f"is longer than {LONGEST} characters")
        source = TOKEN.sub(lambda found: _renamed(found, keys), constraint.strip())
        tree = ast.parse(f"({source})", mode="eval").body  # in brackets, for it may have several lines
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise _refused(constraint, f"cannot be read: {reason}") from error
    parts = list(ast.walk(tree))
    if len(parts) > MOST_PARTS:
        raise _refused(constraint, "is too long. Write several")
    for part in parts:
        if type(part) not in KNOWN:
            kind = "a function" if isinstance(part, ast.Call) else f"a Python {type(part).__name__}"
            raise _refused(constraint, f"uses {kind}")
    if isinstance(tree, (ast.BinOp, ast.Constant, ast.List, ast.Tuple, ast.Set)):
        raise _refused(constraint, "is a value and no condition")
    return Condition(constraint, tree, keys)


def _refused(constraint: str, reason: str) -> ConfigError:
    return ConfigError(f"{WHERE}: {constraint!r} {reason}. {ADVICE}")


def _renamed(found: re.Match[str], keys: dict[str, str]) -> str:
    """Return a token as Python can read it: keys, whatever they look like, become names."""
    if found["text"] or found["number"]:
        return found[0]
    if found["key"] and (keyword.iskeyword(found["key"]) or found["key"] in CONSTANTS):
        return CONSTANTS.get(found["key"], found["key"])
    name = f"k{len(keys)}"
    keys[name] = found["quoted"] or found["key"]
    return name


def _try_on(constraint: str, dimensions: list[Dimension]) -> None:
    """Work a constraint out for each kind of value that its keys have.

    Raises:
        ConfigError: It compares what cannot be compared.
    """
    kinds = [_kinds(dimension) for dimension in dimensions]
    for values in itertools.islice(itertools.product(*kinds), MOST_TRIED):
        holds(constraint, {dimension.key: value for dimension, value in zip(dimensions, values, strict=True)})


def _kinds(dimension: Dimension) -> list[Any]:
    """Return one value of each type that a dimension has."""
    if isinstance(dimension.domain, Choice):
        return list({type(value): value for value in reversed(dimension.domain.values)}.values())
    return [dimension.domain.low]


def _value(node: ast.AST, values: Mapping[str, Any]) -> Any:
    return WORKED_OUT[type(node)](node, values)


def _constant(node: ast.Constant, _: Mapping[str, Any]) -> Any:
    return node.value


def _name(node: ast.Name, values: Mapping[str, Any]) -> Any:
    return values[node.id]


def _list(node: ast.List | ast.Tuple | ast.Set, values: Mapping[str, Any]) -> list[Any]:
    return [_value(part, values) for part in node.elts]


def _unary(node: ast.UnaryOp, values: Mapping[str, Any]) -> Any:
    value = _value(node.operand, values)
    if isinstance(node.op, ast.Not):
        return not value
    return -_number(value) if isinstance(node.op, ast.USub) else _number(value)


def _binary(node: ast.BinOp, values: Mapping[str, Any]) -> Any:
    return BINARY[type(node.op)](_number(_value(node.left, values)), _number(_value(node.right, values)))


def _boolean(node: ast.BoolOp, values: Mapping[str, Any]) -> bool:
    parts = (_value(part, values) for part in node.values)
    return all(parts) if isinstance(node.op, ast.And) else any(parts)


def _comparison(node: ast.Compare, values: Mapping[str, Any]) -> bool:
    left = _value(node.left, values)
    for sign, part in zip(node.ops, node.comparators, strict=True):
        right = _value(part, values)
        if not COMPARED[type(sign)](left, right):
            return False
        left = right
    return True


def _number(value: Any) -> Any:
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return value


def _power(base: float, exponent: float) -> Any:
    """Return a power, unless it is too large to be meant.

    Raises:
        ArithmeticError: It is, or it is no real number.
    """
    if abs(base) > 1 and abs(exponent) * math.log2(abs(base)) > MOST_BITS:
        raise OverflowError
    if base < 0 and exponent != int(exponent):
        raise ArithmeticError
    return base**exponent


BINARY: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
COMPARED: dict[type[ast.AST], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.GtE: operator.ge,
    ast.Gt: operator.gt,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}
WORKED_OUT: dict[type[ast.AST], Callable[[Any, Mapping[str, Any]], Any]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.List: _list,
    ast.Tuple: _list,
    ast.Set: _list,
    ast.UnaryOp: _unary,
    ast.BinOp: _binary,
    ast.BoolOp: _boolean,
    ast.Compare: _comparison,
}
KNOWN = {*WORKED_OUT, *BINARY, *COMPARED, ast.And, ast.Or, ast.Not, ast.USub, ast.UAdd, ast.Load}
"""All that a constraint may be made of."""
