"""A small version of `benchmarks/many_runs.py`: the record answers without MLflow, from a file and from a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from benchmarks.many_runs import family, fill
from tests.helpers import mlflow_server

RUNS = 400
AT_MOST_S, AT_MOST_RATIO = 8.0, 100
"""Generous: a busy machine is no failure; an import of MLflow, or a question per run, is."""

WATCHED = """
import json, sys
from asparagus.cli.main import run
status = run(sys.argv[1], sys.argv[2:])
print(json.dumps({"status": status, "mlflow": "mlflow" in sys.modules}))
"""


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    uri = f"sqlite:///{folder}/db"
    fill(uri, RUNS, folder / "models")
    with mlflow_server(folder) as address:
        yield {"sqlite": uri, "server": address}


def watched(words, environment):
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", *words], capture_output=True, text=True, env={**os.environ, **environment}, check=True
    )
    return done, time.perf_counter() - started


@pytest.mark.parametrize("store", ["sqlite", "server"])
@pytest.mark.parametrize(
    "words",
    [["runs"], ["runs", "--metric", "val/loss<0.3", "--sort", "val/loss"], ["lineage", "1"], ["lineage", "377"]],
    ids=" ".join,
)
def test_a_full_record_answers_fast_and_without_mlflow(stores, store, words, home):
    environment = {"MLFLOW_TRACKING_URI": stores[store]}
    answers = [watched([WATCHED, *words], environment) for _ in range(2)]
    _, python = watched(["pass"], environment)
    for done, _ in answers:
        assert json.loads(done.stdout.splitlines()[-1]) == {"status": 0, "mlflow": False}
    seconds = min(seconds for _, seconds in answers)
    assert seconds <= max(AT_MOST_S, AT_MOST_RATIO * python), f"{seconds:.2f} s; python alone {python:.2f} s"


@pytest.mark.parametrize("store", ["sqlite", "server"])
def test_json_has_every_descendant(stores, store, home):
    done, _ = watched([WATCHED, "lineage", "1", "--json"], {"MLFLOW_TRACKING_URI": stores[store]})
    told = json.loads(done.stdout.splitlines()[0])
    known = {1}
    for run in family(RUNS):  # in the order of their numbers, so that a parent comes before its children
        known |= {run.number} if {run.parent, run.rerun_of, run.sweep_id} & known else set()
    assert {relative["run_id"] for relative in told["descendants"]} == known - {1}
