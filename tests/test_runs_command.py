"""`asp runs` and `asp lineage` as they are typed, over one small record."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from benchmarks.many_runs import fill
from tests.conftest import ASP

RUNS = 130


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    (home / "results").mkdir()
    fill(f"sqlite:///{home}/results/mlflow.db", RUNS, home / "models")
    return home


@pytest.fixture
def asp_in(recorded):
    def run(*words):
        environment = {**os.environ, "ASPARAGUS_HOME": str(recorded)}
        return subprocess.run([str(ASP / "asp"), *words], capture_output=True, text=True, env=environment, check=False)

    return run


def first_column(done):
    assert done.returncode == 0, done.stderr
    return [int(line.split()[0]) for line in done.stdout.splitlines()[2:]]


def test_a_hundred_runs_are_shown_and_the_rest_is_spoken_of(asp_in):
    done = asp_in("runs")
    assert first_column(done) == list(range(130, 30, -1))
    assert done.stderr == "100 runs are shown; --all shows the rest too, --limit N as many as you say.\n"
    assert done.stdout.splitlines()[0].split() == ["run", "stage", "task", "state", "best", "from", "started"]


def test_all_runs_or_as_many_as_are_asked_for_are_shown(asp_in):
    every = asp_in("runs", "--all")
    assert (first_column(every), every.stderr) == (list(range(130, 0, -1)), "")
    assert first_column(asp_in("runs", "--limit", "2")) == [130, 129]
    exactly = asp_in("runs", "--limit", "130")
    assert (len(first_column(exactly)), exactly.stderr) == (130, "")


def test_filters_hold_together_and_the_order_is_the_one_asked_for(asp_in):
    words = ("--stage", "finetune_seg", "--state", "finished", "--tag", "asparagus.init_from.run_id=1")
    done = asp_in("runs", *words, "--metric", "val/loss<0.5", "--sort", "val/loss", "--reverse", "--json")
    rows = json.loads(done.stdout)
    values = [row["metrics"]["val/loss"] for row in rows]
    assert values == sorted(values)
    assert 0 < max(values) < 0.5
    assert {(row["stage"], row["state"], row["init_from"]["run_id"]) for row in rows} == {
        ("finetune_seg", "finished", 1)
    }


def test_json_has_the_documented_keys(asp_in):
    (row,) = json.loads(asp_in("runs", "--json", "--limit", "1").stdout)
    documented = {"run_id", "stage", "task", "state", "metrics", "folder", "mlflow_run_id", "init_from", "sweep_id"}
    assert documented <= row.keys()


def test_columns_are_those_that_are_named(asp_in):
    done = asp_in("runs", "--limit", "1", "--columns", "run,sweep,metrics:epoch,tags:mlflow.user,tags:nobody")
    head, _, row = done.stdout.splitlines()
    assert head.split() == ["run", "sweep", "metrics:epoch", "tags:mlflow.user", "tags:nobody"]
    assert row.split() == ["130", "30", "0.8928", "me", "-"]


def test_a_metric_that_is_spoken_of_has_its_column(asp_in):
    done = asp_in("runs", "--limit", "1", "--metric", "val/loss<0.3", "--sort", "train/loss")
    assert done.stdout.splitlines()[0].split()[-2:] == ["metrics:val/loss", "metrics:train/loss"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--state", "finisht"], "'finisht' is not known. Did you mean 'finished'?"),
        (["--metric", "val/loss"], "is not NAME, one of"),
        (["--tag", "novalue"], "'novalue' is not NAME=VALUE"),
        (["--sort", "val/los"], "Did you mean 'val/loss'?"),
        (["--columns", "run,stagee"], "Did you mean 'stage'?"),
        (["--columns", "metrics:"], "metrics:NAME"),
        (["--limit", "0"], "--limit: 0 shows nothing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_names_what_is_allowed(asp_in, words, told):
    done = asp_in("runs", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


def test_no_run_that_fits_is_said_and_is_no_error(asp_in):
    done = asp_in("runs", "--task", "Nope")
    assert (done.returncode, done.stdout) == (0, "")
    assert "No run is recorded that fits" in done.stderr
    assert json.loads(asp_in("runs", "--task", "Nope", "--json").stdout) == []


def test_lineage_draws_each_run_with_checkpoint_state_and_metric(asp_in):
    lines = asp_in("lineage", "26").stdout.splitlines()
    assert lines[0].startswith("run 2 pretrain Task902_Brain · finished · val/loss ")
    assert lines[1].startswith("└── epoch=4-step=50 → run 25 ")
    assert lines[2].startswith("    └── epoch=4-step=50 → run 26 ")
    assert "◀ this run" in lines[2]
    assert "is gone: moved or deleted" in lines[0]  # nothing was trained: there are no folders


def test_lineage_as_json_says_what_is_missing(asp_in, recorded):
    told = json.loads(asp_in("lineage", "26", "--json").stdout)
    assert [(one["run_id"], one["kind"]) for one in told["ancestors"]] == [(25, "init_from"), (2, "init_from")]
    folder = recorded / "models/Task902_Brain/pretrain/run_id=2"
    assert told["ancestors"][1]["missing"] == f"its folder {folder} is gone: moved or deleted"


def test_a_page_is_written_and_written_anew_and_nothing_else_written_over(asp_in, tmp_path):
    file = tmp_path / "page.html"
    for _ in range(2):
        done = asp_in("lineage", "26", "--html", str(file))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{file}\n")
    assert "Lineage of run 26" in file.read_text()
    file.write_text("mine")
    done = asp_in("lineage", "26", "--html", str(file))
    assert (done.returncode, file.read_text()) == (2, "mine")
    assert "no page of a lineage" in done.stderr
    assert "there is no folder" in asp_in("lineage", "26", "--html", str(tmp_path / "no" / "page.html")).stderr


def test_an_unknown_run_names_the_newest(asp_in):
    done = asp_in("lineage", "7777")
    assert (done.returncode, done.stdout) == (2, "")
    assert "The newest there: 130, 129, 128, 127, 126." in done.stderr


@pytest.mark.parametrize("words", [["runs"], ["lineage", "1"]], ids=" ".join)
def test_a_server_that_is_away_is_one_clear_error(words, recorded):
    environment = {**os.environ, "ASPARAGUS_HOME": str(recorded), "MLFLOW_TRACKING_URI": "http://me:sesame@127.0.0.1:9"}
    command = [str(ASP / "asp"), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "127.0.0.1:9 cannot be used" in done.stderr
    assert "sesame" not in done.stderr
