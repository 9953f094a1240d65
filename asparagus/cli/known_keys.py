"""What can be set in a composed config, and to what: the schema, the signatures of targets, the data folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from asparagus.check.optimizer import SCHEDULE_KEYS
from asparagus.check.sections import GIVEN
from asparagus.check.signature import Signature, TargetMissingError, signature_of
from asparagus.check.trainer import ONE_OF, STRATEGIES, TRAINER
from asparagus.compose.tree import Tree, get
from asparagus.data.layout import known_splits, known_tasks, read_task
from asparagus.optim import OPTIMIZERS, SCHEDULES
from asparagus.paths import get_paths
from asparagus.spec import MODES, PARTS, Spec
from asparagus.stages import STAGES

BOOLS = ("True", "False")
KNOWN_VALUES: dict[str, Iterable[str]] = {
    "stage": STAGES,
    "model.dimensions": ("2D", "3D"),
    "optim.name": OPTIMIZERS,
    "optim.sched.name": SCHEDULES,
    "run.mode": MODES,
    "checkpoint.mode": ("min", "max"),
    "trainer.strategy": STRATEGIES,
    **{f"trainer.{name}": values for name, values in ONE_OF.items()},
}
"""What keys can be set to, where that is a short list; those of tasks and splits are looked up."""


def keys(typed: str, tree: Tree) -> Iterator[str]:
    """Yield the keys on the level that is being typed: a section ends in a dot, a value's key in `=`."""
    path, dot, _ = typed.rpartition(".")
    node = _node(tree, path)
    known = {name: isinstance(value, dict) for name, value in node.items()}
    fields = _fields(path)
    for name in {*known, *fields, *_arguments(path, tree)}:
        made_by = fields[name].default_factory if name in fields else None
        is_section = known.get(name) or made_by is dict or dataclasses.is_dataclass(made_by)
        yield f"{path}{dot}{name}{'.' if is_section else '='}"


def removable(typed: str, tree: Tree) -> Iterator[str]:
    """Yield the keys that are there, on the level that is being typed; of sections also the way into them."""
    path, dot, _ = typed.rpartition(".")
    for name, value in _node(tree, path).items():
        yield f"{path}{dot}{name}"
        if isinstance(value, dict) and value:
            yield f"{path}{dot}{name}."


def sections(tree: Tree, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all sections, outer ones first."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield f"{prefix}{name}"
            yield from sections(value, f"{prefix}{name}.")


def _node(tree: Tree, path: str) -> Tree:
    node = get(tree, path) if path else tree
    return {str(key): value for key, value in node.items()} if isinstance(node, dict) else {}


def _fields(path: str) -> dict[str, dataclasses.Field[Any]]:
    """Return the keys of a section that the schema types."""
    part = PARTS.get(path) if path else Spec
    return {item.name: item for item in dataclasses.fields(part)} if part else {}


def _arguments(path: str, tree: Tree) -> set[str]:
    """Return what the target of a section can be given, without what the launcher fills in."""
    if path == "optim.sched":
        return set(SCHEDULE_KEYS)
    signature = _signature(path, tree)
    filled_in = set().union(*(GIVEN.get(part, ()) for part in path.split(".")))
    return set(signature.parameters) - filled_in if signature else set()


def _signature(path: str, tree: Tree) -> Signature | None:
    node = _node(tree, path)
    target = TRAINER if path == "trainer" else node.get("_target_")
    if path == "optim" and not target:
        target = OPTIMIZERS.get(str(node.get("name")).lower())
    try:
        return signature_of(target) if isinstance(target, str) else None
    except TargetMissingError:
        return None


def values_of(key: str, tree: Tree) -> Iterable[str]:
    """Return what a key can be set to, where that is a short list."""
    if key == "task":
        return tasks()
    if key == "data.split":
        return known_splits(read_task(get_paths().data, str(tree.get("task"))))
    return KNOWN_VALUES.get(key) or (BOOLS if _is_bool(key, tree) else ())


def _is_bool(key: str, tree: Tree) -> bool:
    path, _, name = key.rpartition(".")
    if isinstance(get(tree, key), bool):
        return True
    if field := _fields(path).get(name):
        return field.type == "bool"
    signature = _signature(path, tree)
    return signature is not None and "bool" in signature.annotations.get(name, "")


def tasks() -> list[str]:
    """Return the tasks of the data folder."""
    return known_tasks(get_paths().data)
