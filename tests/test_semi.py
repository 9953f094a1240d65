"""Tests of asparagus.stages.semi: losses without labels beside a classifier (SEEDS D15, D22, D23, D31, D.2)."""

from __future__ import annotations

import copy
import itertools
import math
import sys

import pytest
import torch
from monai.networks.nets import DenseNet
from torch import nn
from torch.utils.data import Dataset

import asparagus
from asparagus.callbacks.seeds import EpochSeeds
from asparagus.data.loaders import LoaderDataModule
from asparagus.errors import ConfigError, DataError
from asparagus.stages.semi.backbones import PyTorchImageModels, without_head
from asparagus.stages.semi.batches import image_of, label_of, views_of
from asparagus.stages.semi.branch import Branch, Teacher
from asparagus.stages.semi.collation import JigsawTransformer, RotationTransformer, Views
from asparagus.stages.semi.heads import (
    ConsistencyHead,
    EntropyMinimization,
    FixMatch,
    JigsawPrediction,
    MeanTeacher,
    RotationPrediction,
)
from asparagus.stages.semi.labelled import few_cases
from asparagus.stages.semi.module import SemiModule, natural
from asparagus.stages.semi.neighbours import NearestNeighbours
from asparagus.stages.semi.schedules import SigmoidRampup
from asparagus.stages.semi.views import GaussianNoise, MultiViewTransform, RandomShift, TwoViews
from asparagus.stages.semi.weighting import Weighting
from asparagus.targets import instantiate
from tests.helpers import quiet_trainer

HERE = __name__
HEADS = "asparagus.stages.semi.heads"
DIGITS_SEMI = "experiment/semi_digits"
SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9}


class Stripes(Dataset):
    """Squares with a bright row (class 0) or a bright column (class 1), in noise."""

    def __init__(self, size: int, first: int = 0, *, labelled: bool = True, noise: float = 0.3) -> None:
        generator = torch.Generator().manual_seed(first)
        self.y = torch.arange(size) % 2
        self.x = noise * torch.randn(size, 1, 6, 6, generator=generator)
        for image, label in zip(self.x, self.y, strict=True):
            image[0, 2] += 1 - label
            image[0, :, 2] += label
        self.labelled = labelled

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return (self.x[index], self.y[index]) if self.labelled else self.x[index]


class Features(nn.Module):
    """A small backbone, with batch norm and dropout: buffers and chance."""

    def __init__(self, out_features: int = 8, dropout: float = 0.2) -> None:
        super().__init__()
        self.out_features = out_features
        layers = (nn.Flatten(), nn.Linear(36, out_features), nn.BatchNorm1d(out_features), nn.ReLU())
        self.layers = nn.Sequential(*layers, nn.Dropout(dropout))

    def forward(self, x):
        return self.layers(x)


def branch(weight):
    """Return a branch whose logits are a matrix times the images."""
    weight = torch.tensor(weight)
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    head.weight.data = weight
    return Branch(nn.Flatten(), head)


IDENTITY = branch([[1.0, 0.0], [0.0, 1.0]])
DOUBLE = branch([[2.0, 0.0], [0.0, 2.0]])
ONE = torch.tensor([[math.log(3.0), 0.0]])
"""Softmax: 3/4, 1/4."""
EVEN = torch.zeros(1, 2)


def section(size, *, first=0, labelled=True, **options):
    dataset = {"_target_": f"{HERE}.Stripes", "size": size, "first": first, "labelled": labelled}
    return {"dataset": dataset, "shuffle": True, "batch_size": 8, **options}


ROTATING = {"_target_": "asparagus.stages.semi.collation.RotationTransformer"}
NOISY = {
    "_target_": "asparagus.stages.semi.collation.Views",
    "transforms": [None, {"_target_": "asparagus.stages.semi.views.GaussianNoise", "std": 0.2}],
}
TRAIN = {
    "supervised": section(16),
    "rotation": section(24, first=1, labelled=False, collate_fn=ROTATING),
    "views": section(24, first=2, labelled=False, collate_fn=NOISY),
}
VAL = {"dataset": Stripes(20, 9), "batch_size": 8}


def datamodule(train=None, **options):
    return LoaderDataModule(train or TRAIN, VAL, seed=3, **options)


def module_of(heads=None, *, backbone=None, optim=SGD, n_classes=2, **options):
    torch.manual_seed(0)
    backbone = Features() if backbone is None else backbone
    return SemiModule(backbone, optim, n_classes=n_classes, regularization_loss_heads=heads, **options)


def both_heads():
    return {
        "rotation": {"head": RotationPrediction("rotation"), "scale_factor": 0.5},
        "teacher": {"head": MeanTeacher("views"), "scheduler": SigmoidRampup(6), "scale_factor": 2.0},
    }


def fitted(module, data=None, *, epochs=1, ckpt_path=None, **options):
    trainer = quiet_trainer(max_epochs=epochs, callbacks=[EpochSeeds(5)], **options)
    trainer.fit(module, datamodule=data or datamodule(), ckpt_path=ckpt_path)
    return trainer


