"""A plan on its way: to the driver in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asparagus.plan import Plan

if TYPE_CHECKING:
    from asparagus.driver import Outcome, Watcher


def submit(plan: Plan, watcher: Watcher) -> Outcome:
    """Carry out a plan here and wait for it.

    Raises:
        AsparagusError: As `driver.drive` does.
    """
    from asparagus.driver import drive

    return drive(plan, watcher)
