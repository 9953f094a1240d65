"""How fast a full record answers: `asp runs` and `asp lineage` over thousands of runs, in a file and from a server.

python benchmarks/many_runs.py [RUNS [REPEATS]]    fills a fresh store (default: 10000 runs) and prints the medians
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
PACKAGES = ("asparagus", "mlflow", "SQLAlchemy")
PRETRAININGS = 6
"""The runs that begin: number 1 has a tenth of all runs as children, the others share the rest."""
PARAMS, METRICS, POINTS = 60, 8, 3
START_MS = 1_750_000_000_000
GOAL_S = 1.0
START_SERVER_S = 120


@dataclass(frozen=True)
class Planned:
    """A run to be recorded, and what it comes from."""

    number: int
    stage: str
    task: str
    parent: int | None = None
    rerun_of: int | None = None
    sweep_id: int | None = None


def family(runs: int) -> Iterator[Planned]:
    """Yield runs as a group makes them: a few pretrainings, thousands of finetunings, chains, reruns, a sweep."""
    for number in range(1, min(PRETRAININGS, runs) + 1):
        yield Planned(number, "pretrain", f"Task{900 + number}_Brain")
    for number in range(PRETRAININGS + 1, runs + 1):
        parent = 1 if number % 10 == 0 else 2 + number % (PRETRAININGS - 1)
        if number % 25 in {1, 2} and number > 2 * PRETRAININGS:  # finetuned from a finetuning
            parent = number - 1
        stage, task = ("finetune_seg", "Task010_Lesions") if number % 3 else ("finetune_cls", "Task020_Tumours")
        rerun_of = number - 4 if number % 50 == 17 else None
        sweep_id = number - number % 1000 + 30 if 40 <= number % 1000 < 140 else None
        yield Planned(number, stage, task, parent, rerun_of, sweep_id)


def fill(uri: str, runs: int, models: Path) -> None:
    """Record runs in a fresh store: the rows that MLflow would have written, all at once."""
    import sqlalchemy
    from mlflow.store.tracking.dbmodels import models as tables
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(uri, str(models.parent / "mlartifacts"))
    planned = list(family(runs))
    experiments = {task: int(store.create_experiment(task)) for task in sorted({run.task for run in planned})}
    ids = {run.number: uuid.uuid4().hex for run in planned}
    rows: dict[Any, list[dict[str, Any]]] = {}
    for run in planned:
        folder = f"{models}/{run.task}/{run.stage}/run_id={run.number}"
        made = rows_of(run, ids[run.number], folder=folder, parent_folder=_folder_of(run, planned, models))
        for name, found in made.items():
            rows.setdefault(getattr(tables, name), []).extend(found)
        rows[tables.SqlRun][-1]["experiment_id"] = experiments[run.task]
    with sqlalchemy.create_engine(uri).begin() as connection:
        for table, found in rows.items():
            connection.execute(sqlalchemy.insert(table), found)


def _folder_of(run: Planned, planned: list[Planned], models: Path) -> str:
    if run.parent is None:
        return ""
    parent = planned[run.parent - 1]
    return f"{models}/{parent.task}/{parent.stage}/run_id={parent.number}"


def rows_of(run: Planned, run_uuid: str, *, folder: str, parent_folder: str) -> dict[str, list[dict[str, Any]]]:
    """Return what MLflow's tables hold of one run of ours."""
    started = START_MS + run.number * 60_000
    names = ["val/loss", "train/loss", "epoch", *(f"val/metric_{index}" for index in range(METRICS - 3))]
    values = {name: loss(run.number, place) for place, name in enumerate(names)}
    stamp = {"timestamp": started, "is_nan": False, "run_uuid": run_uuid}
    return {
        "SqlRun": [
            {
                "run_uuid": run_uuid, "name": f"{run.stage}-{run.number}", "source_type": "UNKNOWN", "source_name": "",
                "entry_point_name": "", "user_id": "me", "status": "FINISHED", "start_time": started,
                "end_time": started + 50_000, "source_version": "", "lifecycle_stage": "active",
                "artifact_uri": f"mlflow-artifacts:/1/{run_uuid}/artifacts",
            }
        ],
        "SqlTag": [
            {"key": key, "value": value, "run_uuid": run_uuid}
            for key, value in tags_of(run, folder, parent_folder, values["val/loss"]).items()
        ],
        "SqlParam": [
            {"key": f"section_{index % 8}.setting_{index}", "value": f"value {index}", "run_uuid": run_uuid}
            for index in range(PARAMS)
        ],
        "SqlLatestMetric": [{"key": key, "value": value, "step": 100, **stamp} for key, value in values.items()],
        "SqlMetric": [
            {"key": key, "value": value + step, "step": step, **stamp}
            for key, value in values.items()
            for step in range(POINTS)
        ],
    }  # fmt: skip


def loss(number: int, place: int = 0) -> float:
    """Return what a run measured."""
    return ((number * 7919 + place * 104_729) % 10_000) / 10_000