def same(one, other):
    weights, others = one.state_dict(), other.state_dict()
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


def refused(*args, **options):
    with pytest.raises(ConfigError) as caught:
        module_of(*args, **options)
    return str(caught.value)


# D22: rotation prediction


@pytest.mark.parametrize("item", [lambda x: x, lambda x: (x, 7), lambda x: (x, 7, "name"), lambda x: {"image": x}])
def test_d22_every_image_becomes_four(item):
    image = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    x, labels = RotationTransformer()([item(image), item(image + 10)])
    assert x.shape == (8, 1, 2, 2)
    assert labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert x[:4, 0].tolist() == [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]
    assert torch.equal(x[4:], x[:4] + 10)


def test_d22_images_that_are_not_square_are_refused():
    with pytest.raises(DataError, match=r"\[1, 2, 3\] is not square.*Crop"):
        RotationTransformer()([torch.zeros(1, 2, 3)])
    with pytest.raises(DataError, match="an item's image is a str"):
        RotationTransformer()([("a.png", 1)])


def test_d22_the_head_is_a_linear_layer_on_the_features_and_a_cross_entropy_for_each_image():
    head = RotationPrediction("rotation")
    head.build({"backbone": IDENTITY})
    assert (head.head.in_features, head.head.out_features) == (2, 4)
    head.head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    head.head.bias.data.zero_()
    x = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])  # softmax: 3/6, 1/6, 1/6, 1/6 and four quarters
    losses = head({"rotation": (x, torch.tensor([0, 2]))}, {"backbone": IDENTITY})
    assert losses.tolist() == pytest.approx([math.log(2), math.log(4)])


def test_d22_labels_of_something_else_are_refused():
    head = RotationPrediction("rotation")
    head.build({"backbone": IDENTITY})
    with pytest.raises(ConfigError, match=r"labels 0 to 9.*has 4 answers.*collation.RotationTransformer"):
        head({"rotation": (torch.zeros(2, 2), torch.tensor([0, 9]))}, {"backbone": IDENTITY})


def test_d22_it_is_a_collate_function_of_a_loader_section():
    made = datamodule()
    made.setup("fit")
    batch = next(iter(made.train_dataloader()))[0]
    x, labels = batch["rotation"]
    assert (len(x), labels.tolist()) == (32, [0, 1, 2, 3] * 8)
    assert [len(view) for view in batch["views"]] == [8, 8]


# D23: the sum


class Fixed(ConsistencyHead):
    """Losses that are known: 1, 2 and 3 for three images."""

    def forward(self, batches, branches):
        return torch.tensor([1.0, 2.0, 3.0]) + 0 * branches["backbone"].head.weight.sum()


def losses_logged(heads, **options):
    """Train one step; return what was logged, and the module."""
    module = module_of(heads, backbone=Features(dropout=0.0), **options)
    return fitted(module, max_steps=1, limit_val_batches=0).callback_metrics, module


def test_d23_the_loss_is_the_supervised_one_and_what_each_head_counts():
    heads = {
        "mean": {"head": Fixed("views")},
        "sum": {"head": Fixed("views"), "reduction": "sum", "scale_factor": 0.5},
        "slow": {"head": Fixed("views"), "scale_factor": 3.0, "scheduler": SigmoidRampup(10, weight=2.0)},
    }
    logged, _ = losses_logged(heads)
    supervised = float(logged["train/supervised/loss"])
    assert float(logged["train/loss"]) == pytest.approx(supervised + 2 + 0.5 * 6 + 3 * 2 * math.exp(-5) * 2)
    assert float(logged["train/regularization/sum/loss"]) == 6
    assert float(logged["train/regularization/sum/weighted_loss"]) == 3
    assert float(logged["train/regularization/slow/loss_weight"]) == pytest.approx(6 * math.exp(-5))


def test_d23_the_supervised_loss_has_a_schedule_a_reduction_and_a_factor_too():
    plain, _ = losses_logged(None)
    loss = {"callable": nn.CrossEntropyLoss(reduction="none"), "reduction": "sum", "scale_factor": 0.25}
    logged, _ = losses_logged(None, supervised_loss={**loss, "scheduler": lambda step: 3.0 + step})
    assert float(logged["train/loss"]) == pytest.approx(8 * 0.25 * 3 * float(plain["train/loss"]), rel=1e-5)
    assert float(logged["train/supervised/loss_weight"]) == 0.75


def test_d23_a_section_may_say_none_and_then_its_loss_is_one_number():
    assert Weighting.of({"head": 1, "reduction": "none", "scheduler": None}, "key", beside=["head"]).reduction == "none"
    assert float(Weighting("key", reduction="none").reduce(torch.tensor(2.0))) == 2
    module = module_of({"fixed": {"head": Fixed("views"), "reduction": "none"}})
    with pytest.raises(ConfigError, match=r"fixed.reduction: 'none' leaves 3 numbers.*mean or sum"):
        fitted(module)


