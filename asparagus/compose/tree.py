"""Nested plain values by dotted key: look, set, take out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Tree = dict[str, Any]


def get(tree: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """Return the value of a dotted key; the default where there is none."""
    node: Any = tree
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return default
        node = node[part]
    return node


def put(tree: Tree, key: str, value: Any) -> None:
    """Set a dotted key; sections on the way come to be."""
    *parts, leaf = key.split(".")
    for part in parts:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    tree[leaf] = joined(tree.get(leaf), value)


def pop(tree: Tree, key: str) -> Any:
    """Take a dotted key out; sections that this leaves empty go too."""
    first, _, rest = key.partition(".")
    if not rest:
        return tree.pop(first, None)
    node = tree.get(first)
    if not isinstance(node, dict):
        return None
    given = pop(node, rest)
    if given is not None and not node:
        tree.pop(first)
    return given


def joined(before: Any, value: Any) -> Any:
    """Return two sections as one, the second one's values before the first one's; anything else replaces."""
    if isinstance(before, dict) and isinstance(value, dict):
        return {**before, **{key: joined(before.get(key), part) for key, part in value.items()}}
    return value


def copied(node: Any) -> Any:
    """Return the same tree in new dicts and lists."""
    if isinstance(node, dict):
        return {key: copied(value) for key, value in node.items()}
    return [copied(value) for value in node] if isinstance(node, list) else node
