"""A plan on its way: to the driver in this process."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from asparagus.plan import Plan

if TYPE_CHECKING:
    from asparagus.driver import Outcome, Watcher
    from asparagus.driver.desk import Planner
    from asparagus.driver.sweep_outcome import SweepOutcome
    from asparagus.sweep_plan import SweepPlan


MB = 1e6
SHOWN = 3


@dataclass(frozen=True)
class Package:
    """What would travel to a cluster: the files of a folder that git does not ignore."""

    sizes: dict[str, int]
    """Path -> bytes."""

    def describe(self) -> str:
        """Return its size, and what makes it large."""
        biggest = sorted(self.sizes.items(), key=lambda item: -item[1])[:SHOWN]
        named = ", ".join(f"{path} {size / MB:.1f} MB" for path, size in biggest if size > MB / 10)
        total = f"{len(self.sizes)} files, {sum(self.sizes.values()) / MB:.1f} MB"
        return f"{total}; biggest: {named}" if named else total


def package(folder: Path) -> Package:
    """Return what of a folder would travel to a cluster."""
    listed = subprocess.run(
        ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        names = [name for name in listed.stdout.decode(errors="replace").split("\0") if name]
    else:  # no repository: everything
        found = (Path(root) / name for root, _, files in os.walk(folder) for name in files)
        names = [str(path.relative_to(folder)) for path in found]
    return Package({name: (folder / name).stat().st_size for name in names if (folder / name).is_file()})


def submit(plan: Plan, watcher: Watcher) -> Outcome:
    """Carry out a plan here and wait for it.

    Raises:
        AsparagusError: As `driver.drive` does.
    """
    from asparagus.driver import drive

    return drive(plan, watcher)


def submit_sweep(plan: SweepPlan, planner: Planner, watcher: Watcher) -> SweepOutcome:
    """Carry out a sweep here and wait for it.

    Raises:
        AsparagusError: As `driver.drive_sweep` does.
    """
    from asparagus.driver.sweep_run import drive_sweep

    return drive_sweep(plan, planner, watcher)
