"""SIGTERM and preemption notices: a checkpoint at that step, then out; the same command goes on with the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from asparagus.checkpoint.folder import manifests
from asparagus.checkpoint.transfer import read_weights
from asparagus.journal import JournalReader
from asparagus.record.rank_logs import rank_logs
from asparagus.record.store import Store
from tests.conftest import ASP

EPOCHS, STEPS_PER_EPOCH = 3, 23
STRIKE = 34  # in the middle of the second epoch
WORDS = ("experiment/digits", f"trainer.max_epochs={EPOCHS}", "trainer.log_every_n_steps=1", "--json")
SLOW = "+callbacks.slow={_target_: tests.fakes.Slow, seconds: 0.05}"
pytestmark = [pytest.mark.e2e]


@pytest.fixture(autouse=True)
def _pythonpath(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def start(home, *words) -> subprocess.Popen[str]:
    command = [str(ASP / "asp-launch"), *WORDS, *words]
    return subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def steps_of(folder, key="train/loss") -> list[int]:
    events = JournalReader(folder / "journal.jsonl").read()
    return [event["step"] for event in events if event["kind"] == "metrics" and key in event["values"]]


def wait_for_step(process, folder, step) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if (steps_of(folder) or [0])[-1] >= step:
            return
        time.sleep(0.05)
    process.kill()
    pytest.fail(f"step {step} was not reached: {process.communicate()}")


def weights(outcome) -> dict[str, torch.Tensor]:
    folder = Path(outcome["folder"]) / "checkpoints"
    return read_weights(folder / manifests(folder)[-1].name)


def losses(home, outcome) -> list[tuple[int, float]]:
    client = Store(f"sqlite:///{home}/results/mlflow.db").client
    points = client.get_metric_history(outcome["mlflow_run_id"], "train/loss")
    return [(point.step, point.value) for point in points]


def test_a_sigterm_costs_no_step_and_changes_no_weight(home):
    folder = home / "models/Task001_Digits/train_cls/run_id=1"
    process = start(home, SLOW)
    wait_for_step(process, folder, STRIKE)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted: a SIGTERM to the launch" in err
    assert "Traceback" not in err
    left_at = manifests(folder / "checkpoints")[-1]
    assert left_at.epoch == 1
    assert STRIKE < left_at.step < 2 * STEPS_PER_EPOCH
    assert left_at.metrics == {}  # nothing was measured of it, so it is nobody's best
    assert json.loads((folder / "run.json").read_text())["state"] == "interrupted"
    assert not (folder / "leave").exists()

    again = start(home, SLOW)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    outcome = json.loads(out.splitlines()[-1])
    assert outcome["run_id"] == 1
    assert f"going on at epoch 1, step {left_at.step}" in err
    undisturbed = json.loads(start(home, "run.resume=false").communicate(timeout=120)[0].splitlines()[-1])
    assert losses(home, outcome) == losses(home, undisturbed)  # each step once, with the very cases of it
    assert [step for step, _ in losses(home, outcome)] == list(range(EPOCHS * STEPS_PER_EPOCH))
    for name, weight in weights(outcome).items():
        assert torch.equal(weight, weights(undisturbed)[name]), name
    assert [(log.attempt, log.rank) for log in rank_logs(folder)] == [(1, 0), (2, 0)]


@pytest.mark.slow
def test_what_does_not_leave_in_time_is_interrupted_all_the_same(home):
    folder = home / "models/Task001_Digits/train_cls/run_id=1"
    stuck = "+callbacks.stuck={_target_: tests.fakes.Stuck, batch: 5, seconds: 600}"
    process = start(home, stuck, "failures.grace_s=1")
    wait_for_step(process, folder, 4)
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    assert time.monotonic() - began < 30
    assert json.loads((folder / "run.json").read_text())["state"] == "interrupted"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("who", ["launch", "worker"])
def test_on_ray_all_ranks_leave_at_the_same_step(home, who):
    folder = home / "models/Task001_Digits/train_cls/run_id=1"
    process = start(home, SLOW, "resources=two_workers", "data.batch_size=32")
    wait_for_step(process, folder, STRIKE)
    if who == "launch":
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 130, err
        assert "a SIGTERM to the launch" in err
        assert "SIGTERM received" not in err  # what Ray's core prints, with its stacks
        assert STRIKE < manifests(folder / "checkpoints")[-1].step < 2 * STEPS_PER_EPOCH
        process = start(home, SLOW, "resources=two_workers", "data.batch_size=32")
    else:
        starts = [event for event in JournalReader(folder / "journal.jsonl").read() if event["kind"] == "start"]
        os.kill(starts[0]["pid"], signal.SIGTERM)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    outcome = json.loads(out.splitlines()[-1])
    assert [step for step, _ in losses(home, outcome)] == list(range(EPOCHS * STEPS_PER_EPOCH))
    if who == "worker":
        assert "preemption: a SIGTERM to rank 0" in err
    assert {(log.attempt, log.rank) for log in rank_logs(folder)} == {(1, 0), (1, 1), (2, 0), (2, 1)}
