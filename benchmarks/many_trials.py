"""Whether a long sweep grows: memory, time and CPU time per trial over a thousand trials.

Of real runs of the least training there is, or of study, proposals and Tune alone, whose trials train nothing.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.commands import BIN, Asked, Failed, environment, make_digits, timed
from benchmarks.figures import Measured, Row

TRIALS, FEW_TRIALS = 1000, 200
LEAST = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1")
"""One step, one batch of validation, one checkpoint: all of a run, and hardly any training."""
COMMAND = ("experiment/digits", "-m", "optim.lr=tag(log,interval(1e-4,1e-1))", "sweep.concurrency=2")
PROCESSES = {
    "driver": r"asp-launch",
    "desk": r"ray::Desk",
    "trial workers, the largest": r"ray::(\w*Inner|Trial)",
    "Ray's control store": r"gcs_server",
}
"""What is looked at: name -> what its command line has in it."""
DRIVER = "driver"
LOOK_S = 1.0
ROUND = 50
"""Trials in one figure of time."""


@dataclass
class Taken:
    """What a sweep was seen to take."""

    ends: list[float] = field(default_factory=list)
    """When each trial was over."""
    memory: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    """When, and the resident bytes of each of `PROCESSES`."""
    work: list[tuple[float, float]] = field(default_factory=list)
    """When, and the seconds of CPU time that all of its processes have had."""
    seconds: float = 0.0

    def paces(self) -> list[tuple[int, float]]:
        """Return after how many trials the last `ROUND` took how many seconds each."""
        return _per_trial(self.ends)

    def efforts(self) -> list[tuple[int, float]]:
        """Return after how many trials the last `ROUND` took how many seconds of CPU time each."""
        return _per_trial(list(np.interp(self.ends, *zip(*self.work, strict=True))))

    def sizes(self, name: str) -> list[tuple[int, float]]:
        """Return after how many trials a process had how many MB."""
        over = [(sum(end <= at for end in self.ends), found.get(name, 0) / 1e6) for at, found in self.memory]
        return [(trials, size) for trials, size in over if trials and size]


def _per_trial(totals: list[float]) -> list[tuple[int, float]]:
    return [
        (place, (totals[place - 1] - totals[place - ROUND - 1]) / ROUND)
        for place in range(2 * ROUND, len(totals) + 1, ROUND)
    ]


def below(pid: int) -> list[int]:
    """Return a process and all that it started."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def resident(pid: int) -> dict[str, int]:
    """Return the resident bytes of what is looked at, the largest of each."""
    found: dict[str, int] = {}
    for one in below(pid):
        try:
            command = Path(f"/proc/{one}/cmdline").read_text().replace("\0", " ")
            size = resident_of(one)
        except OSError:
            continue
        for name, pattern in PROCESSES.items():
            if re.search(pattern, command) and (name != DRIVER or one == pid):
                found[name] = max(found.get(name, 0), size)
    return found


def resident_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> dict[int, float]:
    """Return the CPU time that a process, and each one below it, has had."""
    found = {}
    for one in below(pid):
        try:
            ticks = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[11:13]
        except OSError:
            continue
        found[one] = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return found


def sweep(trials: int, words: list[str], home: Path) -> Taken:
    """Carry out a sweep, and look at it every second."""
    command = [str(BIN / "asp-launch"), *COMMAND, *LEAST, "resources=one_worker", f"sweep.trials={trials}", *words]
    inside = environment(home)
    make_digits(inside)
    taken, began, worked = Taken(), time.monotonic(), dict[int, float]()
    with (home / "launch.log").open("w") as log:
        process = subprocess.Popen([*command, "--json"], stdout=log, stderr=log, env=inside, cwd=home)
        while process.poll() is None:
            taken.memory.append((time.time(), resident(process.pid)))
            worked |= cpu_seconds(process.pid)  # who has ended has still worked
            taken.work.append((time.time(), sum(worked.values())))
            time.sleep(LOOK_S)
    taken.seconds = time.monotonic() - began
    told = (home / "launch.log").read_text()
    if process.returncode:
        raise Failed(f"the sweep failed:\n{told[-4000:]}")
    states = [trial["state"] for trial in json.loads(told.strip().splitlines()[-1])["trials"]]
    if states != ["finished"] * trials:
        raise Failed(f"{states.count('finished')} of {trials} trials finished")
    journal = next((home / "models").glob("*/sweep/*/journal.jsonl"))
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    taken.ends = [event["time"] for event in events if event["kind"] == "trial_over"]
    return taken


