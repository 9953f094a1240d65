"""Every key of an experiment: typed ones from the schema, open sections from what they name, the rest from comments."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from markdown_table import code, plain, table
from omegaconf import OmegaConf

from asparagus import spec
from asparagus.check.sections import GIVEN
from asparagus.check.trainer import TRAINER
from asparagus.cli.show import groups_in
from asparagus.compose import Request, config_of
from asparagus.optim import available_optimizers, available_schedulers
from asparagus.stages import STAGES

ROOT = Path(__file__).parents[2]
SHELVES = (ROOT / "configs", ROOT / "launch")
BASE = ROOT / "configs/core/base.yaml"
SWEEP = ROOT / "configs/sweep/default.yaml"
DATA = {
    "volumes, images": "asparagus.data.modules.CaseDataModule",
    "loaders": "asparagus.data.loaders.LoaderDataModule",
    "crops": "asparagus.data.zarr.module.CropDataModule",
}
"""Options of the group `data`, and the class whose arguments the section takes then."""
PREFIXES = {"data": "data.", "module": "model.module.", "trainer": "trainer."}
CORE = "core"
OF_ALL = f"{CORE}/base"
"""What every root config begins with."""
OF_ENVIRONMENT = "paths"
"""The section that no experiment sets."""
NO_DEFAULT = "???"
HEAD = ("key", "type", "default", "what it does")

ASIDE = re.compile(r" \(SEEDS [^)]*\)")
NO_TYPE = re.compile(r"\bNone(?:Type)?\b")
NO_VALUE = re.compile(r"\bNone(?=:| is | keeps | where )")
"""None, where an experiment says null."""
MODULE = re.compile(r"\b(?:\w+\.)+(?=\w)")
DEFAULT = re.compile(r"\s+Default: \S+$")
ROLE = re.compile(r":\w+:`~?\.?([^`]*)`")
LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?P<value>[^#]*?) *(?:# *(?P<about>.*))?$")
"""A line of a commented YAML file: a key, its value, what it does."""
NEXT_LINE = re.compile(r"^ +# *(?P<about>.*)$")
ARGUMENT = re.compile(r"^    (?P<name>\w+)(?: \([^)]*\))?: *(?P<about>.*)$")


def typed_keys() -> str:
    """Return the tables of the typed keys: those at the top, then one for each section."""
    parts = [("", spec.Spec), *((name, part) for name, part in spec.PARTS.items() if name != OF_ENVIRONMENT)]
    return "\n\n".join(f"### {name or 'At the top'}\n\n{table(HEAD, _typed(name, part))}" for name, part in parts)


def sweep_keys() -> str:
    """Return the table of the section `sweep`."""
    rows = [(code(f"sweep.{key}"), code(value), plain(about)) for key, value, about in _commented(SWEEP.read_text())]
    return table(("key", "default", "what it does"), rows)


def open_sections() -> str:
    """Return the tables of sections that take what the class that they name takes."""
    known = [(f"data, with data={options}", path, "data") for options, path in DATA.items()]
    known += [(f"model.module, of {stages}", path, "module") for path, stages in _modules().items()]
    known += [("trainer", TRAINER, "trainer")]
    tables = ((title, path, list(_arguments(path, section))) for title, path, section in known)
    return "\n\n".join(f"### {title}\n\n{code(path)}\n\n{table(HEAD, rows)}" for title, path, rows in tables if rows)


def names() -> str:
    """Return the tables of `optim.name` and `optim.sched.name`."""
    known = {"optim.name": available_optimizers(), "optim.sched.name": available_schedulers()}
    return "\n\n".join(
        table((code(key), "what it is"), [(code(name), code(path)) for name, path in sorted(paths.items())])
        for key, paths in known.items()
    )


def choices() -> str:
    """Return each config group with its options, what they are, and where they stand."""
    groups = {f"{shelf.name}/{group}": options for shelf in SHELVES for group, options in groups_in([shelf]).items()}
    chosen = {group: options for group, options in groups.items() if Path(group).name != CORE}
    return "\n\n".join(f"### {Path(group).name}\n\n{_options(group, options)}" for group, options in chosen.items())


def described() -> Iterator[tuple[str, str]]:
    """Yield every typed key and what is said of it."""
    for name, part in (("", spec.Spec), *spec.PARTS.items()):
        if name != OF_ENVIRONMENT:
            yield from ((key, about) for key, _, _, about in _typed(name, part))


def _typed(section: str, part: type) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row for each field of a dataclass; its default is that of a composed experiment."""
    said, prefix = _docstrings(part), f"{section}." if section else ""
    comments = {key: about for key, _, about in _commented(BASE.read_text())}
    values = _composed().get(section, {}) if section else _composed()
    for field in dataclasses.fields(part):
        key = f"{prefix}{field.name}"
        if field.name in spec.PARTS:
            continue
        about = said.get(field.name) or comments.get(key, "")
        yield code(key), code(_annotation(field.type)), code(_default(values, field)), _told(about)