def test_d23_schedules_see_optimizer_steps_not_batches():
    seen = []
    module = module_of({"fixed": {"head": Fixed("views"), "scheduler": lambda step: seen.append(step) or 1.0}})
    fitted(module, epochs=2, accumulate_grad_batches=3)
    assert seen == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("step", "expected"),
    [(-3, math.exp(-5)), (0, math.exp(-5)), (5, math.exp(-1.25)), (10, 1.0), (11, 1.0), (10**6, 1.0)],
)
def test_d2_sigmoid_rampup_by_value(step, expected):
    assert SigmoidRampup(10)(step) == pytest.approx(expected)
    assert SigmoidRampup(10, weight=4.0)(step) == pytest.approx(4 * expected)
    assert SigmoidRampup(0, weight=4.0)(step) == 4


# D.2: the other heads


def test_d2_heads_are_built_in_the_natural_order_of_their_names():
    assert natural(["head10", "head2", "b", "head"]) == ["b", "head", "head2", "head10"]
    made = {name: {"head": RotationPrediction("rotation")} for name in ("head10", "head2")}
    turned = {name: {"head": RotationPrediction("rotation")} for name in ("head2", "head10")}
    one, other = module_of(made), module_of(turned)
    assert list(one.regularization) == ["head2", "head10"]
    assert same(one, other)


def test_d2_jigsaw_makes_six_images_of_tiles_in_other_orders():
    image = torch.arange(9.0).repeat_interleave(2).reshape(3, 6).repeat_interleave(2, 0)[None]  # tiles 0..8 of 2 x 2
    x, labels = JigsawTransformer()([image, (image, 3)])
    assert (x.shape, labels.tolist()) == ((12, 1, 6, 6), [*range(6), *range(6)])
    assert torch.equal(x[0], image)
    orders = [part[0, ::2, ::2].flatten().tolist() for part in x[:6]]
    assert orders[1] == [1, 2, 3, 4, 5, 6, 7, 8, 0]
    assert all(sorted(order) == list(range(9)) for order in orders)
    for one, other in itertools.combinations(orders, 2):
        assert all(a != b for a, b in zip(one, other, strict=True))


def test_d2_jigsaw_leaves_what_fills_no_tile_empty_and_refuses_what_cannot_be_cut():
    x, _ = JigsawTransformer()([torch.ones(1, 8, 8)])
    assert x[:, :, :6, :6].eq(1).all()
    assert (x[:, :, 6:].sum(), x[..., 6:].sum()) == (0, 0)
    with pytest.raises(DataError, match="grid to 3 or more"):
        JigsawTransformer()([torch.ones(1, 2, 2)])
    with pytest.raises(DataError, match="2 x 2 tiles"):
        JigsawTransformer(grid=2)([torch.ones(1, 8, 8)])


def test_d2_jigsaw_prediction_has_six_answers():
    head = JigsawPrediction("jigsaw")
    head.build({"backbone": IDENTITY})
    nn.init.zeros_(head.head.weight)
    nn.init.zeros_(head.head.bias)
    losses = head({"jigsaw": (torch.ones(2, 2), torch.tensor([0, 5]))}, {"backbone": IDENTITY})
    assert losses.tolist() == pytest.approx([math.log(6)] * 2)


def test_d2_consistency_by_value():
    losses = ConsistencyHead("views")({"views": [ONE, EVEN]}, {"backbone": IDENTITY})
    assert losses.tolist() == pytest.approx([1 / 16])  # (3/4 - 1/2)^2, twice, over two classes


def test_d2_consistency_on_one_view_is_the_work_of_dropout():
    dropping = Branch(nn.Sequential(nn.Flatten(), nn.Dropout(0.5)), IDENTITY.head)
    torch.manual_seed(0)
    x = torch.randn(64, 2)
    assert ConsistencyHead("views")({"views": x}, {"backbone": dropping}).sum() > 0
    assert ConsistencyHead("views")({"views": x}, {"backbone": IDENTITY}).sum() == 0


def test_d2_mean_teacher_by_value_and_its_teacher_has_no_gradient():
    student, teacher = copy.deepcopy(IDENTITY), copy.deepcopy(DOUBLE)
    losses = MeanTeacher("views")({"views": [EVEN, ONE]}, {"backbone": student, "backbone_ema": teacher})
    assert losses.tolist() == pytest.approx([0.4**2])  # 9/10 of the doubled logits against 1/2
    losses = MeanTeacher("views")({"views": ONE}, {"backbone": student, "backbone_ema": teacher})
    assert losses.tolist() == pytest.approx([0.15**2])  # one view: 3/4 against 9/10
    losses.sum().backward()
    assert student.head.weight.grad.abs().sum() > 0
    assert teacher.head.weight.grad is None


