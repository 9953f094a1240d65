"""Tests of asparagus.stages.case_metrics: by value, and against MONAI."""

from __future__ import annotations

import math

import pytest
import torch

from asparagus.stages.case_metrics import mean_of, of_classes, of_counts, precision_and_recall

NAN = pytest.approx(math.nan, nan_ok=True)
MONAI = {
    "f1": "f1 score",
    "jaccard": "threat score",
    "precision": "precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}


def test_every_metric_of_a_class_by_value():
    assert of_counts(tp=6, fp=2, tn=10, fn=4) == {
        "dice": 12 / 18,
        "f1": 12 / 18,
        "jaccard": 6 / 12,
        "precision": 6 / 8,
        "sensitivity": 6 / 10,
        "specificity": 10 / 12,
        "TP": 6,
        "FP": 2,
        "FN": 4,
        "total_pos_gt": 10,
        "total_pos_pred": 8,
        "volume_similarity": 1 - 2 / 18,
    }


def test_a_class_that_is_nowhere_and_predicted_nowhere_is_not_measured():
    found = of_counts(tp=0, fp=0, tn=8, fn=0)
    undefined = ("dice", "f1", "jaccard", "precision", "sensitivity", "volume_similarity")
    assert [found[name] for name in undefined] == [NAN] * 6
    assert (found["specificity"], found["TP"], found["total_pos_gt"]) == (1, 0, 0)


def test_a_class_that_is_missed_or_invented_is_wrong():
    missed, invented = of_counts(tp=0, fp=0, tn=4, fn=4), of_counts(tp=0, fp=4, tn=4, fn=0)
    assert (missed["dice"], missed["precision"], missed["sensitivity"], missed["volume_similarity"]) == (0, 0, 0, 0)
    assert (invented["dice"], invented["precision"], invented["sensitivity"]) == (0, 0, NAN)
    assert invented["specificity"] == 0.5


def test_classes_are_counted_against_each_other():
    predicted = torch.tensor([[0, 0, 1, 1], [2, 2, 0, 1]])
    label = torch.tensor([[0, 1, 1, 1], [2, 0, 0, 0]])
    found = of_classes(predicted, label, 4)
    assert {name: [case[key] for key in ("TP", "FP", "FN")] for name, case in found.items()} == {
        "0": [2, 1, 2],
        "1": [2, 1, 1],
        "2": [1, 1, 0],
        "3": [0, 0, 0],
    }
    assert found["2"]["specificity"] == 6 / 7


@pytest.mark.parametrize("name", MONAI)
def test_they_are_monais_where_monai_has_them(name):
    from monai.metrics import compute_confusion_matrix_metric

    generator = torch.Generator().manual_seed(0)
    predicted, label = torch.randint(0, 4, (2, 6, 7, 8), generator=generator)
    for number, found in of_classes(predicted, label, 4).items():
        mine, true = predicted == int(number), label == int(number)
        counts = [(mine & true).sum(), (mine & ~true).sum(), (~mine & ~true).sum(), (~mine & true).sum()]
        expected = compute_confusion_matrix_metric(MONAI[name], torch.stack(counts).double())
        assert found[name] == pytest.approx(float(expected), abs=1e-12)


def test_the_mean_is_over_the_cases_in_which_there_is_a_number_to_four_decimals():
    cases = {
        "a": {"1": {"dice": 1 / 3, "TP": 1}, "2": {"dice": math.nan, "TP": 0}},
        "b": {"1": {"dice": math.nan, "TP": 0}, "2": {"dice": math.nan, "TP": 0}},
        "c": {"1": {"dice": 1.0, "TP": 4}, "2": {"dice": math.nan, "TP": 0}},
    }
    assert mean_of(cases) == {"1": {"dice": 0.6667, "TP": 1.6667}, "2": {"dice": NAN, "TP": 0}}


def test_precision_and_recall_of_each_class_by_value():
    pairs = {"a": (0, 0), "b": (0, 1), "c": (1, 1), "d": (1, 1), "e": (0, 2)}
    cases = {name: {"prediction": prediction, "label": label} for name, (prediction, label) in pairs.items()}
    assert precision_and_recall(cases, 4) == {"Precision": [1 / 3, 1, 0, NAN], "Recall": [1, 2 / 3, 0, NAN]}


def test_one_class_is_legal():
    assert of_classes(torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 1)["0"]["dice"] == 1
