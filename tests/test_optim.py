"""Tests of asparagus.optim: optimizers by name, schedules by value."""

from __future__ import annotations

import importlib
import math
import re
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

import asparagus
from asparagus.check.optimizer import optimizer as check_optimizer
from asparagus.check.trainer import trainer as check_trainer
from asparagus.errors import ConfigError
from asparagus.optim import OPTIMIZERS, SCHEDULER_CLASSES, SCHEDULES
from asparagus.optim.build import build_optimizer
from asparagus.optim.formulas import (
    Shape,
    constant,
    cosine,
    inverse_square_root,
    linear,
    noam,
    noam_hold,
    polynomial,
    polynomial_hold,
    sawtooth,
    square,
    square_root,
    t5_inverse_square_root,
    warmup,
    warmup_cosine,
    warmup_hold,
)
from asparagus.optim.groups import parameter_groups
from asparagus.optim.polynomial import PolynomialLR
from asparagus.optim.schedules import build_schedule, lightning_schedules, split, stepping_of
from asparagus.spec import Spec
from tests.helpers import quiet_trainer

SHAPE = Shape(lr=0.1, max_steps=100, warmup_steps=10, min_lr=0.01)


def weights():
    return [torch.nn.Parameter(torch.zeros(2))]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_the_table_takes_a_step(name):
    parameters = weights()
    optimizer = build_optimizer({"name": name.upper(), "lr": 0.1}, parameters)
    parameters[0].sum().backward()
    optimizer.step()
    assert (parameters[0] != 0).all()


def test_the_sections_other_keys_reach_the_constructor():
    optimizer = build_optimizer({"name": "sgd", "lr": 0.1, "momentum": 0.9, "sched": {"name": "cosine"}}, weights())
    assert optimizer.defaults["momentum"] == 0.9


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"name": "sgd"}, "optim.lr: missing"),
        ({"lr": 0.1}, "optim.name: missing. Known: .*sgd"),
        ({"name": "adamv", "lr": 0.1}, "optim.name: 'adamv' is not known. Did you mean 'adam"),
        (
            {"name": "sgd", "lr": 0.1, "momentun": 0.9},
            "optim.momentun: SGD takes no such argument. Did you mean 'momentum'",
        ),
        ({"name": "sgd", "lr": -1.0}, "optim: SGD refused its arguments: Invalid learning rate"),
    ],
)
def test_wrong_optimizer_sections_are_named(config, match):
    with pytest.raises(ConfigError, match=match):
        build_optimizer(config, weights())


@pytest.mark.parametrize("schedule", [constant, cosine, linear])
def test_warm_up_is_a_ramp_that_starts_above_zero_and_ends_at_lr(schedule):
    # the formula of SEEDS B: base lr times (s + 1) over (W + 1)
    assert schedule(0, SHAPE) == pytest.approx(0.1 / 11)
    assert schedule(4, SHAPE) == pytest.approx(0.1 * 5 / 11)
    assert schedule(10, SHAPE) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("schedule", "step", "value"),
    [
        (cosine, 55, 0.055),  # half way between W and M: the mean of L and m
        (cosine, 32.5, 0.01 + 0.09 * 0.5 * (1 + math.cos(math.pi / 4))),
        (cosine, 100, 0.01),
        (cosine, 101, 0.01),
        (linear, 55, 0.055),
        (linear, 32.5, 0.01 + 0.09 * 0.75),
        (linear, 100, 0.01),
        (linear, 150, 0.01),
        (constant, 55, 0.1),
        (constant, 150, 0.1),
    ],
)
def test_values_after_warm_up(schedule, step, value):
    assert schedule(step, SHAPE) == pytest.approx(value)


def test_without_warm_up_the_first_step_has_the_full_lr():
    assert cosine(0, Shape(lr=0.1, max_steps=100)) == pytest.approx(0.1)


