"""Secrets: they stay in the environment, configs carry their names, and what is written down shows neither.

A secret is `${secret:NAME}`, or `${oc.env:NAME}` where NAME is called like one (`WANDB_API_KEY`, `DB_PASSWORD`). Both
stay as they are written in the spec, the plan, the record and the run folder; who needs the value reads it there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from asparagus.errors import ConfigError

NAMED_LIKE_ONE = re.compile(
    r"secret|passw(or)?d|passphrase|credential|api_?key|access_?key|private_?key|(^|_)(key|token|pwd|auth)($|_)",
    re.IGNORECASE,
)
REFERENCE = re.compile(r"\$\{\s*(?:oc\.env|secret)\s*:\s*([A-Za-z_]\w*)\s*(?:,([^}]*))?\}")
"""`${secret:NAME}` or `${oc.env:NAME,default}`, as a spec carries it."""
LITERAL = "secret:"
"""A value that begins so is a secret that somebody wrote into a file."""
HIDDEN = "***"
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
        yield from (match[1] for match in REFERENCE.finditer(values))


def defaults(values: Any) -> set[str]:
    """Return the names among `references` for which a default is given."""
    return {match[1] for match in REFERENCE.finditer(str(values)) if match[2] is not None}


def reveal(values: Any) -> Any:
    """Return the values with every reference replaced by what the environment says.

    Raises:
        ConfigError: A variable is not set, and has no default.
    """
    if isinstance(values, Mapping):
        return {key: reveal(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [reveal(value) for value in values]
    return REFERENCE.sub(_value, values) if isinstance(values, str) else values


def hide(text: str, names: set[str]) -> str:
    """Return a text with the values of these environment variables replaced by `***`."""
    for name in names:
        value = os.environ.get(name, "")
        if len(value) >= SHORTEST:
            text = text.replace(value, HIDDEN)
    return text


def _value(match: re.Match[str]) -> str:
    name, default = match[1], match[2]
    value = os.environ.get(name, default)
    if value is None:
        raise ConfigError(f"environment variable {name} is not set here, and the experiment needs it as a secret.")
    return value
