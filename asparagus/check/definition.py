"""What a class or function says of itself in source: decorators, bases, fields, and what gives a name its meaning."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from typing import TypeGuard

CHANGES_NOTHING = {
    *("abstractmethod", "cache", "classmethod", "contextmanager", "deprecated", "deprecated_arg"),
    *("deprecated_arg_default", "enable_grad", "final", "inference_mode", "lru_cache", "no_grad", "override"),
    *("rank_zero_only", "runtime_checkable", "staticmethod", "total_ordering"),
    *("_defaults_from_env_vars", "validate_params"),  # of Lightning's Trainer, and of scikit-learn
    *("alias", "dataclass", "export"),  # MONAI's names for a class; of a dataclass the fields are read
    "convert_positional_args",  # of Optuna: by name, all is as it says
}
"""Decorators after which a function or class takes what it says."""
Function = ast.FunctionDef | ast.AsyncFunctionDef
"""What `def` makes."""


def flat(body: Iterable[ast.stmt]) -> list[ast.stmt]:
    """Return statements in their order, those inside `if`, `try` and `with` among them."""
    found: list[ast.stmt] = []
    queue = list(body)
    while queue:
        node = queue.pop(0)
        found.append(node)
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            handlers = [child for handler in getattr(node, "handlers", []) for child in handler.body]
            queue[:0] = [*node.body, *getattr(node, "orelse", []), *handlers]
    return found


def bindings(body: list[ast.stmt], name: str) -> Iterator[ast.stmt]:
    """Yield the statements that give a name its meaning, without overloads: those are for type checkers."""
    for node in body:
        if isinstance(node, (ast.ClassDef, Function)):
            bound = [] if decorators(node) & {"overload"} else [node.name]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound = [bound_as(node, alias) for alias in node.names]
        else:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target] if _is_given(node) else []
            bound = [target.id for target in targets if isinstance(target, ast.Name)]
        if name in bound:
            yield node


def names_in(node: ast.ClassDef) -> Iterator[str]:
    """Yield the names that the body of a class defines."""
    for item in flat(node.body):
        if isinstance(item, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield item.name
        targets = item.targets if isinstance(item, ast.Assign) else [item.target] if _is_given(item) else []
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def _is_given(node: ast.stmt) -> TypeGuard[ast.AnnAssign]:
    return isinstance(node, ast.AnnAssign) and node.value is not None


def bound_as(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    """Return the name that an import gives."""
    return alias.asname or (alias.name.split(".")[0] if isinstance(node, ast.Import) else alias.name)


def hands_on(node: ast.stmt) -> bool:
    """Tell whether it is a `__new__(cls, *args, **kwargs)`, which leaves the arguments to `__init__`."""
    if not isinstance(node, ast.FunctionDef):
        return False
    args = node.args
    return bool(args.vararg and args.kwarg) and len([*args.posonlyargs, *args.args, *args.kwonlyargs]) == 1


def is_plain(node: ast.ClassDef) -> bool:
    """Tell whether nothing gives a class an `__init__` or other methods besides its body and its bases."""
    makes = any(bindings(node.body, "__init_subclass__"))
    return decorators(node) <= CHANGES_NOTHING and not makes and not has_metaclass(node)


def has_metaclass(node: ast.ClassDef | ast.FunctionDef) -> bool:
    """Tell whether a class has a metaclass, which may have a `__call__`; that of abstract classes has none."""
    return any(
        word.arg == "metaclass" and dotted(word.value)[-1:] != ["ABCMeta"] for word in getattr(node, "keywords", ())
    )


def decorators(node: ast.ClassDef | Function) -> set[str]:
    """Return the last names of the decorators; an empty one for what has no name."""
    calls = [item.func if isinstance(item, ast.Call) else item for item in node.decorator_list]
    return {(dotted(item) or [""])[-1] for item in calls}


def dotted(node: ast.expr) -> list[str]:
    """Return the parts of a dotted name; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return [*before, node.attr] if (before := dotted(node.value)) else []
    return [node.id] if isinstance(node, ast.Name) else []


def base_name(node: ast.expr) -> list[str]:
    """Return the parts of the name of a base class, of `Base[int]` too."""
    return dotted(node.value if isinstance(node, ast.Subscript) else node)


def is_dataclass(node: ast.ClassDef) -> bool:
    """Tell whether a class gets its `__init__` from its fields."""
    written = [ast.unparse(item) for item in node.decorator_list]
    return "dataclass" in decorators(node) and not any("init=False" in item for item in written)


def add_fields(is_needed: dict[str, bool], node: ast.ClassDef) -> None:
    """Add the fields of a dataclass: for each, whether it has to be given."""
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        value = ast.unparse(item.value) if item.value else ""
        if re.search(r"\b(ClassVar|KW_ONLY)\b", ast.unparse(item.annotation)):
            continue
        if re.match(r"(\w+\.)*field\(.*\binit=False", value):
            is_needed.pop(item.target.id, None)
        else:
            has_default = bool(value) and not re.match(r"(\w+\.)*field\((?!.*\bdefault)", value)
            is_needed[item.target.id] = not has_default and is_needed.get(item.target.id, True)
