"""How fast a full record answers: `asp runs` and `asp lineage` over thousands of runs, in a file and from a server."""

from __future__ import annotations

import os
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
from pathlib import Path
from typing import Any

from asparagus.record.asked import LIMIT
from benchmarks.commands import BIN, NOTHING, RIVALS, Asked, Failed, environment, timed
from benchmarks.figures import Measured, Row

RUNS, FEW_RUNS, REPEATS = 10_000, 400, 3
PRETRAININGS = 6
"""The runs that begin: number 1 has a tenth of all runs as children, the others share the rest."""
PARAMS, METRICS, POINTS = 60, 8, 3
START_MS = 1_750_000_000_000
START_SERVER_S, LEAVE_S = 300, 60


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
    command: tuple[str, ...]
    where: str
    goal: str = ""
    """One of GOALS."""
    rival: str = ""
    """The name of the case at the same place that it is divided by."""

    @property
    def told(self) -> str:
        """What it is called in the table."""
        return f"{self.name}, {self.where}" if self.where else self.name


FILE, SERVER = "sqlite", "mlflow server"
STOCK = "mlflow.search_runs as documented, as many"


def cases(runs: int) -> list[Case]:
    """Return what is asked, of a file and of a server; MLflow's own way is asked for as many runs as ours shows."""
    leaf = runs - runs % 25 + 2 if runs - runs % 25 + 2 <= runs else runs - 23
    asked = {
        "asp runs": ("runs",),
        "asp runs --metric 'val/loss<0.3' --sort val/loss --reverse": (
            *("runs", "--metric", "val/loss<0.3", "--sort", "val/loss", "--reverse"),
        ),
        f"asp lineage {leaf} (the end of a chain)": ("lineage", str(leaf)),
        f"asp lineage 1 (a pretraining with {runs // 10} children)": ("lineage", "1"),
        "asp lineage 1 --json (every descendant)": ("lineage", "1", "--json"),
    }
    ours = [
        Case(
            name,
            (str(BIN / "asp"), *words),
            where,
            "" if "--json" in words else "answer",
            STOCK if words == ("runs",) else NOTHING,
        )
        for where in (FILE, SERVER)
        for name, words in asked.items()
    ]
    stock = (sys.executable, str(RIVALS / "mlflow_search.py"), str(LIMIT))
    nothing = Case(NOTHING, (sys.executable, "-c", "pass"), "")
    return [nothing, *ours, *(Case(STOCK, stock, where) for where in (FILE, SERVER))]


@contextmanager
def serving(uri: str, folder: Path) -> Iterator[str]:
    """Have an MLflow server with its usual four workers over a store; yields its address."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--port", str(port)]
    alone = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # it starts eight processes that serve nobody
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=alone)
    try:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=LEAVE_S)
        except subprocess.TimeoutExpired:  # on a busy machine; what was measured is not lost for that
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SERVER_S
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as door:
            if door.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise Failed("the MLflow server did not start")


def times_of(uris: dict[str, str], runs: int, repeats: int, home: Path) -> dict[Case, list[float]]:
    """Time every case in turn; turn 0 warms caches and the server's workers, and is not counted."""
    times: dict[Case, list[float]] = {case: [] for case in cases(runs)}
    for turn in range(repeats + 1):
        for case, taken in times.items():
            where = {"MLFLOW_TRACKING_URI": uris[case.where]} if case.where else {}
            seconds, _ = timed(case.command, environment(home, MLFLOW_HTTP_REQUEST_TIMEOUT="60", **where))
            print(f"{f'{turn}/{repeats}' if turn else 'warm-up'}  {case.told:<75} {seconds:6.2f} s", flush=True)
            taken.extend([seconds] if turn else [])
    return times


def rows(times: dict[Case, list[float]]) -> Iterator[Row]:
    """Yield the median of each command, and what is left of it without Python's own start."""
    medians = {case: statistics.median(values) for case, values in times.items()}
    named = {case.told: seconds for case, seconds in medians.items()}
    for case, seconds in medians.items():
        rival = f"{case.rival}, {case.where}" if case.rival == STOCK else case.rival
        ratio = seconds / named[rival] if rival else None
        beyond = {"s beyond python": f"{seconds - named[NOTHING]:.2f}"} if case.name != NOTHING else {}
        yield Row(case.told, seconds, "s", rival, ratio, case.goal, beyond)


def measure(asked: Asked) -> Measured:
    """Fill a store, and ask it."""
    runs, repeats = FEW_RUNS if asked.quick else RUNS, asked.turns(REPEATS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uri = f"sqlite:///{folder}/mlflow.db"
        started = time.monotonic()
        fill(uri, runs, folder / "models")
        print(f"{runs} runs recorded in {time.monotonic() - started:.0f} s", flush=True)
        with serving(uri, folder) as address:
            times = times_of({FILE: uri, SERVER: address}, runs, repeats, folder)
    about = (
        f"{runs:,} runs recorded, each with {PARAMS} params, {METRICS} metrics and about 20 tags; the server runs on "
        f"the same machine, over the same file. Whole commands, medians of {repeats} in turn after one warm-up."
    )
    return Measured(about, tuple(rows(times)))
