"""`asp-launch CONFIG rehearse=kill_worker@step=50`: what a fault costs this training, on a cluster simulated here."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from asparagus.errors import RunError
from asparagus.faults import REHEARSE, faults_of

if TYPE_CHECKING:
    from asparagus.compose import Request

OURS = ("site=", "site.", "paths.models=", "paths.results=")
"""Where it runs is ours to say."""
FOLDER = "rehearsals"
"""In the results folder."""
LOG_LINES = 15


def rehearse(request: Request, *, only_checked: bool, as_json: bool) -> int:
    """Rehearse, print the report and return the exit status: 0 only if the training came through it whole.

    Args:
        request: With what is to break among its overrides.
        only_checked: Print the plan; nothing is started.
        as_json: Print the report as one JSON object.

    Raises:
        ConfigError: The faults, or the experiment, are wrong; nothing was started.
        RunError: Something struck that the training did not come through.
    """
    from asparagus.api import plan_of
    from asparagus.faults.rehearsal import LOG, PLOT, Rehearsal
    from asparagus.paths import get_paths

    named = [word.removeprefix(REHEARSE) for word in request.overrides if word.startswith(REHEARSE)]
    faults = faults_of(",".join(named))
    kept = (word for word in request.overrides if not word.startswith((REHEARSE, *OURS)))
    request = replace(request, overrides=tuple(kept))
    plan = plan_of(request)
    if only_checked:
        print(json.dumps(plan.to_dict()) if as_json else plan.describe())
        return 0
    folder = _new_folder(Path(get_paths().results) / FOLDER)
    say = _clock()
    say(f"rehearsing {plan.spec.stage} of {plan.spec.task}; all that it says: {folder / LOG}")
    report = Rehearsal(plan, _words(request), faults, folder, say).run()
    print(json.dumps(report.to_dict()) if as_json else f"\n{report.describe()}\nplot      {folder / PLOT}")
    if not report.is_good:
        raise RunError(f"the training did not come through it whole.\n{_last_lines(folder / LOG)}")
    return 0


def _clock() -> Callable[[str], None]:
    """Return what says a line, and when."""
    begun = time.monotonic()
    return lambda text: print(f"{time.monotonic() - begun:6.1f} s  {text}", file=sys.stderr, flush=True)


def _words(request: Request) -> Sequence[str]:
    """Return a request as words of a command line."""
    folders = [word for folder in request.config_dirs for word in ("--config-dir", str(folder.absolute()))]
    named = [request.command, "--config-name", request.config] if request.command else [request.config]
    return [*named, *folders, *request.overrides]


def _new_folder(parent: Path) -> Path:
    """Make the next folder: those of earlier rehearsals stay."""
    parent.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name) for path in parent.iterdir() if path.name.isdigit()]
    for number in range(max(numbers, default=0) + 1, sys.maxsize):
        try:
            (parent / str(number)).mkdir()
        except FileExistsError:  # another one began at the same time
            continue
        return parent / str(number)
    raise AssertionError


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([f"The last lines of {log}:", *lines[-LOG_LINES:]])
