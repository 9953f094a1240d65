"""The arguments that a `_target_` takes, read from source without importing it: torch alone would cost a second.

Re-exports, star imports, aliases and inherited `__init__`s are followed. What cannot be told this way (a name made at
run time, a compiled module, an unknown decorator) is `None`, and is judged where the target is imported anyway.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.machinery
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from asparagus.check.annotation import mismatch
from asparagus.check.definition import (
    CHANGES_NOTHING,
    add_fields,
    base_name,
    bindings,
    bound_as,
    decorators,
    dotted,
    flat,
    hands_on,
    has_metaclass,
    is_dataclass,
    is_plain,
)
from asparagus.errors import did_you_mean

EMPTY = ("object", "ABC", "Generic", "Protocol")
"""Bases that say nothing about arguments."""
ANY_NAME = "__all__"
"""Stands for the name after the path of a module that is looked for as such."""
MAX_HOPS = 24
"""Re-exports and base classes followed before giving up."""


class TargetMissingError(Exception):
    """The dotted path leads nowhere; the text says where it ends."""


class BrokenFileError(TargetMissingError):
    """A file on the way is no Python; the text says which, and where."""


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
    inside: ast.ClassDef | None = None
    """The class it is a method of, or nested in."""


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
    module, names = _find_module(parts)
    if not names:
        raise TargetMissingError("it is a module, and a class or function in one is needed")
    place = _find_name(module, names, MAX_HOPS) if module else None
    return _signature(place, MAX_HOPS) if place else None


def find_path(parts: list[str], hops: int) -> Place | None:
    """Find what a dotted path names; `None` for what has no source, or is made at run time."""
    if parts[0] in sys.builtin_module_names:
        return None
    module, names = _find_module(parts)
    return _find_name(module, names, hops) if module and names else None


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
    """Return the statements of a module, those inside `if` and `try` too.

    Raises:
        BrokenFileError: It is no Python.
    """
    try:
        return flat(ast.parse(file.read_bytes(), filename=str(file)).body)
    except SyntaxError as error:
        where = f"{file}:{error.lineno}" if error.lineno else f"{file}"
        raise BrokenFileError(f"{where}: {error.msg}") from error
    except (ValueError, OSError, RecursionError, MemoryError) as error:  # null bytes, no right to read it, nested
        raise BrokenFileError(f"{file}: {error or type(error).__name__}") from error


def _find_name(module: Module, names: list[str], hops: int) -> Place | None:
    """Find where a name of a module, or one inside it, is defined; `None` when it is made some other way."""
    if hops == 0:
        return None
    missing: TargetMissingError | None = None
    for node in bindings(_body(module.file), names[0]):
        try:
            return _lead(module, node, names, hops)
        except BrokenFileError:
            raise
        except TargetMissingError as error:  # of a `try: import ... except ImportError:`, the other
            missing = missing or error
    if missing:
        raise missing
    return _find_elsewhere(module, names, hops)


def _lead(module: Module, node: ast.stmt, names: list[str], hops: int) -> Place | None:
    """Follow the first of some names from the statement that gives it its meaning, and the others inside it."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return _inside(Place(node, module), names[1:], hops)
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        alias = next(alias for alias in node.names if bound_as(node, alias) == names[0])
        if isinstance(node, ast.ImportFrom):
            return _follow(module, node, [alias.name, *names[1:]], hops)
        return find_path([*(alias.name.split(".") if alias.asname else names[:1]), *names[1:]], hops - 1)
    value = dotted(node.value) if isinstance(node, ast.Assign) else []
    return _find_name(module, [*value, *names[1:]], hops - 1) if value else None


