"""What a test says of each case, and of all together: pure functions from class maps and counts to plain numbers.

For one class of one case, of TP voxels that are rightly its, FP wrongly, FN missed and TN rightly others:

    dice = f1           2 TP / (2 TP + FP + FN)
    jaccard             TP / (TP + FP + FN)
    precision           TP / (TP + FP)
    sensitivity         TP / (TP + FN)
    specificity         TN / (TN + FP)
    volume_similarity   1 - |FN - FP| / (2 TP + FP + FN)
    total_pos_gt        TP + FN
    total_pos_pred      TP + FP

Nothing divided by nothing is NaN; only the precision for a class that is there and nowhere predicted is 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_stat_scores

DECIMALS = 4
"""Of a mean over cases."""

ByLabel = dict[str, dict[str, float]]
"""Metrics by name, for each class by its number."""


def of_counts(tp: int, fp: int, tn: int, fn: int) -> dict[str, float]:
    """Return all that the counts of one class say (the formulas stand at the head of this module)."""
    both = 2 * tp + fp + fn
    dice = _share(2 * tp, both)
    return {
        "dice": dice,
        "f1": dice,
        "jaccard": _share(tp, tp + fp + fn),
        "precision": _share(tp, tp + fp) if tp + fp or not fn else 0.0,
        "sensitivity": _share(tp, tp + fn),
        "specificity": _share(tn, tn + fp),
        "TP": tp,
        "FP": fp,
        "FN": fn,
        "total_pos_gt": tp + fn,
        "total_pos_pred": tp + fp,
        "volume_similarity": 1 - _share(abs(fn - fp), both),
    }


def of_classes(predicted: Tensor, label: Tensor, n_classes: int) -> ByLabel:
    """Return the metrics of every class, background included.

    Args:
        predicted: Class indices, of any shape: the voxels of one case, or one for each of many cases.
        label: What is true, of the same shape.
        n_classes: How many there are.
    """
    counted = multiclass_stat_scores(
        predicted.flatten(), label.flatten(), num_classes=n_classes, average=None, validate_args=False
    )
    rows = counted.reshape(n_classes, -1).tolist()
    return {str(number): of_counts(tp, fp, tn, fn) for number, (tp, fp, tn, fn, _) in enumerate(rows)}


def of_masks(predicted: Tensor, label: Tensor) -> ByLabel:
    """Return the metrics of every mask of a case, over its annotated voxels.

    Args:
        predicted: Boolean [n_classes, ...].
        label: What is true, of the same shape: 0, 1, and NaN where nobody annotated.
    """
    known, true = ~label.isnan(), label > 0
    parts = (predicted & true, predicted & ~true, ~predicted & ~true, ~predicted & true)
    counts = torch.stack([(part & known).flatten(1).sum(1) for part in parts], dim=1).tolist()
    return {str(number): of_counts(*row) for number, row in enumerate(counts)}


def mean_of(cases: Mapping[str, ByLabel]) -> ByLabel:
    """Return the mean of every metric of every class over the cases in which it is a number, to four decimals."""
    first = next(iter(cases.values()), {})
    return {
        label: {name: _mean(case[label][name] for case in cases.values()) for name in metrics}
        for label, metrics in first.items()
    }


def precision_and_recall(cases: Mapping[str, Mapping[str, int]], n_classes: int) -> dict[str, list[float]]:
    """Return precision and recall of each class over cases of `prediction` and `label`."""
    pairs: Any = [(case["prediction"], case["label"]) for case in cases.values()]
    predicted, label = torch.tensor(pairs).T
    classes = of_classes(predicted, label, n_classes).values()
    return {
        "Precision": [metrics["precision"] for metrics in classes],
        "Recall": [metrics["sensitivity"] for metrics in classes],
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _mean(values: Iterable[float]) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    return round(fmean(numbers), DECIMALS) if numbers else math.nan
