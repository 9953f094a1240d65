"""Several nodes train what one node trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from asparagus.checkpoint.folder import manifests
from asparagus.checkpoint.transfer import read_weights
from asparagus.faults.nodes import ray_nodes
from tests.clusters import events_of

pytestmark = [pytest.mark.e2e, pytest.mark.ray]
WORDS = ["experiment/digits", "trainer.max_epochs=2", "optim.name=sgd", "optim.lr=0.1"]
WORDS += [
    "data.samples_per_epoch=80",
    "--json",
]  # divides evenly: each step sees the same cases, however they are shared out


def trained(asp, cluster, workers, *words):
    common = [f"site.address={cluster.address}", "site.nodes=null", f"resources.workers={workers}"]
    done = asp("asp-launch", *WORDS, *common, f"data.batch_size={16 // workers}", *words, "run.resume=false")
    assert done.returncode == 0, done.stderr
    folder = Path(json.loads(done.stdout.splitlines()[-1])["folder"])
    checkpoints = folder / "checkpoints"
    return folder, read_weights(checkpoints / manifests(checkpoints)[-1].name)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("nodes", "per_node", "strategy"),
    [
        pytest.param(2, 1, "ddp", id="2x1"),
        pytest.param(4, 2, "ddp", id="4x2", marks=pytest.mark.slow),
        pytest.param(2, 1, "fsdp", id="2x1_fsdp", marks=pytest.mark.slow),
    ],
)
def test_nodes_train_the_same_weights_as_one_node(home, asp, nodes, per_node, strategy):
    workers = nodes * per_node
    whole, shared = {"num_cpus": workers, "labels": {"kind": "whole"}}, {"num_cpus": per_node, "memory": 2**30}
    with ray_nodes({"num_cpus": 0}, whole, *[{**shared, "labels": {"kind": "shared"}}] * nodes) as cluster:
        one = ("+resources.labels.kind=whole", "resources.placement=strict_pack")
        more = ("+resources.labels.kind=shared", f"trainer.strategy={strategy}")
        more += ("resources.placement=strict_spread",) if per_node == 1 else ()
        _, expected = trained(asp, cluster, workers, *one)
        folder, found = trained(asp, cluster, workers, *more)
        refused = asp("asp-launch", *WORDS, f"site.address={cluster.address}", f"resources.workers={workers + 1}", *one)
    assert events_of(folder, "start")[0]["world_size"] == workers
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-7)

    assert refused.returncode == 2
    assert f"this cluster holds {workers}. It has:" in refused.stderr
    assert f"{nodes} nodes with {per_node} CPU" in refused.stderr
    assert "kind=shared" in refused.stderr
