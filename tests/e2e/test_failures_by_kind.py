"""What each kind of failure costs, and what it leaves behind: by real processes that are stopped and starved."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from asparagus.attempts import stack_of
from asparagus.checkpoint.folder import manifests
from asparagus.checkpoint.transfer import read_weights
from asparagus.cli.main import run
from asparagus.journal import JournalReader
from asparagus.record.query import list_runs
from asparagus.record.rank_logs import find_log, rank_logs, read_log
from asparagus.record.reader import open_reader
from asparagus.record.store import Store
from tests.helpers import free_port

COMMON = ("experiment/digits", "trainer.max_epochs=2", "--json")
TWO = ("resources=two_workers", "data.batch_size=32")
pytestmark = [pytest.mark.e2e]


@pytest.fixture(autouse=True)
def _pythonpath(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def folder_of(home) -> Path:
    return home / "models/Task001_Digits/train_cls/run_id=1"


def raising(home, kind, **more) -> str:
    settings = ", ".join(f"{key}: {value}" for key, value in {"kind": kind, "mark": f"{home}/struck", **more}.items())
    return f"+callbacks.raising={{_target_: tests.fakes.RaiseOnce, {settings}}}"


def post_mortem(home, attempt=1) -> dict:
    return json.loads((folder_of(home) / f"post_mortem/attempt={attempt}/post_mortem.json").read_text())


def events(home, kind) -> list:
    return [event for event in JournalReader(folder_of(home) / "journal.jsonl").read() if event["kind"] == kind]


def test_memory_that_the_kernel_refuses_ends_the_run_with_what_to_lower(home, asp):
    done = asp("asp-launch", *COMMON, raising(home, "limit"))
    assert done.returncode == 3, done.stderr
    assert "data.batch_size (now 64 per worker)" in done.stderr
    assert "trainer.accumulate_grad_batches=2" in done.stderr
    told = post_mortem(home)
    assert (told["first"]["kind"], told["again"]) == ("out of memory", False)
    assert not events(home, "retry")


def test_memory_that_runs_out_halves_the_batch_where_that_is_asked_for(home, asp):
    done = asp("asp-launch", *COMMON, raising(home, "MemoryError", times=9, above=32), "failures.smaller_batch=1")
    assert done.returncode == 0, done.stderr
    assert "data.batch_size=32 trainer.accumulate_grad_batches=2 from here on" in done.stderr
    steps = [event["step"] for event in events(home, "epoch")]
    assert steps == [23, 46]  # as many steps of the optimizer as without
    assert [event["epoch"] for event in events(home, "start")] == [0, 1]  # from its checkpoint


@pytest.mark.slow
def test_an_error_that_passes_is_tried_again_and_one_that_does_not_is_a_bug(home, asp):
    done = asp("asp-launch", *COMMON, raising(home, "OSError"))
    assert done.returncode == 0, done.stderr
    assert "run.max_failures=3: try 1 of 3 more" in done.stderr
    (home / "struck").unlink()
    done = asp("asp-launch", *COMMON, raising(home, "OSError", times=9), "run.resume=false")
    assert done.returncode == 3
    assert (home / "struck").read_text() == "xx"
    assert "Stale file handle" in done.stderr


def test_a_loss_that_is_no_number_ends_the_run_before_such_weights_are_kept(home, asp):
    broken = "+callbacks.nan={_target_: tests.fakes.Nan, epoch: 1}"
    done = asp("asp-launch", *COMMON, broken, "run.system_metrics_s=null")
    assert done.returncode == 3, done.stderr
    assert "the loss is no number any more" in done.stderr
    assert "optim.lr" in done.stderr
    checkpoints = folder_of(home) / "checkpoints"
    assert [kept.epoch for kept in manifests(checkpoints)] == [0]
    weights = read_weights(checkpoints / manifests(checkpoints)[0].name)
    assert all(math.isfinite(float(weight.sum())) for weight in weights.values())
    assert post_mortem(home)["first"]["kind"] == "nan loss"
    assert not (folder_of(home) / "system").exists()  # nothing is measured where that is off


@pytest.mark.ray
def test_the_first_rank_that_failed_is_named_and_all_have_said_their_last(home, asp, ray_address):
    site = (f"site.address={ray_address}",)
    done = asp("asp-launch", *COMMON, *TWO, *site, raising(home, "bug", rank=1), "run.system_metrics_s=0.5")
    assert done.returncode == 3, done.stderr
    assert "run 1 failed: ValueError: boom" in done.stderr
    assert "It was rank 1 of 2 on " in done.stderr
    told = post_mortem(home)
    assert (told["first"]["rank"], told["first"]["kind"], told["again"]) == (1, "bug", False)
    assert "raise {" in told["first"]["story"]
    assert [(log.attempt, log.rank) for log in rank_logs(folder_of(home))] == [(1, 0), (1, 1)]
    assert "ValueError: boom" in "\n".join(read_log(find_log(folder_of(home), rank=1)))
    place = folder_of(home) / "post_mortem/attempt=1"
    lines = (place / "last_lines.txt").read_text()
    assert "===== rank 0 =====" in lines
    assert "===== rank 1 =====" in lines
    environment = json.loads((place / "environment.json").read_text())
    assert sorted(environment) == ["0", "1"]
    assert environment["1"]["pid"] != environment["0"]["pid"] != os.getpid()
    assert "gpus" in next(iter(json.loads((place / "nodes.json").read_text()).values()))
    recorded = list_runs(open_reader(f"sqlite:///{home}/results/mlflow.db"))[0]
    client = Store(f"sqlite:///{home}/results/mlflow.db").client
    kept = {file.path for file in client.list_artifacts(recorded.mlflow_run_id, "logs/attempt=1")}
    assert kept == {"logs/attempt=1/rank=0.log", "logs/attempt=1/rank=1.log"}
    assert client.list_artifacts(recorded.mlflow_run_id, "post_mortem/attempt=1")
    measured = client.get_run(recorded.mlflow_run_id).data.metrics
    assert 0 <= measured["system/cpu_utilization_percentage"] <= 100
    assert measured["system/system_memory_usage_megabytes"] > 0
    assert measured["system/training_memory_usage_megabytes"] > 100
    assert not any(name.startswith("system/") for name in recorded.metrics)  # machines are no results


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["null", "600"], ids=["its_process_is_stopped", "it_sleeps"])
def test_a_rank_that_hangs_is_found_its_stacks_are_written_down_and_the_run_goes_on(home, asp, ray_address, how):
    stuck = f"{{_target_: tests.fakes.Stuck, batch: 9, seconds: {how}, rank: 1, mark: {home}/struck}}"
    words = (f"site.address={ray_address}", f"+callbacks.stuck={stuck}", "failures.hung_after_min=0.08")
    done = asp("asp-launch", *COMMON, *TWO, *words, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "rank 1 of 2" in done.stderr
    assert "no step for 0.08 min" in done.stderr
    told = post_mortem(home)
    assert (told["first"]["kind"], told["first"]["rank"], told["again"]) == ("hung", 1, True)
    waiting = stack_of(folder_of(home), 1, 0).read_text()
    assert "backward" in waiting or "torch/distributed" in waiting, waiting  # rank 0 waits for the other
    hung = stack_of(folder_of(home), 1, 1).read_text()
    assert ("did not answer" in hung) if how == "null" else ("tests/fakes.py" in hung)
    assert [event["epoch"] for event in events(home, "start")] == [0, 0]
    assert sorted({log.attempt for log in rank_logs(folder_of(home))}) == [1, 2]


@pytest.mark.ray
@pytest.mark.slow
def test_an_address_that_nobody_answers_at_is_refused_with_what_was_tried(home, asp):
    address = f"127.0.0.1:{free_port()}"
    done = asp("asp-launch", *COMMON, "resources=one_worker", f"site.address={address}")
    assert done.returncode == 2, done.stderr
    assert f"no Ray cluster answers at '{address}'" in done.stderr
    assert not (home / "models/Task001_Digits").exists()


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("failures.hung=-1", "failures.hung: -1 is too small. The least is 0."),
        ("failures.grace_s=0", "failures.grace_s: 0.0 has to be positive."),
        ("failures.hung_after_min=0", "failures.hung_after_min: 0.0 has to be positive."),
        ("run.system_metrics_s=0", "run.system_metrics_s: 0.0 has to be positive."),
        ("failures.hunk=1", "failures.hunk"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_anything_starts(home, capsys, word, told):
    assert run("launch", [*COMMON, word]) == 2
    assert told in capsys.readouterr().err
    assert not (home / "models").exists()
