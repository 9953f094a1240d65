"""In the MLflow UI: which runs, which is best, what came from what. A real server, a real browser."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.browser import browsing, installed
from tests.conftest import ASP
from tests.helpers import mlflow_server

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(installed() is None, reason="no Chromium on this machine: apt-get install chromium"),
]

TASK = "Task001_Digits"
WORDS = [f"task={TASK}", "model=mlp", "data=images", "optim=adam", "data.batch_size=64", "trainer.max_epochs=2"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("server")) as uri:
        yield uri


@pytest.fixture(scope="module")
def runs(server, data_root, tmp_path_factory):
    """A training and a finetuning of it."""
    home = tmp_path_factory.mktemp("home")
    environment = {**os.environ, "ASPARAGUS_HOME": str(home), "ASPARAGUS_DATA": str(data_root)}
    environment["MLFLOW_TRACKING_URI"] = server

    def launch(*words: str) -> dict[str, object]:
        command = [str(ASP / "asp-launch"), *words, *WORDS, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=home, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    parent = launch("train_cls")
    return parent, launch("finetune_cls", f"init_from=run:{parent['run_id']}/best", "optim.lr=0.001")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("browser"), size=(1400, 2600)) as page:
        yield page


@pytest.fixture(scope="module")
def experiment(server, runs):
    from asparagus.record.store import Store

    return f"{server}/#/experiments/{Store(server).experiment_id(TASK)}"


def test_the_page_of_a_run_tells_its_parent_its_models_and_its_data(page, experiment, runs):
    parent, child = runs
    page.open(f"{experiment}/runs/{child['mlflow_run_id']}?workflowType=machine_learning")
    checkpoint = Path(parent["checkpoint"]).name
    seen = page.shows(
        f"Run {child['run_id']}: finetune_cls on {TASK}.",
        f"Starts from run {parent['run_id']} (train_cls, {TASK}), checkpoint {checkpoint}.",
        f"Again: asp rerun {child['run_id']}",
        "Result: val/accuracy",
        "Datasets",
        "Logged models",
        checkpoint.replace("=", "-"),
    )
    assert f"asparagus.init_from.run_id\n: {parent['run_id']}\n" in seen


def test_the_parent_is_one_click_away(page, experiment, runs):
    parent, child = runs
    page.open(f"{experiment}/runs/{child['mlflow_run_id']}?workflowType=machine_learning")
    page.shows("Starts from run")
    link = f"[...document.querySelectorAll('a')].find(a => a.innerText.startsWith('run {parent['run_id']} '))"
    page.open(page.evaluate(f"{link}.href"))
    page.shows(f"Run {parent['run_id']}: train_cls on {TASK}.", f"train_cls-{parent['run_id']}")


def test_the_lineage_page_draws_the_parent(page, experiment, runs):
    parent, child = runs
    page.open(f"{experiment}/runs/{child['mlflow_run_id']}/artifacts/lineage.html?workflowType=machine_learning")
    page.shows(f"Lineage of run {child['run_id']}", f"run {parent['run_id']}", Path(parent["checkpoint"]).name)


def test_training_curves_are_among_the_artifacts(page, experiment, runs):
    _, child = runs
    page.open(
        f"{experiment}/runs/{child['mlflow_run_id']}/artifacts/plots/curves/loss.png?workflowType=machine_learning"
    )
    page.shows("loss.png", "other.png")


def test_the_page_of_a_task_lists_its_runs_and_says_how_to_find_the_best(page, experiment, runs):
    parent, child = runs
    page.open(f"{experiment}/runs?workflowType=machine_learning")
    page.shows(f"train_cls-{parent['run_id']}", f"finetune_cls-{child['run_id']}", "Which is best:")
