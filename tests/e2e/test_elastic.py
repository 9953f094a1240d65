"""Nodes that go and return: the training goes on with what is there, and means the same."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
import torch

from asparagus.checkpoint.folder import manifests
from asparagus.checkpoint.transfer import read_weights
from asparagus.faults.nodes import ray_nodes
from asparagus.record.store import Store
from tests.clusters import events_of, nodes_of, wait_for
from tests.conftest import ASP
from tests.networks import can_have_networks, networks

EPOCHS, KILLED, HELD, STEPS = 6, 2, 4, 5
"""STEPS: of an epoch."""
BACK_S = 5.0
"""Long enough for the controller to see a node that has returned."""
pytestmark = [pytest.mark.e2e, pytest.mark.ray]


@pytest.fixture
def common(home, monkeypatch):
    """Words of a small training that comes out the same however it is shared out, and waits to be disturbed."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    hold = f"{{_target_: tests.fakes.HoldAt, epoch: {HELD}, file: {home}/go, seconds: {BACK_S}}}"
    words = ["experiment/digits", f"trainer.max_epochs={EPOCHS}", "trainer.log_every_n_steps=1", "optim.name=sgd"]
    return [*words, "optim.lr=0.1", "data.samples_per_epoch=80", f"+callbacks.hold={hold}", "--json"]


def weights_of(outcome):
    folder = Path(outcome["folder"]) / "checkpoints"
    return read_weights(folder / manifests(folder)[-1].name)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("per_node", "nodes"),
    [
        pytest.param(1, 1, id="2_to_1_to_2"),
        pytest.param(2, 1, id="4_to_2_to_4", marks=pytest.mark.slow),
    ],
)
def test_a_node_goes_and_returns_and_the_training_goes_on_and_means_the_same(
    home, asp, common, per_node, nodes, record_property
):
    workers = per_node * (nodes + 1)
    with ray_nodes({"num_cpus": per_node}, *[{"num_cpus": per_node}] * nodes) as cluster:
        words = [f"site.address={cluster.address}", "site.nodes=null", f"data.batch_size={16 // workers}"]
        words += [f"resources.workers={workers}", f"resources.min_workers={per_node}"]
        command = [str(ASP / "asp-launch"), *common, *words]
        run = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        folder = home / "models/Task001_Digits/train_cls/run_id=1"
        wait_for(lambda: len(events_of(folder, "epoch")) >= KILLED or run.poll() is not None, 240)
        killed = cluster.kill(cluster.others[0])
        again = wait_for(lambda: events_of(folder, "start")[1:] or run.poll() is not None, 120)
        cluster.add(num_cpus=per_node)
        (home / "go").touch()
        out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    outcome = json.loads(out.splitlines()[-1])
    starts = events_of(folder, "start")
    assert [start["world_size"] for start in starts] == [workers, per_node, workers]
    assert starts[2]["epoch"] <= HELD + 1
    steps = [event for event in events_of(folder, "metrics") if "optim/lr" in event["values"]]
    since = [event["step"] for event in steps if event["time"] > starts[1]["time"]]
    # It grew at a checkpoint: what was trained until Ray had heard of that one is trained again, less than an epoch.
    assert len(since) - len(set(since)) < STEPS
    record_property("seconds to a new step", again[0]["time"] - killed)
    assert again[0]["time"] - killed < 30  # Ray as it comes: 70

    sizes = Store(f"sqlite:///{home}/results/mlflow.db").client.get_metric_history(
        outcome["mlflow_run_id"], "world_size"
    )
    assert [point.value for point in sizes] == [workers, per_node, workers]
    run_of = Store(f"sqlite:///{home}/results/mlflow.db").client.get_run(outcome["mlflow_run_id"])
    assert run_of.data.tags["asparagus.world_sizes"] == f"{workers}, {per_node}, {workers}"
    assert "accumulate_grad_batches is 2 in place of 1" in (folder / "train_cls.log").read_text()

    alone = asp("asp-launch", *common, "data.batch_size=16")
    expected = weights_of(json.loads(alone.stdout.splitlines()[-1]))
    for name, weight in weights_of(outcome).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not can_have_networks(), reason="network namespaces are root's")
@pytest.mark.parametrize("elastic", [True, False], ids=["elastic", "fixed"])
def test_a_network_that_is_cut_for_30_s_ends_no_training(home, asp, common, elastic, record_property):
    """Elastic, it goes on without the node and takes it in again; else it waits or starts anew, and nothing is lost."""
    folder = home / "models/Task001_Digits/train_cls/run_id=1"
    with networks(home) as cluster:
        cluster.add("b", 2, cpus=1)
        words = [f"site.address={cluster.address}", "site.nodes=null", "data.batch_size=8", "resources.workers=2"]
        words += ["resources.min_workers=1"] if elastic else []
        wait_for(lambda: nodes_of(cluster.address) == 2, 60)
        command = [str(ASP / "asp-launch"), *common, *words]
        run = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: len(events_of(folder, "epoch")) >= KILLED or run.poll() is not None, 300)
        pulled = cluster.pull("b")
        (home / "go").touch()
        if elastic:
            again = wait_for(lambda: events_of(folder, "start")[1:], 120)
            record_property("seconds to a new step", again[0]["time"] - pulled)
            assert again[0]["world_size"] == 1
            assert again[0]["time"] - pulled < 30
        time.sleep(max(0.0, pulled + 30 - time.time()))
        cluster.plug("b")
        out, err = run.communicate(timeout=400)
    assert run.returncode == 0, err
    starts = [start["world_size"] for start in events_of(folder, "start")]
    assert (starts[:2] == [2, 1]) if elastic else (set(starts) == {2}), starts
    record_property("starts", str(starts))
    alone = asp("asp-launch", *common, "data.batch_size=16")
    expected = weights_of(json.loads(alone.stdout.splitlines()[-1]))
    for name, weight in weights_of(json.loads(out.splitlines()[-1])).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5)
