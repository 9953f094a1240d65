"""A plan on its way: to the driver in this process, or to a cluster as a Ray job."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from asparagus.plan import Plan
from asparagus.ray_job import job_id, note_run

if TYPE_CHECKING:
    from asparagus.driver import Outcome, Watcher
    from asparagus.driver.desk import Planner
    from asparagus.driver.sweep_outcome import SweepOutcome
    from asparagus.sweep_plan import SweepPlan

BEGINNINGS = ("run", "sweep")
"""Events that say which number was taken."""


def submit(plan: Plan, watcher: Watcher) -> Outcome:
    """Carry out a plan here and wait for it.

    Raises:
        AsparagusError: As `driver.drive` does.
    """
    from asparagus.driver import drive

    return drive(plan, _noting(watcher))


def submit_sweep(plan: SweepPlan, planner: Planner, watcher: Watcher) -> SweepOutcome:
    """Carry out a sweep here and wait for it.

    Raises:
        AsparagusError: As `driver.drive_sweep` does.
    """
    from asparagus.driver.sweep_run import drive_sweep

    return drive_sweep(plan, planner, _noting(watcher))


def _noting(watcher: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a watcher that also tells the Ray job, where this is one, which run it carries."""
    if job_id() is None:
        return watcher

    def watch(event: Any) -> None:
        if event["kind"] in BEGINNINGS:
            note_run(event["run_id"], event["folder"])
        watcher(event)

    return watch
