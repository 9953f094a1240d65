"""What a sweep costs a trial: the digits training, its learning rate searched by TPE, by the stock ways and by ours."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import BIN, RIVALS, Asked, Failed, digits_home, timed
from benchmarks.figures import Measured, Row

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
SWEEPER = "hydra-optuna-sweeper"
RATE = "tag(log,interval(1e-4,1e-1))"
LEARNED = 0.9
"""The accuracy that the best of a few trials reaches: less, and it was not the same work."""
REPEATS = 1
TRIALS, FEW_TRIALS = (8, 40), (2, 4)
"""Two sweeps, whose difference is what one more trial takes."""
EXPENSIVE, FEW_EXPENSIVE = (2, 6), (1, 2)
OURS, STOCK = "asp-launch -m", "Ray Tune + TorchTrainer as documented"


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
        Way(OURS, "ours", 2, ours),
        Way(STOCK, "tune", 2, script("tune_documented.py", "{}"), expensive=True),
    ]


def trials_and_best(way: Way, printed: str) -> tuple[int, float]:
    """Return how many trials a sweep finished, and the best accuracy, from what it printed."""
    if way.key != "ours":
        told = re.findall(r"^trials (\d+) accuracy (\S+)", printed, re.MULTILINE)
        return int(told[-1][0]), max(float(accuracy) for _, accuracy in told)
    answer = json.loads(printed.strip().splitlines()[-1])
    finished = [trial for trial in answer["trials"] if trial["state"] == "finished"]
    return len(finished), max(trial["metrics"]["val/accuracy"] for trial in finished)


def sweep(way: Way, trials: int, environment: dict[str, str], folder: Path) -> tuple[float, int]:
    """Return how long a sweep took, in seconds, and its trials.

    Processes that share a study may train one more each: none sees what the others are about to begin.
    """
    command = [word.format(trials) if "{}" in word else word for word in way.command]
    seconds, printed = timed(command, environment, cwd=folder)
    finished, best = trials_and_best(way, printed)
    if not trials <= finished < trials + way.at_a_time or best < LEARNED:
        raise Failed(f"{way.name}: {finished} of {trials} trials finished, the best with {best}:\n{printed[-4000:]}")
    print(f"{way.name:<50} {finished:>4} trials {seconds:8.2f} s", flush=True)
    return seconds, finished


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


@dataclass(frozen=True)
class Taken:
    """What the trials of one way took."""

    trials: int
    """Of the longer sweep."""
    whole: float
    """Seconds per trial of the whole command."""
    steady: float
    """Seconds that one more trial takes."""


def taken(way: Way, asked: Asked, home: Path, environment: dict[str, str]) -> Taken:
    """Sweep twice, briefly and longer."""
    cheap, expensive = (FEW_TRIALS, FEW_EXPENSIVE) if asked.quick else (TRIALS, EXPENSIVE)
    numbers = expensive if way.expensive else cheap
    (short, few), (long, many) = (sweep(way, trials, environment, home) for trials in numbers)
    return Taken(many, long / many, (long - short) / (many - few))


def rows(found: dict[Way, list[Taken]]) -> Iterator[Row]:
    """Yield the medians of each way, over ours."""
    steady = {way: statistics.median(one.steady for one in each) for way, each in found.items()}
    ours = next(seconds for way, seconds in steady.items() if way.name == OURS)
    goals = {OURS: "trial", STOCK: "trial, stock"}
    for way, each in found.items():
        whole = statistics.median(one.whole for one in each)
        also = {"at a time": str(way.at_a_time), "trials": str(each[0].trials), "s per trial, all in": f"{whole:.2f}"}
        rival = "" if way.name == OURS else OURS
        ratio = steady[way] / ours if rival else None
        yield Row(way.name, steady[way], "s per trial", rival, ratio, goals.get(way.name, ""), also)


def of_hydra(python: str) -> tuple[bool, list[str]]:
    """Return whether Hydra's sweeper can be measured with a Python, and what is to be said about it."""
    found, reason = has_sweeper(python or sys.executable), why_no_sweeper()
    remarks = [f"{SWEEPER} does not install beside us: {reason}."] if reason else []
    told = f"with {found}{', elsewhere' if python else ''}" if found else ""
    return bool(found), [*remarks, f"Hydra's sweeper was {f'measured {told}' if found else 'not measured'}."]


def measure(asked: Asked) -> Measured:
    """Sweep by every way that is here."""
    there, remarks = of_hydra(asked.hydra_python)
    chosen = [way for way in ways(asked.hydra_python or sys.executable) if there or way.key != "hydra"]
    repeats = asked.turns(REPEATS)
    found: dict[Way, list[Taken]] = {way: [] for way in chosen}
    with digits_home(RAY_TRAIN_V2_ENABLED="1") as (home, environment):
        for _ in range(repeats):
            for way in chosen:
                found[way].append(taken(way, asked, home, environment))
    (few, many), (first, last) = (FEW_TRIALS, FEW_EXPENSIVE) if asked.quick else (TRIALS, EXPENSIVE)
    about = (
        "The digits training (5 epochs of 23 steps) for each trial, its learning rate searched by TPE. All in: of the "
        f"whole command. Steady: what one more trial takes, from sweeps of {few} and {many} trials ({first} and {last} "
        f"of Ray's, which take long); medians of {repeats}. Optuna and Hydra train and record nothing; Ray "
        "keeps a checkpoint of each epoch; ours records all that a run alone does."
    )
    return Measured(about, tuple(rows(found)), tuple(remarks))