def rates(config, steps, max_steps=100.0, **groups):
    optimizer = torch.optim.SGD(weights(), lr=0.1)
    schedule = build_schedule(optimizer, config, max_steps)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_the_optimizer_follows_the_schedule_step_by_step():
    seen = rates({"name": "cosine", "warmup_steps": 10, "min_lr": 0.01}, 101)
    assert seen == pytest.approx([cosine(step, SHAPE) for step in range(101)])


def test_a_warm_up_ratio_is_a_share_of_all_steps():
    assert rates({"name": "linear", "warmup_ratio": 0.259}, 30, 40) == rates(
        {"name": "linear", "warmup_steps": 10}, 30, 40
    )


def test_max_steps_of_minus_one_means_computed():
    assert rates({"name": "linear", "max_steps": -1}, 60) == rates({"name": "linear"}, 60)
    assert rates({"name": "linear", "max_steps": 50}, 60)[50:] == [0.0] * 10


@pytest.mark.parametrize("config", [None, {}])
def test_no_schedule_is_a_constant_rate_even_without_an_end(config):
    assert rates(config, 3, math.inf) == pytest.approx([0.1] * 3)


def test_each_group_follows_from_its_own_rate():
    first, second = weights(), weights()
    optimizer = torch.optim.SGD([{"params": first, "lr": 0.1}, {"params": second, "lr": 0.4}])
    build_schedule(optimizer, {"name": "linear", "warmup_steps": 1}, 10)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.2])


def test_the_state_of_a_schedule_is_plain_values(tmp_path):
    optimizer = torch.optim.SGD(weights(), lr=0.1)
    torch.save(build_schedule(optimizer, {"name": "cosine"}, 10).state_dict(), tmp_path / "s.pt")
    assert torch.load(tmp_path / "s.pt", weights_only=True)["last_epoch"] == 0


@pytest.mark.parametrize(
    ("config", "max_steps", "match"),
    [
        ({"name": "cosine", "warmup_steps": 1, "warmup_ratio": 0.1}, 10, "warmup_steps=1 and warmup_ratio=0.1"),
        ({"name": "cosinus"}, 10, "optim.sched.name: 'cosinus' is not known. Did you mean 'cosine'"),
        ({"warmup": 3}, 10, "optim.sched.warmup: not known. Did you mean 'warmup_"),
        ({"name": "cosine"}, math.inf, "where training ends"),
        ({"name": "cosine"}, -1, "where training ends"),
        ({"name": "cosine", "min_lr": 1.0}, 10, "optim.sched.min_lr: 1 is above the learning rate 0.1"),
        ({"name": "cosine", "warmup_ratio": 2}, 10, "warmup_ratio: 2 is not within 0 to 1"),
    ],
)
def test_wrong_schedules_are_named(config, max_steps, match):
    with pytest.raises(ConfigError, match=match):
        build_schedule(torch.optim.SGD(weights(), lr=0.1), config, max_steps)


@pytest.mark.parametrize("path", [*SCHEDULES.values(), *SCHEDULER_CLASSES.values(), *OPTIMIZERS.values()])
def test_the_tables_name_what_exists(path):
    module, _, name = path.rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))


# ---- the formulas of SEEDS B16, written down a second time, at every step of several settings ----

SETTINGS = [Shape(0.1, 100, 10, 0.01), Shape(0.1, 100, 0, 0.0), Shape(2.0, 37, 5, 1e-3), Shape(1e-3, 1000, 333, 1e-5)]


