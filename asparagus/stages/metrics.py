"""Metrics that are right however the cases are shared out over ranks and batches."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAUROC
from torchmetrics.utilities import dim_zero_cat


class DicePerClass(Metric):
    """Dice of each foreground class over all voxels of all cases: 2 |P and L| / (|P| + |L|).

    Counts are summed over batches and ranks before the division, so the value does not depend on the sharding. A class
    that is neither predicted nor present gives NaN.
    """

    full_state_update = False
    overlap: Tensor
    volume: Tensor

    def __init__(self, n_classes: int) -> None:
        """Count for `n_classes`, background included."""
        super().__init__()
        self.n_classes = n_classes
        # float64: exact beyond the 2**24 voxels that a float32 counts to
        self.add_state("overlap", torch.zeros(n_classes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("volume", torch.zeros(n_classes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, label: Tensor) -> None:
        """Add a batch of class maps, both int64 of one shape."""
        predicted, label = predicted.flatten(), label.flatten()
        agreed = label[predicted == label]
        self.overlap += torch.bincount(agreed, minlength=self.n_classes)
        self.volume += torch.bincount(predicted, minlength=self.n_classes)
        self.volume += torch.bincount(label, minlength=self.n_classes)

    def compute(self) -> Tensor:
        """Return the Dice of classes 1..n-1, float32 of [n_classes - 1]."""
        return (2 * self.overlap / self.volume)[1:].float()


class MacroAUROC(MulticlassAUROC):
    """Area under the ROC of each class against the rest, over all cases of all ranks, averaged over the classes.

    torchmetrics counts a class that no case has, or every case, as 0. Nothing can be said of it: here it counts for
    nothing, and where that is so of all classes, the value is NaN.
    """

    def __init__(self, n_classes: int) -> None:
        """Judge `n_classes`, two or more."""
        super().__init__(n_classes, average=None, validate_args=False)

    def compute(self) -> Tensor:
        """Return the mean, a float32."""
        cases = torch.bincount(dim_zero_cat(self.target), minlength=self.num_classes)
        judged = (cases > 0) & (cases < cases.sum())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No (positive|negative) samples")
            scores: Tensor = super().compute()
        return scores[judged].mean()