def test_d2_fixmatch_by_value():
    weak = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(3.0)], [0.0, 0.1]])  # sure by 3/4, 3/4, 0.525
    strong = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0], [5.0, 0.0]])
    batches, branches = {"views": [weak, strong]}, {"backbone": IDENTITY}
    assert FixMatch("views").threshold == 0.5
    expected = [math.log(2), math.log(4), 0.0]  # against 0, against 1, not sure
    assert FixMatch("views", threshold=0.75 - 1e-6)(batches, branches).tolist() == pytest.approx(expected)
    assert FixMatch("views", threshold=0.5)(batches, branches).tolist()[2] == pytest.approx(math.log(1 + math.exp(5)))
    assert FixMatch("views", threshold=1.0)(batches, branches).tolist() == [0, 0, 0]


def test_d2_fixmatch_may_ask_the_teacher():
    head = FixMatch("views", teacher_backbone="backbone_ema", threshold=0.8)
    branches = {"backbone": IDENTITY, "backbone_ema": DOUBLE}  # the student is sure by 3/4, the teacher by 9/10
    assert head({"views": [ONE, EVEN]}, branches).tolist() == pytest.approx([math.log(2)])


def test_d2_entropy_minimization_by_value():
    losses = EntropyMinimization("x")({"x": torch.cat([ONE, EVEN])}, {"backbone": IDENTITY})
    expected = [-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), math.log(2)]
    assert losses.tolist() == pytest.approx(expected)


# D.2: the teacher


def test_d2_the_teacher_is_the_running_mean_of_the_student_after_each_step():
    student = Branch(nn.BatchNorm1d(2), nn.Linear(2, 2))
    teacher = Teacher(student, 0.9)
    before = student.head.weight.detach().clone()
    with torch.no_grad():
        student.head.weight += 1
        student.backbone.running_mean += 5
    teacher.follow(student)
    assert torch.allclose(teacher.head.weight, before + 0.1)
    assert torch.equal(teacher.backbone.running_mean, student.backbone.running_mean)
    teacher.follow(student)
    assert torch.allclose(teacher.head.weight, before + 0.19)


def test_d2_the_teachers_decay_is_0_999_and_it_is_there_if_somebody_asks():
    module = module_of(both_heads())
    assert module.teacher.decay == 0.999
    assert module_of().teacher is None
    assert module_of(predict_with="backbone_ema").teacher is not None
    assert not any(weight.requires_grad for weight in module.teacher.parameters())
    module.train()
    assert not any(part.training for part in module.teacher.modules())
    assert all(part.training for part in module.net.modules())


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 3), (3, 1), (2, 2)])
def test_d2_the_teacher_follows_optimizer_steps_not_batches(accumulate, steps):
    student = []

    class Watched(SemiModule):
        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)
            student.append(self.head.weight.detach().clone())

    torch.manual_seed(0)
    module = Watched(Features(), SGD, n_classes=2, regularization_loss_heads=both_heads(), ema_decay=0.5)
    mean = module.head.weight.detach().clone()
    trainer = fitted(module, accumulate_grad_batches=accumulate)
    assert trainer.global_step == len(student) == steps
    for weight in student:
        mean = mean.lerp(weight, 0.5)
    assert torch.allclose(module.teacher.head.weight, mean)


def test_d2_a_noisy_student_learns_from_a_teacher_that_stays_what_it_began_as():
    """Noisy student (Xie et al. 2020): with `init_from`, the teacher is the network of an earlier run."""
    trained = module_of()
    fitted(trained)
    head = FixMatch("views", teacher_backbone="backbone_ema", threshold=0.0)
    module = module_of({"noisy": {"head": head}}, ema_decay=1)
    module.load_state_dict(trained.state_dict(), strict=False)
    fitted(module, epochs=2)
    assert module.teacher is not None
    assert same(module.teacher.backbone, trained.net)
    assert same(module.teacher.head, trained.head)
    assert not same(module.net, trained.net)


def test_d2_several_views_are_answered_by_the_mean_of_their_softmaxes():
    """Test-time augmentation: a loader section whose collate_fn makes views."""
    flipped = {"_target_": "torch.flip", "_partial_": True, "dims": [-1]}
    views = {"_target_": "asparagus.stages.semi.collation.Views", "transforms": [None, flipped]}
    stripes, module = Stripes(20, 9, noise=1.5), module_of()
    data = LoaderDataModule(TRAIN, {"dataset": stripes, "batch_size": 8, "collate_fn": views}, seed=3)
    trainer = fitted(module, data)
    module.eval()
    with torch.no_grad():
        mean = sum(module(view).softmax(1) for view in (stripes.x, stripes.x.flip(-1))) / 2
        plain = module(stripes.x).softmax(1)
    loss = -mean[torch.arange(20), stripes.y].log().mean()
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(float(loss), rel=1e-5)
    assert float(trainer.callback_metrics["val/top1"]) == pytest.approx(
        float((mean.argmax(1) == stripes.y).float().mean())
    )
    assert not torch.allclose(mean, plain, atol=1e-3)


