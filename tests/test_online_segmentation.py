"""Tests of asparagus.callbacks.online_segmentation: on a pretraining that runs, with and without it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.loggers.logger import DummyLogger

from asparagus.callbacks.online_segmentation import METRICS, OnlineSegmentation
from asparagus.data.layout import read_task
from asparagus.data.modules import CaseDataModule
from asparagus.data.split import make_split
from asparagus.data.synthetic import make_synthetic
from asparagus.errors import ConfigError, DataError, RunError
from asparagus.stages import STAGES
from asparagus.stages.build import build_module
from asparagus.targets import instantiate
from tests.helpers import quiet_trainer

CONFIGS = Path(__file__).parent.parent / "configs"
SEG, PRE = "Task997_LauritSynSeg", "Task998_LauritSyn"
PATCH = [16, 16, 16]
# Dropout: it draws from the global generator, in the pretraining and in what must not disturb it.
UNET = {"_target_": "asparagus.models.unet.UNet", "features": [4, 8], "dropout": 0.1}
HEAD = ["head.conv.weight", "head.conv.bias"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a data folder with six small cases of two tasks."""
    folder = tmp_path_factory.mktemp("data")
    for name in (SEG, PRE):
        make_synthetic(name, folder, cases=6, size=16)
        make_split(folder, name, "split_80_20")
    return folder


def probe(**settings):
    return OnlineSegmentation(**{"task": SEG, "net": UNET, "epochs": 1, "batches": 1, **settings})


class Watch(OnlineSegmentation):
    """Keeps the networks: as they begin, and as they are once trained."""

    def __init__(self, **settings):
        super().__init__(task=SEG, net=UNET, epochs=2, lr=1e-2, **settings)
        self.begun, self.pretraining, self.trained, self.random = [], [], [], []

    def on_train_epoch_end(self, trainer, pl_module):
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        super().on_train_epoch_end(trainer, pl_module)
        after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        self.random.append(before == after)

    def _network(self, pl_module):
        module, report = super()._network(pl_module)
        self.begun.append(copied(module.net))
        self.pretraining.append(copied(pl_module.net))
        self.trained.append(module.net)
        return module, report


class Lines(DummyLogger):
    """A logger that keeps what a run sends it, by epoch."""

    def __init__(self):
        super().__init__()
        self.lines = {}

    def log_metrics(self, metrics, step=None):
        self.lines.setdefault(int(metrics["epoch"]), {}).update(metrics)


