"""The override grammar is Hydra's; two things are made easier: values with `=` in them, and keys that are new.

Hydra refuses `trainer.max_time=...` unless it is spelled `+trainer.max_time=...`, and tells a typo to do the same. Our
own checks know which keys exist and which arguments a target takes: every value is set by force here, judged there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from asparagus.errors import ConfigError

SIGNS = ("+", "~")
QUOTED = re.compile(r"""^(?:'.*'|".*"|\[.*\]|\{.*\}|[a-z_]+\(.*\)|.*\$\{.*)$""", re.DOTALL)


def normalise(overrides: Iterable[str], folders: list[Path]) -> list[str]:
    """Return the overrides as Hydra should see them.

    Args:
        overrides: As typed.
        folders: The search path; a key that is a folder in one of them is a group, and stays as it is.

    Raises:
        ConfigError: One is not of the form `key=value` or `~key`.
    """
    return [_normalise(override, folders) for override in overrides]


def _normalise(override: str, folders: list[Path]) -> str:
    key, equals, value = override.partition("=")
    if key.startswith("~"):
        return override
    if not equals or not key.strip("+"):
        raise ConfigError(
            f"{override!r}: is not an override. Write key=value (trainer.max_epochs=5), ~key to remove one, or give "
            "the CONFIG first and options with two dashes (--dry-run)."
        )
    quoted = f"{key}={_quote(value)}"
    if _is_group(key, folders) and value in ("", "null"):
        raise ConfigError(
            f"{override}: {key} is a group: give one of its options, or ~{key.lstrip('+')} to take it out."
        )
    if key.startswith(SIGNS) or _is_group(key, folders):
        return quoted
    return f"++{quoted}"


def _quote(value: str) -> str:
    """Quote a value that holds `=`, as in epoch=4-step=25.ckpt, unless it is quoted or structured already."""
    if "=" not in value or QUOTED.match(value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _is_group(key: str, folders: list[Path]) -> bool:
    group = key.lstrip("/").partition("@")[0]
    return "." not in group and any((folder / group).is_dir() for folder in folders)
