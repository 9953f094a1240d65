"""Names of your own: modules that register things are imported, and each name becomes the path of what it means."""

from __future__ import annotations

import importlib
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asparagus.errors import did_you_mean, one_of
from asparagus.optim import REGISTERED_OPTIMIZERS, REGISTERED_SCHEDULERS, STEPPING
from asparagus.registry import DATASETS, Entry, Registry, find, known

IMPORTS = "imports"
HERE = Path(__file__).parent.parent
INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
"""Where code lies that is not one's own."""


def spelled_out(tree: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Import what `imports` lists, and return the config with every registered name as a dotted path."""
    tree = dict(tree)
    problems += _imported(tree.pop(IMPORTS, None))
    problems += _targets(tree)
    optim = tree.get("optim")
    if isinstance(optim, dict):
        tree["optim"] = _by_name(optim, "optim", REGISTERED_OPTIMIZERS, problems)
        if isinstance(sched := optim.get("sched"), dict):
            tree["optim"]["sched"] = _by_name(sched, "optim.sched", REGISTERED_SCHEDULERS, problems)
    if isinstance(tree.get("data"), dict):
        _datasets(tree["data"])
    return tree


def _imported(modules: Any) -> Iterator[str]:
    if modules is not None and not isinstance(modules, (str, list)):
        yield f"imports: {modules!r} given, but it is a list of modules."
        return
    for module in [modules] if isinstance(modules, str) else modules or []:
        try:
            importlib.import_module(str(module))
        except ImportError as error:
            yield (
                f"imports: {module} cannot be imported: {error}{_place(error)}. It has to be installed, or lie where "
                "the command is typed or in src/ there."
            )
        except (Exception, SystemExit) as error:  # noqa: BLE001 - one's own code may raise anything
            text = " ".join(f"{type(error).__name__}: {_text(error)}".split()).rstrip(":.")
            yield f"imports: {module} cannot be imported: {text}{_place(error)}."


def _text(error: BaseException) -> str:
    return error.msg if isinstance(error, SyntaxError) else str(error)


def _place(error: BaseException) -> str:
    """Return the file and line, of one's own code if there is any, that an import ended at."""
    if isinstance(error, SyntaxError) and error.filename:
        return f", at {error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    ran = [frame for frame in frames if not Path(frame.filename).is_relative_to(HERE)][1:]  # the first is importlib
    own = [frame for frame in ran if not any(map(Path(frame.filename).is_relative_to, INSTALLED))]
    last = own[-1] if own else ran[0] if ran else None
    return f", at {last.filename}:{last.lineno}" if last else ""


def _targets(node: Any, path: str = "") -> Iterator[str]:
    """Spell out each `_target_` without a dot, in place."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from _targets(value, f"{path}.{key}" if path else str(key))
    target = node.get("_target_") if isinstance(node, dict) else None
    if isinstance(target, str) and target and "." not in target:
        if entry := find(target):
            node.update({**entry.defaults, **node, "_target_": entry.path})
        else:
            near = did_you_mean(target, known())
            names = ", ".join(known()) or "none"
            where = f"{path}._target_: {target!r}"
            yield (
                f"{where} is neither a dotted path nor a registered name. {near} Registered: {names}. "
                "A module that registers names is named in the list `imports`."
            ).replace("  ", " ")


def _by_name(section: dict[str, Any], key: str, registry: Registry, problems: list[str]) -> dict[str, Any]:
    entry = registry.get(section.get("name"))
    if entry is None or "_target_" in section:
        return dict(section)
    problems += _unknown_fields(section, key, entry)
    return {**entry.defaults, **section, "_target_": entry.path}


def _unknown_fields(section: dict[str, Any], key: str, entry: Entry) -> Iterator[str]:
    if entry.fields is None:
        return
    for name in section.keys() - {"name", "sched", *STEPPING, *entry.fields}:
        yield one_of(f"{key}.{name}", name, entry.fields)


def _datasets(node: Any) -> None:
    """Spell out `dataset: {name: mine, ...}`, in place."""
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        _datasets(value)
        if key == "dataset" and isinstance(value, dict) and (entry := DATASETS.get(value.get("name"))):
            node[key] = {**entry.defaults, **value, "name": entry.path}
