"""Tests of asparagus.stages: the table, masks, metrics, and trainings that learn on real (small) tasks."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
import pytorch_lightning as pl
import torch

from asparagus.data.digits import make_digits
from asparagus.data.layout import read_task
from asparagus.data.modules import CaseDataModule
from asparagus.data.split import make_split
from asparagus.data.synthetic import make_synthetic
from asparagus.errors import ConfigError
from asparagus.stages import STAGES
from asparagus.stages.base import StageModule
from asparagus.stages.build import build_module, spatial_dims
from asparagus.stages.metrics import DicePerClass
from asparagus.stages.pretrain import _voxels, block_mask
from tests.helpers import quiet_trainer

SEG, CLS, PRE, DIGITS = "Task997_LauritSynSeg", "Task996_LauritSynCls", "Task998_LauritSyn", "Task001_Digits"
FEATURES = [4, 8]
UNET = {"_target_": "asparagus.models.unet.UNet", "features": FEATURES}
MODEL = {
    "dimensions": "3D",
    "pretrain_net": UNET,
    "seg_net": UNET,
    "cls_net": {"_target_": "asparagus.models.unet.EncoderClassifier", "features": FEATURES},
}
MLP = {"dimensions": "2D", "net": {"_target_": "asparagus.models.mlp.MLP"}}
OPTIM = {"name": "adamw", "lr": 3e-3, "sched": {"name": "cosine", "warmup_ratio": 0.1}}
PATCH = [16, 16, 16]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a data folder with a small version of every task."""
    folder = tmp_path_factory.mktemp("data")
    for name in (SEG, CLS, PRE):
        make_synthetic(name, folder, cases=8, size=16)
        make_split(folder, name, "split_80_20")
    make_digits(folder, cases=300)
    make_split(folder, DIGITS, "split_80_20")
    return folder


def module_for(root, stage, task, *, model=MODEL, optim=OPTIM, loss=None, patch_size=PATCH, seed=0):
    return build_module(STAGES[stage], model, optim, loss, read_task(root, task), patch_size=patch_size, seed=seed)


class History(pl.Callback):
    """Keeps the logged metrics of every step and epoch."""

    def __init__(self):
        self.steps, self.epochs = [], []

    def on_train_batch_end(self, trainer, *_):
        self.steps.append({key: float(value) for key, value in trainer.logged_metrics.items()})

    def on_validation_end(self, trainer, *_):
        self.epochs.append({key: float(value) for key, value in trainer.callback_metrics.items()})


def fit(root, module, stage, task, *, epochs, dimensions="3D", ckpt_path=None, **data):
    history = History()
    trainer = quiet_trainer(max_epochs=epochs, callbacks=[history])
    feed = CaseDataModule(root, task, STAGES[stage].kind, dimensions=dimensions, **data)
    trainer.fit(module, feed, ckpt_path=ckpt_path, weights_only=True)
    return trainer, history


# the table


@pytest.mark.parametrize("stage", STAGES.values(), ids=str)
def test_every_row_names_a_stage_module_or_leaves_it_to_the_user(stage):
    if stage.kind == "own":
        assert (stage.module, stage.network) == ("", "net")
        return
    module, _, name = stage.module.rpartition(".")
    assert issubclass(getattr(importlib.import_module(module), name), StageModule)


def test_only_finetuning_and_probing_require_a_parent():
    assert {name for name, stage in STAGES.items() if stage.init_from == "required"} == {
        "finetune_seg",
        "finetune_cls",
        "finetune_reg",
        "linear_probe",
        "finetune",
    }


# building


@pytest.mark.parametrize(
    ("stage", "task", "out"),
    [("pretrain", PRE, (1, 1, 16, 16, 16)), ("train_seg", SEG, (1, 5, 16, 16, 16)), ("train_cls", CLS, (1, 3))],
)
def test_the_network_fits_the_task(root, stage, task, out):
    module = module_for(root, stage, task)
    assert module(torch.zeros(1, 1, 16, 16, 16)).shape == out
    assert all(key.startswith("net.") for key in module.state_dict())


def test_pretrained_weights_fit_both_finetunes_by_name(root):
    pretrained = module_for(root, "pretrain", PRE).state_dict()
    for stage, task in (("finetune_seg", SEG), ("finetune_cls", CLS)):
        own = module_for(root, stage, task).state_dict()
        shared = {key for key in own if key in pretrained and own[key].shape == pretrained[key].shape}
        assert {key for key in own if key.startswith(("net.encoder", "net.decoder"))} == shared


def test_the_first_weights_depend_on_the_seed_alone(root):
    def first(seed):
        return next(module_for(root, "train_seg", SEG, seed=seed).parameters())

    one = first(1)
    torch.rand(3)
    before = torch.get_rng_state()
    assert torch.equal(one, first(1))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(one, first(2))