def by_hand(name, s, x, **more):  # noqa: C901, PLR0911, PLR0912 - the table of SEEDS, row by row
    lr, end, warm, low = x.lr, x.max_steps, x.warmup_steps, x.min_lr
    hold, flat, p, d, r = (more.get(key) for key in ("hold_steps", "constant_steps", "power", "d_model", "decay_rate"))
    if name == "noam":
        s = max(1, s)
        if s > end:
            return low
        value = lr * d**-0.5 * (min(s**-0.5, s * warm**-1.5) if warm else s**-0.5)
        return max(value, low) if s > warm else value
    if name == "t5_inverse_square_root":
        return 1 / flat**0.5 if s <= flat else low if s > end else 1 / s**0.5
    if name == "cosine" and flat:
        if s < warm:
            return lr * s / warm
        length = end - (flat + warm)
        return low + (lr - low) * 0.5 * (1 + math.cos(math.pi * (s - warm) / length)) if s < warm + length else low
    if name == "warmup_cosine" and s < warm:
        return lr * (0.001 + 0.999 * s / warm)
    if warm > 0 and s <= warm and name != "warmup_cosine":
        return lr * (s + 1) / (warm + 1)
    if s > end:
        return low
    t, rest = s - warm, end - warm
    if name in ("warmup", "warmup_hold"):
        return lr
    if name == "square":
        return max(low, lr * ((rest - t) / rest) ** 2)
    if name == "square_root":
        return max(low, lr * ((end - s) / end) ** 0.5)
    if name in ("cosine", "warmup_cosine"):
        return low + (lr - low) * 0.5 * (1 + math.cos(math.pi * t / rest))
    if name == "linear":
        return low + (1 - t / rest) * (lr - low)
    if name == "inverse_square_root":
        return lr / ((s + 1) / (warm + 1)) ** 0.5
    if name == "polynomial":
        return low + (lr - low) * (1 - t / rest) ** p
    if name == "polynomial_hold":
        begin = max(warm, warm + hold)
        return lr if s < warm + hold else low + (lr - low) * (1 - (s - begin) / (end - begin)) ** p
    assert name == "noam_hold"
    return lr if s < warm + hold else max(low, lr * max(1, warm**r) / max(1, (s - hold) ** r))


@pytest.mark.parametrize("shape", SETTINGS, ids=str)
@pytest.mark.parametrize(
    ("function", "more"),
    [
        (warmup, {}),
        (warmup_hold, {"hold_steps": 7}),
        (square, {}),
        (square_root, {}),
        (cosine, {}),
        (cosine, {"constant_steps": 6}),
        (warmup_cosine, {}),
        (linear, {}),
        (inverse_square_root, {}),
        (t5_inverse_square_root, {"constant_steps": 9}),
        (polynomial, {"power": 0.5}),
        (polynomial, {"power": 2.0}),
        (polynomial_hold, {"hold_steps": 9, "power": 1.0}),
        (noam, {"d_model": 64}),
        (noam_hold, {"hold_steps": 4, "decay_rate": 0.5}),
    ],
)
def test_b16_every_formula_at_every_step(function, more, shape):
    if (function is noam_hold) == (shape.warmup_steps == 0) and function in (noam_hold, t5_inverse_square_root):
        with pytest.raises(ValueError, match=r"needs warmup_steps|has no warm-up"):
            function(5, shape, **more)
        return
    for step in range(int(shape.max_steps) + 3):
        assert function(step, shape, **more) == pytest.approx(by_hand(function.__name__, step, shape, **more)), step


def test_b16_the_hold_of_polynomial_hold_ends_and_never_overshoots():
    values = [polynomial_hold(step, Shape(0.1, 20, 4), hold_steps=6) for step in range(22)]
    assert max(values) == 0.1  # upstream's inverted condition goes to .22375
    assert values[4:11] == [0.1] * 7
    assert values[11] < 0.1
    assert values[20:] == [0.0, 0.0]


ATOMMICS = {
    "WarmupPolicy": warmup,
    "SquareAnnealing": square,
    "CosineAnnealing": cosine,
    "WarmupAnnealing": linear,
    "InverseSquareRootAnnealing": inverse_square_root,
    "SquareRootAnnealing": square_root,
    "PolynomialDecayAnnealing": polynomial,
    "PolynomialHoldDecayAnnealing": polynomial_hold,
}


