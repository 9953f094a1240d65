"""Freezing by optimizer step (SEEDS B22 to B30), and weights that are averaged: on real trainings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

import asparagus
from asparagus.api import plan_of
from asparagus.callbacks.freezing import FreezeUpdates
from asparagus.checkpoint.folder import STATE, manifests
from asparagus.checkpoint.transfer import read_weights
from asparagus.errors import ConfigError

STEPS = 12


class Module(pl.LightningModule):
    """Two plain parts, each with its optimizer state: momentum and weight decay would move what is not skipped."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
        self.decoder = torch.nn.Linear(4, 2)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.decoder(self.encoder(batch[0])), batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.1)


class Watch(pl.Callback):
    """Notes at each optimizer step which parts moved, and whether the running means did."""

    def __init__(self):
        self.moved, self.means, self.modes = [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._before = {name: weight.detach().clone() for name, weight in pl_module.named_parameters()}
        self._mean = pl_module.encoder[1].running_mean.clone()

    def on_train_batch_end(self, trainer, pl_module, *_):
        moved = {
            name.partition(".")[0]
            for name, weight in pl_module.named_parameters()
            if not torch.equal(weight, self._before[name])
        }
        self.moved.append(moved)
        self.means.append(not torch.equal(self._mean, pl_module.encoder[1].running_mean))
        self.modes.append(pl_module.encoder.training)


def train(modules, steps=STEPS, *, accumulate=1, folder=None, resumed=None, **arguments):
    watch, module = Watch(), Module()
    data = TensorDataset(torch.randn(8 * steps * accumulate, 4, generator=torch.Generator().manual_seed(1)))
    labels = torch.arange(len(data)) % 2
    loader = DataLoader(TensorDataset(data.tensors[0], labels), batch_size=8)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        callbacks=[FreezeUpdates(modules, **arguments), watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, ckpt_path=resumed, weights_only=True)
    if folder is not None:
        trainer.save_checkpoint(folder / "state.ckpt")
    return module, watch


def frozen_steps(watch, part, accumulate=1):
    """The optimizer steps, from 1, that left a part where it was."""
    ends = watch.moved[accumulate - 1 :: accumulate]
    return [number for number, moved in enumerate(ends, 1) if part not in moved]


@pytest.mark.parametrize(
    ("given", "frozen"),
    [
        (5, [1, 2, 3, 4, 5]),
        (0, []),
        ([5, -1], list(range(5, STEPS + 1))),
        ([3, 6], [3, 4, 5, 6]),
        (-1, list(range(1, STEPS + 1))),
    ],
    ids=["b23_first", "b23_never", "b24_from", "b25_range", "b26_always"],
)
def test_b22_a_part_is_frozen_in_its_range_of_steps_and_in_no_other(given, frozen):
    _, watch = train({"encoder": given})
    assert frozen_steps(watch, "encoder") == frozen
    assert frozen_steps(watch, "decoder") == []


def test_b22_all_batches_of_an_accumulated_step_share_its_number():
    _, watch = train({"encoder": [3, 6]}, 8, accumulate=3)
    assert frozen_steps(watch, "encoder", 3) == [3, 4, 5, 6]


def test_b27_a_frozen_part_stays_in_training_mode_and_is_thawed_whole():
    module, watch = train({"encoder": 5})
    assert all(watch.modes)
    assert all(watch.means)  # of batch normalization
    assert all(weight.requires_grad for weight in module.parameters())
    assert all(weight.requires_grad for weight in train({"encoder": -1})[0].parameters())  # at the end, too


def test_b28_it_may_be_switched_off():
    _, watch = train({"encoder": -1}, enabled=False)
    assert frozen_steps(watch, "encoder") == []


def test_b28_nothing_left_to_train_is_said_and_not_torchs_words():
    with pytest.raises(ConfigError, match=r"at step 1 all weights are frozen \(decoder, encoder\)"):
        train({"encoder": 5, "decoder": 5})


@pytest.mark.parametrize("given", [[1, 2, 3], [5], [6, 3], [-1, 4], -2.5, -2, True, "200"], ids=str)
def test_b28_a_range_that_is_none_is_refused(given):
    with pytest.raises(ConfigError, match=r"freeze_updates\.modules\.encoder: .*"):
        FreezeUpdates({"encoder": given})


def test_b28_a_part_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(
        ConfigError, match=r"Module has no such part. Did you mean 'encoder'\? There are: decoder, encoder"
    ):
        train({"encoderr": 5})


def test_b29_a_resumed_training_freezes_as_one_that_was_not_interrupted(tmp_path):
    whole, _ = train({"encoder": [3, 8]}, 10)
    torch.manual_seed(0)
    train({"encoder": [3, 8]}, 5, folder=tmp_path)
    state = torch.load(tmp_path / "state.ckpt", weights_only=True)
    assert state["global_step"] == 5
    module, watch = train({"encoder": [3, 8]}, 10, resumed=tmp_path / "state.ckpt")
    assert frozen_steps(watch, "encoder") == [1, 2, 3]  # 6, 7 and 8 of the whole
    assert len(watch.moved) == 5
    assert whole.state_dict().keys() == module.state_dict().keys()


def test_b30_gradients_of_frozen_weights_are_none_and_not_zero():
    seen = []

    class Look(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            seen.append([weight.grad is None for weight in pl_module.encoder.parameters()])

    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=4,
        callbacks=[FreezeUpdates({"encoder": [2, 3]}), Look()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Module(), DataLoader(TensorDataset(torch.randn(64, 4), torch.arange(64) % 2), batch_size=8))
    assert [all(step) for step in seen] == [False, True, True, False]
    assert not any(any(step) != all(step) for step in seen)


# ---- in experiments ----

DIGITS = ("experiment/digits", "trainer.max_epochs=2", "trainer.log_every_n_steps=1")


def test_b22_the_documented_block_is_understood(home):
    block = "+model.freeze_updates={enabled: true, modules: {body: 200, head: [50, -1]}}"
    section = plan_of(DIGITS[0], [*DIGITS[1:], block]).spec.callbacks["freeze_updates"]
    assert section == {
        "_target_": "asparagus.callbacks.freezing.FreezeUpdates",
        "enabled": True,
        "modules": {"body": 200, "head": [50, -1]},
    }


def newest(outcome):
    folder = Path(outcome.folder) / "checkpoints"
    return folder / manifests(folder)[-1].name


def test_a_frozen_part_of_an_experiment_is_the_same_after_every_epoch(home):
    words = [*DIGITS[1:], "checkpoint.keep_every_n_epochs=1", "+freeze_updates={modules: {encoder: -1}}"]
    folder = Path(asparagus.launch(DIGITS[0], overrides=words).folder) / "checkpoints"
    first, second = (read_weights(folder / manifest.name) for manifest in manifests(folder))
    same = {name for name in first if torch.equal(first[name], second[name])}
    assert same == {name for name in first if name.startswith("net.encoder.")}


def test_averaged_weights_are_what_is_kept_and_validated(home):
    """SEEDS B.2 and D.2: EMA, as exp_manager spells it; Lightning's callback does it."""
    words = [*DIGITS[1:], "+exp_manager={ema: {enable: true, decay: 0.5, every_n_steps: 1}}"]
    outcome = asparagus.launch(DIGITS[0], overrides=words)
    state = torch.load(newest(outcome) / STATE, weights_only=True)
    assert {"state_dict", "current_model_state"} <= state.keys()
    name = next(iter(state["state_dict"]))
    assert not torch.equal(state["state_dict"][name], state["current_model_state"][name])
    assert json.dumps(outcome.metrics)


def test_an_early_end_and_a_limit_of_time_as_exp_manager_spells_them(home):
    manager = "{create_early_stopping_callback: true, early_stopping_callback_params: {patience: 3}, "
    manager += "max_time_per_run: '00:01:00:00', create_preemption_callback: true}"
    spec = plan_of(DIGITS[0], [*DIGITS[1:], f"+exp_manager={manager}"]).spec
    stopping = spec.callbacks["early_stopping"]
    assert (stopping["monitor"], stopping["min_delta"], stopping["patience"]) == ("val/loss", 0.001, 3)
    assert spec.trainer["max_time"] == "00:01:00:00"