def _told(about: str) -> str:
    """Return what a docstring says, in the words of an experiment."""
    return plain(NO_VALUE.sub("null", ASIDE.sub("", about)))


@cache
def _composed() -> Any:
    return OmegaConf.to_container(config_of(Request(OF_ALL, ())))


def _default(values: Mapping[str, Any], field: dataclasses.Field[Any]) -> str:
    """Return a key's default as YAML writes it; of a section, nothing."""
    made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    return _yaml(values.get(field.name, made))


def _yaml(value: object) -> str:
    """Return a value as it is written in an experiment, on one line; of an open section, nothing."""
    if isinstance(value, Mapping):
        return json.dumps(value) if value else ""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_yaml, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def _docstrings(part: type) -> dict[str, str]:
    """Return the string below each field of a dataclass."""
    (found,) = ast.parse(inspect.getsource(part)).body
    assert isinstance(found, ast.ClassDef)
    pairs = zip(found.body, found.body[1:], strict=False)
    return {
        field.target.id: text.value.value
        for field, text in pairs
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _commented(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield key, value and comment of each line of a YAML file, dotted; a comment may go on below."""
    path: list[tuple[int, str]] = []
    row: list[str] = []
    for line in text.splitlines():
        if found := LINE.match(line):
            if row:
                yield row[0], row[1], row[2]
            indent = len(found["indent"])
            path = [*((depth, key) for depth, key in path if depth < indent), (indent, found["key"])]
            row = [".".join(key for _, key in path), found["value"].strip(), found["about"] or ""]
        elif row and (more := NEXT_LINE.match(line)):
            row[2] = f"{row[2]} {more['about']}".strip()
    if row:
        yield row[0], row[1], row[2]


def _modules() -> dict[str, str]:
    """Return the module of each stage that brings one, with the stages that it serves."""
    found: dict[str, list[str]] = {}
    for stage in STAGES.values():
        if stage.module:
            found.setdefault(stage.module, []).append(stage.name)
    return {module: ", ".join(stages) for module, stages in found.items()}


def _arguments(path: str, section: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row for each argument of a class that an experiment may set."""
    module, _, name = path.rpartition(".")
    made = getattr(importlib.import_module(module), name)
    said = _said_of_arguments(made)
    for argument in inspect.signature(made).parameters.values():
        if argument.name not in GIVEN.get(section, ()):  # what the launcher fills in
            default = _composed().get(section, {}).get(argument.name, argument.default)
            default = NO_DEFAULT if default is argument.empty else _yaml(default)
            about = _told(said.get(argument.name, ""))
            yield (
                code(f"{PREFIXES[section]}{argument.name}"),
                code(_annotation(argument.annotation)),
                code(default),
                about,
            )


def _annotation(annotation: Any) -> str:
    """Return a type without the modules that its parts are from."""
    if get_origin(annotation) is Union:
        return " | ".join(map(_annotation, get_args(annotation)))
    written = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return NO_TYPE.sub("null", MODULE.sub("", written))


def _said_of_arguments(made: type) -> dict[str, str]:
    """Return what the docstring of a class says of each argument, in Google's form."""
    docs = [inspect.getdoc(made.__init__) or "", inspect.getdoc(made) or ""]
    _, _, text = next((doc for doc in docs if "Args:" in doc), "").partition("Args:\n")
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line and not line.startswith(" "):
            break
        if argument := ARGUMENT.match(line):
            name = argument["name"]
            found[name] = argument["about"]
        elif name:
            found[name] += f" {line.strip()}"
    return {name: DEFAULT.sub("", ROLE.sub(r"`\1`", text).replace("``", "`").strip()) for name, text in found.items()}


def _options(group: str, options: list[str]) -> str:
    """Return the options of a group as a table, each with a link to its file."""
    files = [ROOT / group / f"{option}.yaml" for option in options]
    rows = [(f"[{file.stem}](../{file.relative_to(ROOT)})", plain(_first_comment(file))) for file in files]
    return table((code(f"{Path(group).name}="), "what it is"), rows)


def _first_comment(file: Path) -> str:
    """Return what the file says of itself, without the command that uses it."""
    lines = [line.removeprefix("#").strip() for line in file.read_text().splitlines() if line.startswith("#")]
    return next((line for line in lines if not line.startswith(("@package", "asp"))), "")
