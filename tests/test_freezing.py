"""Freezing by optimizer step (SEEDS B22 to B30), and weights that are averaged: on real trainings."""

from __future__ import annotations

import json
from itertools import pairwise
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
from tests.helpers import two_ranks

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

    def __init__(self, depth=1):
        self.depth, self.moved, self.means, self.modes = depth, [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._before = {name: weight.detach().clone() for name, weight in pl_module.named_parameters()}
        self._mean = pl_module.encoder[1].running_mean.clone()

    def on_train_batch_end(self, trainer, pl_module, *_):
        moved = {
            ".".join(name.split(".")[: self.depth])
            for name, weight in pl_module.named_parameters()
            if not torch.equal(weight, self._before[name])
        }
        self.moved.append(moved)
        self.means.append(not torch.equal(self._mean, pl_module.encoder[1].running_mean))
        self.modes.append(pl_module.encoder.training)


def train(modules, steps=STEPS, *, accumulate=1, folder=None, resumed=None, module=None, depth=1, **arguments):
    watch, module = Watch(depth), module or Module()
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


class Many(Module):
    """The same with a part for each kind of range."""

    def __init__(self):
        super().__init__()
        self.more = torch.nn.ModuleDict({name: torch.nn.Linear(4, 2) for name in RANGES})

    def training_step(self, batch, batch_idx):
        found = self.decoder(self.encoder(batch[0])) + sum(part(batch[0]) for part in self.more.values())
        return torch.nn.functional.cross_entropy(found, batch[1])


RANGES = {"first": 5, "never": 0, "from_then": [5, -1], "between": [3, 6], "always": -1}


@pytest.fixture(scope="module", params=[1, 3], ids=["each_batch", "accumulated"])
def frozen(request):
    """Which optimizer steps left which part where it was, of one training with all kinds of ranges."""
    _, watch = train(
        {f"more.{name}": given for name, given in RANGES.items()}, accumulate=request.param, module=Many(), depth=2
    )
    assert len(watch.moved) == STEPS * request.param
    return {name: frozen_steps(watch, f"more.{name}", request.param) for name in RANGES} | {
        "decoder": frozen_steps(watch, "decoder.weight", request.param)
    }


def test_b22_a_part_that_is_not_named_moves_at_each_step(frozen):
    assert frozen["decoder"] == []


def test_b23_a_number_freezes_so_many_first_steps_and_none_freezes_nothing(frozen):
    assert frozen["first"] == [1, 2, 3, 4, 5]  # global_step 0 to 4
    assert frozen["never"] == []


def test_b24_a_range_to_minus_one_freezes_from_its_step_to_the_end(frozen):
    assert frozen["from_then"] == list(range(5, STEPS + 1))


def test_b25_a_range_has_both_of_its_ends(frozen):
    assert frozen["between"] == [3, 4, 5, 6]


def test_b26_minus_one_freezes_the_whole_run(frozen):
    assert frozen["always"] == list(range(1, STEPS + 1))


def test_b27_a_frozen_part_stays_in_training_mode_and_is_thawed_whole():
    module, watch = train({"encoder": 5})
    assert all(watch.modes)
    assert all(watch.means)  # of batch normalization
    assert all(weight.requires_grad for weight in module.parameters())
    assert all(weight.requires_grad for weight in train({"encoder": -1})[0].parameters())  # at the end, too


@pytest.mark.parametrize("inner_first", [True, False])
def test_b27_what_is_thawed_leaves_a_part_inside_it_frozen_that_is_named_as_well(inner_first):
    """Also where both begin with the same step, and whatever their order."""
    modules = {"encoder": 3, "encoder.0": -1}
    _, watch = train(dict(reversed(modules.items())) if inner_first else modules, depth=2)
    assert frozen_steps(watch, "encoder.0") == list(range(1, STEPS + 1))
    assert frozen_steps(watch, "encoder.1") == [1, 2, 3]


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


# ---- on two ranks ----


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two ranks saw at each optimizer step, of a whole training and of one in two halves."""
    folder = tmp_path_factory.mktemp("ranks")
    two_ranks("tests.two_ranks_frozen", folder)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def still(steps, part):
    """The optimizer steps, from 1, after which a part is where it was; nobody saw what the last one did."""
    pairs = pairwise(steps)
    return [number for number, (now, then) in enumerate(pairs, 1) if now["weights"][part] == then["weights"][part]]


@pytest.mark.parametrize("training", ["whole", "halves"])
def test_b29_two_ranks_freeze_the_same_steps_bit_for_bit_also_after_a_resume(training, ranks):
    first, second = (rank[training] for rank in ranks)
    assert [step["weights"] for step in first] == [step["weights"] for step in second]
    assert still(first, "encoder") == [2, 3, 4]
    assert still(first, "stem") == [1, 2, 3, 4, 5]
    assert still(first, "head") == []


def test_b29_two_ranks_end_a_training_of_two_halves_as_one_that_was_not_interrupted(ranks):
    assert ranks[0]["whole"] == ranks[0]["halves"]


def test_b30_on_two_ranks_the_gradients_of_what_is_frozen_are_none(ranks):
    for rank in ranks:
        without = [step["without_gradients"] for step in rank["whole"]]
        assert without == [["stem"], *[["stem", "encoder"]] * 3, ["stem"], ["stem"]]


def test_b20_on_two_ranks_the_schedule_ends_with_the_last_step_of_the_real_world_size(ranks):
    # 13 cases each in batches of 3, 2 of them per step: 3 steps per epoch, and two epochs
    for rank in ranks:
        assert [step["rate"] for step in rank["whole"]] == pytest.approx([0.1 * (1 - step / 6) for step in range(6)])


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