class Seen(pl.Callback):
    """Keeps what `callback_metrics` says at the end of each epoch: what checkpoints and the journal read."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append({key: float(value) for key, value in trainer.callback_metrics.items()})


def copied(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def pretrain(root, *callbacks, epochs=3, feed=None, dimensions="3D"):
    """Run a pretraining and return its module and its log."""
    pl.seed_everything(1, verbose=False)
    model, optim = {"dimensions": dimensions, "pretrain_net": UNET}, {"name": "adamw", "lr": 3e-3}
    module = build_module(STAGES["pretrain"], model, optim, None, read_task(root, PRE), patch_size=PATCH)
    log = Lines()
    trainer = quiet_trainer(max_epochs=epochs, logger=log, callbacks=list(callbacks))
    trainer.fit(module, feed or CaseDataModule(root, PRE, "pretrain", patch_size=PATCH, dimensions=dimensions))
    return module, log.lines


@pytest.fixture(scope="module")
def watched(root):
    """Return the callback and the pretraining that it watched for three epochs."""
    callback = Watch()
    module, _ = pretrain(root, callback)
    return callback, module


def test_a37_the_weights_so_far_are_taken_over(watched):
    callback, _ = watched
    tried, first, third = callback.begun  # before the training, and after its epochs 0 and 2
    for begun, pretraining in zip(callback.begun, callback.pretraining, strict=True):
        assert all(torch.equal(begun[name], pretraining[name]) for name in begun if not name.startswith("head."))
    assert not torch.equal(first["encoder.stem.conv_0.conv.weight"], third["encoder.stem.conv_0.conv.weight"])
    assert not torch.equal(tried["encoder.stem.conv_0.conv.weight"], first["encoder.stem.conv_0.conv.weight"])


def test_a37_the_head_is_the_same_fresh_one_every_time(watched):
    callback, _ = watched
    assert all(torch.equal(begun[name], callback.begun[0][name]) for begun in callback.begun for name in HEAD)


def test_a37_the_last_parameters_move_and_the_frozen_ones_do_not(watched):
    callback, _ = watched
    for begun, trained in zip(callback.begun[1:], callback.trained[1:], strict=True):
        moved = [name for name, value in trained.state_dict().items() if not torch.equal(value, begun[name])]
        assert moved == list(begun)[-4:]
        assert moved[-2:] == HEAD


def test_the_pretraining_is_the_same_to_the_bit_with_and_without_it(root, watched):
    callback, module = watched
    alone, _ = pretrain(root)
    with_it, without_it = module.state_dict(), alone.state_dict()
    assert with_it.keys() == without_it.keys()
    assert all(torch.equal(with_it[name], without_it[name]) for name in without_it)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert callback.random == [True, True, True]


def test_a37_metrics_are_logged_in_the_epochs_whose_turn_it_is(root):
    seen = Seen()
    _, lines = pretrain(root, probe(), seen, epochs=4)
    assert [set(METRICS) <= seen.epochs[epoch].keys() for epoch in range(4)] == [True, False, True, False]
    assert [set(METRICS) & lines[epoch].keys() for epoch in range(4)] == [set(METRICS), set(), set(METRICS), set()]
    assert [set(METRICS) & seen.epochs[epoch].keys() for epoch in (1, 3)] == [set(), set()]
    for epoch in (0, 2):
        assert all(np.isfinite(lines[epoch][name]) for name in METRICS)
        assert lines[epoch]["online_seg_val_loss"] == pytest.approx(seen.epochs[epoch]["online_seg_val_loss"])


def test_a37_unless_told_otherwise_it_does_what_is_documented():
    callback = OnlineSegmentation(task=SEG, net=UNET)
    assert (callback.every_n_epochs, callback.epochs, callback.batches, callback.lr) == (2, 5, 250, 1e-4)
    assert METRICS[:2] == ("online_train_loss", "online_seg_val_loss")


def test_a37_the_rhythm_is_a_setting(root):
    seen = Seen()
    pretrain(root, probe(every_n_epochs=3), seen, epochs=4)
    assert ["online_seg_val_dice" in metrics for metrics in seen.epochs] == [True, False, False, True]


def test_a37_ranks_log_the_same_values_though_their_random_states_differ(root):
    class OtherRank(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            pl.seed_everything(99, verbose=False)

    one, other = (
        pretrain(root, *first, probe(epochs=2, batches=2, lr=1e-2), epochs=1)[1] for first in ([], [OtherRank()])
    )
    assert [one[0][name] for name in METRICS] == [other[0][name] for name in METRICS]


def test_segmentation_learns(root):
    """With all parameters and a usable rate, the loss on the validation cases goes down."""
    short, long = (probe(epochs=n, batches=9, lr=1e-2, train_n_last_params=99) for n in (1, 12))
    losses = [pretrain(root, callback, epochs=1)[1][0]["online_seg_val_loss"] for callback in (short, long)]
    assert losses[1] < 0.9 * losses[0]


def test_two_dimensions_are_taken_from_the_pretraining(root):
    callback, seen = Watch(), Seen()
    pretrain(root, callback, seen, epochs=1, dimensions="2D")
    assert callback.begun[0]["head.conv.weight"].shape == (5, 4, 1, 1)
    assert set(METRICS) <= seen.epochs[0].keys()


# what a user can cause


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"task": "Task99_Nothing"}, DataError, "plugins.online_segmentation.task: no task 'Task99_Nothing' in "),
        ({"split": "split_7"}, DataError, "plugins.online_segmentation.split: no split 'split_7'"),
        ({"fold": 9}, DataError, "plugins.online_segmentation.fold: 9 is not a fold."),
        ({"dimensions": "4D"}, ConfigError, "plugins.online_segmentation.dimensions: '4D' is not known."),
        ({"batch_size": 0}, ConfigError, "plugins.online_segmentation.batch_size: 0 is not at least 1."),
        ({"net": {**UNET, "feature": 3}}, ConfigError, "plugins.online_segmentation.net.feature: "),
        ({"root": "/nowhere"}, DataError, "in /nowhere."),
        (
            {"net": {"_target_": "torch.nn.Identity"}},
            RunError,
            "plugins.online_segmentation.net: no weight of the pretraining fits this network.",
        ),
        (
            {"dimensions": "2D"},  # norms and biases have the same shapes in both
            RunError,
            "plugins.online_segmentation.net: no kernel of the pretraining fits this network",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_the_first_epoch(root, settings, error, says):
    seen = Seen()
    with pytest.raises(error) as raised:
        pretrain(root, probe(**settings), seen)
    assert says in str(raised.value)
    assert "model." not in str(raised.value).replace("model.pretrain_net", "")
    assert seen.epochs == []


@pytest.mark.parametrize("name", ["every_n_epochs", "epochs", "batches", "train_n_last_params", "lr"])
def test_numbers_are_positive(name):
    with pytest.raises(ConfigError, match=rf"plugins.online_segmentation.{name}: 0 is not a positive"):
        probe(**{name: 0})


def test_a_network_that_was_built_already_is_refused():
    with pytest.raises(ConfigError, match="_recursive_=false"):
        probe(net=torch.nn.Identity())


def test_a_data_module_of_ones_own_has_to_be_told_the_folder(root):
    class Own(pl.LightningDataModule):
        def train_dataloader(self):
            feed = CaseDataModule(root, PRE, "pretrain", patch_size=PATCH)
            feed.setup()
            return feed.train_dataloader()

    with pytest.raises(ConfigError, match=r"online_segmentation.root: missing, and not known from Own. Set plugins"):
        pretrain(root, probe(), feed=Own())


# the files in configs/


def test_the_plugin_gets_its_network_from_the_model():
    model = OmegaConf.load(CONFIGS / "model/unet_b_lw_dec.yaml")
    plugins = OmegaConf.load(CONFIGS / "plugins/seg_Task997.yaml")
    sections = OmegaConf.to_container(OmegaConf.create({"model": model, "plugins": plugins}), resolve=True)
    callback = instantiate(sections["plugins"]["online_segmentation"], key="plugins.online_segmentation")
    assert isinstance(callback, OnlineSegmentation)
    assert callback.net == sections["model"]["pretrain_net"]
    assert callback.train_n_last_params == 4
