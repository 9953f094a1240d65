from __future__ import annotations

import math

import pytest

from asparagus.errors import RecordError
from asparagus.record.asked import Asked, Bound
from asparagus.record.summary import RunSummary


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("val/loss<0.3", Bound("val/loss", "<", 0.3)),
        (" val loss <= -1e-3 ", Bound("val loss", "<=", -1e-3)),
        ("a=1", Bound("a", "=", 1.0)),
        ("a!=1", Bound("a", "!=", 1.0)),
        ("a>=1", Bound("a", ">=", 1.0)),
        ("a > 1", Bound("a", ">", 1.0)),
    ],
)
def test_a_condition_is_a_name_an_operator_and_a_number(text, expected):
    assert Bound.parse(text) == expected


@pytest.mark.parametrize("text", ["", "val/loss", "val/loss<", "<0.3", "a<b", "a==1", "a<>1", "a<nan", "a<inf", "a=<1"])
def test_what_is_no_condition_says_what_one_is(text):
    with pytest.raises(RecordError, match=r"is not NAME, one of < <= = >= > !=, and a number\. .*'val/loss<0\.3'"):
        Bound.parse(text)


def test_no_condition_holds_for_a_value_that_is_no_number():
    assert not Bound("a", "!=", 1.0).holds(math.nan)
    assert not Bound("a", "!=", 1.0).holds(None)
    assert Bound("a", "!=", 1.0).holds(2.0)


def a_run(number, **facts):
    return RunSummary(number, "s", "t", "finished", "", "", started=float(-number), **facts)


def in_order(asked, *runs):
    return [run.run_id for run in asked.in_order(runs)]


def test_runs_are_sorted_by_number_start_metric_or_best_with_the_unmeasured_last():
    runs = [
        a_run(1, metrics={"m": 1.0}, best=3.0, mode="min"),
        a_run(2, metrics={"m": math.nan}),
        a_run(3, metrics={"m": 2.0}, best=0.5, mode="max"),
        a_run(4, best=2.0, mode="min"),
    ]
    assert in_order(Asked(), *runs) == [4, 3, 2, 1]
    assert in_order(Asked(ascending=True, limit=2), *runs) == [1, 2]
    assert in_order(Asked(sort="started"), *runs) == [1, 2, 3, 4]
    assert in_order(Asked(sort="m"), *runs) == [3, 1, 4, 2]
    assert in_order(Asked(sort="m", ascending=True), *runs) == [1, 3, 4, 2]
    assert in_order(Asked(sort="best"), *runs) == [3, 4, 1, 2]


def test_a_run_of_somebody_else_is_no_run():
    assert RunSummary.from_tags("x", {"asparagus.run_id": "seven"}, metrics={}, started=0) is None
    assert RunSummary.from_tags("x", {}, metrics={}, started=0) is None


def test_json_is_json_whatever_was_measured():
    tags = {"asparagus.run_id": "7", "asparagus.best": "not a number", "asparagus.rerun_of": "6"}
    run = RunSummary.from_tags("x", tags, metrics={"a": math.nan, "b": math.inf, "c": 1.5}, started=0)
    assert run.to_dict()["metrics"] == {"a": None, "b": None, "c": 1.5}
    assert (run.best, run.to_dict()["rerun_of"], run.to_dict()["sweep_id"]) == (None, 6, None)
