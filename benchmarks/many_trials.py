"""Whether a long sweep grows: memory and seconds per trial over a thousand real trials of the least training there is.

python benchmarks/many_trials.py [TRIALS [WORD...]]    writes many_trials.png and RESULTS.md; WORDs are asp-launch's
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
from dataclasses import dataclass, field
from pathlib import Path

BIN = Path(sys.executable).parent
PICTURE = Path(__file__).parent / "many_trials.png"
PACKAGES = ("asparagus", "ray", "optuna", "torch", "pytorch-lightning", "mlflow")
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
    seconds: float = 0.0

    def paces(self) -> list[tuple[int, float]]:
        """Return after how many trials the last `ROUND` took how many seconds each."""
        return [
            (place, (self.ends[place - 1] - self.ends[place - ROUND - 1]) / ROUND)
            for place in range(2 * ROUND, len(self.ends) + 1, ROUND)
        ]

    def sizes(self, name: str) -> list[tuple[int, float]]:
        """Return after how many trials a process had how many MB."""
        over = [(sum(end <= at for end in self.ends), found.get(name, 0) / 1e6) for at, found in self.memory]
        return [(trials, size) for trials, size in over if trials and size]


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
            size = int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
        for name, pattern in PROCESSES.items():
            if re.search(pattern, command) and (name != DRIVER or one == pid):
                found[name] = max(found.get(name, 0), size)
    return found


def sweep(trials: int, words: list[str], home: Path) -> Taken:
    """Carry out a sweep, and look at it every second."""
    command = [str(BIN / "asp-launch"), *COMMAND, *LEAST, "resources=one_worker", f"sweep.trials={trials}", *words]
    environment = {**os.environ, "ASPARAGUS_HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"RAY_AUTH_MODE": "disabled", "MLFLOW_DISABLE_TELEMETRY": "true"}
    for asked in (["data", "make", "Task001_Digits"], ["split", "-t", "Task001_Digits", "--fn", "split_80_20"]):
        subprocess.run([str(BIN / "asp"), *asked], env=environment, check=True, capture_output=True)
    taken, began = Taken(), time.monotonic()
    with (home / "launch.log").open("w") as log:
        process = subprocess.Popen([*command, "--json"], stdout=log, stderr=log, env=environment, cwd=home)
        while process.poll() is None:
            taken.memory.append((time.time(), resident(process.pid)))
            time.sleep(LOOK_S)
    taken.seconds = time.monotonic() - began
    told = (home / "launch.log").read_text()
    if process.returncode:
        sys.exit(f"the sweep failed:\n{told[-4000:]}")
    states = [trial["state"] for trial in json.loads(told.strip().splitlines()[-1])["trials"]]
    if states != ["finished"] * trials:
        sys.exit(f"{states.count('finished')} of {trials} trials finished")
    journal = next((home / "models").glob("*/sweep/*/journal.jsonl"))
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    taken.ends = [event["time"] for event in events if event["kind"] == "trial_over"]
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
    right.plot(*zip(*taken.paces(), strict=True), marker=".")
    right.set(xlabel="trials that are over", ylabel=f"seconds per trial, the last {ROUND}", ylim=(0, None))
    figure.savefig(file, dpi=110)


def table(taken: Taken) -> list[str]:
    rows = ["| what | second quarter | last quarter | ratio |", "|---|---|---|---|"]
    figures = {"seconds per trial": taken.paces()} | {f"MB, {name}": taken.sizes(name) for name in PROCESSES}
    for name, points in figures.items():
        if points:
            first, last = quarters(points)
            rows.append(f"| {name} | {first:.3g} | {last:.3g} | {last / first:.2f}x |")
    return rows


def main(trials: int, words: list[str]) -> None:
    from report import report

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        taken = sweep(trials, words, Path(name))
    draw(taken, PICTURE)
    report(
        "Whether a long sweep grows",
        " ".join(["python benchmarks/many_trials.py", str(trials), *words]),
        f"{trials} trials of one step each (TPE, two at a time, everything recorded) in {taken.seconds:.0f} s, start "
        "and plots included. Medians over the quarters of the trials. ![figures](many_trials.png)",
        PACKAGES,
        table(taken),
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, sys.argv[2:])
