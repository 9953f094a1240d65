"""Where each key was set: the file and line, or the override. For `--info`, and for every problem that is reported."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from asparagus.compose.composer import PYTHON, Request, Source, source_of, with_hydra
from asparagus.compose.overrides import key_of
from asparagus.compose.spellings import sources_of
from asparagus.errors import ConfigError
from asparagus.paths import packaged
from asparagus.secrets import HIDDEN, LITERAL, WRITTEN, references, without_passwords

if TYPE_CHECKING:
    from hydra.core.default_element import ResultDefault

COMMAND_LINE = "command line"
EMPTY = "{}"
KEY = re.compile(r"^~?(\w[\w./\-]*(?:\[\d+\])?[\w.\-]*)(?=[:\s])")
"""What a problem begins with."""
REFERENCE = re.compile(r"\$\{([\w.\-]+)\}")
FROM_ENVIRONMENT = {
    "site.tracking_uri": "MLFLOW_TRACKING_URI",
    "paths.models": "ASPARAGUS_MODELS",
    "paths.results": "ASPARAGUS_RESULTS",
}
"""Keys that a variable fills in where no file says otherwise."""
PLACE = re.compile(r" \[[^\[\]]+:\d+\]$")


@dataclass(frozen=True)
class Setting:
    """One place that sets a key."""

    key: str
    value: str
    """As it is written there."""
    where: str
    """`configs/optim/adam.yaml:3`, or `command line: optim.lr=3`."""


@dataclass(frozen=True)
class Origins:
    """Every place that sets something, in the order in which they are applied: the last one wins."""

    defaults: tuple[tuple[str, str, str], ...]
    """The defaults list, in order: config, package, file."""
    settings: tuple[Setting, ...]
    folders: tuple[Path, ...]

    def of(self, key: str) -> list[Setting]:
        """Return what sets a key, or something in it; the last one wins."""
        return [item for item in self.settings if item.key == key or item.key.startswith(f"{key}.")]

    def nearest(self, key: str) -> Setting | None:
        """Return what set a key in the end, under any of its spellings; else what set a part, or the section around."""
        asked = key
        while key:
            spellings = (key, *sources_of(key))
            around = key != asked  # there, what it is for counts as well, and an empty section does not
            names = {*spellings, *(f"{name}._target_" for name in spellings if around)}
            exact = [item for item in self.settings if item.key in names and not (around and item.value == EMPTY)]
            if found := exact or [item for name in spellings for item in self.of(name)]:
                return found[-1]
            key = key.removesuffix(key[key.rfind("[") :]) if key.endswith("]") else key.rpartition(".")[0]
        return None


def origins_of(request: Request) -> Origins:
    """Find out where each key of a request comes from; composes it once more.

    Raises:
        ConfigError: It cannot be composed.
    """
    if request.config.endswith(PYTHON):
        from asparagus.compose.python_config import base_of, in_our_words, settings_of

        base, request = origins_of(base_of(request)), in_our_words(request)
        return Origins(base.defaults, (*base.settings, *settings_of(request), *_typed(request)), base.folders)
    source = source_of(request)
    entries = _files_of(source)
    settings = [setting for entry, file in entries for setting in _settings_in(file, entry.package or "")]
    defaults = [(str(entry.config_path), entry.package or "", shown(file)) for entry, file in entries]
    return Origins(tuple(defaults), (*settings, *_typed(request)), source.folders)


def files_of(request: Request) -> list[Path]:
    """Return the files that a request is composed from: the config and all that its defaults list names."""
    if request.config.endswith(PYTHON):
        from asparagus.compose.python_config import base_of

        request = base_of(request)
    return [file for _, file in _files_of(source_of(request))]


def written_in(source: Source) -> Iterator[Setting]:
    """Yield what the files of a defaults list set, in order."""
    for entry, file in _files_of(source):
        yield from _settings_in(file, entry.package or "")


def located(problems: tuple[str, ...], request: Request) -> list[str]:
    """Return the problems, each with the place that it came from where that can be told."""
    try:
        origins = origins_of(request)
    except ConfigError:  # it does not even compose: the problem is about just that, and says where
        origins = Origins((), (*_in_itself(request), *_typed(request)), ())
    return [_located(problem, origins) for problem in problems]


def shown(file: Path) -> str:
    """Return a file's path as a person looks for it: ours from `configs` or `launch`, others from here."""
    for folder in ("configs", "launch"):
        if file.is_relative_to(packaged(folder)):
            return f"{folder}/{file.relative_to(packaged(folder))}"
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)


