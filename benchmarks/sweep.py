"""What a sweep costs a trial: the digits training, its learning rate searched by TPE, by the stock ways and by ours.

python benchmarks/sweep.py    all of them; writes into benchmarks/RESULTS.md. With --only, what it prints is all.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from report import report

BIN = Path(sys.executable).parent
RIVALS = Path(__file__).parent / "rivals"
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
PACKAGES = ("asparagus", "ray", "optuna", "torch", "pytorch-lightning", "mlflow", "hydra-core")
SWEEPER = "hydra-optuna-sweeper"
RATE = "tag(log,interval(1e-4,1e-1))"
LEARNED = 0.9
"""The accuracy that the best of a few trials reaches: less, and it was not the same work."""
GOAL_S, GOAL_RATIO = 0.6, 20


@dataclass(frozen=True)
class Way:
    """One way to sweep."""

    name: str
    key: str
    at_a_time: int
    command: tuple[str, ...]
    """With {} for the number of trials."""
    expensive: bool = False
    """Of so many seconds a trial that few have to do."""


def ways(hydra_python: str) -> list[Way]:
    def script(name: str, *arguments: str, python: str = sys.executable) -> tuple[str, ...]:
        return (python, str(RIVALS / name), *arguments)

    hydra = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials={}", "hydra.sweeper.n_jobs=1", f"lr={RATE}")
    hydra += ("hydra.sweeper.direction=maximize", "hydra.sweep.dir=sweep")
    ours = (str(BIN / "asp-launch"), "experiment/digits", "-m", f"optim.lr={RATE}", "sweep.trials={}")
    ours += ("sweep.concurrency=2", "sweep.sampler=tpe", "resources=one_worker")
    ours += ("run.resume=false", "sweep.resume=false", "--json")
    return [
        Way("Optuna alone, one process", "optuna", 1, script("optuna_alone.py", "{}", "1")),
        Way("Optuna alone, two processes that share a journal", "optuna", 2, script("optuna_alone.py", "{}", "2")),
        Way(
            "Hydra's Optuna sweeper, default launcher",
            "hydra",
            1,
            script("hydra_sweeper.py", "-m", *hydra, python=hydra_python),
        ),
        Way("asp-launch -m", "ours", 2, ours),
        Way("Ray Tune + TorchTrainer as documented", "tune", 2, script("tune_documented.py", "{}"), expensive=True),
    ]


def trials_and_best(way: Way, printed: str) -> tuple[int, float]:
    """Return how many trials a sweep finished, and the best accuracy, from what it printed."""
    if way.key != "ours":
        told = re.findall(r"^trials (\d+) accuracy (\S+)", printed, re.MULTILINE)
        return int(told[-1][0]), max(float(accuracy) for _, accuracy in told)
    answer = json.loads(printed.strip().splitlines()[-1])
    finished = [trial for trial in answer["trials"] if trial["state"] == "finished"]
    return len(finished), max(trial["metrics"]["val/accuracy"] for trial in finished)


def sweep(way: Way, trials: int, environment: dict[str, str], folder: Path) -> float:
    """Return how long a sweep of so many trials took, in seconds."""
    command = [word.format(trials) if "{}" in word else word for word in way.command]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    seconds = time.monotonic() - started
    if done.returncode:
        sys.exit(f"{way.name} failed:\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
    finished, best = trials_and_best(way, done.stdout)
    if finished != trials or best < LEARNED:
        sys.exit(f"{way.name}: {finished} of {trials} trials finished, the best with {best}:\n{done.stdout[-4000:]}")
    print(f"{way.name:<50} {trials:>4} trials {seconds:8.2f} s", flush=True)
    return seconds


def why_no_sweeper() -> str:
    """Return why Hydra's Optuna sweeper cannot be installed beside us, in pip's words; empty if it can."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--disable-pip-version-check", SWEEPER]
    done = subprocess.run([*command, "-c", str(CONSTRAINTS)], capture_output=True, text=True, check=False)
    found = re.findall(rf"{SWEEPER} \S+ depends on .*", done.stdout + done.stderr)
    return "" if not done.returncode else (found or ["pip could not resolve it"])[0].strip()


