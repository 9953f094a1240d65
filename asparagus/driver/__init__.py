"""Plan -> a numbered, recorded run -> Outcome: in this process or on Ray."""

from asparagus.driver.one_run import Outcome, Watcher, drive

__all__ = ["Outcome", "Watcher", "drive"]
