"""What one look found, and the surroundings that are looked at."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from asparagus.paths import get_paths, load_environment
from asparagus.spec import Paths


@dataclass(frozen=True)
class Finding:
    """What one look found."""

    what: str
    state: Literal["ok", "warn", "bad"]
    found: str
    do: str = ""
    """The next step; empty when all is well."""
    mend: Callable[[], str] | None = field(default=None, compare=False, repr=False)
    """Does it, and returns what was done; where `asp doctor --fix` can."""

    def to_dict(self) -> dict[str, str]:
        """Return what `asp doctor --json` prints of it."""
        return {"what": self.what, "state": self.state, "found": self.found, "do": self.do}


@dataclass(frozen=True)
class Surroundings:
    """What the checks look at, read once."""

    env: Mapping[str, str]
    """The environment, with what `.env` adds to it."""
    typed: frozenset[str]
    """The variables that were set before `.env` was read."""
    dotenv: Path | None
    dotenv_problem: str
    paths: Paths


def ok(what: str, found: str) -> Finding:
    """Return that all is well."""
    return Finding(what, "ok", found)


def warn(what: str, found: str, do: str) -> Finding:
    """Return something that may bite."""
    return Finding(what, "warn", found, do)


def bad(what: str, found: str, do: str) -> Finding:
    """Return something that a training would fail on."""
    return Finding(what, "bad", found, do)


def why(error: Exception) -> str:
    """Return an error's own words, without its number."""
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason)


def look_around() -> Surroundings:
    """Read `.env` as every command does, and say what is set and where the folders are."""
    here, problem, typed = Path.cwd(), "", frozenset(os.environ)
    dotenv = next((folder / ".env" for folder in (here, *here.parents) if (folder / ".env").is_file()), None)
    try:
        load_environment()
    except (OSError, ValueError) as error:  # not ours to read, or no text
        problem = str(error)
    env = dict(os.environ)
    filled = {name: value for name, value in env.items() if value}  # an empty one is a finding, not the end
    return Surroundings(env, typed, dotenv, problem, get_paths(filled))
