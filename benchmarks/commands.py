"""What the parts share: how they are asked, a home with the digits, and the wall time of a command."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent
RIVALS = Path(__file__).parent / "rivals"
NOTHING = "python -c pass"
TASK, SPLIT = "Task001_Digits", "split_80_20"


@dataclass(frozen=True)
class Asked:
    """What is asked of a part."""

    quick: bool = False
    """One repeat of the smallest size: shows that it works, not how fast."""
    repeats: int | None = None
    """In place of the part's own number."""
    into: Path = Path(__file__).parent
    """Where figures are kept, and pictures drawn."""
    workers: tuple[int, ...] = ()
    """Of scale; empty: its own numbers."""
    hydra_python: str = ""
    """A Python that has Hydra's Optuna sweeper; empty: this one."""

    def words(self) -> str:
        """Return what of it is the same on every machine, as it is typed."""
        repeats = f" --repeats {self.repeats}" if self.repeats else ""
        workers = f" --workers {' '.join(map(str, self.workers))}" if self.workers else ""
        return f"{' --quick' if self.quick else ''}{repeats}{workers}"

    def turns(self, usual: int) -> int:
        """Return how often to measure.

        Args:
            usual: The part's own number.
        """
        return self.repeats or (1 if self.quick else usual)


class Failed(Exception):  # noqa: N818 - what happened, in the words of the report
    """What was to be measured did not work."""


class LeftOut(Exception):  # noqa: N818
    """What cannot be measured on this machine."""


def environment(home: Path, **own: str) -> dict[str, str]:
    """Return the environment of a command that lives in a home of its own.

    It finds compiled code as any second command of a user does, whatever this process was told of writing it.
    """
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "MLFLOW_DISABLE_TELEMETRY": "true"}
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**usual, "ASPARAGUS_HOME": str(home), **quiet, **own}


def with_rivals() -> dict[str, str]:
    """Return the variable by which a worker finds what is defined in `rivals/`."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(RIVALS), os.environ.get("PYTHONPATH", "")]))}


@contextmanager
def digits_home(**own: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield an empty home with the digits in it, split; and the environment of commands that live there."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        inside = environment(home, **own)
        make_digits(inside)
        yield home, inside


def make_digits(inside: Mapping[str, str]) -> None:
    """Put the digits into a home, split."""
    for words in (["data", "make", TASK], ["split", "-t", TASK, "--fn", SPLIT]):
        timed([str(BIN / "asp"), *words], inside)


def timed(
    command: Sequence[str], inside: Mapping[str, str] | None = None, *, cwd: Path | None = None
) -> tuple[float, str]:
    """Return the wall time of a whole process in seconds, and what it printed.

    Raises:
        Failed: It ended with another status than 0.
    """
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=inside, cwd=cwd, check=False)
    seconds = time.monotonic() - started
    if done.returncode:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
    return seconds, done.stdout
