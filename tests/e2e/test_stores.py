"""Whole trainings with their run folders in a store: killed on one machine, gone on with on another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import asparagus
from asparagus.checkpoint.folder import STATE, newest_whole
from asparagus.data.digits import make_digits
from asparagus.data.split import make_split
from asparagus.driver import Outcome
from asparagus.journal import JournalReader
from asparagus.record.run_folder import RunFolder
from asparagus.record.timing import timing_of
from asparagus.storage import kept
from asparagus.storage.names import working_copy
from asparagus.storage.store import Store
from asparagus.storage.tasks import put_task
from tests import clusters
from tests.helpers import free_port, wait_for_port

ASP = Path(sys.executable).parent
DIGITS = ["trainer.max_epochs=6", "data.batch_size=256"]
SLOW = "+callbacks.slow={_target_:tests.fakes.Slow,seconds:0.2}"

pytestmark = pytest.mark.e2e


@contextmanager
def machine(home: Path, uri: str | None) -> Iterator[None]:
    """Be on a machine whose home this is."""
    home.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASPARAGUS_HOME", str(home))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home.parent if uri else home}/mlflow.db")
        patch.chdir(home)
        if uri is not None:
            patch.setenv("ASPARAGUS_MODELS", uri)
        yield


def weights(outcome: Outcome) -> dict[str, torch.Tensor]:
    checkpoint = newest_whole(Path(outcome.folder) / "checkpoints")
    assert checkpoint is not None
    state: dict[str, torch.Tensor] = torch.load(checkpoint / STATE, weights_only=True)["state_dict"]
    return state


def wait_for(store: Store, what: str, at_least: int, timeout: float = 90) -> None:
    end = time.monotonic() + timeout
    while len([key for key in store.list("") if what in key]) < at_least:
        assert time.monotonic() < end, store.list("").keys()
        time.sleep(0.05)


def test_a_run_that_is_killed_goes_on_on_a_fresh_machine_and_its_child_is_trained_on_a_third(
    bucket, data_root, tmp_path, monkeypatch
):
    monkeypatch.setenv("ASPARAGUS_DATA", str(data_root))
    uri = f"{bucket}/models"
    store = Store(uri)
    with machine(tmp_path / "first", uri):
        command = [str(ASP / "asp-launch"), "experiment/digits", *DIGITS, SLOW]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
        wait_for(store, "checkpoint.json", 1)
        with (
            pytest.raises(asparagus.errors.RequestError, match="is being trained already"),
            machine(tmp_path / "second", uri),
        ):
            asparagus.launch("experiment/digits", [*DIGITS, SLOW])
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    first = working_copy(uri, {"ASPARAGUS_HOME": str(tmp_path / "first")})
    assert json.loads((first / "Task001_Digits/train_cls/run_id=1/run.json").read_text())["state"] != "finished"

    with machine(tmp_path / "second", uri):
        # The recorder of the first outlives it for a moment, and holds nothing.
        resumed = asparagus.launch("experiment/digits", [*DIGITS, SLOW])
        assert (resumed.run_id, resumed.state) == (1, "finished")
        events = JournalReader(Path(resumed.folder) / "journal.jsonl").read()
        assert [event["attempt"] for event in events if event["kind"] == "attempt"] == [2]
        assert "going on from" in (Path(resumed.folder) / "train_cls.log").read_text()
    with machine(tmp_path / "alone", None):
        undisturbed = asparagus.launch("experiment/digits", [*DIGITS, SLOW])
    expected, found = weights(undisturbed), weights(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)

    with machine(tmp_path / "third", uri):
        child = asparagus.launch("experiment/digits", ["trainer.max_epochs=1", "init_from=run:1/best"])
        assert child.run_id == 2
        assert child.parent.run_id == 1
        assert Path(child.parent.checkpoint).is_relative_to(tmp_path / "third")
        assert json.loads((Path(child.folder) / "transfer.json").read_text())["left"] == {}
        parent = Path(child.parent.checkpoint).parents[1]
        kept.see_run(parent, at_least=0)
        killed, whole = timing_of(RunFolder(parent, "train_cls"), 1).attempts
        assert [(one.number, one.launch) for one in (killed, whole)] == [(1, 1), (2, 2)]
        assert killed.phases.keys() >= {"compose", "steps"}
        assert whole.phases.keys() >= {"compose", "steps", "checkpoints", "end"}
    with machine(tmp_path / "first", uri):
        shown = asparagus.launch("experiment/digits", [*DIGITS, SLOW])
        assert (shown.run_id, shown.repeated, shown.metrics) == (1, False, resumed.metrics)
        told = (Path(shown.folder) / "derived_models.log").read_text()
        assert told.startswith("2, ")
        held = Path(child.parent.checkpoint).name
        assert (Path(shown.folder) / "checkpoints" / held / "held/run_id=2").is_file()


def test_a_store_that_cannot_be_used_is_refused_before_anything_starts(asp, bucket, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_MODELS", "s3://no-such-bucket/models")
    done = asp("asp-launch", "experiment/digits")
    assert done.returncode == 2
    assert "paths.models: s3://no-such-bucket/models" in done.stderr
    assert "there is no such bucket" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.ray
def test_ray_workers_put_a_run_into_the_store_and_read_their_data_from_one(asp, bucket, monkeypatch, home):
    elsewhere = working_copy(f"{bucket}/data", {"ASPARAGUS_HOME": str(home / "elsewhere")})
    make_digits(elsewhere, cases=40)
    make_split(elsewhere, "Task001_Digits", "split_80_20")
    put_task(elsewhere, "Task001_Digits")
    monkeypatch.setenv("ASPARAGUS_DATA", f"{bucket}/data")
    monkeypatch.setenv("ASPARAGUS_MODELS", f"{bucket}/models")
    done = asp("asp-launch", "experiment/digits", "trainer.max_epochs=2", "resources.workers=1", "--json")
    assert done.returncode == 0, done.stderr
    there = Store(f"{bucket}/models").list("Task001_Digits/train_cls/run_id=1")
    assert any(key.endswith("checkpoint.json") for key in there)
    state = json.loads(Store(f"{bucket}/models").read("Task001_Digits/train_cls/run_id=1/run.json"))
    assert state["state"] == "finished"
    assert "testing-secret" not in done.stdout + done.stderr
    folder = Path(json.loads(done.stdout.splitlines()[-1])["folder"])
    assert not [path for path in folder.rglob("*") if path.is_file() and b"testing-secret" in path.read_bytes()]


@pytest.mark.ray
@pytest.mark.slow
def test_nodes_without_a_common_folder_train_a_run_that_the_driver_follows(asp, bucket, home, data_root, monkeypatch):
    """Two nodes, each with a cache of its own; the workers are where the driver is not."""
    monkeypatch.setenv("ASPARAGUS_MODELS", f"{bucket}/models")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    port = free_port()
    common = ["--disable-usage-stats", "--block", "--include-dashboard=false"]
    head = [str(ASP / "ray"), "start", "--head", f"--port={port}", "--num-cpus=0", *common]
    worker = [str(ASP / "ray"), "start", f"--address=127.0.0.1:{port}", "--num-cpus=2", *common[:2]]
    nodes = []
    try:
        for name, line in (("head", head), ("node", worker)):
            environment = {**os.environ, "ASPARAGUS_CACHE": str(home / f"cache-{name}")}
            with (home / f"{name}.log").open("w") as log:
                nodes.append(subprocess.Popen(line, env=environment, stdout=log, stderr=log, start_new_session=True))
            wait_for_port(port, 60)
        monkeypatch.setenv("ASPARAGUS_CACHE", str(home / "cache-head"))
        clusters.wait_for(lambda: clusters.nodes_of(f"127.0.0.1:{port}") == len(nodes), 60)
        asked = ["resources.workers=2", f"site.address=127.0.0.1:{port}", "site.nodes=null", "trainer.max_epochs=4"]
        done = asp("asp-launch", "experiment/digits", *asked, "--json")
        assert done.returncode == 0, done.stderr
    finally:
        for node in reversed(nodes):
            node.terminate()
            node.wait(timeout=60)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["state"] == "finished"
    folder = Path(told["folder"])
    assert folder.is_relative_to(home / "cache-head")
    trained = home / "cache-node" / folder.relative_to(home / "cache-head")
    assert newest_whole(trained / "checkpoints") is not None
    there, here = ((place / "journal.jsonl").read_bytes() for place in (trained, folder))
    assert here.startswith(there)
    (end,) = here.removeprefix(there).splitlines()  # how long the driver took to end it, which happens here
    assert json.loads(end)["by"] == "end"
    assert "epoch   4" in done.stderr + done.stdout
    assert not list((folder / "checkpoints").glob(f"*/{STATE}")), "nobody needed a state here"
    assert newest_whole(folder / "checkpoints").name == newest_whole(trained / "checkpoints").name
    assert kept.attempt_of(trained) == 1
