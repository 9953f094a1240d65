"""Where a process's time goes: each lap books what has passed since the last one to a phase of the launch."""

from __future__ import annotations

import os
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

TIMING = "timing"
"""The kind of the journal's events that tell of it."""
LAUNCH, PLACING, TRAINING, END = "launch", "placing", "training", "end"
"""Who tells (`by`): the driver before the training; rank 0 of how it was placed, and of itself; the driver after."""


class Phase(StrEnum):
    """What the time of a launch goes into, in the order in which it comes first."""

    COMPOSE = "compose"
    CHECK = "check"
    RAY = "ray"
    RECORD = "record"
    LOST = "lost"
    WORKERS = "workers"
    IMPORTS = "imports"
    DATA = "data"
    MODEL = "model"
    SCRIPT = "script"
    FIRST_STEP = "first step"
    STEPS = "steps"
    LOADING = "loading"
    VALIDATION = "validation"
    CHECKPOINTS = "checkpoints"
    CALLBACKS = "callbacks"
    SWEEP = "sweep"
    TEST = "test"
    END = "end"


ABOUT = {
    Phase.COMPOSE: "Python's start, the experiment from its files",
    Phase.CHECK: "keys, data, parent, an identical run",
    Phase.RAY: "starting a Ray, or joining one",
    Phase.RECORD: "number, folder, the MLflow run",
    Phase.LOST: "broken off by a failure, until somebody began anew",
    Phase.WORKERS: "placing them, starting their processes, meeting",
    Phase.IMPORTS: "torch, Lightning, code of one's own",
    Phase.DATA: "data module and loaders, the first batch",
    Phase.MODEL: "network, weights, Trainer, the state to resume",
    Phase.SCRIPT: "a script of one's own, outside of the Trainer",
    Phase.FIRST_STEP: "with what is compiled and allocated once",
    Phase.STEPS: "forward, backward, optimizer",
    Phase.LOADING: "between steps: the next batch, logging",
    Phase.VALIDATION: "with its sanity check and its loaders",
    Phase.CHECKPOINTS: "writing, sealing, tidying",
    Phase.CALLBACKS: "what else runs at an epoch's end; figures",
    Phase.SWEEP: "waiting for the sweep's word",
    Phase.TEST: "of the best checkpoint",
    Phase.END: "taking all down, recording",
}
"""Each phase in a few words."""


class Stopwatch:
    """Books time in memory: a lap costs less than a microsecond, so each step may have one.

    Durations are monotonic: they add up to what has passed in this process, and nothing that somebody does to the
    clock changes them. `began` and `ended`, between which they lie, are by the wall clock, which is what joins the
    accounts of several processes: what lies between two of them is known as well as their machines' clocks agree.

    Args:
        age: Seconds that have passed already.
    """

    def __init__(self, age: float = 0.0) -> None:
        self.start(age)

    def start(self, age: float = 0.0) -> None:
        """Begin anew, and forget what was booked."""
        self._last = self._told = time.monotonic() - age
        self.began = time.time() - age
        self._booked: dict[str, float] = {}

    def lap(self, phase: Phase) -> float:
        """Book the time since the last lap; returns the seconds of which nobody has been told."""
        now = time.monotonic()
        self._booked[phase] = self._booked.get(phase, 0.0) + now - self._last
        self._last = now
        return now - self._told

    def tell(self) -> dict[str, Any]:
        """Return what was booked since it was last told, as fields of an event: `began`, `ended`, `phases`."""
        ended = time.time() - (time.monotonic() - self._last)
        told = {
            "began": self.began,
            "ended": ended,
            "phases": {str(phase): round(seconds, 6) for phase, seconds in self._booked.items()},
        }
        self.began, self._told, self._booked = ended, self._last, {}
        return told


def age_of_process() -> float:
    """Return the seconds since this process was started, to a hundredth; 0 where the system does not tell."""
    try:
        after_name = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2]
        started = int(after_name.split()[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, AttributeError, ValueError, IndexError):  # there is no Linux
        return 0.0


WATCH = Stopwatch(age_of_process())
"""This process's own, from its start: it carries out one launch, or trains one run, at a time."""