@pytest.mark.parametrize("name", ATOMMICS)
def test_b15_a_block_as_atommic_writes_it_follows_the_formula(name):
    block = {"name": name, "min_lr": 0.01, "last_epoch": -1, "warmup_ratio": 0.1, "max_steps": -1}
    block |= {"monitor": "val_loss", "reduce_on_plateau": False}
    assert rates(block, 100) == pytest.approx([ATOMMICS[name](step, SHAPE) for step in range(100)])


def test_b19_a_share_of_all_steps_does_for_every_number_of_steps():
    held = {"name": "PolynomialHoldDecayAnnealing", "warmup_ratio": 0.1, "hold_ratio": 0.2}
    assert rates(held, 100) == rates({"name": "polynomial_hold", "warmup_steps": 10, "hold_steps": 20}, 100)
    with pytest.raises(ConfigError, match=r"hold_steps=3 and hold_ratio=0.1 are two answers"):
        rates({"name": "polynomial_hold", "hold_steps": 3, "hold_ratio": 0.1}, 1)


@pytest.mark.parametrize(
    ("config", "interval", "expected"),
    [
        ({"name": "StepLR", "step_size": 2, "gamma": 0.5, "max_steps": 50}, "step", [0.1, 0.1, 0.05, 0.05, 0.025]),
        ({"name": "ExponentialLR", "gamma": 0.5}, "epoch", [0.1, 0.05, 0.025, 0.0125]),
        ({"name": "CyclicLR", "base_lr": 0.1, "max_lr": 0.3, "step_size_up": 2}, "step", [0.1, 0.2, 0.3, 0.2, 0.1]),
    ],
)
def test_b18_torchs_schedulers_by_name_and_how_they_are_stepped(config, interval, expected):
    assert stepping_of(config)["interval"] == interval
    optimizer = torch.optim.SGD(weights(), lr=0.1, momentum=0.9)
    schedule = build_schedule(optimizer, config, 100)
    seen = []
    for _ in expected:
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx(expected)


def test_b18_reduce_on_plateau_is_stepped_after_epochs_on_what_it_watches():
    config = {"name": "ReduceLROnPlateau", "monitor": "val/loss", "patience": 0, "reduce_on_plateau": True}
    stepping = {"interval": "epoch", "frequency": 1, "monitor": "val/loss", "name": "ReduceLROnPlateau"}
    assert stepping_of(config) == stepping
    schedule = build_schedule(torch.optim.SGD(weights(), lr=0.1), config, 100)
    assert isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau)


def test_b21_lists_are_several_schedules_on_one_optimizer():
    both = split({"name": ["cosine", "StepLR"], "min_lr": [0.0, None], "step_size": [None, 3], "max_steps": 9})
    assert both == [
        {"name": "cosine", "min_lr": 0.0, "max_steps": 9},
        {"name": "StepLR", "step_size": 3, "max_steps": 9},
    ]
    with pytest.raises(ConfigError, match=r"2 names, and other numbers of \{'min_lr': 3\}"):
        split({"name": ["cosine", "linear"], "min_lr": [0.0, 0.0, 0.0]})


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_d25_polynomial_lr_at_every_step(power):
    optimizer = torch.optim.SGD(weights(), lr=0.1)
    schedule = PolynomialLR(optimizer, 40, warmup_epochs=2, iters_per_epoch=5, warmup_lr=0.02, lr_pow=power)
    for step in range(45):
        warm = 0.02 + 0.08 * step / 10
        expected = warm if step < 10 else 0.1 * (1 - (step - 10) / 30) ** power if step < 40 else 0.0
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected), step
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "give warmup_iters, or"),
        ({"warmup_epochs": 2}, "iters_per_epoch"),
        ({"warmup_iters": 50}, "is below the 50"),
    ],
)
def test_d25_a_warm_up_that_cannot_be_known_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        PolynomialLR(torch.optim.SGD(weights(), lr=0.1), 40, **arguments)


