"""Tests of asparagus.stages.masks: CellMap's loss, intensities and validation score (SEEDS E23, E26, E27)."""

from __future__ import annotations

import json
import math

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

from asparagus.callbacks.predictions import Predictions
from asparagus.data.transforms import unit_interval
from asparagus.errors import ConfigError
from asparagus.stages.losses import AnnotatedBCE
from asparagus.stages.masks import MaskModule
from tests.helpers import quiet_trainer, two_ranks
from tests.two_ranks_masks import LOGITS, TARGETS

NAN = math.nan


def test_e23_the_loss_is_the_mean_over_annotated_voxels():
    logits = torch.tensor([[[0.0, 2.0, -1.0, 5.0]]])
    target = torch.tensor([[[1.0, 0.0, NAN, NAN]]])
    expected = (math.log(2) + math.log(1 + math.exp(2))) / 2  # upstream: a quarter of the sum
    assert float(AnnotatedBCE()(logits, target)) == pytest.approx(expected)
    whole = torch.tensor([[[1.0, 0.0, 1.0, 0.0]]])
    assert AnnotatedBCE()(logits, whole) == pytest.approx(float(binary_cross_entropy_with_logits(logits, whole)))


def test_e23_voxels_without_an_annotation_give_no_gradient():
    logits = torch.tensor([[[0.0, 2.0, -1.0]]], requires_grad=True)
    AnnotatedBCE()(logits, torch.tensor([[[1.0, NAN, 0.0]]])).backward()
    sigmoid = 1 / (1 + math.exp(1))
    torch.testing.assert_close(logits.grad, torch.tensor([[[-0.25, 0.0, sigmoid / 2]]]))


def test_e23_a_batch_without_any_annotation_is_zero_with_zero_gradients():
    logits = torch.tensor([[[3.0, math.inf]]], requires_grad=True)
    loss = AnnotatedBCE()(logits, torch.full((1, 1, 2), NAN))
    loss.backward()
    assert loss.detach() == 0
    assert logits.grad.tolist() == [[[0.0, 0.0]]]


def test_e23_on_two_ranks_the_mean_is_over_the_annotated_voxels_of_both(tmp_path):
    two_ranks("tests.two_ranks_masks", tmp_path)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    weight = torch.ones(1, requires_grad=True)
    logits, targets = torch.tensor(LOGITS), torch.tensor(TARGETS)
    whole = AnnotatedBCE()(weight * logits, targets)
    whole.backward()
    assert sum(rank["loss"] for rank in ranks) / 2 == pytest.approx(float(whole.detach()))
    assert [rank["gradient"] for rank in ranks] == pytest.approx([float(weight.grad)] * 2)
    alone = [float(AnnotatedBCE()(*pair)) for pair in zip(logits, targets, strict=True)]
    assert [rank["alone"] for rank in ranks] == pytest.approx(alone)
    assert sum(alone) / 2 != pytest.approx(float(whole.detach()), rel=0.05)


def test_e26_raw_intensities_are_floats_from_zero_to_one_and_zero_where_there_are_none():
    assert unit_interval(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    scaled = unit_interval(torch.tensor([NAN, 127.5], dtype=torch.float64))
    assert (scaled.tolist(), scaled.dtype) == ([0.0, 0.5], torch.float32)


class Net(torch.nn.Module):
    """One convolution, and a dropout that shows in what mode it was; keeps whether gradients were wanted."""

    def __init__(self, channels=2):
        super().__init__()
        self.conv, self.dropout = torch.nn.Conv2d(1, channels, 1), torch.nn.Dropout(0.5)
        self.modes = []

    def forward(self, x):
        self.modes.append((self.training, torch.is_grad_enabled()))
        return self.dropout(self.conv(x))


def made(size, seed):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 2, (size, 2, 4, 4), generator=generator).float()
    label[:, :, 0] = NAN
    return {"image": torch.randn(size, 1, 4, 4, generator=generator), "label": label}


