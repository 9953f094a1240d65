"""What a cluster holds, node by node; and what is said where it is too little."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from asparagus.driver.cluster import Cluster, Node, here, must_hold, selects
from asparagus.errors import PlanError
from asparagus.spec import Resources
from tests.helpers import free_port

GIB = 2**30
SMALL = Node({"CPU": 4, "memory": 8 * GIB}, {"zone": "a"})
BIG = Node({"CPU": 16, "GPU": 4, "memory": 64 * GIB, "accelerator_type:A100": 1}, {"zone": "b"})
CLUSTER = Cluster((SMALL, SMALL, BIG))


@pytest.mark.parametrize(
    ("asked", "fit"),
    [
        ({}, 24),
        ({"cpus_per_worker": 3}, 1 + 1 + 5),  # what is left over on a node is nobody's
        ({"gpus_per_worker": 1}, 4),
        ({"gpus_per_worker": 0.1}, 16),  # 40 by its GPUs
        ({"gpus_per_worker": 0.1, "cpus_per_worker": 0.1}, 40),  # 4 / 0.1 is 40, and no 39.999
        ({"memory_per_worker": "5GiB"}, 1 + 1 + 12),
        ({"placement": "strict_pack"}, 16),
        ({"placement": "strict_spread"}, 3),
        ({"accelerator_type": "A100"}, 16),
        ({"accelerator_type": "H100"}, 0),
        ({"labels": {"zone": "a"}}, 8),
        ({"labels": {"zone": "!a"}}, 16),
        ({"labels": {"zone": "in(a, b)"}}, 24),
        ({"labels": {"zone": "!in(a,b)"}}, 0),
        ({"labels": {"rack": "1"}}, 0),
    ],
)
def test_workers_are_counted_node_by_node(asked, fit):
    assert CLUSTER.holds(Resources(workers=99, **asked)) == fit


def test_a_node_without_a_label_is_none_of_those_that_have_it():
    assert selects("!a", None)
    assert not selects("a", None)


def test_what_does_not_fit_is_refused_with_what_each_node_has():
    with pytest.raises(PlanError) as refused:
        must_hold(CLUSTER, Resources(workers=6, gpus_per_worker=1, cpus_per_worker=2))
    assert str(refused.value) == (
        "resources.workers: 6 workers with 2 CPU, 1 GPU each do not fit: this cluster holds 4. It has:\n"
        "  2 nodes with 4 CPU, 0 GPU, 8.0 GiB of memory, zone=a\n"
        "  1 node with 16 CPU, 4 GPU, 64.0 GiB of memory, A100, zone=b\n"
        "Ask for 4 (resources.workers=4), or take a larger site."
    )


def test_a_worker_that_no_node_holds_is_told_what_to_change():
    asked = Resources(workers=1, cpus_per_worker=32, memory_per_worker="1GiB", labels={"zone": "b"})
    with pytest.raises(PlanError, match=r"No node holds a single one\. Change resources.cpus_per_worker or resources."):
        must_hold(CLUSTER, asked)


def test_an_elastic_run_needs_its_fewest_workers_only():
    must_hold(CLUSTER, Resources(workers=99, min_workers=24))
    with pytest.raises(
        PlanError, match=r"(?s)resources.min_workers: 25 workers .* holds 24.*\(resources.min_workers=24\)"
    ):
        must_hold(CLUSTER, Resources(workers=99, min_workers=25))


def row(**has):
    return {"NodeID": "n", "Alive": True, "NodeManagerAddress": "10.0.0.1", "NodeManagerPort": 1, **has}


def test_dead_nodes_hold_nothing_and_nodes_that_can_be_started_count():
    nodes = [row(Resources={"CPU": 2}, Labels={}), row(Resources={"CPU": 8}, Labels={}, Alive=False)]
    assert here(nodes).holds(Resources(workers=9)) == 2
    group = SimpleNamespace(resources={"CPU": 4}, labels={"zone": "a"}, max_count=2)
    grows = here(nodes, SimpleNamespace(node_group_configs=[group]))
    assert grows.holds(Resources(workers=99)) == 10
    assert grows.holds(Resources(workers=99, labels={"zone": "a"})) == 8
    endless = here(nodes, SimpleNamespace(node_group_configs=[SimpleNamespace(**{**vars(group), "max_count": -1})]))
    assert endless.holds(Resources(workers=99)) == 99
    with pytest.raises(PlanError, match=r"any number of nodes with 4 CPU, 0 GPU, zone=a \(not started yet\)"):
        must_hold(endless, Resources(workers=1, gpus_per_worker=1))


def test_a_node_that_takes_no_connection_is_silent():
    import socket

    from asparagus.driver.elastic import answering

    with socket.create_server(("127.0.0.1", 0)) as door:
        there = Node({}, name="there", address=door.getsockname()[:2])
        gone = Node({}, name="gone", address=("127.0.0.1", free_port()))
        assert answering([there, gone]) == {"there"}
    assert answering([]) == set()