def test_d2_a_training_begins_with_a_teacher_that_is_its_student():
    module = module_of(both_heads(), ema_decay=1.0)
    with torch.no_grad():
        module.head.weight.fill_(0.25)  # as if taken over from another run
    fitted(module, max_steps=1)
    assert module.teacher.head.weight.eq(0.25).all()


def test_d2_the_teacher_predicts_where_it_is_asked_to():
    module = module_of(predict_with="backbone_ema", ema_decay=0.5)
    fitted(module)
    x = torch.ones(2, 1, 6, 6)
    module.eval()
    assert torch.equal(module(x), module.teacher.branch.logits(x))
    assert not torch.equal(module(x), module.student.logits(x))


def test_d2_resuming_gives_the_weights_of_an_unbroken_training_and_of_its_teacher(tmp_path):
    whole = module_of(both_heads(), ema_decay=0.9)
    fitted(whole, epochs=4)
    first = module_of(both_heads(), ema_decay=0.9)
    fitted(first, epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    second = module_of(both_heads(), ema_decay=0.9)
    trainer = fitted(second, epochs=4, ckpt_path=tmp_path / "half.ckpt")
    assert trainer.global_step == 12
    assert same(second, whole)
    assert not same(second, first)
    assert second.best_top1 == whole.best_top1 > 0


# The metrics of D31, no more and no less


def test_d31_the_logged_metrics_are_those_of_the_list():
    trainer = fitted(module_of(both_heads()))
    parts = ("supervised", "regularization/rotation", "regularization/teacher")
    each = {f"train/{part}/{what}" for part in parts for what in ("loss", "loss_weight", "weighted_loss")}
    named = {"train/loss", "train/top1", "val/top1", "val/top1/best", "val/loss", "optim/lr/param_group/0"}
    assert set(trainer.callback_metrics) == each | named
    assert float(trainer.callback_metrics["optim/lr/param_group/0"]) == pytest.approx(0.1)


def test_d31_validation_counts_all_images_alike_and_remembers_the_best():
    module = module_of(backbone=Features(dropout=0.0))
    trainer = fitted(module, epochs=3)
    images, labels = VAL["dataset"].x, VAL["dataset"].y
    logits = module.eval()(images).detach()
    expected = float(nn.functional.cross_entropy(logits, labels))
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(expected, rel=1e-5)
    top1 = float((logits.argmax(1) == labels).float().mean())
    assert float(trainer.callback_metrics["val/top1"]) == pytest.approx(top1)
    module.best_top1 = 0.0
    module.on_load_checkpoint({"semi_best_top1": 1.0})
    trainer.validate(module, datamodule=datamodule(), verbose=False)
    assert float(trainer.callback_metrics["val/top1/best"]) == 1
    trainer.test(module, dataloaders=datamodule().val_dataloader(), verbose=False)
    assert float(trainer.callback_metrics["test/top1"]) == pytest.approx(top1)


def test_d31_several_validation_loaders_are_one_number():
    data = LoaderDataModule({"supervised": section(16)}, {"one": VAL, "two": {"dataset": Stripes(4, 3)}}, seed=3)
    assert {"val/loss", "val/top1"} <= set(fitted(module_of(), data).callback_metrics)


# what unlabelled images are good for


def hard(size, **options):
    """Return a section of stripes that are hard to see."""
    made = section(size, **options)
    return {**made, "dataset": {**made["dataset"], "noise": 0.7}}


def test_unlabelled_images_bring_the_loss_down_and_the_accuracy_up():
    few, many = hard(4, batch_size=4), hard(256, first=2, labelled=False, batch_size=32, collate_fn=NOISY)
    val = {"dataset": Stripes(200, 9, noise=0.7), "batch_size": 100}
    heads, adam = {"match": {"head": FixMatch("views", threshold=0.8)}}, {"name": "adam", "lr": 0.01}
    data = LoaderDataModule({"supervised": few, "views": many}, val, seed=3)
    both = fitted(module_of(heads, backbone=Features(16), optim=adam), data, epochs=8)
    labelled = LoaderDataModule({"supervised": few}, val, seed=3)
    alone = fitted(module_of(backbone=Features(16), optim=adam), labelled, epochs=64, check_val_every_n_epoch=64)
    assert alone.global_step == both.global_step
    found, without = both.callback_metrics, alone.callback_metrics  # over seeds 0.04 and 0.98 to 0.3 and 0.9
    assert float(found["val/loss"]) < 0.5 * float(without["val/loss"])
    assert float(found["val/top1"]) > float(without["val/top1"]) + 0.05


# batches, views, backbones


def test_batches_are_read_in_every_usual_form():
    x, y = torch.zeros(2, 1, 3, 3), torch.tensor([0, 1])
    for batch in (x, (x, y), [x, y, ["a", "b"]], {"image": x, "label": y}, [[x, x + 1], y], [x, x + 1]):
        assert torch.equal(image_of(batch, "a"), x)
    for batch in ([[x, x + 1], y], [x, x + 1], {"image": (x, x + 1)}):
        assert [float(view.mean()) for view in views_of(batch, "a")] == [0, 1]
    assert label_of({"image": x, "label": y}, "a") is label_of((x, y, 3), "a") is y
    for batch in (x, [x, x + 1], {"image": x}):
        with pytest.raises(ConfigError, match=r"data.train.a: its batches have no labels"):
            label_of(batch, "a")
    with pytest.raises(ConfigError, match=r"data.train.a: its batches have no `image`, they have label"):
        image_of({"label": y}, "a")


def test_views_are_made_of_an_image_by_each_transform():
    torch.manual_seed(0)
    image = torch.zeros(1, 4, 4)
    first, second = TwoViews(GaussianNoise(0.1))(image)
    assert not torch.equal(first, second)
    assert MultiViewTransform([None, lambda x: x + 1])(image)[1].eq(1).all()
    moved = RandomShift(1)(torch.ones(1, 4, 4))
    assert moved.shape == (1, 4, 4)
    assert moved.sum() in (9, 12, 16)
    batch = Views([None, lambda x: x + 1])([{"image": image, "label": 1}, {"image": image, "label": 0}])
    assert [view.shape for view in batch["image"]] == [(2, 1, 4, 4)] * 2
    assert batch["label"].tolist() == [1, 0]


def test_a_classifier_is_a_backbone_without_its_last_layer():
    net = DenseNet(2, 1, 3, init_features=4, growth_rate=2, block_config=(1, 1), bn_size=1)
    backbone = without_head(net, "class_layers.out")
    assert backbone(torch.zeros(2, 1, 16, 16)).shape == (2, backbone.out_features)
    with pytest.raises(ConfigError, match=r"'class_layers.ouf' is not known. Did you mean 'class_layers.out'"):
        without_head(DenseNet(2, 1, 3, 4, 2, (1, 1)), "class_layers.ouf")


def test_few_cases_are_the_first_ones(data_root):
    options = {"task": "Task001_Digits", "dimensions": "2D"}
    few = few_cases(data_root, 10, **options)
    assert len(few) == 10
    assert few[0]["image"].shape == (1, 8, 8)
    with pytest.raises(ConfigError, match=r"dataset\.count: 5000 is not within 1 to"):
        few_cases(data_root, 5000, **options)


# backbones by timm's names (D32)


class FakeTimm:
    """timm, as far as it is used: networks of three linear features by name."""

    @staticmethod
    def list_models():
        return ["resnet18", "resnet50d", "vit_tiny_patch16_224"]

    @staticmethod
    def create_model(name, pretrained, num_classes, global_pool, drop_rate, **options):
        if pretrained:
            raise FileNotFoundError("the hub is not reached")
        net = nn.Sequential(nn.Flatten(), nn.Linear(48, 6 if global_pool == "catavgmax" else 3))
        net.num_features = 3
        net.asked = {"name": name, "num_classes": num_classes, "drop_rate": drop_rate, **options}
        return net


@pytest.fixture
def timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", FakeTimm)


@pytest.fixture
def no_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)


