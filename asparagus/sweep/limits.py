"""What ends a sweep before its last trial: caps on time, GPU hours, disk and failures, no progress, and the user."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from asparagus.checkpoint.removal import size_of

CAPPED, INTERRUPTED, HOPELESS = "capped", "interrupted", "hopeless"
DISK_S = 5.0
"""How often the disk is looked at."""


@dataclass
class Limits:
    """When it is enough.

    Args:
        seconds: Of running, over all launches.
        gpu_seconds: Of all GPUs together, over all launches.
        disk_bytes: That the runs may take.
        patience: Trials without a better one.
        max_failures: Trials that failed by themselves.
        spent: Seconds, and GPU seconds, that earlier launches took.
        gpus: Of one trial.
        clock: Seconds.
    """

    seconds: float | None = None
    gpu_seconds: float | None = None
    disk_bytes: int | None = None
    patience: int | None = None
    max_failures: int | None = None
    spent: tuple[float, float] = (0.0, 0.0)
    gpus: float = 0.0
    clock: Callable[[], float] = time.monotonic
    started: float = field(init=False)
    reason: str | None = None
    """Why it ends; None while it goes on."""
    kind: str | None = None
    _looked: float = field(default=-DISK_S, init=False)
    _at_once: int = field(default=0, init=False)
    _since: float = field(init=False)
    _gpu_seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        """Start the clock."""
        self.started = self._since = self.clock()

    def running(self, trials: int) -> None:
        """Take note of how many trials are being trained from now on: each has its GPUs."""
        self._gpu_seconds, self._since, self._at_once = self._gpu_seconds_now(), self.clock(), trials

    def _gpu_seconds_now(self) -> float:
        return self._gpu_seconds + (self.clock() - self._since) * self._at_once * self.gpus

    def used(self) -> tuple[float, float]:
        """Return the seconds, and the GPU seconds, of all launches so far."""
        return self.spent[0] + self.clock() - self.started, self.spent[1] + self._gpu_seconds_now()

    def look(self, folders: Callable[[], Iterable[Path]]) -> None:
        """See whether time or disk are used up.

        Args:
            folders: Returns those of its runs; called when the disk is looked at.
        """
        seconds, gpu_seconds = self.used()
        if self.seconds is not None and seconds >= self.seconds:
            self.end(CAPPED, f"sweep.time: {seconds:.0f} s of {self.seconds:.0f} s are used")
        if self.gpu_seconds is not None and gpu_seconds >= self.gpu_seconds:
            self.end(
                CAPPED, f"sweep.gpu_hours: {gpu_seconds / 3600:.2f} of {self.gpu_seconds / 3600:.2f} hours are used"
            )
        if self.disk_bytes is not None and self.clock() - self._looked >= DISK_S:
            self._looked = self.clock()
            taken = sum(map(size_of, folders()))
            if taken >= self.disk_bytes:
                self.end(CAPPED, f"sweep.disk: the runs take {taken / 1e9:.2f} GB of {self.disk_bytes / 1e9:.2f} GB")

    def count(self, *, failures: int, without_better: int) -> None:
        """See whether it is hopeless, or gets no better."""
        if self.max_failures is not None and failures >= self.max_failures:
            self.end(HOPELESS, f"sweep.max_failures: {failures} trials have failed by themselves")
        if self.patience is not None and without_better >= self.patience:
            self.end(CAPPED, f"sweep.patience: {without_better} trials without a better one")

    def end(self, kind: str, reason: str) -> None:
        """End it; the first reason counts."""
        if self.reason is None:
            self.kind, self.reason = kind, reason