def leaves(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, str, int]]:
    """Yield key, value and line of every value of a YAML node; sections count as well, with the line of their key."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        full = f"{prefix}{key.value}"
        yield full, _written(value), key.start_mark.line + 1
        yield from leaves(value, f"{full}.")


def _located(problem: str, origins: Origins) -> str:
    key = KEY.match(problem)
    if key is None or PLACE.search(problem):
        return problem
    setting = origins.nearest(key[1].replace("/", "."))
    said = setting is not None and setting.key == key[1] and setting.value not in ("null", "")
    if key[1] in FROM_ENVIRONMENT and not said:
        variable = FROM_ENVIRONMENT[key[1]]
        return f"{problem} [{variable}]" if variable in os.environ else problem
    if setting is None:
        return problem
    return f"{problem} [{' <- '.join(_way_to(setting, origins))}]"


def _way_to(setting: Setting, origins: Origins) -> list[str]:
    """Return where a key is set and, where it only refers to another one, where that one is."""
    way = [setting.where]
    while (name := REFERENCE.fullmatch(setting.value)) and (found := origins.of(name[1])):
        setting = found[-1]
        if setting.where in way:  # in a circle
            break
        way.append(setting.where)
    return way


def _defaults_list(name: str, words: list[str]) -> list[ResultDefault]:
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    loader = GlobalHydra.instance().config_loader()
    found: list[Any] = loader.compute_defaults_list(name, words, RunMode.RUN).defaults
    return [entry for entry in found if not str(entry.config_path).startswith("hydra/")]


def _files_of(source: Source) -> list[tuple[ResultDefault, Path]]:
    listed = with_hydra(source, _defaults_list)
    return [(entry, file) for entry in listed if (file := _file_of(entry, source)) is not None]


def _file_of(entry: ResultDefault, source: Source) -> Path | None:
    path = str(entry.config_path).removesuffix(".yaml")
    found = (folder / f"{path}.yaml" for folder in source.folders)
    return next((file for file in found if file.is_file()), None)


def _in_itself(request: Request) -> Iterator[Setting]:
    """Yield what the file of a request sets, without those that it names."""
    try:
        source = source_of(request)
        file = next(file for folder in source.folders if (file := folder / f"{source.name}.yaml").is_file())
        yield from _settings_in(file, "")
    except (ConfigError, StopIteration, yaml.YAMLError, ValueError, OSError):
        return


def _settings_in(file: Path, package: str) -> Iterator[Setting]:
    node = _parsed(file)
    prefix = f"{package}." if package and package != "_global_" else ""
    for key, value, line in leaves(node, prefix) if node else ():
        if key.partition(".")[0] != "defaults":
            yield Setting(key, value, f"{shown(file)}:{line}")


def _parsed(file: Path) -> yaml.Node | None:
    parsed: yaml.Node | None = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    return parsed


def _typed(request: Request) -> Iterator[Setting]:
    for override in request.overrides:
        key, _, value = override.partition("=")
        value = _unsaid(value)
        yield Setting(key_of(override), value, f"{COMMAND_LINE}: {key}={value}" if value else f"{COMMAND_LINE}: {key}")


def _unsaid(value: str) -> str:
    """Return a value as it is written, without a secret that stands in it in plain text."""
    if WRITTEN.search(value):
        return f"{LITERAL}{HIDDEN}"
    return value if any(references(value)) else without_passwords(value)


def _written(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return _unsaid(str(node.value))
    if isinstance(node, yaml.MappingNode):
        return "{...}" if node.value else EMPTY
    return "[...]"