def test_a36_warmup_cosine_is_torchs_linear_and_cosine_in_sequence():
    ours = [warmup_cosine(step, Shape(0.1, 60, 20)) for step in range(60)]
    optimizer = torch.optim.SGD(weights(), lr=0.1)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1e-3, total_iters=20)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    torchs = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, fall], milestones=[20])
    for step in range(60):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(ours[step], abs=1e-9), step
        optimizer.step()
        torchs.step()


def test_a36_the_sawtooth_trains_what_is_new_first_and_then_all_of_it():
    old, new = Shape(0.1, 100, 10, is_decoder=False), Shape(0.1, 100, 10)
    assert [sawtooth(step, old, decoder_warmup_steps=20) for step in range(20)] == [0.0] * 20
    assert sawtooth(0, new, decoder_warmup_steps=20) == pytest.approx(1e-4)
    assert sawtooth(10, new, decoder_warmup_steps=20) == pytest.approx(0.1 * (0.001 + 0.999 / 2))
    for step in range(20, 101):
        together = sawtooth(step, new, decoder_warmup_steps=20)
        assert together == sawtooth(step, old, decoder_warmup_steps=20) == warmup_cosine(step - 20, Shape(0.1, 80, 10))


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.ModuleDict({part: torch.nn.Linear(2, 2) for part in ("encoder", "decoder", "head")})


def test_a36_the_sawtooth_knows_a_decoder_by_where_its_weights_begin():
    config = {"lr": 0.1, "sched": {"name": "sawtooth", "decoder_warmup_steps": 2}}
    rest, new = parameter_groups(Net(), config, ("decoder.", "head."))
    assert (len(rest["params"]), len(new["params"])) == (2, 4)
    optimizer = torch.optim.SGD([rest, new], lr=0.1)
    build_schedule(optimizer, config["sched"], 10)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.0, 1e-4])
    with pytest.raises(ConfigError, match="this network has none"):
        parameter_groups(torch.nn.Linear(2, 2), config, ("decoder.",))


def test_c10_parts_by_dotted_path_have_settings_of_their_own_and_the_rest_has_the_sections():
    config = {"name": "Adam", "lr": 3e-4, "params": {".net.encoder": {"lr": 1e-5}, ".net.head.weight": {}}}
    groups = parameter_groups(Net(), config)
    assert [group["name"] for group in groups] == ["net.encoder", "net.head.weight", "rest"]
    optimizer = build_optimizer(config, groups)
    assert [(len(group["params"]), group["lr"]) for group in optimizer.param_groups] == [
        (2, 1e-5),
        (1, 3e-4),
        (3, 3e-4),
    ]


def test_a36_the_sawtooth_divides_parts_that_have_settings_of_their_own():
    config = {"lr": 0.1, "sched": {"name": "sawtooth", "decoder_warmup_steps": 2}, "params": {".net.head": {"lr": 0.2}}}
    groups = parameter_groups(Net(), config, ("decoder.", "head."))
    optimizer = torch.optim.SGD(groups, lr=0.1)
    build_schedule(optimizer, config["sched"], 10)
    found = [(group["role"], group["lr"]) for group in optimizer.param_groups]
    assert found == [("decoder", pytest.approx(2e-4)), ("rest", 0.0), ("decoder", pytest.approx(1e-4))]


def test_b21_each_of_several_schedules_starts_from_the_rate_that_was_asked_for():
    optimizer = torch.optim.SGD(weights(), lr=0.1)
    for one in split({"name": ["cosine", "cosine"], "warmup_steps": 10, "min_lr": 0.01}):
        schedule = build_schedule(optimizer, one, 100)
    assert [optimizer.step() or schedule.step() for _ in range(100)]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_b18_reduce_on_plateau_watches_the_validation_loss_unless_told_otherwise():
    assert stepping_of({"name": "ReduceLROnPlateau"})["monitor"] == "val/loss"
    assert "monitor" not in stepping_of({"name": "StepLR"})


def test_c11_settings_that_the_optimizer_does_not_take_are_named():
    groups = parameter_groups(Net(), {"params": {".net.head": {"lrr": 1}}})
    with pytest.raises(ConfigError, match=r"lrr: Adam takes no such argument\. Did you mean 'lr'"):
        build_optimizer({"name": "adam", "lr": 0.1}, groups)


