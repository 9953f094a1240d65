"""The arguments that a `_target_` takes, read from source without importing it: torch alone would cost a second.

Re-exports, star imports, aliases and inherited `__init__`s are followed. What cannot be told this way (a name made at
run time, a compiled module) is `None`, and is judged where the target is imported anyway.
"""

from __future__ import annotations

import ast
import importlib.machinery
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from asparagus.check.annotation import mismatch
from asparagus.errors import did_you_mean

ROOTS = ("Module", "Dataset", "Optimizer", "ABC")
"""Bases that are nothing else besides."""
MAX_HOPS = 12
"""Re-exports and base classes followed before giving up."""


class TargetMissingError(Exception):
    """The dotted path leads nowhere; the text says where it ends."""


@dataclass(frozen=True)
class Signature:
    """What a class or function can be called with, by keyword."""

    parameters: tuple[str, ...]
    required: tuple[str, ...]
    takes_anything: bool
    """It has `**kwargs`."""
    annotations: dict[str, str] = field(default_factory=dict)
    """The annotation of each parameter that has one, as source."""

    def mismatch(self, name: str, value: object) -> str:
        """Return the types that a plain parameter takes when `value` is of none of them, else an empty string."""
        return mismatch(self.annotations.get(name, ""), value)


class Place(NamedTuple):
    """A definition and the module file it stands in."""

    node: ast.ClassDef | ast.FunctionDef
    module: Module


@dataclass(frozen=True)
class Module:
    """A source file and the package that its relative imports start from."""

    file: Path
    package: str


def signature_of(target: str) -> Signature | None:
    """Return the signature of a dotted path, or `None` when source alone does not tell.

    Raises:
        TargetMissingError: There is no such module, or no such name in it.
    """
    parts = target.split(".")
    if len(parts) == 1 or not all(part.isidentifier() for part in parts):
        raise TargetMissingError("it is not a dotted path such as monai.networks.nets.UNet")
    if parts[0] in sys.builtin_module_names:
        return None
    module, rest = _find_module(parts)
    if not rest:
        raise TargetMissingError("it is a module, and a class or function in one is needed")
    if module is None:
        return None
    place = _find_name(module, rest[0], MAX_HOPS)
    return _signature(place, MAX_HOPS) if place and len(rest) == 1 else None


def is_a(target: str, root: str) -> bool | None:
    """Tell whether a dotted path is a class with a base of this name; `None` where source alone does not tell."""
    parts = target.split(".")
    if not all(part.isidentifier() for part in parts) or parts[0] in sys.builtin_module_names:
        return None
    try:
        module, rest = _find_module(parts)
        place = _find_name(module, rest[0], MAX_HOPS) if module and len(rest) == 1 else None
    except TargetMissingError:
        return None
    return _is_a(place, root, MAX_HOPS) if place else None


def _is_a(place: Place, root: str, hops: int) -> bool | None:
    if not isinstance(place.node, ast.ClassDef) or hops == 0:
        return None
    if place.node.name == root:
        return True
    answers = [_base_is_a(place, base, root, hops) for base in place.node.bases]
    return True if True in answers else None if None in answers else False


def _base_is_a(place: Place, base: ast.expr, root: str, hops: int) -> bool | None:
    if isinstance(base, ast.Attribute):  # nn.Module, pl.LightningModule
        return True if base.attr == root else False if base.attr in ROOTS else None
    if not isinstance(base, ast.Name):  # Generic[...]
        return None if isinstance(base, ast.Call) else False
    try:
        parent = _find_name(place.module, base.id, hops - 1)
    except TargetMissingError:  # a builtin
        return False
    return _is_a(parent, root, hops - 1) if parent else None


def _find_module(parts: list[str]) -> tuple[Module | None, list[str]]:
    """Walk the path as far as it is modules; return the last one and the names that are left."""
    spec = importlib.machinery.PathFinder.find_spec(parts[0])
    if spec is None:
        near = did_you_mean(parts[0], {Path(entry).name for entry in sys.path})
        raise TargetMissingError(f"there is no module {parts[0]!r} on the path. {near}".strip())
    if not spec.submodule_search_locations:
        return _module(Path(spec.origin or ""), ""), parts[1:]
    folder = Path(next(iter(spec.submodule_search_locations)))
    for index, part in enumerate(parts[1:], start=1):
        is_open = not any(folder.glob("__init__.*"))
        if _is_package(folder / part, parts[index + 1 :]) or (is_open and (folder / part).is_dir()):
            folder /= part
            continue
        package = ".".join(parts[:index])
        if (folder / f"{part}.py").is_file():
            return _module(folder / f"{part}.py", package), parts[index + 1 :]
        if any(folder.glob(f"{part}.*")):  # compiled
            return None, parts[index:]
        if is_open and len({Path(place).absolute() for place in spec.submodule_search_locations}) == 1:
            names = [path.stem for path in folder.iterdir()]
            raise TargetMissingError(f"{package} has no module {part!r}. {did_you_mean(part, names)}".strip())
        return _module(folder / "__init__.py", package), parts[index:]
    return None, []


