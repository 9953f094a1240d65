"""The desk of a sweep: runs of trials begin, go on, end and are shared; real folders, real MLflow store, no Ray."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asparagus.checkpoint.folder import Manifest, digest_of, manifests, name_of, seal
from asparagus.checkpoint.holds import children
from asparagus.compose import Request
from asparagus.driver.desk import Desk
from asparagus.record.numbers import with_identity
from asparagus.record.run_folder import RunFolder, is_running, read_state
from asparagus.record.store import RUN_ID, TAG, Store
from asparagus.secrets import Sealed
from asparagus.sweeps import plan_sweep

PIPELINE = """# @package _global_
pipeline:
  first: {config: experiment/digits}
  second: {config: finetune_cls, overrides: {task: Task001_Digits, model: mlp, data: images, optim: adam}}
"""


@pytest.fixture
def a_desk(home, monkeypatch):
    """Return a desk for a request, with the sweep's own run begun; and close it in the end."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    made = []

    def make(*words, config="experiment/digits"):
        plan, planner = plan_sweep(Request(config, words, (home / "own",) if config == "experiment/two" else ()))
        desk = Desk(
            planner,
            plan.last.spec.site.tracking_uri,
            str(home / "results"),
            str(home / "models"),
            Sealed({}),
            str(home),
            ["asp-launch", config, "-m"],
        )
        made.append(desk)
        return desk, desk.open(plan.parent.to_dict())

    yield make
    for desk in made:
        desk.close("finished", {})


def a_checkpoint(folder, epoch=0) -> Path:
    """Write what a training leaves: a sealed checkpoint."""
    place = Path(folder) / "checkpoints"
    writing = place / f".writing-{name_of(epoch, epoch + 1)}"
    writing.mkdir(parents=True)
    state = writing / "checkpoint.ckpt"
    state.write_bytes(b"weights")
    facts = {"name": name_of(epoch, epoch + 1), "epoch": epoch, "step": epoch + 1, "metrics": {"val/accuracy": 0.5}}
    manifest = Manifest(**facts, digest=digest_of(state), bytes=7, world_size=1, monitor="val/accuracy", mode="max")
    return seal(writing, manifest)


def test_a_trial_has_a_run_that_goes_on_until_it_ends(a_desk, home):
    desk, sweep = a_desk("optim.lr=1e-3,1e-2")
    first = desk.begin(0, 0, {"optim.lr": 1e-3}, trainer=("a", None))
    assert (sweep["run_id"], first["run_id"], first["over"]) == (1, 2, False)
    assert first["assignment"]["spec"]["optim"]["lr"] == 1e-3
    folder = RunFolder(Path(first["folder"]), "train_cls")
    assert is_running(folder)
    identity = first["plan"]["identity"]
    assert with_identity(home / "models", identity) == []  # nobody else goes on with a trial

    again = desk.begin(0, 0, {"optim.lr": 1e-3}, trainer=("a", None))  # its training was lost
    assert (again["run_id"], again["assignment"]["attempt"]) == (2, 2)

    desk.end(2, "finished", {"val/accuracy": 0.9})
    assert not is_running(folder)
    assert read_state(folder)["state"] == "finished"
    assert with_identity(home / "models", identity) == [2]  # over, it is a run like any other
    shown = desk.begin(0, 0, {"optim.lr": 1e-3}, trainer=("c", None))
    assert (shown["run_id"], shown["over"], shown["metrics"]) == (2, True, {"val/accuracy": 0.9})


def test_workers_of_a_trial_wait_after_each_epoch_until_they_are_let_on_and_again_in_the_next_attempt(a_desk):
    desk, _ = a_desk("optim.lr=1e-3,1e-2")
    run_id = desk.begin(0, 0, {"optim.lr": 1e-3}, trainer=("a", None))["run_id"]
    assert desk.arrived(run_id) == -1
    assert not desk.arrive(run_id, 1, 0)
    assert desk.arrived(run_id) == 0
    desk.let(run_id, 0)
    assert desk.arrive(run_id, 1, 0)
    assert not desk.arrive(run_id, 1, 1)
    desk.begin(0, 0, {"optim.lr": 1e-3}, trainer=("a", None))  # put aside, and taken up again
    desk.let(run_id, 0)
    assert not desk.arrive(run_id, 1, 0)  # one of those that are ending
    assert desk.arrived(run_id) == -1
    assert desk.arrive(run_id, 2, 0)


def test_two_trials_with_the_same_values_are_two_runs(a_desk):
    desk, _ = a_desk("optim.lr=1e-3,1e-2")
    runs = {desk.begin(number, 0, {"optim.lr": 1e-3})["run_id"] for number in range(2)}
    assert runs == {2, 3}


