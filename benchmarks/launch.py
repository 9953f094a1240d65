"""What a launch costs: the digits training through the launcher, side by side with what a user would write instead.

python benchmarks/launch.py [REPEATS]    prints the medians and ratios and writes benchmarks/RESULTS.md
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from report import report

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
RIVALS = HERE / "rivals"
PACKAGES = ("asparagus", "ray", "torch", "pytorch-lightning", "mlflow", "hydra-core")
STALL_GOAL_S = 0.1


@dataclass(frozen=True)
class Case:
    """One way to train the digits, or one command."""

    name: str
    command: list[str]
    over: str = ""
    """The case that its time is divided by."""
    goal: str = ""


def digits(*overrides: str) -> list[str]:
    return [str(BIN / "asp-launch"), "experiment/digits", "run.resume=false", *overrides]


def script(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(RIVALS / name), *arguments]


PLAIN, RAY_1, RAY_2 = (
    "plain Lightning script",
    "Ray Train as documented, 1 worker",
    "Ray Train as documented, 2 workers",
)
NOTHING = "python -c pass"
OURS_1 = "asp-launch, 1 Ray worker"
CASES = (
    Case(PLAIN, script("plain_lightning.py")),
    Case("asp-launch, in-process", digits(), PLAIN, "<= 1.3x"),
    Case(OURS_1, digits("resources=one_worker"), PLAIN, "<= 2.5x"),
    Case("asp-launch, 2 Ray workers", digits("resources=two_workers"), PLAIN, "<= 2.5x"),
    Case(RAY_1, script("ray_documented.py", "1"), PLAIN),
    Case(NOTHING, [sys.executable, "-c", "pass"]),
    Case("plain Hydra composition", script("plain_hydra.py")),
    Case("asp-launch --help", [str(BIN / "asp-launch"), "--help"], NOTHING, "<= 0.25 s"),
    Case("asp-launch --dry-run", digits("--dry-run"), "plain Hydra composition", "<= 0.8 s"),
)


def run(case: Case, environment: dict[str, str]) -> tuple[float, str]:
    """Return the wall time of a case in seconds and what it printed."""
    started = time.monotonic()
    done = subprocess.run(case.command, capture_output=True, text=True, env=environment, check=False)
    seconds = time.monotonic() - started
    if done.returncode:
        sys.exit(f"{case.name} failed:\n{done.stdout}\n{done.stderr}")
    return seconds, done.stdout


def our_stalls(home: Path) -> list[float]:
    """Return how long each checkpoint of our runs on Ray held the training up beyond writing it."""
    stalls = []
    journals = sorted(
        home.glob("models/Task001_Digits/train_cls/*/journal.jsonl"), key=lambda file: file.stat().st_mtime
    )
    ours = [journal for journal in journals if "workers: 1" in (journal.parent / "config.yaml").read_text()]
    for journal in ours[1:]:  # the first is the warm-up's
        events = [json.loads(line) for line in journal.read_text().splitlines()]
        stalls += [event["commit_s"] for event in events if event["kind"] == "checkpoint"]
    return stalls


def main(repeats: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        environment = {
            **os.environ,
            "ASPARAGUS_HOME": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
        }
        for command in (["data", "make", "Task001_Digits"], ["split", "-t", "Task001_Digits", "--fn", "split_80_20"]):
            subprocess.run([str(BIN / "asp"), *command], env=environment, check=True, capture_output=True)
        times: dict[str, list[float]] = {case.name: [] for case in CASES}
        theirs: list[float] = []
        for turn in range(repeats + 1):  # turn 0 warms the file cache and makes the MLflow store; it is not counted
            for case in CASES:
                seconds, printed = run(case, environment)
                print(
                    f"{'warm-up' if turn == 0 else f'{turn}/{repeats}'}  {case.name:<36} {seconds:7.2f} s", flush=True
                )
                if turn:
                    times[case.name].append(seconds)
                if case.name == RAY_1 and turn:
                    theirs += [float(word) for word in printed.partition("stalls")[2].split()]
        rows = table(times, our_stalls(home), theirs)
    about = (
        f"The digits training (5 epochs of 23 steps); whole commands, medians of {repeats} in turn after one warm-up."
    )
    report("What a launch costs", f"python benchmarks/launch.py {repeats}", about, PACKAGES, rows)


def table(times: dict[str, list[float]], ours: list[float], theirs: list[float]) -> list[str]:
    """Return the rows of the report: medians, ratios and goals."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows = ["| what | median s | over | ratio | goal |", "|---|---|---|---|---|"]
    for case in CASES:
        ratio = f"{medians[case.name] / medians[case.over]:.2f}x" if case.over else ""
        rows.append(f"| {case.name} | {medians[case.name]:.2f} | {case.over} | {ratio} | {case.goal} |")
    for name, stalls, goal in (
        ("stall per checkpoint, asp-launch, 1 Ray worker", ours, f"<= {STALL_GOAL_S} s"),
        ("stall per checkpoint, Ray Train as documented", theirs, ""),
    ):
        rows.append(f"| {name} (largest {max(stalls):.3f}) | {statistics.median(stalls):.3f} | | | {goal} |")
    return rows


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
