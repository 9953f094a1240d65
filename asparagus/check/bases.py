"""What a class inherits from, and what is written below that, as source tells."""

from __future__ import annotations

import ast
import builtins

from asparagus.check.definition import base_name, is_plain, names_in
from asparagus.check.signature import EMPTY, MAX_HOPS, Place, TargetMissingError, find_path, parent_of

ROOTS = ("Module", "Dataset", "Optimizer", "ABC")
"""Bases that are nothing else besides."""


def is_a(target: str, root: str) -> bool | None:
    """Tell whether a dotted path is a class with a base of this name; `None` where source alone does not tell."""
    parts = target.split(".")
    try:
        place = find_path(parts, MAX_HOPS) if all(part.isidentifier() for part in parts) else None
    except TargetMissingError:
        return None
    return _is_a(place, root, MAX_HOPS) if place else None


def written_below(target: str, base: str) -> set[str] | None:
    """Return the names that a class, and its bases below another class, define.

    `None` where it has no such base, several at one level, or where source alone does not tell.
    """
    try:
        place, goal = (find_path(path.split("."), MAX_HOPS) for path in (target, base))
    except TargetMissingError:
        return None
    return _written_below(place, goal, MAX_HOPS) if place and goal else None


def _written_below(place: Place, goal: Place, hops: int) -> set[str] | None:
    if place.node is goal.node:
        return set()
    if not isinstance(place.node, ast.ClassDef) or len(place.node.bases) != 1 or not is_plain(place.node) or hops == 0:
        return None
    parent = parent_of(place, place.node.bases[0], hops - 1)
    above = _written_below(parent, goal, hops - 1) if parent else None
    return above | set(names_in(place.node)) if above is not None else None


def _is_a(place: Place, root: str, hops: int) -> bool | None:
    if not isinstance(place.node, ast.ClassDef) or hops == 0:
        return None
    if place.node.name == root:
        return True
    answers = [_base_is_a(place, base, root, hops) for base in place.node.bases]
    return True if True in answers else None if None in answers else False


def _base_is_a(place: Place, base: ast.expr, root: str, hops: int) -> bool | None:
    names = base_name(base)
    if not names or hasattr(builtins, names[0]):
        return False if names else None
    if (len(names) > 1 and names[-1] in (root, *ROOTS)) or names[-1] in EMPTY:  # nn.Module, pl.LightningModule
        return names[-1] == root
    parent = parent_of(place, base, hops - 1)
    return _is_a(parent, root, hops - 1) if parent else None
