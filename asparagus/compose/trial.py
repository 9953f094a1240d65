"""One point of a space into the config of its trial: as overrides, or set in a config that is composed already."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asparagus.compose.composer import PYTHON, Request, source_of
from asparagus.compose.experiment import config_of, typed_last
from asparagus.compose.overrides import is_group
from asparagus.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

BARE = re.compile(r"(?!(?:null|true|false|nan|inf)$)[A-Za-z_][\w./-]*", re.IGNORECASE | re.ASCII)
"""Texts that need no quotes."""


def words_of(values: Mapping[str, Any]) -> list[str]:
    """Return the overrides that set these values, quoted so that Hydra reads back the very same ones.

    Raises:
        ConfigError: A value cannot be written on a command line.
    """
    return [f"{key}={_written(key, value)}" for key, value in values.items()]


def request_with(request: Request, values: Mapping[str, Any]) -> Request:
    """Return the request of a trial: what the experiment was asked for, and the trial's values on top."""
    return dataclasses.replace(request, overrides=(*request.overrides, *words_of(values)))


def config_with(config: DictConfig, request: Request, values: Mapping[str, Any]) -> DictConfig:
    """Return the config of a trial, as `config_of(request_with(request, values))` would, mostly without composing it.

    Args:
        config: Of the experiment that is searched, from `config_of(request)`; is left as it is.
        request: What it was composed from.
        values: Of the trial.

    Raises:
        ConfigError: It cannot be composed.
    """
    if needs_composing(request, values):
        return config_of(request_with(request, values))
    return with_values(config, values)


def needs_composing(request: Request, values: Mapping[str, Any]) -> bool:
    """Tell whether a trial is more than its experiment with some values changed: a group, or a config in Python."""
    if request.config.endswith(PYTHON):
        return True
    folders = folders_of(request)
    return any("@" in key or is_group(key, folders) for key in values)


def folders_of(request: Request) -> list[Path]:
    """Return the search path of a request, first one first.

    Raises:
        ConfigError: There is no such config or folder.
    """
    plain = dataclasses.replace(request, overrides=())
    if request.config.endswith(PYTHON):
        from asparagus.compose.python_config import base_of

        plain = base_of(plain)
    return list(source_of(plain).folders)


def with_values(config: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """Return a composed config with values set that are no groups: what composing it anew with them would give.

    Args:
        config: Unresolved, so that what refers to these keys follows; is left as it is.
        values: By dotted key.

    Raises:
        ConfigError: A value cannot stand where its key is.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    changed = copy.deepcopy(config)
    for key, value in values.items():
        try:
            OmegaConf.update(changed, key, value, merge=True, force_add=True)
        except (OmegaConfBaseException, ValueError, IndexError) as error:  # the latter two: of lists
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{key}: {value!r} cannot take the place of what is there: {reason}") from error
    return typed_last(changed, words_of(values))


def _written(key: str, value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return value if BARE.fullmatch(value) else _quoted(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_written(key, part) for part in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{_name(key, name)}:{_written(key, part)}' for name, part in value.items())}}}"
    raise ConfigError(f"{key}: a {type(value).__name__} cannot be written on a command line. Give plain values.")


def _quoted(text: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.single).with_quotes()


def _name(key: str, name: Any) -> str:
    """Return the key of a section as Hydra reads it; there are no quotes for those."""
    from hydra._internal.grammar.utils import escape_special_characters

    if not isinstance(name, str):
        return _written(key, name)
    written = escape_special_characters(name)
    if not BARE.fullmatch(name) and not _reads(written, name):
        raise ConfigError(f"{key}: the key {name!r} cannot be written on a command line. Call it otherwise.")
    return written


def _reads(written: str, name: str) -> bool:
    """Tell whether Hydra reads a key of a section back as it was."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        found: Any = OverridesParser.create().parse_override(f"key={{{written}:0}}").value()
    except HydraException:
        return False
    return bool(found == {name: 0}) and isinstance(next(iter(found)), str)
