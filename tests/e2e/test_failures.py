"""What breaks while it runs: a worker is lost, the user's code raises, someone presses Ctrl-C, the driver is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from asparagus.checkpoint.folder import STATE, manifests
from asparagus.checkpoint.transfer import read_weights
from asparagus.journal import JournalReader
from asparagus.record.query import list_runs
from asparagus.record.reader import Reader, open_reader
from asparagus.record.run_folder import RunFolder
from asparagus.record.store import Store
from asparagus.record.timing import timing_of
from tests.conftest import ASP

EPOCHS = 6
STEPS_PER_EPOCH = 23
pytestmark = [pytest.mark.e2e]


def store_of(home) -> Store:
    return Store(f"sqlite:///{home}/results/mlflow.db")


def reader_of(home) -> Reader:
    return open_reader(f"sqlite:///{home}/results/mlflow.db")


def history(home, outcome, key):
    points = store_of(home).client.get_metric_history(outcome["mlflow_run_id"], key)
    return [point.step for point in points], [point.value for point in points]


@pytest.fixture
def pythonpath(monkeypatch):
    """The tests' own callbacks are importable where the run is, as a user's repository is."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("site", "resources", "rank", "batch"),
    [
        pytest.param("cluster", "one_worker", 0, 5, id="on_a_cluster_in_the_middle_of_an_epoch"),
        pytest.param(*("local", "one_worker", 0, None), id="here_right_after_a_checkpoint", marks=[pytest.mark.slow]),
        pytest.param("local", "two_workers", 1, 5, id="here_the_second_of_two"),
    ],
)
def test_a_killed_worker_costs_no_epoch_no_number_and_no_metric(  # noqa: PLR0917
    home, asp, pythonpath, ray_address, site, resources, rank, batch
):
    kill = f"{{_target_: tests.fakes.KillOnce, mark: {home}/struck, epoch: 3, batch: {batch or 'null'}, rank: {rank}}}"
    common = ("experiment/digits", f"trainer.max_epochs={EPOCHS}", "trainer.log_every_n_steps=1", "--json")
    workers = 2 if resources == "two_workers" else 1
    common += (f"data.batch_size={64 // workers}",)  # the same global batch
    address = ray_address if site == "cluster" else "local"
    words = (f"resources={resources}", f"site.address={address}", f"+callbacks.kill={kill}")
    began = time.monotonic()
    disturbed = asp("asp-launch", *common, *words)
    passed = time.monotonic() - began
    assert disturbed.returncode == 0, disturbed.stderr
    assert (home / "struck").exists()
    outcome = json.loads(disturbed.stdout.splitlines()[-1])
    assert_all_time_is_told(Path(outcome["folder"]), passed, own_ray=address == "local")
    undisturbed = json.loads(asp("asp-launch", *common, "data.batch_size=64").stdout.splitlines()[-1])

    assert outcome["run_id"] == 1
    assert [run.run_id for run in list_runs(reader_of(home))] == [2, 1]
    assert "going on at epoch 3" in disturbed.stderr
    events = JournalReader(Path(outcome["folder"]) / "journal.jsonl").read()
    assert [event["epoch"] for event in events if event["kind"] == "start"] == [0, 3]  # nothing before it was repeated

    steps, losses = history(home, outcome, "train/loss")
    assert steps == list(range(EPOCHS * STEPS_PER_EPOCH))
    assert history(home, outcome, "val/loss")[0] == [STEPS_PER_EPOCH * epoch - 1 for epoch in range(1, EPOCHS + 1)]
    if workers == 1:  # two workers see the cases in another order
        assert losses == pytest.approx(history(home, undisturbed, "train/loss")[1], rel=1e-3)
        ours, theirs = (read_weights(Path(run["folder"]) / "checkpoints" / last(run)) for run in (outcome, undisturbed))
        for name, weight in ours.items():
            torch.testing.assert_close(weight, theirs[name], rtol=1e-3, atol=1e-4)


def assert_all_time_is_told(folder: Path, passed: float, *, own_ray: bool) -> None:
    """The phases of the two attempts are the whole launch, from the command's start to its end."""
    first, again = timing_of(RunFolder(folder, folder.parent.name), 1).attempts
    assert [(one.number, one.launch) for one in (first, again)] == [(1, 1), (2, 1)]
    assert first.seconds + again.seconds == pytest.approx(passed, rel=0.03, abs=0.2)
    assert again.ended - first.began == pytest.approx(passed, rel=0.03, abs=0.2)
    before = {"compose", "check", "ray", "record"}
    both = {"workers", "imports", "data", "model", "first step", "steps", "loading", "validation", "checkpoints"}
    assert first.phases.keys() >= before | both
    assert again.phases.keys() >= both | {"lost", "end"}
    assert not before & again.phases.keys()
    assert "end" not in first.phases
    assert first.phases["workers"] > first.phases["first step"]
    if own_ray:
        assert first.phases["ray"] > first.phases["check"]
    assert "attempt 2, launch 1" in (folder / "plots" / "timing.html").read_text()


