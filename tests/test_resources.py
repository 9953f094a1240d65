"""The section `resources`: what it refuses, what it plans, and what of it is no part of a run's identity."""

from __future__ import annotations

import pytest

from asparagus.api import plan_of
from asparagus.errors import PlanError, RequestError
from asparagus.plan import make_plan
from tests.test_plan import spec

DIGITS = "experiment/digits"
ROOMY = "site.cpus_per_node=64"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resources.min_workers=2"], "resources.min_workers: 2 and resources.workers=0 exclude each other"),
        (["resources.workers=2", "resources.min_workers=3"], "min_workers: 3 is not between 1 and resources.workers=2"),
        (["resources.workers=2", "resources.min_workers=0"], "min_workers: 0 is not between 1 and"),
        (["resources.workers=1", "resources.placement=packed"], "resources.placement: 'packed'"),
        (["resources.workers=1", "resources.memory_per_worker=much"], "memory_per_worker: 'much' is no size of memory"),
        (["resources.workers=1", "resources.memory_per_worker=0"], "memory_per_worker: 0 is no size of memory"),
        (["resources.workers=1", "resources.accelerator_type='A 100'"], "accelerator_type: 'A 100' is no type of GPU"),
        (["resources.workers=1", "+resources.labels.zone='in('"], "resources.labels.zone: 'in(' selects nothing"),
        (["resources.workers=2", "trainer.strategy=fdsp"], "Did you mean 'fsdp'"),
        (
            ["resources.workers=2", "trainer.strategy=fsdp", "trainer.precision=16-mixed"],
            "trainer.precision: 16-mixed cannot be trained with trainer.strategy=fsdp",
        ),
        (
            [
                *("resources.workers=2", "resources.min_workers=1"),
                "callbacks.g={_target_: pytorch_lightning.callbacks.GradientAccumulationScheduler, scheduling: {0: 2}}",
            ],
            "callbacks.g: GradientAccumulationScheduler and resources.min_workers exclude each other",
        ),
        (["resources.workers=2", "trainer.strategy=deepspeed"], "trainer.strategy: deepspeed needs GPUs"),
        (
            ["resources.workers=2", "resources.min_workers=1", "trainer.strategy=deepspeed_stage_2"],
            "deepspeed_stage_2 and resources.min_workers exclude each other",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_refused_before_anything_starts(home, words, said):
    with pytest.raises(RequestError) as refused:
        plan_of(DIGITS, [ROOMY, *words])
    assert said in str(refused.value)


def test_everything_together_is_planned_and_read_back_in_one_line(home):
    words = ["resources.workers=8", "resources.min_workers=2", "resources.placement=spread", "+resources.labels.zone=a"]
    made = plan_of(DIGITS, [ROOMY, *words, "resources.memory_per_worker=2GiB", "resources.accelerator_type=T4"])
    assert made.bundle == {"CPU": 1, "memory": 2 * 2**30, "accelerator_type:T4": 0.001}
    told = "2 to 8 on Ray (local: local), each 1 CPUs, 2GiB of memory; spread; on T4; where zone=a"
    assert told in made.describe()


def test_how_many_workers_there_may_be_and_where_does_not_make_another_run(home):
    words = ["resources.workers=4", "resources.min_workers=2", "resources.placement=spread", "+resources.labels.zone=a"]
    assert plan_of(DIGITS, [ROOMY, *words]).identity == plan_of(DIGITS, [ROOMY, "resources.workers=4"]).identity


@pytest.mark.parametrize(
    ("words", "loaders"),
    [
        ([], 0),
        (["resources.workers=2"], 0),
        (["resources.workers=2", "resources.cpus_per_worker=4"], 3),
        (["resources.workers=2", "resources.cpus_per_worker=0.5"], 0),
        (["resources.workers=2", "resources.cpus_per_worker=4", "data.num_workers=1"], 1),
    ],
)
def test_what_a_worker_has_beside_its_own_cpu_loads_data(home, words, loaders):
    assert plan_of(DIGITS, [ROOMY, *words]).spec.data["num_workers"] == loaders


@pytest.mark.parametrize(
    ("placement", "fits"), [("pack", 16), ("spread", 16), ("strict_pack", 8), ("strict_spread", 2)]
)
def test_a_fixed_site_holds_what_its_placement_allows(placement, fits):
    def planned(workers):
        from dataclasses import replace

        asked = spec(workers=workers, nodes=2, per_node=(8, 0))
        return make_plan(replace(asked, resources=replace(asked.resources, placement=placement)))

    assert planned(fits).workers == fits
    with pytest.raises(PlanError, match=f"hold {fits}"):
        planned(fits + 1)


def test_a_laptop_that_holds_the_fewest_workers_is_enough(home):
    words = ["resources.workers=8", "resources.min_workers=2"]
    assert plan_of(DIGITS, ["site.cpus_per_node=2", *words]).workers == 8
    with pytest.raises(RequestError, match=r"resources.min_workers: 2 workers .* hold 1\. .*resources.min_workers=1"):
        plan_of(DIGITS, ["site.cpus_per_node=1", *words])


@pytest.mark.parametrize("word", ["resources.min_workers=1", "+resources.labels.zone=a", "resources.placement=spread"])
def test_a_trial_of_a_sweep_cannot_move(home, asp, word):
    words = ["resources.workers=2", ROOMY, word, "sweep.trials=2", "--dry-run"]
    done = asp("asp-launch", DIGITS, "-m", "optim.lr=tag(log,interval(1e-4,1e-1))", *words)
    assert done.returncode == 2, done.stderr
    assert word.lstrip("+").partition("=")[0].removesuffix(".zone") in done.stderr
    assert "reserved before it starts" in done.stderr
