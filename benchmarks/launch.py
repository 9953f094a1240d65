"""What a launch costs: the digits training through the launcher, side by side with what a user would write instead."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import BIN, NOTHING, RIVALS, Asked, digits_home, timed
from benchmarks.figures import Measured, Row

REPEATS = 3


@dataclass(frozen=True)
class Case:
    """One way to train the digits, or one command."""

    name: str
    command: list[str]
    over: str = ""
    """The case that its time is divided by."""
    goal: str = ""
    """One of GOALS."""


def digits(*overrides: str) -> list[str]:
    return [str(BIN / "asp-launch"), "experiment/digits", "run.resume=false", *overrides]


def script(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(RIVALS / name), *arguments]


PLAIN, RAY_1 = "plain Lightning script", "Ray Train as documented, 1 worker"
HYDRA = "plain Hydra composition"
OURS_1 = "asp-launch, 1 Ray worker"
CASES = (
    Case(PLAIN, script("plain_lightning.py")),
    Case("asp-launch, in-process", digits(), PLAIN, "launch in-process"),
    Case(OURS_1, digits("resources=one_worker"), PLAIN, "launch on Ray"),
    Case(
        "asp-launch, 1 Ray worker, site=local-warm, second launch",
        digits("resources=one_worker", "site=local-warm"),
        PLAIN,
        "launch on a Ray that stays up",
    ),
    Case("asp-launch, 2 Ray workers", digits("resources=two_workers"), PLAIN, "launch on Ray"),
    Case(RAY_1, script("ray_documented.py", "1"), PLAIN),
    Case(NOTHING, [sys.executable, "-c", "pass"]),
    Case(HYDRA, script("plain_hydra.py")),
    Case("asp-launch --help", [str(BIN / "asp-launch"), "--help"], NOTHING, "help"),
    Case("asp-launch --dry-run", digits("--dry-run"), HYDRA, "dry run"),
)


def our_stalls(home: Path) -> list[list[float]]:
    """Return of each of our runs on one Ray worker how long each checkpoint held it up beyond writing it."""
    journals = home.glob("models/Task001_Digits/train_cls/*/journal.jsonl")
    ours = [journal for journal in journals if "workers: 1" in (journal.parent / "config.yaml").read_text()]
    events = [
        [json.loads(line) for line in journal.read_text().splitlines()]
        for journal in sorted(ours, key=lambda file: file.stat().st_mtime)
    ]
    return [[event["commit_s"] for event in run if event["kind"] == "checkpoint"] for run in events]


def measure(asked: Asked) -> Measured:
    """Time every case in turn; turn 0 warms the file cache and makes the MLflow store, and is not counted."""
    repeats = asked.turns(REPEATS)
    warm_ups = 0 if asked.quick else 1
    times: dict[str, list[float]] = {case.name: [] for case in CASES}
    theirs: list[float] = []
    with digits_home() as (home, environment):
        for turn in range(1 - warm_ups, repeats + 1):
            for case in CASES:
                seconds, printed = timed(case.command, environment)
                print(
                    f"{'warm-up' if turn == 0 else f'{turn}/{repeats}'}  {case.name:<36} {seconds:7.2f} s", flush=True
                )
                if turn:
                    times[case.name].append(seconds)
                if case.name == RAY_1 and turn:
                    theirs += [float(word) for word in printed.partition("stalls")[2].split()]
        ours = [stall for run in our_stalls(home)[warm_ups:] for stall in run]
    about = (
        f"The digits training (5 epochs of 23 steps); whole commands, medians of {repeats} in turn after "
        f"{warm_ups} warm-up."
    )
    return Measured(about, (*rows(times), *stall_rows(ours, theirs)))


def rows(times: dict[str, list[float]]) -> Iterator[Row]:
    """Yield the median of each case."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    for case in CASES:
        ratio = medians[case.name] / medians[case.over] if case.over else None
        yield Row(case.name, medians[case.name], "s", case.over, ratio, case.goal)


def stall_rows(ours: list[float], theirs: list[float]) -> Iterator[Row]:
    """Yield what a reported checkpoint holds the training up for."""
    stock = "stall per checkpoint, Ray Train as documented"
    usual, largest = statistics.median(theirs), "largest, s"
    own = statistics.median(ours)
    name = "stall per checkpoint, asp-launch, 1 Ray worker"
    yield Row(name, own, "s", stock, own / usual, "checkpoint", {largest: f"{max(ours):.3f}"})
    yield Row(stock, usual, "s", also={largest: f"{max(theirs):.3f}"})
