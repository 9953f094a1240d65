"""Tests of asparagus.optim: optimizers by name, schedules by value."""

from __future__ import annotations

import importlib
import math

import pytest
import torch

from asparagus.errors import ConfigError
from asparagus.optim import OPTIMIZERS, SCHEDULES
from asparagus.optim.build import build_optimizer
from asparagus.optim.schedules import Shape, build_schedule, constant, cosine, linear

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


@pytest.mark.parametrize("path", [*SCHEDULES.values(), *OPTIMIZERS.values()])
def test_the_tables_name_what_exists(path):
    module, _, name = path.rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))