def test_two_dimensions_are_one_setting(root):
    module = module_for(root, "train_seg", SEG, model={**MODEL, "dimensions": "2D"})
    assert module(torch.zeros(1, 1, 16, 16)).shape == (1, 5, 16, 16)
    assert spatial_dims({}, read_task(root, DIGITS)) == 2


@pytest.mark.parametrize(
    ("stage", "task", "change", "match"),
    [
        ("train_seg", SEG, {"dimensions": "4D"}, "model.dimensions: '4D'"),
        ("train_cls", DIGITS, {"dimensions": "3D"}, "Task001_Digits, whose cases are 2D"),
        (
            "train_seg",
            SEG,
            {"seg_net": None},
            "model.seg_net: missing, and train_seg needs it. Networks there: cls_net",
        ),
        ("train_seg", SEG, {"seg_net": {**UNET, "out_channels": 3}}, "model.seg_net.out_channels: 3 contradicts.*5"),
        ("train_seg", SEG, {"module": {"overlab": 0.5}}, "model.module.overlab.*Did you mean 'overlap'"),
        ("pretrain", PRE, {"module": {"mask_ratio": 1.0}}, "model.module.mask_ratio: 1.0"),
        ("pretrain", PRE, {"module": {"block_size": 0}}, "model.module.block_size: 0"),
    ],
)
def test_wrong_model_sections_are_named(root, stage, task, change, match):
    with pytest.raises(ConfigError, match=match):
        module_for(root, stage, task, model={**MODEL, **change})


def test_a_loss_is_changed_or_replaced(root):
    assert module_for(root, "train_seg", SEG, loss={"lambda_ce": 3.0}).loss.lambda_ce == 3.0
    replaced = module_for(root, "train_seg", SEG, loss={"_target_": "torch.nn.CrossEntropyLoss"})
    batch = {"image": torch.zeros(1, 1, 16, 16, 16), "label": torch.zeros(1, 16, 16, 16, dtype=torch.int64)}
    assert replaced._loss(replaced(batch["image"]), batch["label"]).isfinite()
    with pytest.raises(ConfigError, match=r"loss.lambda_se: .*Did you mean 'lambda_ce'"):
        module_for(root, "train_seg", SEG, loss={"lambda_se": 3.0})


@pytest.mark.parametrize("loss", ["torch.nn.CrossEntropyLoss", "monai.losses.DiceCELoss"])
def test_classes_are_weighed_by_a_list_and_the_weights_are_no_weights_of_the_network(root, loss):
    given = {"_target_": loss, "weight": [1, 2, 3, 4, 5]}
    module = module_for(root, "train_seg", SEG, loss=given)
    (weight,) = (buffer for name, buffer in module.loss.named_buffers())
    assert weight.tolist() == [1, 2, 3, 4, 5]
    assert not [name for name in module.state_dict() if name.startswith("loss.")], "a finetuning would take them over"
    with pytest.raises(ConfigError, match=r"loss.weight: 2 weights, and there are 5 classes\. Give one for each"):
        module_for(root, "train_seg", SEG, loss={**given, "weight": [1, 2]})


class Depths(torch.nn.Conv3d):
    """As many channels as it is told, at several depths of a network."""

    def __init__(self, width, *, stacked=False):
        super().__init__(1, width, 1)
        self.stacked = stacked

    def forward(self, x):
        both = [super().forward(x)] * 2
        return torch.stack(both, 1) if self.stacked and self.training else both


@pytest.mark.parametrize("net", [torch.nn.Conv3d(1, 1, 1), Depths(1), Depths(1, stacked=True)])
def test_a_network_with_other_channels_than_classes_is_refused_by_its_first_batch(root, net):
    module = module_for(root, "train_seg", SEG)
    module.net = net
    with pytest.raises(ConfigError, match=r"model.seg_net: gives 1 channels, and Task997_LauritSynSeg has 5 classes"):
        fit(root, module, "train_seg", SEG, epochs=1, patch_size=PATCH)


@pytest.mark.parametrize("stacked", [True, False])
def test_outputs_at_several_depths_are_no_wrong_channels(root, stacked):
    module, label = module_for(root, "train_seg", SEG), torch.zeros(2, 4, 4, 4, dtype=torch.int64)
    module.check_channels(Depths(5, stacked=stacked)(torch.zeros(2, 1, 4, 4, 4)), label)


def test_a_loss_of_ones_own_may_take_soft_labels(root):
    module_for(root, "train_cls", CLS).check_channels(torch.zeros(2, 7), torch.zeros(2, 3))