def _is_package(folder: Path, following: list[str]) -> bool:
    """Tell whether a folder is a package: it says so itself, or holds the next module on the path."""
    holds = following and ((folder / following[0]).is_dir() or (folder / f"{following[0]}.py").is_file())
    return (folder / "__init__.py").is_file() or bool(holds)


def _module(file: Path, package: str) -> Module | None:
    return Module(file, package) if file.suffix == ".py" and file.is_file() else None


@cache
def _body(file: Path) -> list[ast.stmt]:
    """Return the statements of a module, those inside `if` and `try` too."""
    flat: list[ast.stmt] = []
    queue: list[ast.stmt] = list(ast.parse(file.read_bytes()).body)
    while queue:
        node = queue.pop(0)
        flat.append(node)
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            handlers = [child for handler in getattr(node, "handlers", []) for child in handler.body]
            queue[:0] = [*node.body, *getattr(node, "orelse", []), *handlers]
    return flat


def _find_name(module: Module, name: str, hops: int) -> Place | None:
    """Find where `name` of a module is defined, through imports; `None` when it is made some other way."""
    if hops == 0:
        return None
    body = _body(module.file)
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return Place(node, module)
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _follow(module, node, alias.name, hops)
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in node.targets
        ):
            return _find_name(module, node.value.id, hops - 1) if isinstance(node.value, ast.Name) else None
    return _find_elsewhere(module, name, body, hops)


def _find_elsewhere(module: Module, name: str, body: list[ast.stmt], hops: int) -> Place | None:
    """Look through star imports; give up where a module makes names at run time, else the name is missing."""
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            try:
                return _follow(module, node, name, hops)
            except TargetMissingError:
                continue
    names = {node.name for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    names |= {alias.asname or alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
    imported = {
        (alias.asname or alias.name).split(".")[0]
        for node in body
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assigned = {
        node.id
        for statement in body
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    if "__getattr__" in names or name in imported | assigned:
        return None
    where = module.package or module.file.stem
    raise TargetMissingError(f"{where} has no {name!r}. {did_you_mean(name, names)}".strip())


def _follow(module: Module, node: ast.ImportFrom, name: str, hops: int) -> Place | None:
    base = module.package.split(".") if node.level else []
    base = base[: len(base) - node.level + 1] if node.level else []
    found, rest = _find_module([*base, *(node.module or "").split("."), name] if node.module else [*base, name])
    return _find_name(found, rest[0], hops - 1) if found and len(rest) == 1 else None


def _signature(place: Place, hops: int) -> Signature | None:
    if isinstance(place.node, ast.FunctionDef):
        return _of_arguments(place.node.args, skip_first=False)
    for node in place.node.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return _of_arguments(node.args, skip_first=True)
    if any("dataclass" in ast.unparse(decorator) for decorator in place.node.decorator_list):
        return _of_fields(place.node)
    return _of_base(place, hops) if place.node.bases else Signature((), (), takes_anything=False)


def _of_base(place: Place, hops: int) -> Signature | None:
    """Return the signature of the `__init__` that a class inherits from its first base."""
    base = place.node.bases[0] if isinstance(place.node, ast.ClassDef) else None
    if not isinstance(base, ast.Name) or hops == 0:
        return None
    try:
        parent = _find_name(place.module, base.id, hops - 1)
    except TargetMissingError:  # a builtin
        return None
    return _signature(parent, hops - 1) if parent else None


def _of_arguments(args: ast.arguments, *, skip_first: bool) -> Signature:
    positional = [arg.arg for arg in [*args.posonlyargs, *args.args]][1 if skip_first else 0 :]
    without_default = positional[: len(positional) - len(args.defaults)] if args.defaults else positional
    keyword = [arg.arg for arg in args.kwonlyargs]
    required = [arg.arg for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True) if default is None]
    annotated = [arg for arg in [*args.posonlyargs, *args.args, *args.kwonlyargs] if arg.annotation is not None]
    defaults = [
        *zip(reversed(positional), reversed(args.defaults), strict=False),
        *zip(keyword, args.kw_defaults, strict=True),
    ]
    open_ = {name for name, default in defaults if isinstance(default, ast.Constant) and default.value is None}
    return Signature(
        (*positional, *keyword),
        (*without_default, *required),
        takes_anything=args.kwarg is not None,
        annotations={arg.arg: _annotation(arg) + (" | None" if arg.arg in open_ else "") for arg in annotated},
    )


def _annotation(arg: ast.arg) -> str:
    """Return an annotation as source, also one that is written as a text."""
    node = arg.annotation
    return (
        str(node.value) if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node or arg)
    )


def _of_fields(node: ast.ClassDef) -> Signature:
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
    names = [item.target.id for item in fields if isinstance(item.target, ast.Name)]
    required = [item.target.id for item in fields if item.value is None and isinstance(item.target, ast.Name)]
    return Signature(tuple(names), tuple(required), takes_anything=bool(node.bases))
