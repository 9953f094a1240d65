"""Whether a plain value, as YAML has them, is what a parameter's annotation says; nothing is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

PLAIN: dict[str, type] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "list": list,
    "dict": dict,
    "Path": str,
    "_PATH": str,
}
"""What a value of YAML has to be for an annotation of this name."""
LISTS = {"list", "List", "Sequence", "Iterable", "Collection", "tuple", "Tuple"}
MAPPINGS = {"dict", "Dict", "Mapping", "MutableMapping"}


def mismatch(annotation: str, value: object) -> str:
    """Return what an annotation takes when `value` is not of it; an empty string where it is, or may be."""
    try:
        fits = _fits(ast.parse(annotation, mode="eval").body, value) if annotation else None
    except SyntaxError:
        return ""
    if fits is not False:
        return ""
    words = re.findall(r"\w+", annotation)
    if not all(word in PLAIN or word in ("Optional", "Union", "None") for word in words):
        return annotation.replace(" | None", "")
    plain = {PLAIN[word].__name__ for word in words if word in PLAIN}
    return " or ".join(sorted(plain | ({"int"} if "float" in plain else set())))


def _fits(node: ast.expr, value: object) -> bool | None:  # noqa: PLR0911 - one line per kind of annotation
    """Tell whether a plain value is what an annotation says; None where it does not tell."""
    if isinstance(node, ast.BinOp):
        return _any(_fits(part, value) for part in (node.left, node.right))
    if isinstance(node, ast.Constant):
        return value is None if node.value is None else None
    if isinstance(node, ast.Subscript):
        return _fits_generic(_last(node.value), _parts(node.slice), value)
    name = _last(node)
    if name == "Tensor" or name in LISTS:
        return None if isinstance(value, list) or (name == "Tensor" and isinstance(value, (int, float))) else False
    if name not in PLAIN:
        return None
    kind = PLAIN[name]
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _fits_generic(name: str, parts: list[ast.expr], value: object) -> bool | None:  # noqa: PLR0911 - likewise
    if name in ("Optional", "Union"):
        return _any([value is None and name == "Optional", *(_fits(part, value) for part in parts)])
    if name == "Literal":
        return any(isinstance(part, ast.Constant) and part.value == value for part in parts)
    if name in MAPPINGS:
        return None if isinstance(value, dict) else False
    if name not in LISTS:
        return None
    if not isinstance(value, list):
        return False
    if name in ("tuple", "Tuple") and not any(isinstance(part, ast.Constant) for part in parts):
        each = [_fits(part, item) for part, item in zip(parts, value, strict=False)]
        return False if len(parts) != len(value) or False in each else None
    return False if any(_fits(parts[0], item) is False for item in value) else None


def _any(found: Iterable[bool | None]) -> bool | None:
    """Return True if anything fits, None if something may, else False."""
    answers = list(found)
    return True if True in answers else None if None in answers else False


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _parts(node: ast.expr) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, ast.Tuple) else [node]
