from __future__ import annotations

import time

import pytest

from asparagus.compose.constraints import holds, keys_of, problems_of
from asparagus.errors import ConfigError
from asparagus.space import Choice, Dimension, Interval

VALUES = {
    "model.depth": 4,
    "data.batch_size": 16,
    "optim.lr": 0.1,
    "optim.name": "adam",
    "model": "unet",
    "model.norm": None,
    "model.skip": True,
    "model.features": [8, 16],
    "pretrain:optim.lr": 0.5,
    "module/scheduler_spec": "step_lr",
    "optim.lambda": 3,
    "model.features.0": 8,
}
DIMENSIONS = [
    Dimension("model.depth", Interval(1, 8, integer=True)),
    Dimension("optim.name", Choice(("adam", "sgd"))),
    Dimension("model.norm", Choice((None, 2))),
    Dimension("optim.lr", Interval(1e-4, 1e-1, log=True)),
]


@pytest.mark.parametrize(
    ("constraint", "met"),
    [
        ("model.depth * data.batch_size <= 64", True),
        ("model.depth * data.batch_size < 64", False),
        ("model.depth ** 2 == 16 and optim.lr < 1", True),
        ("1 < model.depth\n  < 4", False),
        ("1 < model.depth <= 4", True),
        ("optim.name == 'adam' or optim.lr > 1", True),
        ('optim.name in ["sgd", "radam"]', False),
        ("optim.name not in ('sgd',)", True),
        ("not model.skip", False),
        ("model.norm == null or model.norm > 3", True),
        ("model.norm == None", True),
        ("model.skip == true", True),
        ("(model.depth - 1) // 2 + model.depth % 3 == 2", True),
        ("-model.depth / 8 == -0.5", True),
        ("data.batch_size >= 1_6", True),
        ("optim.lr <= 1e-1", True),
        ("pretrain:optim.lr > optim.lr", True),
        ("`module/scheduler_spec` == 'step_lr'", True),
        ("optim.lambda == 3", True),
        ("model.features.0 == 8 and model.features == [8, 16]", True),
        ("(model == 'unet') + model.skip == 2", True),
        ("optim.name == 'a.b' or 'dam' in optim.name", True),
    ],
)
def test_a_constraint_is_worked_out(constraint, met):
    assert holds(constraint, VALUES) is met


def test_a_constraint_over_a_key_that_is_not_there_holds():
    assert holds("optim.momentum > 100", VALUES)
    assert holds("optim.momentum > 100 and model.depth > 100", VALUES)


@pytest.mark.parametrize(
    "constraint",
    [
        "1 / (model.depth - 4) > 0",
        "model.depth % 0 == 0",
        "(model.depth - 8) ** 0.5 > 0",
        "10.0 ** 999 > 1",
        "9 ** 9 ** 9 > 1",
        "(9 ** 300) ** 300 > 1",
        "model.depth ** 1e308 > 1",
    ],
)
def test_what_cannot_be_worked_out_does_not_hold_and_takes_no_time(constraint):
    start = time.process_time()
    assert not holds(constraint, VALUES)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        ("model.depth <", "cannot be read"),
        ("model.depth = 4", "cannot be read"),
        ("", "is a value and no condition"),
        ("model.depth + 1", "is a value and no condition"),
        ("5", "is a value and no condition"),
        ("__import__('os').system('true')", "uses a function"),
        ("model.depth.__class__() == 1", "uses a function"),
        ("abs(model.depth) > 1", "uses a function"),
        ("[x for x in model.features] == 1", "uses a Python ListComp"),
        ("f'{model.depth}' == 'x'", "cannot be read"),
        ("(lambda: 1) == 1", "uses a Python Lambda"),
        ("model.depth if model.skip else 1", "uses a Python IfExp"),
        ("model.depth & 1 == 1", "uses a Python BitAnd"),
        ("model.features[0] == 8", "uses a Python Subscript"),
        ("model.depth is None", "uses a Python Is"),
        ("(k := 5) == 5", "uses a Python NamedExpr"),
        ("-" * 500 + "1 < 2", "is too long"),
        ("(" * 400 + "1" + ")" * 400 + " < 2", "cannot be read"),
        (" and ".join(["model.depth < 9"] * 100), "is longer than 1000 characters"),
        ("9" * 900 + "9999 < model.depth)", "cannot be read"),
    ],
)
def test_what_is_no_condition_is_refused_with_what_it_may_be_made_of(constraint, reason):
    with pytest.raises(ConfigError) as wrong:
        holds(constraint, VALUES)
    assert str(wrong.value).startswith("sweep.constraints: ")
    assert reason in str(wrong.value)
    assert "+ - * / // % **" in str(wrong.value)
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize(
    "constraint",
    ["optim.name < 3", "optim.name * 3 == 'x'", "-optim.name == 1", "'%s' % optim.name == 'x'", "3 in model.depth"],
)
def test_what_cannot_be_compared_is_refused_with_the_values(constraint):
    with pytest.raises(ConfigError, match=r"cannot be worked out for .*(optim.name='adam'|model.depth=4)"):
        holds(constraint, VALUES)


def test_a_constraint_says_which_keys_it_speaks_of():
    assert keys_of("a.b * 2 < a.b + `x/y` and 'c.d' != s:e.f") == ("a.b", "x/y", "s:e.f")


@pytest.mark.parametrize(
    ("constraint", "said"),
    [
        ("model.dept < 3", ["model.dept is not searched", "Did you mean 'model.depth'", "model.norm, optim.lr"]),
        ("model.norm < 3", ["cannot be worked out for model.norm=None", "'NoneType' and 'int'"]),
        ("optim.name > 1 or 1", ["cannot be worked out for optim.name='adam'", "'str' and 'int'"]),
        ("5", ["is a value and no condition"]),
    ],
)
def test_constraints_are_checked_against_what_is_searched(constraint, said):
    (problem,) = problems_of(["optim.lr > 0", constraint], DIMENSIONS)
    assert problem.startswith(f"sweep.constraints: {constraint!r}")
    for part in said:
        assert part in problem


def test_a_condition_on_a_value_may_guard_the_next():
    assert [*problems_of(["model.norm == null or model.norm < 3"], DIMENSIONS)] == []
