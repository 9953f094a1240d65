"""Classification: cross entropy on whole cases or patches, and accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from asparagus.stages.base import StageModule, by_case
from asparagus.stages.case_metrics import precision_and_recall
from asparagus.targets import instantiate

DEFAULT_LOSS = {"_target_": "torch.nn.CrossEntropyLoss"}


class ClsModule(StageModule):
    """Trains a classifier and logs `val/loss` and `val/accuracy`, the share of cases that are right; tests so too."""

    def __init__(
        self,
        net: nn.Module,
        optim: Mapping[str, Any],
        *,
        n_classes: int,
        patch_size: Sequence[int] | None = None,
        class_names: Sequence[str] | None = None,
        loss: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        """Set up.

        Args:
            net: [B, C, ...] -> logits [B, n_classes].
            optim: The `optim` section.
            n_classes: Number of classes.
            patch_size: Not used here; the data module cuts patches.
            class_names: One per class.
            loss: Arguments for torch's CrossEntropyLoss (e.g. `label_smoothing`), or a loss of another `_target_`.
            seed: Not used here.
        """
        super().__init__(net, optim, n_classes=n_classes, patch_size=patch_size, class_names=class_names, seed=seed)
        self.loss: nn.Module = instantiate({**DEFAULT_LOSS, **(loss or {})}, key="loss")
        # Counts are summed over ranks, so that uneven shares weigh what they should. One class is legal to ask for.
        self.accuracy = MulticlassAccuracy(max(n_classes, 2), average="micro")

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of `image` [B, C, ...] against `label` [B]."""
        logits = self(batch["image"])
        self.check_channels(logits, batch["label"])
        loss: Tensor = self.loss(logits, batch["label"])
        self.log_train(loss, len(batch["image"]))
        return loss

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Count what is right and log the loss."""
        logits = self(batch["image"])
        self.check_channels(logits, batch["label"])
        self.log_val_loss(self.loss(logits, batch["label"]), len(batch["image"]))
        self.accuracy.update(logits, batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Log `val/accuracy` over all cases of all ranks."""
        self._log_accuracy("val/accuracy")

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any] | None:
        """Count what is right, log the loss, and return prediction and label of each case."""
        logits = self(batch["image"])
        self.check_channels(logits, batch["label"])
        self.log_test_loss(self.loss(logits, batch["label"]), len(batch["image"]))
        self.accuracy.update(logits, batch["label"])
        pairs = zip(logits.argmax(1).tolist(), batch["label"].tolist(), strict=True)
        return by_case(batch, ({"prediction": prediction, "label": label} for prediction, label in pairs))

    def on_test_epoch_end(self) -> None:
        """Log `test/accuracy` over all cases of all ranks."""
        self._log_accuracy("test/accuracy")

    def summarize_cases(self, cases: Mapping[str, Any]) -> dict[str, Any]:
        """Return precision and recall of each class."""
        return {"metrics": precision_and_recall(cases, self.n_classes)}

    def _log_accuracy(self, key: str) -> None:
        self.log(key, self.accuracy.compute(), prog_bar=True, sync_dist=True)
        self.accuracy.reset()