def test_c10_weights_that_need_no_gradient_are_in_no_group():
    module = Net()
    module.net["encoder"].requires_grad_(requires_grad=False)
    assert len(parameter_groups(module, {})[0]["params"]) == 4
    with pytest.raises(ConfigError, match="all are frozen"):
        parameter_groups(module.requires_grad_(requires_grad=False), {})


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"net.encoder": {}}, "a path begins with a dot"),
        ({".net.encodr": {}}, r"No parameter .net.encodr in Net. Did you mean '.net.encoder'"),
        ({".net": {}, ".net.head": {}}, r".net and .net.head both name net.head"),
    ],
)
def test_c11_wrong_paths_are_named(params, match):
    with pytest.raises(ConfigError, match=match):
        parameter_groups(Net(), {"params": params})


# ---- optimizers by value ----


def walked(config, gradients, start=(1.0, -2.0)):
    weight = torch.nn.Parameter(torch.tensor(start))
    optimizer = build_optimizer(config, [weight])
    for gradient in gradients:
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    return weight.detach()


GRADIENTS = [(0.3, -0.4), (0.1, 0.2), (-0.5, 0.05)]


def test_b13_novograd_by_value():
    lr, (b1, b2), eps, wd = 0.1, (0.95, 0.98), 1e-8, 0.01
    p, m, v = torch.tensor([1.0, -2.0]), torch.zeros(2), None
    for gradient in map(torch.tensor, GRADIENTS):
        norm = gradient.norm() ** 2
        v = norm if v is None else b2 * v + (1 - b2) * norm
        m = b1 * m + gradient / (v.sqrt() + eps) + wd * p
        p = p - lr * m
    torch.testing.assert_close(walked({"name": "novograd", "lr": lr, "weight_decay": wd}, GRADIENTS), p)


@pytest.mark.parametrize("wd", [0.0, 0.1])
def test_b14_lion_by_value_and_its_weight_decay_is_a_share_of_the_weight(wd):
    lr, (b1, b2) = 0.1, (0.9, 0.999)
    p, m = torch.tensor([1.0, -2.0]), torch.zeros(2)
    for gradient in map(torch.tensor, GRADIENTS):
        p = p * (1 - lr * wd) - lr * torch.sign(b1 * m + (1 - b1) * gradient)
        m = b2 * m + (1 - b2) * gradient
    config = {"name": "lion", "lr": lr, "weight_decay": wd, "betas": (b1, b2)}
    torch.testing.assert_close(walked(config, GRADIENTS), p)


def test_b8_the_documented_names_are_there():
    names = "sgd adam adamw adadelta adamax adagrad rmsprop rprop novograd lion adafactor radam"
    assert set(names.split()) <= OPTIMIZERS.keys()


# ---- B9, B11, B16, B20: what trains has a rate, and its schedule ends where the training does ----


