"""Segmentation: Dice and cross entropy on patches, validated and tested on whole cases through a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from asparagus.stages.base import by_case
from asparagus.stages.case_metrics import mean_of, of_classes
from asparagus.stages.shown import Segmented, middle, names_of
from asparagus.stages.voxelwise import VoxelwiseModule


class SegModule(VoxelwiseModule):
    """Trains on patches; validates whole cases and logs `val/dice`, the mean over foreground classes; tests so too.

    A loss of another `_target_` is called as MONAI's are, or as torch's CrossEntropyLoss.
    """

    default_loss: ClassVar[Mapping[str, Any]] = {
        "_target_": "monai.losses.DiceCELoss",
        "to_onehot_y": True,
        "softmax": True,
    }
    n_background: ClassVar[int] = 1

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of `image` [B, C, ...] against `label` [B, ...]."""
        logits = self(batch["image"])
        self.check_channels(logits, batch["label"])
        loss = self._loss(logits, batch["label"])
        self.log_train(loss, len(batch["image"]))
        return loss

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Count overlaps, log the loss, and return the class maps [B, ...]."""
        predicted, loss = self._predicted(batch)
        self.log_val_loss(loss, len(batch["image"]))
        return {"predicted": predicted}

    def shown(self, batch: Mapping[str, Any], outputs: Any, most: int) -> list[Segmented]:
        """Return the middle planes of the first cases."""
        count = min(most, len(batch["image"]))
        planes = zip(batch["image"][:count, 0], batch["label"], outputs["predicted"], strict=False)
        return [Segmented(name, *map(middle, case)) for name, case in zip(names_of(batch, count), planes, strict=True)]

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any] | None:
        """Count overlaps, log the loss, return the metrics of each case (`stages.case_metrics`) and the class maps."""
        predicted, loss = self._predicted(batch)
        self.log_test_loss(loss, len(batch["image"]))
        pairs = zip(predicted, batch["label"], strict=True)
        found = by_case(batch, (of_classes(case, label, self.n_classes) for case, label in pairs))
        return found and {**found, "predicted": predicted}

    def summarize_cases(self, cases: Mapping[str, Any]) -> dict[str, Any]:
        """Return the mean over the cases."""
        return {"mean": mean_of(cases)}

    def _predicted(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the class maps of whole cases, counted, and their loss."""
        logits = self.predict_whole(batch["image"])
        self.check_channels(logits, batch["label"])
        predicted = logits.argmax(1)
        self.dice.update(predicted, batch["label"])
        return predicted, self._loss(logits, batch["label"])

    def _loss(self, logits: Tensor, label: Tensor) -> Tensor:
        # torch wants class indices [B, ...], MONAI [B, 1, ...]
        target = label if isinstance(self.loss, nn.CrossEntropyLoss) else label[:, None]
        loss: Tensor = self.loss(logits, target)
        return loss