def fitted(net, train, val, **trainer):
    module = MaskModule(net, {"name": "sgd", "lr": 0.1}, n_classes=2, class_names=["nuc", "er"])
    fit = quiet_trainer(max_epochs=1, **trainer)
    fit.fit(module, DataLoader(train, batch_size=None), DataLoader(val, batch_size=None) if val else None)
    return module, {name: float(value) for name, value in fit.callback_metrics.items()}


def test_e27_the_validation_score_is_the_mean_of_the_losses_of_the_batches():
    torch.manual_seed(0)
    net, val = Net(), [made(4, 1), made(1, 2), made(3, 3)]
    module, metrics = fitted(net, [made(2, 0)], val, limit_val_batches=2)
    assert net.modes == [(True, True), (False, False), (False, False)]
    net.eval()
    losses = [float(AnnotatedBCE()(module(batch["image"]), batch["label"])) for batch in val[:2]]
    assert metrics["val/loss"] == pytest.approx(sum(losses) / 2)


def test_e27_without_validation_data_there_is_no_score():
    _, metrics = fitted(Net(), [made(2, 0)], None)
    assert {"train/loss_epoch"} <= metrics.keys()
    assert not [name for name in metrics if name.startswith("val/")]


def test_the_dice_of_each_mask_is_counted_over_annotated_voxels():
    module = MaskModule(Net(), {"name": "sgd", "lr": 0.1}, n_classes=2)
    label = torch.tensor([[1.0, 1.0, 0.0, NAN], [0.0, NAN, 1.0, 1.0]]).reshape(1, 2, 2, 2)
    logits = torch.tensor([[1.0, -1.0, -1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]).reshape(1, 2, 2, 2)
    module._count(logits > 0, label)
    assert module.dice.compute().tolist() == pytest.approx([2 * 1 / (1 + 2), 2 * 2 / (3 + 2)])


def test_masks_are_learnt():
    batch = made(8, 5)
    batch["label"] = torch.cat([batch["image"] > 0, batch["image"] < 0], dim=1).float()
    net = torch.nn.Conv2d(1, 2, 1)
    _, metrics = fitted(net, [batch] * 200, [batch])
    assert metrics["val/dice"] > 0.95
    assert {"val/dice/nuc", "val/dice/er"} <= metrics.keys()


def test_e27_a_mask_for_each_class_is_asked_for():
    with pytest.raises(ConfigError, match=r"gives \[3, 4, 4\] for a case, and the task has masks of \[2, 4, 4\]"):
        fitted(Net(3), [made(2, 0)], None)


class Named(torch.utils.data.Dataset):
    """Two cases of two masks, by name."""

    def __len__(self):
        return 2

    def __getitem__(self, number):
        whole = made(1, number)
        return {"image": whole["image"][0], "label": whole["label"][0], "case": f"sub-{number}.pt"}


def test_masks_are_tested_case_by_case_and_written_as_volumes(tmp_path):
    module = MaskModule(Net(), {"name": "sgd", "lr": 0.1}, n_classes=2, class_names=["nuc", "er"])
    written = Predictions(tmp_path, "Task1", "last", maps=True)
    trainer = quiet_trainer(callbacks=[written])
    trainer.test(module, DataLoader(Named(), batch_size=2), verbose=False)
    told = json.loads(written.file.read_text())
    assert set(told) == {"sub-0.pt", "sub-1.pt", "mean"}
    volume = nib.load(written.file.parent / told["sub-1.pt"]["file"])
    assert volume.shape == (4, 4, 1, 2)
    predicted, true = volume.get_fdata()[:, :, 0, 1] > 0, Named()[1]["label"][1].numpy() > 0
    known = ~Named()[1]["label"][1].isnan().numpy()
    of_er = told["sub-1.pt"]["1"]
    assert (of_er["TP"], of_er["FP"]) == ((predicted & true & known).sum(), (predicted & ~true & known).sum())
    assert of_er["total_pos_gt"] == (true & known).sum()
    assert told["mean"]["1"]["TP"] == np.mean([told[f"sub-{i}.pt"]["1"]["TP"] for i in (0, 1)])