def _find_elsewhere(module: Module, names: list[str], hops: int) -> Place | None:
    """Look through star imports; give up where a module makes names at run time, else the name is missing."""
    body = _body(module.file)
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            try:
                return _follow(module, node, names, hops)
            except BrokenFileError:
                raise
            except TargetMissingError:
                continue
    known = _defined(body)
    assigned = {
        node.id
        for statement in body
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    if "__getattr__" in known or names[0] in assigned:
        return None
    where = ".".join(part for part in (module.package, module.file.stem) if part and part != "__init__")
    near = did_you_mean(names[0], known | _through_stars(module, hops))
    raise TargetMissingError(f"{where} has no {names[0]!r}. {near}".strip())


def _defined(body: list[ast.stmt]) -> set[str]:
    """Return the names that the statements of a module define or import, star imports aside."""
    known = {node.name for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    return known | {
        alias.asname or alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names
    }


def _through_stars(module: Module, hops: int) -> set[str]:
    """Return the names that a module has from star imports (`torch.nn` has all of its layers and losses so)."""
    found: set[str] = set()
    for node in _body(module.file) if hops else []:
        if not isinstance(node, ast.ImportFrom) or node.names[0].name != "*":
            continue
        with contextlib.suppress(TargetMissingError):
            other, _ = _find_module([*_path_of(module, node), ANY_NAME])
            if other is not None:
                found |= _defined(_body(other.file)) | _through_stars(other, hops - 1)
    return found


def _follow(module: Module, node: ast.ImportFrom, names: list[str], hops: int) -> Place | None:
    path = [*_path_of(module, node), *names]
    return find_path(path, hops - 1) if all(path) else None


def _path_of(module: Module, node: ast.ImportFrom) -> list[str]:
    """Return the path of the module that a statement imports from."""
    base = module.package.split(".") if node.level else []
    base = base[: len(base) - node.level + 1] if node.level else []
    return [*base, *(node.module.split(".") if node.module else [])]


def _inside(place: Place | None, names: list[str], hops: int) -> Place | None:
    """Follow names into a class: its methods and the classes nested in it, inherited ones too."""
    for name in names:
        place = _member(place, name, hops) if place and isinstance(place.node, ast.ClassDef) else None
    return place


def _member(place: Place, name: str, hops: int) -> Place | None:
    known: set[str] = set()
    for each in _line(place, hops):
        if each is None or not isinstance(each.node, ast.ClassDef):
            return None
        found = list(bindings(flat(each.node.body), name))
        if found:
            node = found[0]
            return Place(node, each.module, each.node) if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else None
        if not is_plain(each.node):
            return None
        known |= {node.name for node in each.node.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    if name in dir(type):
        return None
    raise TargetMissingError(f"{place.node.name} has no {name!r}. {did_you_mean(name, known)}".strip())


def _line(place: Place, hops: int) -> Iterator[Place | None]:
    """Yield a class and its bases in the order in which Python asks them; `None`, the last, where that is not known."""
    yield place
    bases = [
        base for base in getattr(place.node, "bases", []) if base_name(base)[-1:] not in [[name] for name in EMPTY]
    ]
    if hops == 0:
        yield None
        return
    parents = [parent_of(place, base, hops - 1) for base in bases]
    yield from _merged([list(_line(parent, hops - 1)) if parent else [None] for parent in parents], parents)


def _merged(lines: list[list[Place | None]], parents: list[Place | None]) -> Iterator[Place | None]:
    """Merge the orders of the parents as Python does (C3), as far as they are known."""
    lines = [*lines, parents]
    while lines := [line for line in lines if line]:
        head = next((line[0] for line in lines if all(line[0] not in other[1:] for other in lines)), None)
        is_open = any(None in line for line in lines)  # what is unknown may come before a parent's own bases
        if head is None or (is_open and head not in parents):
            yield None
            return
        yield head
        lines = [line[1:] if line[0] == head else line for line in lines]


def parent_of(place: Place, base: ast.expr, hops: int) -> Place | None:
    """Find a base class; `None` for a builtin, and for what source does not tell."""
    names = base_name(base)
    if not names or (place.inside and any(bindings(flat(place.inside.body), names[0]))):
        return None
    try:
        parent = _find_name(place.module, names, hops)
    except BrokenFileError:
        raise
    except TargetMissingError:
        return None
    return parent if parent and isinstance(parent.node, ast.ClassDef) else None


def _signature(place: Place, hops: int) -> Signature | None:
    if isinstance(place.node, ast.ClassDef):
        return _of_class(place, hops)
    found = decorators(place.node)
    if place.inside and found & {"property", "cached_property"}:
        name = f"{place.inside.name}.{place.node.name}"
        raise TargetMissingError(f"{name} is a property, and a class or function is needed")
    if place.inside and not found & {"classmethod", "staticmethod"}:
        return None  # a method needs its object
    return _of_function(place.node, skip_first="classmethod" in found)


def _of_function(node: ast.stmt, *, skip_first: bool) -> Signature | None:
    if not isinstance(node, ast.FunctionDef) or not decorators(node) <= CHANGES_NOTHING:
        return None
    return _of_arguments(node.args, skip_first=skip_first)


def _of_class(place: Place, hops: int) -> Signature | None:
    """Return the signature of the first `__init__` or `__new__` of a class and its bases."""
    for each in _line(place, hops):
        if each is None or not isinstance(each.node, ast.ClassDef) or has_metaclass(each.node):
            return None
        body = flat(each.node.body)
        if made_by := [*bindings(body, "__new__"), *bindings(body, "__init__")]:
            is_sure = all(map(hands_on, made_by[:-1])) and (not _may_be_enum(place, made_by[-1], hops))
            return _of_function(made_by[-1], skip_first=True) if is_sure else None
        if is_dataclass(each.node):
            return _of_fields(each, hops)
        if not is_plain(each.node):
            return None
    return Signature((), (), takes_anything=False)


def _may_be_enum(place: Place, made_by: ast.stmt, hops: int) -> bool:
    """Tell whether a class with a `__new__` may be called as its metaclass says: an enumeration is."""
    is_new = isinstance(made_by, ast.FunctionDef) and made_by.name == "__new__"
    return is_new and any(each is None or has_metaclass(each.node) for each in _line(place, hops))


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


def _of_fields(place: Place, hops: int) -> Signature | None:
    """Return the signature of the `__init__` that a dataclass gets from its fields and those it inherits."""
    is_needed: dict[str, bool] = {}
    for each in reversed(list(_line(place, hops))):
        if each is None:
            return None
        if isinstance(each.node, ast.ClassDef) and "dataclass" in decorators(each.node):
            add_fields(is_needed, each.node)
    needed = tuple(name for name, is_so in is_needed.items() if is_so)
    return Signature(tuple(is_needed), needed, takes_anything=False)
