"""Every stage learns the same on two Ray workers as in this process: one epoch, the same cases in each step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import asparagus
from asparagus.checkpoint.folder import STATE, manifests
from asparagus.checkpoint.transfer import read_weights
from asparagus.data.digits import make_digits
from asparagus.data.split import make_split
from asparagus.data.synthetic import make_synthetic
from asparagus.stages import STAGES
from tests.helpers import living_in

pytestmark = [pytest.mark.e2e, pytest.mark.ray]

DIGITS, REG, CLS, SEG, PRE = (
    "Task001_Digits",
    "Task995_LauritSynReg",
    "Task996_LauritSynCls",
    "Task997_LauritSynSeg",
    "Task998_LauritSyn",
)
GLOBAL_BATCH, STEPS, WORKERS = 4, 4, 2
WORDS = (
    *("optim=sgd", "optim.lr=0.05", "trainer.max_epochs=1", "checkpoint.keep_best=0", "run.system_metrics_s=null"),
    f"trainer.limit_train_batches={STEPS}",
)
VOLUMES = ("model.features=[4,8]", "data.patch_size=[8,8,8]", f"data.samples_per_epoch={GLOBAL_BATCH * STEPS}")
STEADY = "optim.lr=1e-5"
"""Per cents are large: at a higher rate their error explodes, and rounding with it."""
OWN = (
    *(f"task={DIGITS}", "model.dimensions=2D", "model.net._target_=asparagus.models.mlp.MLP"),
    *("model.module._target_=asparagus.stages.cls.ClsModule", "data._target_=asparagus.data.modules.CaseDataModule"),
    *("data.kind=cls", f"data.samples_per_epoch={GLOBAL_BATCH * STEPS}"),
)
"""A module of one's own, as far as these stages can tell."""
LAUNCHED: dict[str, tuple[str, ...]] = {
    "pretrain": ("pretrain", f"task={PRE}", *VOLUMES),
    "train_seg": ("train_seg", f"task={SEG}", *VOLUMES),
    "train_cls": ("train_cls", f"task={CLS}", *VOLUMES),
    "train_reg": ("train_reg", f"task={REG}", *VOLUMES, STEADY),
    "finetune_seg": ("finetune_seg", f"task={SEG}", *VOLUMES),
    "finetune_cls": ("finetune_cls", f"task={CLS}", *VOLUMES),
    "finetune_reg": ("finetune_reg", f"task={REG}", *VOLUMES, STEADY),
    "train": ("train", *OWN),
    "finetune": ("finetune", *OWN),
    "semi": (
        "experiment/semi_digits",
        "data.train.supervised.dataset.count=16",
        # Views are drawn by torch's own stream, which every rank has its own of.
        "data.train.views.collate_fn.transforms=[null,null]",
        *(f"data.train.{name}.drop_last=true" for name in ("supervised", "rotation", "views")),
    ),
}
"""The words that launch each stage, and a semi-supervised module, with nothing in it that depends on the rank."""
SHORT = ("pretrain",)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Return a home with a small version of every task."""
    home = tmp_path_factory.mktemp("stages")
    for name in (REG, CLS, SEG, PRE):
        make_synthetic(name, home / "data", cases=10, size=16)
        make_split(home / "data", name, "split_80_20")
    make_digits(home / "data", cases=100)
    make_split(home / "data", DIGITS, "split_80_20")
    with living_in(home, home / "data"):
        yield home


def trained(stage: str, parents: dict[str, int], *words: str) -> tuple[Any, Path]:
    config, *rest = LAUNCHED[stage]
    parent = STAGES[stage].network if stage in STAGES and STAGES[stage].init_from == "required" else ""
    rest += [f"init_from=run:{parents['train' if parent == 'net' else 'pretrain']}/last"] if parent else []
    outcome = asparagus.launch(config, [*WORDS, *rest, *words])
    checkpoints = Path(outcome.folder) / "checkpoints"
    return outcome, checkpoints / manifests(checkpoints)[-1].name


@pytest.fixture(scope="module")
def alone(tasks):
    """Return a function from a stage to what it learns in this process; each is trained once."""
    done: dict[str, tuple[Any, Path]] = {}

    def of(stage: str) -> tuple[Any, Path]:
        if stage not in done:
            first = "train" if stage == "finetune" else "pretrain"
            parents = {first: of(first)[0].run_id} if stage.startswith("finetune") else {}
            done[stage] = trained(stage, parents, f"data.batch_size={GLOBAL_BATCH}")
        return done[stage]

    return of


def test_no_stage_is_left_out():
    others = {"linear_probe"}  # tests/test_linear_probe.py has it on two workers
    assert {*LAUNCHED, *others} == {*STAGES, "semi"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("stage", [pytest.param(s, marks=() if s in SHORT else pytest.mark.slow) for s in LAUNCHED])
def test_two_ray_workers_learn_what_one_process_learns(stage, alone, ray_address):
    one, weights_of_one = alone(stage)
    first = "train" if stage == "finetune" else "pretrain"
    parents = {first: alone(first)[0].run_id} if stage.startswith("finetune") else {}
    words = ("resources=two_workers", "site=cluster", f"site.address={ray_address}")
    two, weights_of_two = trained(stage, parents, *words, f"data.batch_size={GLOBAL_BATCH // WORKERS}")
    state = torch.load(weights_of_two / STATE, weights_only=True)
    assert (state["global_step"], two.state) == (STEPS, "finished")
    slots = state["optimizer_states"][0]["state"].values()
    assert any(slot["momentum_buffer"].any() for slot in slots)
    expected, found = read_weights(weights_of_one), read_weights(weights_of_two)
    assert expected.keys() == found.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6)
    for name in ("val/loss", "train/loss_epoch"):
        if name in one.metrics:
            assert two.metrics[name] == pytest.approx(one.metrics[name], rel=1e-4)