def test_d32_a_network_is_timms_without_its_classifier(timm):
    made = PyTorchImageModels("resnet50d", pretrained=False, drop_rate=0.5, drop_path_rate=0.1)
    assert made.encoder.asked == {"name": "resnet50d", "num_classes": 0, "drop_rate": 0.5, "drop_path_rate": 0.1}
    assert made(torch.zeros(2, 3, 4, 4)).shape == (2, made.out_features) == (2, 3)
    assert PyTorchImageModels("resnet18", pretrained=False, global_pool="catavgmax").out_features == 6


def test_d32_freeze_keeps_the_weights_as_they_are(no_timm):
    frozen, free = (PyTorchImageModels("resnet18", pretrained=False, freeze=freeze) for freeze in (True, False))
    assert not any(weight.requires_grad for weight in frozen.parameters())
    assert all(weight.requires_grad for weight in free.parameters())
    trained = SemiModule(frozen, SGD, n_classes=2)
    before = copy.deepcopy(trained.net.state_dict())
    trainer = quiet_trainer(max_epochs=1)
    pictures = [(torch.randn(3, 32, 32), number % 2) for number in range(4)]
    data = LoaderDataModule({"supervised": {"dataset": Listed(pictures), "batch_size": 2}})
    trainer.fit(trained, datamodule=data)
    weights = dict(trained.net.named_parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in weights.items())