@pytest.mark.parametrize("form", ["name", "_target_"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_b9_no_optimizer_trains_without_a_learning_rate(name, form):
    section = {form: name if form == "name" else OPTIMIZERS[name]}
    (problem,) = check_optimizer(Spec("train_cls", "T", optim=section, trainer={"max_epochs": 1}))
    assert problem == "optim.lr: is missing. Every optimizer needs it, e.g. optim.lr=1e-3."
    with pytest.raises(ConfigError, match=r"optim\.lr: missing"):
        build_optimizer(section, weights())


class Halver(torch.optim.Optimizer):
    """An optimizer without a learning rate."""

    def __init__(self, params, share=0.5):
        super().__init__(params, {"share": share})

    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                weight.data.mul_(group["share"])


HALVER = f"{__name__}.Halver"


def test_b9_a_class_of_ones_own_without_a_learning_rate_needs_none_and_follows_no_schedule():
    asked = {"_target_": HALVER, "share": 0.25}
    fits = Spec("train_cls", "T", optim=asked, trainer={"max_epochs": 1})
    assert list(check_optimizer(fits)) == []
    (problem,) = check_optimizer(replace(fits, optim={**asked, "sched": {"name": "cosine"}}))
    assert "has no learning rate that could follow a schedule" in problem
    optimizer = build_optimizer(asked, weights())
    assert lightning_schedules(optimizer, None, quiet_trainer(max_steps=3)) == []


class Line(pl.LightningModule):
    """A weight that follows `optim.sched`; notes the rate of each optimizer step."""

    def __init__(self, sched, lr=0.1):
        super().__init__()
        self.net, self.sched, self.lr, self.rates = torch.nn.Linear(1, 1), sched, lr, []

    def training_step(self, batch, index):
        return self.net(batch).square().mean()

    def on_before_optimizer_step(self, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def configure_optimizers(self):
        optimizer = build_optimizer({"name": "adamw", "lr": self.lr}, self.parameters())
        return [optimizer], lightning_schedules(optimizer, self.sched, self.trainer)


def trained(sched, *, drop_last=False, resumed=None, **arguments):
    module = Line(sched)
    loader = DataLoader(torch.ones(27, 1), batch_size=4, drop_last=drop_last)
    trainer = quiet_trainer(**arguments)
    trainer.fit(module, loader, ckpt_path=resumed, weights_only=True)
    return module, trainer


LINEAR = {"name": "linear", "max_steps": -1}


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({"max_epochs": 2}, 14),
        ({"max_epochs": 2, "drop_last": True}, 12),
        ({"max_epochs": 2, "accumulate_grad_batches": 3}, 6),  # 3, 3 and the batch that is left
        ({"max_epochs": 2, "limit_train_batches": 5}, 10),
        ({"max_epochs": 2, "limit_train_batches": 50}, 14),
        ({"max_epochs": 2, "limit_train_batches": 0.5}, 6),
        ({"max_epochs": 3, "limit_train_batches": 5, "accumulate_grad_batches": 2, "drop_last": True}, 9),
        ({"max_epochs": -1, "max_steps": 5}, 5),
        ({"max_epochs": 1, "max_steps": 50}, 7),  # epochs end it before
        ({"max_epochs": 2, "overfit_batches": 2}, 4),
    ],
    ids=str,
)
def test_b20_the_schedule_ends_with_the_last_step_that_is_really_taken(arguments, steps):
    module, trainer = trained(LINEAR, **arguments)
    assert trainer.global_step == steps
    assert module.rates == pytest.approx([0.1 * (1 - step / steps) for step in range(steps)])


def test_b20_an_end_of_its_own_wins_over_epochs_and_the_trainers_over_that():
    own = {"name": "linear", "max_steps": 20}
    by_epochs, _ = trained(own, max_epochs=2)
    assert by_epochs.rates == pytest.approx([0.1 * (1 - step / 20) for step in range(14)])
    by_steps, _ = trained(own, max_steps=10)
    assert by_steps.rates == pytest.approx([0.1 * (1 - step / 10) for step in range(10)])


def test_b20_an_accumulation_that_is_no_whole_number_and_an_end_that_nobody_knows_are_refused():
    spec = Spec("train_cls", "T", optim={"name": "adam", "lr": 1e-3, "sched": LINEAR}, trainer={"max_epochs": -1})
    (problem,) = check_optimizer(spec)
    assert problem.startswith("optim.sched.name: linear needs to know where training ends. Give trainer.max_epochs")
    fraction = replace(spec, trainer={"max_epochs": 1, "accumulate_grad_batches": 1.5})
    assert any(problem.startswith("trainer.accumulate_grad_batches: 1.5") for problem in check_trainer(fraction))


BLOCKS = [
    *({"name": name, "warmup_ratio": 0.1, "min_lr": 0.001} for name in ("cosine", "linear", "square", "square_root")),
    {"name": "InverseSquareRootAnnealing", "warmup_ratio": 0.1},
    {"name": "T5InverseSquareRootAnnealing", "constant_ratio": 0.2},
    {"name": "PolynomialHoldDecayAnnealing", "warmup_ratio": 0.1, "hold_ratio": 0.2, "power": 2},
    {"name": "WarmupHoldPolicy", "warmup_steps": 3, "hold_steps": 5},
    {"name": "NoamAnnealing", "warmup_steps": 3, "d_model": 16},
    {"name": "NoamHoldAnnealing", "warmup_steps": 3, "hold_steps": 4},
    {"name": "warmup_cosine", "warmup_ratio": 0.2},
    {"name": "sawtooth", "decoder_warmup_steps": 5, "warmup_steps": 2},
    {"name": "StepLR", "step_size": 4},
    {"name": "CyclicLR", "base_lr": 0.1, "max_lr": 0.3, "step_size_up": 3, "cycle_momentum": False},
    {"name": "PolynomialLR", "max_iters": 30, "warmup_iters": 4},
]


def walk(sched, optimizer, steps):
    seen = []
    for _ in range(steps):
        optimizer.step()
        sched.step()
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block["name"])
def test_b16_a_schedule_goes_on_after_a_resume_as_if_nothing_had_been(block):
    first, second = (torch.optim.AdamW(weights(), lr=0.1) for _ in range(2))
    whole = build_schedule(first, block, 30)
    before = walk(whole, first, 11)
    kept = (whole.state_dict(), first.state_dict())
    again = build_schedule(second, block, 30)
    again.load_state_dict(kept[0])
    second.load_state_dict(kept[1])
    assert len(set(before + walk(whole, first, 19))) > 1
    third = torch.optim.AdamW(weights(), lr=0.1)
    uninterrupted = walk(build_schedule(third, block, 30), third, 30)
    assert before + walk(again, second, 19) == pytest.approx(uninterrupted)


