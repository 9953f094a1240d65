"""The override grammar is Hydra's; two things are made easier: values with `=` in them, and keys that are new.

Hydra refuses `trainer.max_time=...` unless it is spelled `+trainer.max_time=...`, and tells a typo to do the same. Our
own checks know which keys exist and which arguments a target takes: every value is set by force here, judged there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from asparagus.errors import ConfigError, one_of
from asparagus.secrets import WRITTEN

SIGNS = ("+", "~")
QUOTED = re.compile(r"""^(?:'.*'|".*"|\[.*\]|\{.*\}|[a-z_]+\(.*\)|.*\$\{.*)$""", re.DOTALL)
SIGNS_WITHIN = re.compile(r"[=<>]")
NESTED = re.compile(r"^[^'\"\[{]*\$\{[^}]*\$\{")
SWEEP = re.compile(
    r"^(?:(?:choice|range|interval|tag|shuffle|sort|glob)\(.*\)|(?:int|float|str|bool)\(.*[,(].*\)|[^'\"\[{(]*,.*)$",
    re.DOTALL,
)
HYDRAS = re.compile(r"[+~]*(hydra(?:[./@].*)?)$")
SCALAR = re.compile(r"[+-]?[\d._]+(?:e[+-]?\d+)?|true|false|nan|inf", re.IGNORECASE)
ALLOWED_OF_HYDRA = ("hydra.searchpath",)


def normalise(overrides: Iterable[str], folders: list[Path]) -> list[str]:
    """Return the overrides as Hydra should see them.

    Args:
        overrides: As typed.
        folders: The search path; a key that is a folder in one of them is a group, and stays as it is.

    Raises:
        ConfigError: Those that are not of the form `key=value` or `~key`, or cannot mean what they say.
    """
    done: list[str] = []
    problems: list[str] = []
    for override in overrides:
        try:
            done.append(_normalise(override, folders))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return done


def key_of(override: str) -> str:
    """Return the key that an override sets, without its signs and its package."""
    return override.partition("=")[0].lstrip("+~").lstrip("/").partition("@")[0].replace("/", ".")


def _normalise(override: str, folders: list[Path]) -> str:
    key, equals, value = override.partition("=")
    if WRITTEN.search(override):
        raise ConfigError(
            f"{key_of(override) if equals else 'override'}: a secret is written here in plain text. Put it into an "
            "environment variable (or .env), and write ${secret:NAME_OF_THE_VARIABLE}."
        )
    if (hydras := HYDRAS.match(key)) and key.lstrip("+") not in ALLOWED_OF_HYDRA:
        raise ConfigError(
            f"{hydras[1]}: is a setting of Hydra's own launcher, which does not run here. Runs have their own folders, "
            "numbers and logs (ASPARAGUS_MODELS, run.name); hydra.searchpath is the one that works."
        )
    if key.startswith("~") and len(key) > 1:
        return override
    if not equals or not key.strip("+"):
        raise ConfigError(
            f"{override!r}: is not an override. Write key=value (trainer.max_epochs=5), ~key to remove one, or give "
            "the CONFIG first and options with two dashes (--dry-run)."
        )
    _must_be_one(override, key, value, folders)
    is_choice = is_group(key, folders) and not value.startswith("{")  # data={_target_: ...} is the section itself
    quoted = f"{key}='{value}'" if is_choice and SCALAR.fullmatch(value) else f"{key}={_quote(value)}"
    if key.startswith(SIGNS) or is_choice or key in ALLOWED_OF_HYDRA:
        return quoted
    return f"++{quoted}"


def _must_be_one(override: str, key: str, value: str, folders: list[Path]) -> None:
    """Refuse what Hydra would take, and do something else with."""
    plain = key.lstrip("+")
    if SWEEP.match(value):
        raise ConfigError(
            f"{override}: is several values, and one run takes one. -m searches them, each in a run of its own; else "
            f"quote a text with commas (\"{plain}='a,b'\"), or write a list ({plain}=[a,b])."
        )
    if is_group(key, folders) and value in ("", "null") and plain != "experiment":
        raise ConfigError(f"{override}: {plain} is a group: give one of its options, or ~{plain} to take it out.")
    if "." in plain and (options := _options(plain.replace(".", "/"), folders)) and not value.startswith(("{", "$")):
        with_slashes = plain.replace(".", "/")
        known = one_of(with_slashes, value, options) if value not in options else f"Write {with_slashes}={value}."
        raise ConfigError(f"{plain}: is a group, and groups are chosen with slashes. {known}")


def _quote(value: str) -> str:
    """Quote a value that holds `=`, `<`, `>` (epoch=4-step=25.ckpt) or `${...${`, unless it is quoted already."""
    if not NESTED.match(value) and (not SIGNS_WITHIN.search(value) or QUOTED.match(value)):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def is_group(key: str, folders: Iterable[Path]) -> bool:
    """Tell whether a key chooses among files: one is a folder of the search path.

    Args:
        key: As typed, `+module/optimizer@module.second` too.
        folders: The search path.
    """
    group = _group(key)
    return "." not in group and any((folder / group).is_dir() for folder in folders)


def options_of(key: str, folders: Iterable[Path]) -> list[str]:
    """Return the options of a group, without those in folders below it; nothing for a key that is none."""
    return _options(_group(key), folders) if is_group(key, folders) else []


def is_option(key: str, option: str, folders: Iterable[Path]) -> bool:
    """Tell whether a group has an option, `left_right_ovary/robust` too."""
    return any((folder / _group(key) / f"{option}.yaml").is_file() for folder in folders)


def _group(key: str) -> str:
    return key.lstrip("+").lstrip("/").partition("@")[0]


def _options(group: str, folders: Iterable[Path]) -> list[str]:
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
