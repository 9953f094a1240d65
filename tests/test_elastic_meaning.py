"""On fewer workers a training means the same, or says what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from asparagus.spec import Resources
from asparagus.worker.elastic import at_size
from tests.test_plan import spec


def elastic(workers, **trainer):
    return replace(spec(), resources=Resources(workers=workers, min_workers=1), trainer={"max_epochs": 3, **trainer})


@pytest.mark.parametrize(
    ("workers", "accumulate", "now", "expected"),
    [(4, None, 2, 2), (4, 1, 1, 4), (8, 2, 4, 4), (6, 2, 4, 3)],
)
def test_workers_times_accumulation_stays(workers, accumulate, now, expected):
    found, notes = at_size(elastic(workers, accumulate_grad_batches=accumulate), now)
    assert found.trainer["accumulate_grad_batches"] == expected
    assert found.trainer["max_epochs"] == 3
    assert f"a step sees as many batches as planned ({workers * (accumulate or 1)})" in notes[0]


@pytest.mark.parametrize(("workers", "now", "expected", "seen"), [(8, 3, 3, 9), (8, 7, 1, 7), (4, 3, 1, 3)])
def test_what_does_not_divide_is_rounded_and_said(workers, now, expected, seen):
    found, notes = at_size(elastic(workers), now)
    assert found.trainer["accumulate_grad_batches"] == expected
    assert f"a step sees {seen} batches where {workers} were planned: {workers} does not divide by {now}" in notes[0]


def test_numbers_of_batches_are_a_workers_and_shares_are_not():
    limits = {"limit_train_batches": 10, "val_check_interval": 0.5, "limit_val_batches": 3, "overfit_batches": 0.0}
    found, _ = at_size(elastic(4, **limits), 2)
    kept = {key: found.trainer[key] for key in limits}
    assert kept == {**limits, "limit_train_batches": 20}


def test_all_of_the_workers_and_workers_that_must_all_be_there_change_nothing():
    asked = elastic(4)
    assert at_size(asked, 4) == (asked, [])
    fixed = replace(asked, resources=Resources(workers=4))
    assert at_size(fixed, 2) == (fixed, [])