def last(outcome) -> str:
    return manifests(Path(outcome["folder"]) / "checkpoints")[-1].name


def test_checkpoints_are_last_and_best_whole_state_and_loadable_as_weights_only(home, asp):
    outcome = json.loads(asp("asp-launch", "experiment/digits", "--json").stdout.splitlines()[-1])
    kept = manifests(Path(outcome["folder"]) / "checkpoints")
    assert 1 <= len(kept) <= 2
    assert Path(outcome["checkpoint"]).name in {manifest.name for manifest in kept}
    state = torch.load(Path(outcome["checkpoint"]) / STATE, weights_only=True)
    assert {"state_dict", "optimizer_states", "lr_schedulers", "loops", "epoch", "global_step"} <= state.keys()


@pytest.mark.parametrize("resources", ["in_process", pytest.param("one_worker", marks=pytest.mark.ray)])
def test_a_bug_in_the_users_code_ends_the_run_with_its_cause_and_status_3(
    home, asp, pythonpath, ray_address, resources
):
    words = ("experiment/digits", "+callbacks.boom={_target_: tests.fakes.Boom}", f"resources={resources}")
    joined = [f"site.address={ray_address}"] if resources == "one_worker" else []
    done = asp("asp-launch", *words, *joined)
    assert done.returncode == 3, done.stderr
    assert "run 1 failed: ValueError: boom" in done.stderr
    assert "Traceback" not in done.stderr
    assert list_runs(reader_of(home))[0].state == "failed"
    log = Path(home / "models/Task001_Digits/train_cls/run_id=1/train_cls.log").read_text()
    assert 'raise ValueError("boom' in log  # the story with its traceback
    assert log.count("GPU available") == 1  # a bug is not tried again


def test_a_run_repeats_from_its_record_under_a_new_number(home, asp):
    first = json.loads(asp("asp-launch", "experiment/digits", "run.id=7", "--json").stdout.splitlines()[-1])
    again = asp("asp", "rerun", "7", "--json")
    assert again.returncode == 0, again.stderr
    second = json.loads(again.stdout.splitlines()[-1])
    assert (first["run_id"], second["run_id"]) == (7, 8)
    assert second["metrics"] == first["metrics"]


def test_training_by_steps_ends_with_a_checkpoint_whatever_the_rhythm(home, asp):
    words = ("trainer.max_steps=30", "trainer.max_epochs=null", "checkpoint.every_n_epochs=5", "--json")
    outcome = json.loads(asp("asp-launch", "experiment/digits", *words).stdout.splitlines()[-1])
    assert Path(outcome["checkpoint"]).name == "epoch=1-step=30"


def test_an_epoch_without_validation_has_no_validation_metrics(home, asp):
    words = ("trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4", "--json")
    outcome = json.loads(asp("asp-launch", "experiment/digits", *words).stdout.splitlines()[-1])
    assert history(home, outcome, "val/loss")[0] == [2 * STEPS_PER_EPOCH - 1, 4 * STEPS_PER_EPOCH - 1]


def start_slow(home) -> subprocess.Popen[str]:
    command = [
        str(ASP / "asp-launch"),
        "experiment/digits",
        "trainer.max_epochs=100",  # it must not end by itself before it is stopped, on a busy machine either
        "+callbacks.slow={_target_: tests.fakes.Slow, seconds: 0.05}",
    ]
    process = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal = JournalReader(home / "models/Task001_Digits/train_cls/run_id=1/journal.jsonl")
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if any(event["kind"] == "checkpoint" for event in journal.read()):
            return process
        time.sleep(0.1)
    process.kill()
    pytest.fail(f"no checkpoint within two minutes: {process.communicate()}")


def wait_for_state(home, state) -> str:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found = list_runs(reader_of(home))[0].state
        if found == state:
            return found
        time.sleep(0.5)
    return found


def test_ctrl_c_ends_with_status_130_and_a_record_that_says_so(home, pythonpath):
    process = start_slow(home)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert "interrupted" in process.stderr.read()
    assert wait_for_state(home, "interrupted") == "interrupted"


def test_a_killed_driver_leaves_no_run_that_runs_for_ever(home, pythonpath):
    process = start_slow(home)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert wait_for_state(home, "interrupted") == "interrupted"
    run = list_runs(reader_of(home))[0]
    steps = [point.step for point in store_of(home).client.get_metric_history(run.mlflow_run_id, "val/loss")]
    assert steps
    assert steps[0] == STEPS_PER_EPOCH - 1


def test_the_same_work_is_importable_without_ray_or_mlflow():
    code = "import sys, asparagus.worker.work; heavy = {'ray', 'mlflow'} & set(sys.modules); "
    code += "sys.exit(str(heavy) if heavy else 0)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
