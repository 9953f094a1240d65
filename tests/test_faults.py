"""Rehearsals: what is asked for, what is reported, and one of them from end to end."""

from __future__ import annotations

import json

import pytest
import torch

from asparagus.api import plan_of
from asparagus.cli.main import run
from asparagus.errors import ConfigError
from asparagus.faults import Fault, faults_of
from asparagus.faults.rehearsal import Rehearsal
from asparagus.faults.report import Report, books, costs
from asparagus.faults.witness import Step

WORKER, TRACKING = Fault("kill_worker", 3), Fault("kill_tracking", 5)


def test_faults_are_read_in_the_order_of_their_steps():
    found = faults_of("kill_driver@step=90, kill_worker @ step = 50")
    assert [str(fault) for fault in found] == ["kill_worker@step=50", "kill_driver@step=90"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kill_worker", r"'kill_worker' is no fault. Write rehearse=KIND@step=N"),
        ("", r"'' is no fault"),
        ("kill_wroker@step=5", r"kill_wroker.*kill_worker"),
        ("kill_worker@step=0", r"strikes before anything is trained; the first step is 1"),
        ("kill_worker@step=5,kill_node@step=5", r"two faults after one step"),
        ("kill_worker@epoch=5", r"preempt_node +the node of rank 0 is taken away"),
    ],
)
def test_what_is_no_fault_is_refused_with_what_could_be_written(text, told):
    with pytest.raises(ConfigError, match=told):
        faults_of(text)


def test_a_cost_is_the_time_without_a_step_and_the_steps_that_are_taken_again():
    old, new = [Step(10.0 + n, 1, n) for n in range(1, 4)], [Step(30.0 + n, 2, 2 + n) for n in range(4)]
    (lost,) = costs([WORKER], [13.0], [*old, *new])
    assert (lost.still_s, lost.steps_twice) == (17.0, 2)  # from step 3 at 13 s to step 2 at 30 s; 2 and 3 again
    (away,) = costs([TRACKING], [32.5], [*old, *new])
    assert (away.still_s, away.steps_twice) == (1.0, 0)  # the same process goes on
    unseen, unsurvived = costs([WORKER, Fault("kill_driver", 4)], [None, 33.0], [*old, *new])
    assert (unseen.struck, unsurvived.struck, unsurvived.still_s) == (None, 33.0, None)


def test_the_books_name_what_is_missing_and_what_is_there_twice():
    told = [("loss", 1), ("loss", 2), ("loss", 2), ("acc", 2)]  # a step that was trained again is in the journal twice
    found = books(told, [("loss", 1), ("loss", 1), ("loss", 2)])
    assert (found.doubles, found.missing, found.points) == (("loss@1",), ("acc@2",), 2)


@pytest.mark.parametrize(
    ("changes", "good", "told"),
    [
        ({}, True, "none is missing, none is there twice"),
        ({"books": books([("loss", 1)], [])}, False, "1 MISSING (loss@1"),
        ({"books": books([], [("loss", 1)] * 2)}, False, "1 TWICE (loss@1"),
        ({"books": None}, False, "NO RUN"),
        ({"finished": False}, False, "NOT FINISHED"),
        ({"costs": costs([WORKER], [None], [])}, False, "NEVER REACHED: the training ended at step 9"),
        ({"costs": costs([WORKER], [5.0], []), "finished": False}, False, "NOT SURVIVED"),
    ],
)
def test_a_report_is_good_only_if_all_is_whole(changes, good, told):
    steps = [Step(float(n), n // 4, n) for n in range(1, 10)]
    whole = {"costs": costs([WORKER], [3.0], steps), "books": books([("loss", 1)], [("loss", 1)]), "finished": True}
    report = Report(**{**whole, **changes}, launches=1, seconds=9.0, steps=9, folder="there")
    assert report.is_good is good
    assert told in report.describe()
    assert json.loads(json.dumps(report.to_dict()))["good"] is good


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rehearse=kill_worker"], "is no fault"),
        (["rehearse=kill_worker@step=5", "--submit"], "not with --submit"),
        (["rehearse=kill_worker@step=5", "-m", "optim.lr=1,2"], "not with -m"),
        (["rehearse=kill_worker@step=5", "optim.lrr=1"], "optim.lr"),
    ],
)
def test_a_wrong_rehearsal_is_refused_before_anything_starts(home, capsys, words, told):
    assert run("launch", ["experiment/digits", *words]) == 2
    assert told in capsys.readouterr().err
    assert not (home / "results").exists()


def test_a_rehearsal_can_be_looked_at_without_one(home, capsys):
    assert run("launch", ["experiment/digits", "rehearse=kill_worker@step=5", "site=nowhere", "--dry-run"]) == 0
    assert "train_cls" in capsys.readouterr().out
    assert not (home / "results").exists()


def test_a_rehearsal_tells_nobody_else_and_writes_nowhere_else(home, tmp_path):
    weights = tmp_path / "it's.pt"
    torch.save({"net.head.bias": torch.zeros(10)}, weights)
    words = ["task=Task001_Digits", "model=mlp", "data=images", "optim.lr=1e-3", "trainer.max_epochs=1"]
    words += ["+logger.csv._target_=pytorch_lightning.loggers.CSVLogger", "+logger.csv.save_dir=x"]
    words += [f'init_from="file:{weights}"']
    plan = plan_of("finetune_cls", words)
    folder = tmp_path / "here"
    made = Rehearsal(plan, ["finetune_cls", *words], faults_of("kill_worker@step=3"), folder, print)
    again = plan_of("finetune_cls", [*words, *made._overrides("127.0.0.1:1", None)])
    assert again.spec.paths.models == str(folder / "models")
    assert again.spec.paths.results == str(folder / "results")
    assert again.spec.site.tracking_uri == f"sqlite:///{folder}/results/mlflow.db"
    assert again.spec.logger == {}
    assert again.spec.init_from == f"file:{weights}"
    assert again.spec.callbacks["rehearsal"]["faults"] == {"kill_worker": [3]}


@pytest.mark.e2e
@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "faults",
    [
        "kill_worker@step=3",
        pytest.param("kill_worker@step=3,kill_driver@step=6", marks=pytest.mark.slow),
        pytest.param("kill_node@step=3,kill_tracking@step=5,full_disk@step=7", marks=pytest.mark.slow),
    ],
)
def test_a_training_comes_through_its_rehearsal(home, asp, faults):
    words = ["trainer.max_epochs=10", "trainer.log_every_n_steps=1", "resources.workers=1", f"rehearse={faults}"]
    done = asp("asp-launch", "experiment/digits", *words, "--json", timeout=500)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["good"]
    assert [cost["fault"]["kind"] for cost in report["costs"]] == [part.partition("@")[0] for part in faults.split(",")]
    assert all(cost["still_s"] > 0 for cost in report["costs"])
    assert report["launches"] == 1 + any(kind in faults for kind in ("kill_driver", "full_disk"))
    assert report["books"]["points"] >= 10
    place = home / "results/rehearsals/1"
    assert (place / "rehearsal.png").read_bytes().startswith(b"\x89PNG")
    assert not (home / "models").exists()
    assert not (home / "results/mlflow.db").exists()