@pytest.mark.parametrize("dimensions", ["2D", "3D"])
def test_lazy_layers_have_their_shapes_and_the_seeds_weights_before_a_first_batch(root, dimensions):
    layer = {"_target_": f"torch.nn.LazyConv{dimensions.lower()}", "out_channels": 5, "kernel_size": 3}
    model = {"dimensions": dimensions, "net": layer}
    one, other, again = (module_for(root, "train_seg", SEG, model=model, seed=seed).net.weight for seed in (1, 2, 1))
    assert one.shape == (5, 1, *[3] * int(dimensions[0]))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_lazy_layers_of_cases_without_a_shape_are_refused():
    layer = {"_target_": "torch.nn.LazyLinear", "out_features": 5}
    with pytest.raises(ConfigError, match=r"model.net: has 2 lazy weights.*Set data.patch_size"):
        build_module(STAGES["train_seg"], {"net": layer}, OPTIM, None, None)


# masks


def test_a_mask_hides_whole_blocks_in_the_asked_share():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.stack([block_mask((16, 16, 16), 0.6, 4, generator) for _ in range(3)])
    assert hidden.flatten(1).sum(1).tolist() == [38, 38, 38]  # round(0.6 * 64)
    assert not torch.equal(hidden[0], hidden[1])
    mask = _voxels(hidden, 4, (16, 16, 16))
    assert mask.shape == (3, 1, 16, 16, 16)
    blocks = mask.unfold(2, 4, 4).unfold(3, 4, 4).unfold(4, 4, 4).reshape(3, 64, 64).float().mean(-1)
    assert torch.equal(blocks, hidden.flatten(1).float())


@pytest.mark.parametrize("shape", [(10, 7), (5, 5, 5)])
def test_masks_fit_any_shape(root, shape):
    masks = module_for(root, "pretrain", PRE)._masks({"image": torch.zeros(2, 1, *shape)}, 0, 0)
    assert masks.shape == (2, 1, *shape)


def test_a_mask_follows_seed_and_case_and_neither_rank_nor_batch(root):
    module, image = module_for(root, "pretrain", PRE), torch.zeros(2, 1, 16, 16, 16)
    one, other, later, again = "3 1 0", "3 2 0", "4 1 0", "3 1 1"

    def masks(*draws, part=0, number=0, of=module):
        return of._masks({"image": image, "draw": list(draws)}, part, number)

    assert torch.equal(masks(one, other, number=0), masks(other, one, number=7).flip(0))
    for different in (other, later, again):
        assert not torch.equal(*masks(one, different))
    assert not torch.equal(masks(one, other), masks(one, other, part=1))
    assert not torch.equal(masks(one, other), masks(one, other, of=module_for(root, "pretrain", PRE, seed=1)))


def test_masks_of_data_without_draws_follow_step_and_seed(root):
    module, batch = module_for(root, "pretrain", PRE), {"image": torch.zeros(2, 1, 16, 16, 16)}
    assert torch.equal(module._masks(batch, 1, 0), module._masks(batch, 1, 0))
    assert not torch.equal(*module._masks(batch, 1, 0))
    assert not torch.equal(module._masks(batch, 0, 0), module._masks(batch, 1, 0))
    assert not torch.equal(module._masks(batch, 0, 0), module._masks(batch, 0, 1))
    assert not torch.equal(module._masks(batch, 0, 0), module_for(root, "pretrain", PRE, seed=1)._masks(batch, 0, 0))


@pytest.mark.parametrize("masked_only", [True, False])
def test_the_loss_looks_at_hidden_voxels_only_when_told_to(root, masked_only):
    module = module_for(root, "pretrain", PRE, model={**MODEL, "module": {"masked_only": masked_only}})
    module.net = torch.nn.Identity()  # shown voxels are perfect, hidden ones are zero
    image, mask = torch.full((1, 1, 4, 4, 4), 2.0), torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)
    mask[..., 0] = True
    assert module._reconstruction_loss(image, mask) == (4.0 if masked_only else 1.0)


def test_every_case_weighs_the_same_however_much_of_it_is_hidden(root):
    module = module_for(root, "pretrain", PRE)
    module.net = torch.nn.Identity()
    image = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1, 1).expand(2, 1, 4, 4, 4)
    mask = torch.zeros(2, 1, 4, 4, 4, dtype=torch.bool)
    mask[0, ..., 0], mask[1] = True, True
    assert module._reconstruction_loss(image, mask) == (1.0 + 9.0) / 2


# metrics


def test_dice_by_value():
    dice = DicePerClass(4)
    dice.update(torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 1, 2, 2]]))
    scores = dice.compute()
    assert scores[:2].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert scores[2].isnan()