def tags_of(run: Planned, folder: str, parent_folder: str, best: float) -> dict[str, str]:
    ours = {
        "run_id": run.number, "stage": run.stage, "task": run.task, "folder": folder,
        "state": "failed" if run.number % 20 == 3 else "finished", "version": "0.1.0", "monitor": "val/loss",
        "mode": "min", "best": best, "checkpoint.last": "epoch=9-step=100", "checkpoint.best": "epoch=4-step=50",
        "identity": f"{run.number:064x}", "data.fingerprint": f"{run.number % 7:064x}", "git.dirty": "false",
        "rerun_of": run.rerun_of, "sweep_id": run.sweep_id,
    }  # fmt: skip
    if run.parent is not None:
        checkpoint = {"checkpoint": f"{parent_folder}/checkpoints/epoch=4-step=50", "digest": f"{run.parent:064x}"}
        edge = {"run_id": run.parent, **checkpoint, "step": 50, "model_id": f"m-{run.parent:032x}"}
        ours |= {f"init_from.{key}": value for key, value in edge.items()}
    theirs = {
        "user": "me", "source.name": "asp-launch experiment/lesions", "source.type": "LOCAL",
        "source.git.commit": "0" * 40, "source.git.branch": "main", "runName": f"{run.stage}-{run.number}",
    }  # fmt: skip
    tags = {f"asparagus.{key}": str(value) for key, value in ours.items() if value is not None}
    return tags | {f"mlflow.{key}": value for key, value in theirs.items()}


@dataclass(frozen=True)
class Case:
    """A command, as somebody types it."""

    name: str
    words: tuple[str, ...]
    where: str
    goal: str = f"<= {GOAL_S:g} s over python"


NOTHING = "python -c pass"
FILE, SERVER = "sqlite", "mlflow server"


def cases(runs: int) -> list[Case]:
    leaf = runs - runs % 25 + 2 if runs - runs % 25 + 2 <= runs else runs - 23
    asked = {
        "asp runs": ("runs",),
        "asp runs --metric 'val/loss<0.3' --sort val/loss --reverse": (
            *("runs", "--metric", "val/loss<0.3", "--sort", "val/loss", "--reverse"),
        ),
        f"asp lineage {leaf} (the end of a chain)": ("lineage", str(leaf)),
        f"asp lineage 1 (a pretraining with {runs // 10} children)": ("lineage", "1"),
    }
    every = ("lineage", "1", "--json")
    goals = [Case(name, words, where) for where in (FILE, SERVER) for name, words in asked.items()]
    return [*goals, *(Case("asp lineage 1 --json (every descendant)", every, where, "") for where in (FILE, SERVER))]


@contextmanager
def serving(uri: str, folder: Path) -> Iterator[str]:
    """Have an MLflow server with its usual four workers over a store; yields its address."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--port", str(port)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def _wait_for(port: int) -> None:
    end = time.monotonic() + START_SERVER_S
    while time.monotonic() < end:
        with socket.socket() as door:
            if door.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    sys.exit("the MLflow server did not start")


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """Return the wall time of a whole process."""
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return time.monotonic() - started


def measure(uris: dict[str, str], runs: int, repeats: int, home: Path) -> dict[tuple[str, str], list[float]]:
    """Time every case in turn; turn 0 warms caches and the server's workers, and is not counted."""
    times: dict[tuple[str, str], list[float]] = {}
    plain = {**os.environ, "ASPARAGUS_HOME": str(home), "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
    for turn in range(repeats + 1):
        python = seconds([sys.executable, "-c", "pass"], plain)
        found = {("", NOTHING): python} | {
            (case.where, case.name): seconds(
                [str(BIN / "asp"), *case.words], {**plain, "MLFLOW_TRACKING_URI": uris[case.where]}
            )
            for case in cases(runs)
        }
        for key, value in found.items():
            print(f"{f'{turn}/{repeats}' if turn else 'warm-up'}  {key[0]:<14} {key[1]:<60} {value:6.2f} s", flush=True)
            times.setdefault(key, []).extend([value] if turn else [])
    return times


def table(times: dict[tuple[str, str], list[float]], runs: int, repeats: int) -> str:
    """Return the report: medians, and what is left of them without Python's own start."""
    medians = {key: statistics.median(values) for key, values in times.items()}
    python = medians["", NOTHING]
    rows = ["| what | store | median s | over python -c pass | goal |", "|---|---|---|---|---|"]
    rows += [f"| {NOTHING} |  | {python:.2f} |  |  |"]
    rows += [
        f"| {case.name} | {case.where} | {medians[case.where, case.name]:.2f} "
        f"| {medians[case.where, case.name] - python:.2f} | {case.goal} |"
        for case in cases(runs)
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    cores = len(os.sched_getaffinity(0))
    machine = f"{platform.machine()}, {cores} cores, Python {platform.python_version()}"
    each = f"{PARAMS} params, {METRICS} metrics and about 20 tags"
    head = [
        f"`python benchmarks/many_runs.py {runs} {repeats}` on {datetime.now(UTC):%Y-%m-%d}: {machine}.",
        f"{versions}.",
        f"{runs} runs recorded, each with {each}; the server runs on the same machine, over the same file.",
        f"Whole commands, medians of {repeats} in turn after one warm-up.",
        "",
    ]
    return "\n".join([*head, *rows]) + "\n"


def main(runs: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uri = f"sqlite:///{folder}/mlflow.db"
        started = time.monotonic()
        fill(uri, runs, folder / "models")
        print(f"{runs} runs recorded in {time.monotonic() - started:.0f} s", flush=True)
        with serving(uri, folder) as address:
            times = measure({FILE: uri, SERVER: address}, runs, repeats, folder)
    print(f"\n{table(times, runs, repeats)}")


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(given[0] if given else 10_000, given[1] if len(given) > 1 else 3)