def has_sweeper(python: str) -> str:
    """Return the version of Hydra's Optuna sweeper in an environment, and what it came with; empty if it is not."""
    asked = (
        "from importlib.metadata import version; "
        f"print('{SWEEPER}', version('{SWEEPER}'), 'and optuna', version('optuna'))"
    )
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
    return "" if done.returncode else done.stdout.strip()


def measure(chosen: list[Way], options: argparse.Namespace, home: Path) -> dict[Way, tuple[int, float, float]]:
    """Return of each way its larger number of trials, and the seconds per trial: all in, and those of one more."""
    environment = {**os.environ, "ASPARAGUS_HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_TRAIN_V2_ENABLED": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    if any(way.key == "ours" for way in chosen):
        for words in (["data", "make", "Task001_Digits"], ["split", "-t", "Task001_Digits", "--fn", "split_80_20"]):
            subprocess.run([str(BIN / "asp"), *words], env=environment, check=True, capture_output=True)
    figures: dict[Way, list[tuple[float, float]]] = {way: [] for way in chosen}
    for _ in range(options.repeats):
        for way in chosen:
            few, many = options.expensive_trials if way.expensive else options.trials
            short, long = (sweep(way, trials, environment, home) for trials in (few, many))
            figures[way].append((long / many, (long - short) / (many - few)))
    return {
        way: (
            (options.expensive_trials if way.expensive else options.trials)[1],
            statistics.median(whole for whole, _ in taken),
            statistics.median(steady for _, steady in taken),
        )
        for way, taken in figures.items()
    }


def table(figures: dict[Way, tuple[int, float, float]], remarks: list[str]) -> list[str]:
    """Return the rows of the report."""
    ours = next((steady for way, (_, _, steady) in figures.items() if way.key == "ours"), None)
    rows = ["| what | at a time | trials | s per trial, all in | s per trial, steady | over ours | goal |"]
    rows.append("|---|---|---|---|---|---|---|")
    for way, (trials, whole, steady) in figures.items():
        ratio = f"{steady / ours:.2f}x" if ours else ""
        goal = {"ours": f"<= {GOAL_S} s", "tune": f">= {GOAL_RATIO}x"}.get(way.key, "")
        rows.append(f"| {way.name} | {way.at_a_time} | {trials} | {whole:.2f} | {steady:.2f} | {ratio} | {goal} |")
    return rows + [line for remark in remarks for line in ("", remark)]


def main(options: argparse.Namespace) -> None:
    python = options.hydra_python or sys.executable
    chosen = [way for way in ways(python) if not options.only or way.key in options.only]
    remarks = []
    if any(way.key == "hydra" for way in chosen):
        found, reason = has_sweeper(python), why_no_sweeper()
        if reason:
            remarks.append(f"{SWEEPER} does not install beside us: {reason}.")
        if found:
            remarks.append(f"Hydra's sweeper was measured with {found}{', elsewhere' if options.hydra_python else ''}.")
        else:
            remarks.append("Hydra's sweeper was not measured.")
            chosen = [way for way in chosen if way.key != "hydra"]
    with tempfile.TemporaryDirectory() as folder:
        rows = table(measure(chosen, options, Path(folder)), remarks)
    if options.only:
        print("\n".join(rows))
        return
    (few, many), (first, last) = options.trials, options.expensive_trials
    about = (
        "The digits training (5 epochs of 23 steps) for each trial, its learning rate searched by TPE. All in: of the "
        f"whole command. Steady: what one more trial takes, from sweeps of {few} and {many} trials ({first} and {last} "
        f"of Ray's, which take long); medians of {options.repeats}. Optuna and Hydra train and record nothing; Ray "
        "keeps a checkpoint of each epoch; ours records all that a run alone does."
    )
    report("What a sweep costs a trial", "python benchmarks/sweep.py", about, PACKAGES, rows)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("optuna", "tune", "hydra", "ours"), help="these, not reported")
    parser.add_argument("--trials", nargs=2, type=int, default=(8, 40), metavar=("FEW", "MANY"))
    parser.add_argument("--expensive-trials", nargs=2, type=int, default=(2, 6), metavar=("FEW", "MANY"))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--hydra-python", help=f"a Python that has {SWEEPER}, torch and pytorch-lightning")
    return parser.parse_args()


if __name__ == "__main__":
    main(parsed())