def test_dice_does_not_depend_on_how_the_cases_are_shared_out():
    generator = torch.Generator().manual_seed(0)
    predicted, label = torch.randint(0, 3, (2, 7, 50), generator=generator)
    whole, first, second = (DicePerClass(3) for _ in range(3))
    whole.update(predicted, label)
    first.update(predicted[:5], label[:5])
    second.update(predicted[5:], label[5:])
    first.overlap += second.overlap  # what torchmetrics does over ranks: the states' reduction is a sum
    first.volume += second.volume
    assert torch.equal(first.compute(), whole.compute())
    assert {f.__name__ for f in first._reductions.values()} == {"dim_zero_sum"}


def test_a_case_larger_than_the_patch_is_seen_through_a_sliding_window(root):
    module = module_for(root, "train_seg", SEG, patch_size=[8, 8, 8])
    seen = []
    module.net = torch.nn.Sequential(torch.nn.Identity())
    module.net.register_forward_hook(lambda _m, args, _o: seen.append(tuple(args[0].shape[2:])))
    image = torch.randn(1, 1, 16, 12, 16)
    assert torch.allclose(module.predict_whole(image), image, atol=1e-5)
    assert set(seen) == {(8, 8, 8)}
    seen.clear()
    module.predict_whole(image[..., :8, :8, :8])
    assert seen == [(8, 8, 8)]


# trainings


def test_digits_are_learnt_and_what_is_logged_has_its_names(root):
    module = module_for(root, "train_cls", DIGITS, model=MLP, patch_size=None)
    _, history = fit(root, module, "train_cls", DIGITS, epochs=6, dimensions="2D", batch_size=16, augment=False)
    assert history.epochs[-1]["val/accuracy"] > 0.8
    assert {"val/loss", "val/accuracy"} <= set(history.epochs[-1])
    assert {"train/loss", "optim/lr"} <= set(history.steps[0])
    assert not {"train/loss_step", "val/loss_epoch"} & set(history.steps[-1])


def test_the_lr_follows_the_schedule_over_the_whole_training(root):
    module = module_for(root, "train_cls", DIGITS, model=MLP, patch_size=None)
    _, history = fit(root, module, "train_cls", DIGITS, epochs=2, dimensions="2D", batch_size=16, augment=False)
    lrs = [step["optim/lr"] for step in history.steps]
    assert len(lrs) == 30
    assert lrs[0] == pytest.approx(3e-3 / 4)
    assert lrs[3] == pytest.approx(3e-3)
    assert lrs[-1] < 1e-4


def test_segmentation_learns(root):
    module = module_for(root, "train_seg", SEG)
    _, history = fit(root, module, "train_seg", SEG, epochs=8, batch_size=2, patch_size=PATCH)
    losses = [epoch["val/loss"] for epoch in history.epochs]
    assert losses[-1] < losses[0] - 0.1
    assert {"val/dice", "val/dice/ball", "val/dice/core"} <= set(history.epochs[-1])


def test_reconstruction_beats_a_guess_of_the_mean(root):
    module = module_for(root, "pretrain", PRE, optim={"name": "adamw", "lr": 1e-2})
    _, history = fit(root, module, "pretrain", PRE, epochs=8, batch_size=2, patch_size=PATCH)
    losses = [epoch["val/loss"] for epoch in history.epochs]
    assert losses[-1] < min(losses[0], 0.95)  # a z-normalised image has variance one


def test_classification_of_volumes_runs_in_two_dimensions_too(root):
    module = module_for(root, "train_cls", CLS, model={**MODEL, "dimensions": "2D"})
    _, history = fit(root, module, "train_cls", CLS, epochs=1, batch_size=2, dimensions="2D", patch_size=PATCH)
    assert history.epochs[-1]["val/loss"] > 0


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(root, tmp_path):
    def weights(module):
        return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])

    # the end of the schedule must not move with max_epochs
    optim = {**OPTIM, "sched": {"name": "cosine", "max_steps": 4}}

    def train(epochs, ckpt_path=None):
        module = module_for(root, "pretrain", PRE, optim=optim)
        data = {"batch_size": 4, "patch_size": PATCH}
        trainer, _ = fit(root, module, "pretrain", PRE, epochs=epochs, ckpt_path=ckpt_path, **data)
        return trainer, module

    _, whole = train(2)
    trainer, _ = train(1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, resumed = train(2, tmp_path / "half.ckpt")
    assert torch.equal(weights(whole), weights(resumed))


def test_classifying_digits_never_imports_monai(root):
    code = f"""
import sys
from asparagus.data.layout import read_task
from asparagus.data.modules import CaseDataModule
from asparagus.stages import STAGES
from asparagus.stages.build import build_module
task = read_task({str(root)!r}, "Task001_Digits")
build_module(STAGES["train_cls"], {MLP!r}, {OPTIM!r}, None, task)
CaseDataModule({str(root)!r}, task.name, "cls", dimensions="2D").setup()
print("monai" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