class Listed(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.mark.parametrize(("name", "features"), [("resnet18d", 512), ("resnet50", 2048)])
def test_d32_without_timm_a_resnet_is_monais_and_that_is_said(name, features, no_timm, caplog):
    made = PyTorchImageModels(name, pretrained=False, global_pool="max", drop_rate=0.5)
    assert made.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, made.out_features) == (2, features)
    assert "timm is not installed" in caplog.text
    assert "pip install 'asparagus[timm]'" in caplog.text
    dropped = made.train()(torch.randn(2, 3, 64, 64)) == 0
    assert 0.3 < float(dropped.float().mean()) < 0.7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "vit_tiny_patch16_224", "pretrained": False}, "name=vit_tiny_patch16_224"),
        ({"name": "resnet18", "pretrained": True}, "pretrained=true"),
        ({"name": "resnet18", "pretrained": False, "global_pool": "catavgmax"}, "global_pool=catavgmax"),
        ({"name": "resnet18", "pretrained": False, "in_chans": 1}, "in_chans"),
    ],
)
def test_d32_what_only_timm_has_is_refused_without_it(options, said, no_timm):
    with pytest.raises(ConfigError, match=r"needs timm, .* pip install 'asparagus\[timm\]'") as caught:
        PyTorchImageModels(**options)
    assert said in str(caught.value)


def test_d32_timms_refusals_say_what_to_do(timm):
    with pytest.raises(
        ConfigError, match=r"'resnet18d' is not known\. Did you mean 'resnet18'\? Known: resnet18, resnet50d"
    ):
        PyTorchImageModels("resnet18d", pretrained=False)
    with pytest.raises(ConfigError, match=r"resnet18 with pretrained=true: the hub is not reached.*pretrained=false"):
        PyTorchImageModels("resnet18")


# neighbours (D.2)


def neighbours(k, temperature=0.07):
    """Return votes in the plane: class 0 at 0 and 60 degrees, class 1 at 90 and 180."""
    made = NearestNeighbours("bank", k=k, temperature=temperature)
    made.know(on_circle(0, 60, 90, 180), torch.tensor([0, 0, 1, 1]))
    return made


def on_circle(*degrees):
    angles = torch.tensor(degrees).deg2rad()
    return 3 * torch.stack([angles.cos(), angles.sin()], 1)


def test_d2_neighbours_vote_by_value():
    made = neighbours(k=3, temperature=0.5)
    found = made.votes(on_circle(80) / 3, torch.cat(made.known), torch.cat(made.known_labels))
    near, second, third = (math.exp(math.cos(math.radians(angle)) / 0.5) for angle in (10, 20, 80))
    assert found[0].tolist() == pytest.approx([second + third, near], rel=1e-4)


def test_d2_the_share_of_images_that_their_neighbours_know():
    for k, share in ((1, 1.0), (3, 0.5), (200, 0.5)):
        made = neighbours(k, temperature=1.0)
        made.update(on_circle(10, 80), torch.tensor([0, 1]))
        assert float(made.compute()) == share, k
    sharp = neighbours(200)
    sharp.update(on_circle(10, 80), torch.tensor([0, 1]))
    assert float(sharp.compute()) == 1.0, "a low temperature is the nearest one's vote"


def test_d2_a_validation_asks_the_neighbours_of_a_loader_of_data_extra():
    module = module_of(neighbours=NearestNeighbours("bank", k=5))
    bank = {"bank": {"dataset": Stripes(40, 4, noise=0.1), "batch_size": 8}}
    trainer = fitted(module, datamodule({"supervised": section(16)}, extra=bank))
    assert 0.5 <= float(trainer.callback_metrics["val/knn/top1"]) <= 1
    with pytest.raises(ConfigError, match=r"neighbours\.input_data: 'bank' is not known.*Known: banc"):
        fitted(module, datamodule({"supervised": section(16)}, extra={"banc": bank["bank"]}))
    with pytest.raises(ConfigError, match=r"neighbours\.k: 0 is not above 0"):
        NearestNeighbours("bank", k=0)


# bad input


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"head": Fixed("x"), "reduction": "meen"}, "one.reduction: 'meen' is not known. Did you mean 'mean'?"),
        ({"head": Fixed("x"), "scheduler": "sigmoid"}, "one.scheduler: 'sigmoid' given"),
        ({"head": Fixed("x"), "scale_factor": "big"}, "one.scale_factor: 'big' is no number"),
        ({"head": Fixed("x"), "scale_factor": math.inf}, "one.scale_factor: inf is no number"),
        ({"head": Fixed("x"), "schedular": None}, "one.schedular: 'schedular' is not known. Did you mean 'scheduler'?"),
        ({"reduction": "mean"}, "one.head: None is no loss head"),
        ({"head": nn.Linear(1, 1)}, "MeanTeacher, RotationPrediction"),
        ("rotation", "one.head: None is no loss head"),
        ({"head": Fixed("x", "backbon")}, "the backbone: 'backbon' is not known. Did you mean 'backbone'?"),
        ({"head": MeanTeacher("x", teacher_backbone="ema")}, "'ema' is not known. Known: backbone, backbone_ema."),
    ],
)
def test_a_wrong_head_is_refused_when_the_module_is_built(entry, said):
    found = refused({"one": entry})
    assert "model.module.regularization_loss_heads.one" in found
    assert said in found