def searched(trials: int) -> Taken:
    """Carry out such a search in a process of its own."""
    began = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.search_alone", str(trials)]
    with tempfile.TemporaryDirectory() as home:
        _, printed = timed(command, environment(Path(home)))
    seen = json.loads(printed.strip().splitlines()[-1])
    taken = Taken(ends=[at for at, _, _ in seen], seconds=time.monotonic() - began)
    taken.work = [(at, worked) for at, worked, _ in seen]
    taken.memory = [(at, {DRIVER: size}) for at, _, size in seen]
    return taken


def quarters(points: list[tuple[int, float]]) -> tuple[float, float]:
    """Return the medians of the second quarter of the trials, when all is warm, and of the last one."""
    last = points[-1][0]
    parts = ((last / 4, last / 2), (3 * last / 4, last))
    first, end = (statistics.median(value for at, value in points if low < at <= high) for low, high in parts)
    return first, end


def draw(taken: Taken, file: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name in PROCESSES:
        if points := taken.sizes(name):
            left.plot(*zip(*points, strict=True), label=name)
    left.set(xlabel="trials that are over", ylabel="resident memory (MB)", ylim=(0, None))
    left.legend(fontsize=8)
    right.plot(*zip(*taken.paces(), strict=True), marker=".", label="wall time")
    right.plot(*zip(*taken.efforts(), strict=True), marker=".", label="CPU time of all processes")
    right.set(xlabel="trials that are over", ylabel=f"seconds per trial, the last {ROUND}", ylim=(0, None))
    right.legend(fontsize=8)
    figure.savefig(file, dpi=110)


def rows(taken: Taken) -> Iterator[Row]:
    """Yield what the last quarter of the trials took, over the second one."""
    figures = {"per trial": ("s", taken.paces()), "CPU time per trial": ("s", taken.efforts())}
    figures |= {f"memory, {name}": ("MB", taken.sizes(name)) for name in PROCESSES}
    for name, (unit, points) in figures.items():
        if points:
            first, last = quarters(points)
            yield Row(f"{name}, the last quarter", last, unit, f"{name}, the second quarter", last / first)
            yield Row(f"{name}, the second quarter", first, unit)


def reported(taken: Taken, trials: int, what: str, picture: Path) -> Measured:
    """Draw, and return the figures with what they are of."""
    draw(taken, picture)
    about = (
        f"{trials} trials ({what}) in {taken.seconds:.0f} s, all in. Medians over the quarters of the trials; CPU time "
        f"does not tell how busy the machine was besides. ![figures]({picture.name})"
    )
    return Measured(about, tuple(rows(taken)))


def measure(asked: Asked) -> Measured:
    """Search alone."""
    trials = FEW_TRIALS if asked.quick else TRIALS
    what = "TPE, ASHA and Tune, two at a time; nothing is trained"
    return reported(searched(trials), trials, what, asked.into / "many_trials_search.png")


def measure_real(asked: Asked) -> Measured:
    """Sweep with real runs."""
    trials = FEW_TRIALS if asked.quick else TRIALS
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        taken = sweep(trials, [], Path(name))
    what = "one step each, TPE, two at a time, everything recorded"
    return reported(taken, trials, what, asked.into / "many_trials.png")
