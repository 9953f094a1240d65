"""The plan's print is the oracle: golden files, compared whole. REGOLD=1 writes them anew."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from asparagus.errors import PlanError
from asparagus.plan import Plan, make_plan
from asparagus.spec import Parent, Paths, Resources, Site, Spec

GOLDEN = Path(__file__).parent / "golden"
PARENT = Parent("/m/Task998/pretrain/run_id=1/checkpoints/epoch=4-step=25", "ab", 1, "/m/Task998/pretrain/run_id=1", 25)


def spec(*, workers=0, gpus=0, nodes=1, per_node=(8, 0), stage="train_seg", **sections):
    return Spec(
        stage=stage,
        task="Task997_LauritSynSeg",
        model={"dimensions": "3D", "seg_net": {"_target_": "n.UNet"}, "pretrain_net": {"_target_": "n.UNet"}},
        data={"split": "split_80_20", "fold": 0, "batch_size": 2},
        optim={"name": "adamw", "lr": 1e-3, "sched": {"name": "cosine"}},
        trainer={"max_epochs": 10, "accumulate_grad_batches": 4, "precision": "bf16-mixed"},
        resources=Resources(workers=workers, gpus_per_worker=gpus),
        site=Site(nodes=nodes, cpus_per_node=per_node[0], gpus_per_node=per_node[1], tracking_uri="sqlite:////r/m.db"),
        paths=Paths(data="/d", models="/m", results="/r"),
        **sections,
    )


PLANS = {
    "in_process": make_plan(spec(), cases={"train": 32, "val": 8}),
    "four_gpus_from_pretrained": make_plan(
        spec(workers=4, gpus=1, nodes=2, per_node=(16, 4), stage="finetune_seg"), parent=PARENT
    ),
    "two_workers_pretrain": make_plan(spec(workers=2, stage="pretrain")),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_reads_as_it_did(name):
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("REGOLD"):
        file.write_text(PLANS[name].describe() + "\n")
    assert PLANS[name].describe() + "\n" == file.read_text()


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_survives_json(name):
    assert Plan.from_dict(json.loads(PLANS[name].to_json())) == PLANS[name]


def test_the_global_batch_counts_workers_and_accumulation():
    assert make_plan(spec(workers=3)).global_batch == 2 * 3 * 4
    assert make_plan(spec(workers=0)).global_batch == 2 * 1 * 4


@pytest.mark.parametrize(("workers", "fits"), [(8, True), (9, False)])
def test_a_fixed_site_is_filled_to_the_last_gpu_and_not_beyond(workers, fits):
    asked = spec(workers=workers, gpus=1, nodes=2, per_node=(64, 4))
    if fits:
        assert make_plan(asked).workers == workers
        return
    with pytest.raises(PlanError, match=r"9 workers with 1 gpus each never fit .* hold 8\. Ask for at most 8"):
        make_plan(asked)


def test_a_worker_does_not_span_nodes():
    """Two nodes with 3 GPUs hold two workers of 2 GPUs, not three."""
    with pytest.raises(PlanError, match="hold 2"):
        make_plan(spec(workers=3, gpus=2, nodes=2, per_node=(64, 3)))


def test_a_site_that_can_grow_refuses_nothing():
    assert make_plan(spec(workers=1000, nodes=None)).workers == 1000


def test_the_stage_says_what_is_best_unless_the_experiment_does():
    from asparagus.spec import Checkpointing

    assert (make_plan(spec()).spec.checkpoint.monitor, make_plan(spec()).spec.checkpoint.mode) == ("val/dice", "max")
    other = make_plan(spec(checkpoint=Checkpointing(monitor="val/loss"))).spec.checkpoint
    assert (other.monitor, other.mode) == ("val/loss", "min")