def test_a_wrong_module_is_refused_when_it_is_built():
    assert "n_classes: None" in refused(n_classes=None)
    assert "Flatten does not say its out_features" in refused(backbone=nn.Flatten())
    assert "backbone: 'resnet' is no network" in refused(backbone="resnet")
    assert "'teacher' is not known" in refused(predict_with="teacher")
    assert "ema_decay: 2 is not within 0 to 1" in refused(predict_with="backbone_ema", ema_decay=2)
    assert "supervised_loss.calable: 'calable' is not known" in refused(supervised_loss={"calable": 1})
    assert "supervised_loss.callable: 'ce' is no loss" in refused(supervised_loss={"callable": "ce"})
    assert "cannot be the name of a head" in refused({"keys": {"head": Fixed("x")}})
    with pytest.raises(ConfigError, match="threshold: 7"):
        FixMatch("x", threshold=7)
    with pytest.raises(ConfigError, match="stop_rampup: -1"):
        SigmoidRampup(-1)


def test_a_misspelt_target_is_answered_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"'RotationPredicton'\. Did you mean 'RotationPrediction'"):
        instantiate({"_target_": f"{HEADS}.RotationPredicton", "input_data": "x"}, key="head")


def test_a_head_that_names_no_loader_is_refused_before_the_first_step():
    module = module_of({"one": {"head": Fixed("viewz")}, "two": {"head": Fixed("rotationn")}})
    before = copy.deepcopy(module)
    with pytest.raises(ConfigError) as caught:
        fitted(module)
    said = str(caught.value)
    assert "one.head.input_data: 'viewz' is not known. Did you mean 'views'?" in said
    assert "two.head.input_data: 'rotationn'" in said
    assert same(module, before)


def test_d15_a_training_needs_a_loader_that_is_called_supervised():
    with pytest.raises(ConfigError, match=r"the supervised loss: 'supervised' is not known\. Did you mean 'supervise'"):
        fitted(module_of(), datamodule({"supervise": section(8)}))
    with pytest.raises(ConfigError, match=r"data.train: is one loader.*Put it under `supervised`"):
        fitted(module_of(), datamodule(section(8)))


def test_batches_that_do_not_fit_are_refused_before_the_first_step():
    heads = {"one": {"head": FixMatch("rotation")}}
    with pytest.raises(ConfigError, match=r"data.train.rotation: FixMatch needs a weak and a strong view.*are 1"):
        fitted(module_of(heads))
    wide = nn.Flatten()
    wide.out_features = 7
    with pytest.raises(ConfigError, match=r"gives \[8, 36\] for 8 images.*\[8, 7\]"):
        fitted(module_of(backbone=wide))


class Classes(Stripes):
    """The same, with the names of its classes, and maybe labels beyond them."""

    def __init__(self, size, names, most=None):
        super().__init__(size)
        self.classes = names
        self.y[-1] = len(names) - 1 if most is None else most


@pytest.mark.parametrize(
    ("part", "dataset", "said"),
    [
        (
            "train",
            Classes(16, ["a", "b", "c"]),
            r"2, and data.train.supervised has 3 classes: a, b, c. Set it to 3",
        ),
        ("train", Classes(16, ["a", "b"], 5), r"2 are the classes 0 to 1, and data.train.supervised has the label 5"),
        ("val", Classes(16, ["a", "b"], -1), r"2 are the classes 0 to 1, and data.val has the label -1"),
    ],
)
def test_labels_that_are_no_class_of_the_model_are_refused_by_their_key(part, dataset, said):
    data = {"train": {**TRAIN, "supervised": {"dataset": Stripes(16), "batch_size": 16}}, "val": VAL}
    if part == "train":
        data["train"]["supervised"]["dataset"] = dataset
    else:
        data["val"] = {"dataset": dataset, "batch_size": 16}
    with pytest.raises(ConfigError, match=f"model.module.n_classes: {said}"):
        fitted(module_of(), LoaderDataModule(**data))


# the shipped experiment


def test_the_shipped_experiment_trains_an_epoch_and_every_weight_of_the_student_moves(home):
    plan = asparagus.plan_of(DIGITS_SEMI, ["trainer.max_epochs=1"])
    trainer, module, data = asparagus.load_from_config(plan.spec)
    before = copy.deepcopy(module)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 45
    assert float(trainer.callback_metrics["val/top1"]) > 0.3
    moved = {name for name, weight in module.state_dict().items() if not torch.equal(weight, before.state_dict()[name])}
    assert {name.split(".")[0] for name in moved} == {"net", "head", "regularization", "teacher"}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("rotation.head._target_=asparagus.stages.semi.heads.RotationPredicton", "RotationPrediction"),
        ("rotation.head.input_dat=x", "'input_data'"),
        ("mean_teacher.scheduler._target_=asparagus.stages.semi.schedules.SigmoidRamp", "SigmoidRampup"),
    ],
)
def test_a_misspelt_word_of_an_experiment_is_refused_on_the_laptop(word, said, home):
    with pytest.raises(ConfigError, match=said):
        asparagus.plan_of(DIGITS_SEMI, [f"model.module.regularization_loss_heads.{word}"])
