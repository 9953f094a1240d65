"""What a sweep will do, worked out before anything starts: trials, rungs, how many at a time, and what never fits."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.filesize import decimal

import asparagus
from asparagus.checkpoint.folder import manifests
from asparagus.compose import Request
from asparagus.errors import RequestError
from asparagus.sweeps import plan_sweep

SITE = ("resources=one_worker", "site.address=127.0.0.1:6379")


@pytest.fixture
def planned(home):
    """Return the plan of a sweep over the digits."""

    def plan(*words):
        return plan_sweep(Request("experiment/digits", ("optim.lr=1e-4,1e-3,1e-2,1e-1", *SITE, *words)))[0]

    return plan


@pytest.mark.parametrize(
    ("workers", "nodes", "held"),
    [
        (1, [{"CPU": 4.0}], 4),
        (1, [{"CPU": 4.0}, {"CPU": 3.0}], 7),
        (2, [{"CPU": 4.0}, {"CPU": 3.0}], 3),  # one trial's workers may stand on two nodes
        (2, [{"CPU": 1.0}], 0),
    ],
)
def test_a_cluster_holds_as_many_trials_as_have_places_on_its_nodes(planned, workers, nodes, held):
    assert planned(f"resources.workers={workers}", "site.nodes=4", "site.cpus_per_node=8").held_by(nodes) == held


def test_a_worker_stands_on_one_node(planned):
    words = ("resources.workers=1", "resources.cpus_per_worker=3", "site.nodes=2", "site.cpus_per_node=4")
    assert planned(*words).capacity() == 2  # not the 2 * 4 // 3 that all of them together would hold


def test_a_trial_that_no_node_can_hold_is_refused_with_the_numbers(planned):
    with pytest.raises(RequestError, match="3 cpus each never fit"):
        planned("resources.workers=1", "resources.cpus_per_worker=3", "site.nodes=8", "site.cpus_per_node=2")


def test_rungs_are_told_before_anything_is_trained(planned):
    plan = planned("trainer.max_epochs=9", "sweep.scheduler={name: asha, reduction_factor: 3}", "sweep.sampler=grid")
    assert "asha: 4 x 1, 1 x 3, 1 x 9 epochs" in plan.describe()


def test_what_is_kept_on_disk_is_told_before_anything_is_trained(planned):
    assert "at most 2 of each run, of 4 trials: 8 in all" in planned().describe()
    assert "of 1 trials: 2 in all" in planned("sweep.keep_best=1").describe()


def test_how_much_room_they_take_is_told_from_an_earlier_run_of_the_same_network(planned, home):
    unknown = "8 in all; how large is known from the first run of this network on"
    assert unknown in planned().describe()
    outcome = asparagus.launch("experiment/digits", ["trainer.max_epochs=1"])
    (written, *_) = manifests(Path(outcome.folder) / "checkpoints")
    assert written.bytes > 1000
    assert f"8 in all, {decimal(8 * written.bytes)} if they are as large" in planned().describe()
    assert unknown in planned("model.cls_net.hidden=[7]").describe()
