"""Classification: cross entropy on whole cases or patches, and accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from asparagus.stages.case import CaseModule
from asparagus.stages.case_metrics import precision_and_recall


class ClsModule(CaseModule):
    """Trains a classifier and logs `val/loss` and `val/accuracy`, the share of cases that are right; tests so too."""

    default_loss: ClassVar[Mapping[str, Any]] = {"_target_": "torch.nn.CrossEntropyLoss"}

    def measures(self) -> Mapping[str, Metric]:
        """Return the accuracy; one class is legal to ask for."""
        return {"accuracy": MulticlassAccuracy(max(self.n_classes, 2), average="micro")}

    def must_fit(self, output: Tensor, label: Tensor) -> None:
        """Refuse logits that are not one per class (`check_channels`)."""
        self.check_channels(output, label)

    def answers(self, output: Tensor) -> Tensor:
        """Return the class of each case, [B]."""
        return output.argmax(1)

    def summarize_cases(self, cases: Mapping[str, Any]) -> dict[str, Any]:
        """Return precision and recall of each class."""
        return {"metrics": precision_and_recall(cases, self.n_classes)}
