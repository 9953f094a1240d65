"""Secrets: they stay in the environment, configs carry their names, and what is written down shows neither.

A secret is `${secret:NAME}`, or `${oc.env:NAME}` where NAME is called like one (`WANDB_API_KEY`, `DB_PASSWORD`). Both
stay as they are written in the spec, the plan, the record and the run folder; who needs the value reads it there.
"""

from __future__ import annotations

import json
import logging
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from asparagus.errors import ConfigError

NAMED_LIKE_ONE = re.compile(
    r"secret|passw(or)?d|passphrase|credential|api_?key|access_?key|private_?key|(^|_)(key|token|pwd|pat|auth)($|_)",
    re.IGNORECASE,
)
REFERENCE = re.compile(r"\$\{\s*(?:oc\.env|secret)\s*:\s*([A-Za-z_]\w*)\s*(?:,\s*((?:[^{}]|\$\{[^{}]*\})*?)\s*)?\}")
"""`${secret:NAME}` or `${oc.env:NAME,default}`, as a spec carries it; the default may be such a reference too."""
LITERAL = "secret:"
"""A value that begins so is a secret that somebody wrote into a file."""
WRITTEN = re.compile(r"(?<!\$\{)(?<!\$\{ )(?<![\w.])secret:(?=\S)")
"""Such a value inside a text: an override, or a list of them."""
PASSWORD = re.compile(r"(?<=://)([^:/@\s]*):(?!\d+/)([^\s'\"]+)@|(?<=[?&])(\w*password)=([^&\s'\"]+)")
"""`user:password@` and `?password=...` in a URI."""
NOTHING = "null"
HIDDEN = "***"
LONG_ENOUGH = 8
"""A value that is as long as this is not in a text by chance."""
CARRIED: dict[str, str] = {}
"""Values that came with a job from the machine that submitted it: they go on to the workers, sealed."""
SHORTEST = 4
"""Values shorter than this are not hidden in texts: they would hide half the alphabet."""


def is_secret_name(name: str) -> bool:
    """Tell whether an environment variable is called like a secret."""
    return NAMED_LIKE_ONE.search(name) is not None


def references(values: Any) -> Iterator[str]:
    """Yield the names of all environment variables that a spec's values refer to as secrets."""
    if isinstance(values, Mapping):
        for value in values.values():
            yield from references(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from references(value)
    elif isinstance(values, str):
        for match in REFERENCE.finditer(values):
            yield match[1]
            yield from references(match[2] or "")


def concealed(text: str) -> str:
    """Return a text in which the values of this environment's secrets are references to them."""
    for name, value in os.environ.items():
        if len(value) >= LONG_ENOUGH and value in text and is_secret_name(name):
            text = text.replace(value, f"${{secret:{name}}}")
    return text


def has_password(text: str) -> bool:
    """Tell whether a text holds a URI with a password in it."""
    return PASSWORD.search(text) is not None


def missing(text: str) -> Iterator[str]:
    """Yield the names in a text that are not set here and have no default."""
    for match in REFERENCE.finditer(text):
        if match[1] not in os.environ:
            yield from [match[1]] if match[2] is None else missing(match[2])


def reveal(values: Any) -> Any:
    """Return the values with every reference replaced by what the environment says.

    Raises:
        ConfigError: A variable is not set, and has no default.
    """
    if isinstance(values, Mapping):
        return {key: reveal(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [reveal(value) for value in values]
    if not isinstance(values, str):
        return values
    alone = REFERENCE.fullmatch(values)
    if alone and alone[2] == NOTHING and alone[1] not in os.environ:
        return None
    return REFERENCE.sub(_value, values)


def carry(values: Mapping[str, str]) -> None:
    """Put values that came with a job into this environment, and have them handed on to workers."""
    os.environ.update(values)
    CARRIED.update(values)


def hide(text: str, names: set[str]) -> str:
    """Return a text with the values of these environment variables replaced by `***`, however they are quoted there."""
    shapes = {shape for name in names for shape in _shapes(os.environ.get(name, ""))}
    for shape in sorted(shapes, key=len, reverse=True):  # one may be a part of another
        text = text.replace(shape, HIDDEN)
    return text


def hide_in(values: Any, names: set[str]) -> Any:
    """Return nested values with those of these environment variables hidden in every text."""
    if isinstance(values, Mapping):
        return {key: hide_in(value, names) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [hide_in(value, names) for value in values]
    return hide(values, names) if isinstance(values, str) else values


def without_passwords(text: str) -> str:
    """Return a text with the passwords in its URIs replaced by `***`."""
    return PASSWORD.sub(lambda match: f"{match[3]}={HIDDEN}" if match[3] else f"{match[1]}:{HIDDEN}@", text)


class WithoutSecrets(logging.Formatter):
    """Hides the values of a spec's secrets, whoever says them.

    Args:
        values: The spec's, as written.
    """

    def __init__(self, values: Any) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._names = set(references(values))

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and its traceback if it has one."""
        return hide(super().format(record), self._names)


class Sealed:
    """Values that travel, and do not show themselves: Ray keeps what a training function is given, and displays it."""

    def __init__(self, values: dict[str, str]) -> None:
        self.values = values

    def __repr__(self) -> str:
        return HIDDEN


def _shapes(value: str) -> Iterator[str]:
    """Yield a secret as it may stand in a text: as it is, line by line, escaped, and the password in a URI alone."""
    password = PASSWORD.search(value)
    quoted = (repr(value)[1:-1], json.dumps(value)[1:-1], urllib.parse.quote(value, safe=""))
    inside = [password[2] or password[4]] if password else []
    yield from (shape for shape in (value, *quoted, *value.splitlines(), *inside) if len(shape) >= SHORTEST)


def _value(match: re.Match[str]) -> str:
    name, default = match[1], match[2]
    if name in os.environ:
        return os.environ[name]
    if default is None:
        raise ConfigError(f"environment variable {name} is not set here, and the experiment needs it as a secret.")
    if default[:1] == default[-1:] and default[:1] in ("'", '"'):
        default = default[1:-1].replace(f"\\{default[0]}", default[0])
    return str(reveal(default))