def test_values_that_make_no_experiment_are_refused_by_name(a_desk):
    desk, _ = a_desk("optim.lr=1e-3,1e-2")
    answer = desk.begin(0, 0, {"optim.lrr": 1e-3})
    assert answer["outcome"] == "failed"
    assert "optim.lrr" in answer["refused"]
    assert "Did you mean 'lr'?" in answer["refused"]


def test_the_record_nests_trials_below_the_sweep_and_says_what_was_typed(a_desk, home):
    desk, sweep = a_desk("optim.lr=1e-3,1e-2")
    desk.begin(0, 0, {"optim.lr": 1e-3})
    desk.end(2, "pruned", {"val/accuracy": 0.1})
    desk.close("finished", {"val/accuracy": 0.1})
    desk.close = lambda *_: None
    store = Store(f"sqlite:///{home}/results/mlflow.db")
    (trial,) = store.with_number(2)
    assert trial.info.status == "KILLED"
    assert trial.data.tags["mlflow.parentRunId"] == sweep["mlflow_run_id"]
    assert trial.data.tags[f"{TAG}sweep_id"] == "1"
    assert trial.data.tags["mlflow.source.name"] == "asp-launch experiment/digits -m"
    (own,) = store.with_number(1)
    assert (own.info.status, own.data.tags[RUN_ID], own.data.tags[f"{TAG}stage"]) == ("FINISHED", "1", "sweep")


def test_trials_that_ask_for_the_same_pretraining_share_it(a_desk, home):
    (home / "own/experiment").mkdir(parents=True)
    (home / "own/experiment/two.yaml").write_text(PIPELINE)
    desk, _ = a_desk("first:optim.lr=1e-3,1e-2", "second:optim.lr=1e-3,1e-2", config="experiment/two")
    values = {"first:optim.lr": 1e-3, "second:optim.lr": 1e-3}
    first = desk.begin(0, 0, values)
    assert not first["over"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(desk.begin, 1, 0, {**values, "second:optim.lr": 1e-2})
        assert not waiting.done()
        a_checkpoint(first["folder"])
        desk.end(first["run_id"], "finished", {"val/accuracy": 0.5})
        second = waiting.result(timeout=30)
    assert (second["run_id"], second["over"]) == (first["run_id"], True)
    tuned = desk.begin(1, 1, {**values, "second:optim.lr": 1e-2}, before=[first["run_id"]])
    assert tuned["assignment"]["parent"]["run_id"] == first["run_id"]
    assert tuned["assignment"]["spec"]["optim"]["lr"] == 1e-2
    other = desk.begin(2, 0, {**values, "first:optim.lr": 1e-2})
    assert other["run_id"] not in (first["run_id"], tuned["run_id"])


def test_a_trial_goes_on_from_another_ones_state_with_settings_of_its_own(a_desk):
    desk, _ = a_desk("optim.lr=interval(1e-3,1e-1)", "sweep.scheduler=pbt")
    better = desk.begin(0, 0, {"optim.lr": 0.01})
    worse = desk.begin(1, 0, {"optim.lr": 0.08})
    checkpoint = a_checkpoint(better["folder"])
    a_checkpoint(worse["folder"])
    pointer = {"number": 0, "run_id": better["run_id"], "checkpoint": str(checkpoint), "values": {"optim.lr": 0.01}}
    taken = desk.begin(1, 0, {"optim.lr": 0.012}, pointer=pointer)
    exploit = {"checkpoint": str(checkpoint), "run_id": better["run_id"], "optim": {"lr": (0.01, 0.012)}}
    exploit |= {"after": manifests(Path(worse["folder"]) / "checkpoints")[-1].name}
    assert taken["run_id"] == worse["run_id"]
    assert taken["assignment"]["exploit"] == exploit
    assert taken["assignment"]["spec"]["optim"]["lr"] == 0.012
    assert children(checkpoint) == (worse["run_id"],)
    # Lost before it wrote a checkpoint of its own, it goes on from there again; after one, from that.
    lost = desk.begin(1, 0, {"optim.lr": 0.012})
    assert json.loads(json.dumps(lost["assignment"]["exploit"])) == json.loads(json.dumps(exploit))
    a_checkpoint(worse["folder"], epoch=1)
    assert [manifest.epoch for manifest in manifests(Path(worse["folder"]) / "checkpoints")] == [0, 1]
    assert desk.begin(1, 0, {"optim.lr": 0.012})["assignment"]["exploit"] is None
