"""Whether a long sweep grows: memory, time and CPU time per trial over a thousand trials.

python benchmarks/many_trials.py [TRIALS [WORD...]]    real runs of the least training there is; WORDs are asp-launch's
python benchmarks/many_trials.py --search [TRIALS]     study, proposals and Tune alone: a trial that trains nothing

Both write their picture, and their section of RESULTS.md.
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

import numpy as np

BIN = Path(sys.executable).parent
HERE = Path(__file__).parent
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
    environment = {**os.environ, "ASPARAGUS_HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"RAY_AUTH_MODE": "disabled", "MLFLOW_DISABLE_TELEMETRY": "true"}
    for asked in (["data", "make", "Task001_Digits"], ["split", "-t", "Task001_Digits", "--fn", "split_80_20"]):
        subprocess.run([str(BIN / "asp"), *asked], env=environment, check=True, capture_output=True)
    taken, began, worked = Taken(), time.monotonic(), dict[int, float]()
    with (home / "launch.log").open("w") as log:
        process = subprocess.Popen([*command, "--json"], stdout=log, stderr=log, env=environment, cwd=home)
        while process.poll() is None:
            taken.memory.append((time.time(), resident(process.pid)))
            worked |= cpu_seconds(process.pid)  # who has ended has still worked
            taken.work.append((time.time(), sum(worked.values())))
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


def search_alone(trials: int) -> None:  # noqa: C901 - with a trial inside, which needs Tune
    """Carry out a search whose trials train nothing, in this process; prints what was seen as JSON."""
    import ray
    from ray import tune

    from asparagus.space import Dimension, Interval, Space, SweepOptions
    from asparagus.sweep.limits import Limits
    from asparagus.sweep.schedulers import build_scheduler
    from asparagus.sweep.search import Proposals, search
    from asparagus.sweep.study import Study
    from asparagus.sweep.trial import Terms

    class Trivial(tune.Trainable):
        """Measures one number twice, and is over."""

        def setup(self, config: dict) -> None:
            self.reset_config(config)

        def reset_config(self, new_config: dict) -> bool:
            self.rate, self.epochs = new_config["values"]["optim.lr"], 0
            return True

        def step(self) -> dict:
            self.epochs += 1
            value = 1 - (self.rate - 0.01) ** 2
            facts = {"stage": 0, "run_id": 1, "params": json.dumps({"optim.lr": self.rate}), "metrics": "{}"}
            facts |= {"epoch": self.epochs, "value": value, "values": [value]}
            return facts | ({"outcome": "finished", "done": True} if self.epochs > 2 else {})

        def save_checkpoint(self, checkpoint_dir: str) -> None: ...

        def load_checkpoint(self, checkpoint: str) -> None: ...

    seen: list[tuple[float, float, int]] = []

    def tell(event: dict) -> None:
        if event["kind"] == "trial_over":
            seen.append((time.time(), time.process_time(), resident_of(os.getpid())))

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    with tempfile.TemporaryDirectory() as name:
        space = Space((Dimension("optim.lr", Interval(1e-4, 1e-1, log=True)),))
        options = SweepOptions(trials=trials, sampler="tpe", scheduler="asha", mode="max", metric="val/acc")
        study = Study.open(f"sqlite:///{name}/study.db", "sweep-1", space, options, concurrency=2)
        limits = Limits()
        proposals = Proposals(
            study,
            trials=trials,
            concurrency=2,
            limits=limits,
            terms=Terms(sweep_id=1, stages=1, metrics=("val/acc",)),
            attempts=1,
            end_run=lambda *_: None,
            tell=tell,
        )
        search(
            proposals,
            build_scheduler(options, space, epochs=3, modes=(("value", "max"),)),
            trainable=Trivial,
            bundles=[{"CPU": 1}],
            limits=limits,
            look=lambda: None,
            folder=Path(name) / ".tune/attempt1",
            reuse=True,
            pending=1,
        )
        if study.counted() != trials:
            sys.exit(f"{study.counted()} of {trials} trials are over")
    print(json.dumps(seen))


def searched(trials: int) -> Taken:
    """Carry out such a search in a process of its own."""
    began = time.monotonic()
    command = [sys.executable, __file__, "--search-here", str(trials)]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"the search failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    seen = json.loads(done.stdout.strip().splitlines()[-1])
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


def table(taken: Taken) -> list[str]:
    rows = ["| what | second quarter | last quarter | ratio |", "|---|---|---|---|"]
    figures = {"seconds per trial": taken.paces(), "seconds of CPU time per trial": taken.efforts()} | {
        f"MB, {name}": taken.sizes(name) for name in PROCESSES
    }
    for name, points in figures.items():
        if points:
            first, last = quarters(points)
            rows.append(f"| {name} | {first:.3g} | {last:.3g} | {last / first:.2f}x |")
    return rows


def main(words: list[str]) -> None:
    from report import report

    alone = words[:1] == ["--search"]
    trials, *rest = words[1:] if alone else words
    if alone:
        taken, title, what = searched(int(trials)), "Whether a long search grows", "TPE, ASHA and Tune, two at a time"
    else:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            taken = sweep(int(trials), rest, Path(name))
        title, what = "Whether a long sweep grows", "one step each, TPE, two at a time, everything recorded"
    picture = HERE / ("many_trials_search.png" if alone else "many_trials.png")
    draw(taken, picture)
    report(
        title,
        " ".join(["python benchmarks/many_trials.py", *words]),
        f"{trials} trials ({what}) in {taken.seconds:.0f} s, all in. Medians over the quarters of the trials; CPU time "
        f"does not tell how busy the machine was besides. ![figures]({picture.name})",
        PACKAGES,
        table(taken),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--search-here"]:
        search_alone(int(sys.argv[2]))
    else:
        main([*sys.argv[1:], "1000"] if sys.argv[1:] in ([], ["--search"]) else sys.argv[1:])