def test_b16_a_training_that_accumulates_and_is_resumed_follows_the_formula_at_every_step(tmp_path):
    block = {"name": "CosineAnnealing", "warmup_steps": 3, "min_lr": 0.01}
    asked = {"max_epochs": 4, "accumulate_grad_batches": 2}  # 7 batches: 4 steps per epoch
    first = Line(block)
    trainer = quiet_trainer(**asked)
    first.on_train_epoch_end = lambda: setattr(trainer, "should_stop", trainer.current_epoch == 1)
    trainer.fit(first, DataLoader(torch.ones(27, 1), batch_size=4))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    assert trainer.global_step == 8
    second, _ = trained(block, resumed=tmp_path / "half.ckpt", **asked)
    shape = Shape(0.1, 16, 3, 0.01)
    assert first.rates + second.rates == pytest.approx([cosine(step, shape) for step in range(16)])


@pytest.mark.parametrize(
    ("sched", "match"),
    [
        ({"constant_steps": 5, "warmup_steps": 3}, "has no warm-up"),
        ({"constant_steps": 0}, "has to be 1 at least"),
        ({}, "constant_steps: .* needs it"),
    ],
)
def test_b16_what_t5s_schedule_cannot_be_is_said_before_anything_starts(sched, match):
    asked = {"name": "T5InverseSquareRootAnnealing", **sched}
    spec = Spec("train_cls", "T", optim={"name": "adam", "lr": 1e-3, "sched": asked}, trainer={"max_epochs": 1})
    assert any(re.search(match, problem) for problem in check_optimizer(spec))
    with pytest.raises(ConfigError, match="needs constant_steps or constant_ratio"):
        build_schedule(torch.optim.SGD(weights(), lr=0.1), asked, 10)


def test_b8_b17_what_is_registered_is_listed_with_the_rest():
    asparagus.register_optimizer("halver", Halver)
    assert asparagus.available_optimizers() == {**OPTIMIZERS, "halver": HALVER}
    assert asparagus.available_schedulers().keys() == {*SCHEDULES, *SCHEDULER_CLASSES}
