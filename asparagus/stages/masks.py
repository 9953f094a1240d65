"""Segmentation into classes that may overlap: a mask for each, in which voxels may be left unannotated."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import starmap
from typing import Any, ClassVar

import torch
from torch import Tensor

from asparagus.errors import ConfigError
from asparagus.stages.base import by_case
from asparagus.stages.case_metrics import mean_of, of_masks
from asparagus.stages.shown import Masks, middle, names_of
from asparagus.stages.voxelwise import VoxelwiseModule


class MaskModule(VoxelwiseModule):
    """Trains on `loss(net(image), label)`, label [B, n_classes, ...] of 0, 1 and NaN, which is no annotation.

    There is no mask for the background. Logs `val/loss`, the mean of the losses of the batches that were looked at
    (SEEDS E27), and `val/dice`, the mean over the classes, counted over annotated voxels; tests so too.
    """

    default_loss: ClassVar[Mapping[str, Any]] = {"_target_": "asparagus.stages.losses.AnnotatedBCE"}
    n_background: ClassVar[int] = 0

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of `image` [B, C, ...] against `label` [B, n_classes, ...]."""
        loss = self._loss(self(batch["image"]), batch["label"])
        self.log_train(loss, len(batch["image"]))
        return loss

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Count overlaps, log the loss, and return the masks; every batch weighs the same, however few its cases."""
        predicted, loss = self._predicted(batch)
        self.log_val_loss(loss, 1)
        return {"predicted": predicted}

    def shown(self, batch: Mapping[str, Any], outputs: Any, most: int) -> list[Masks]:
        """Return the middle planes of the first cases."""
        count = min(most, len(batch["image"]))
        cases = zip(names_of(batch, count), batch["image"][:count, 0], strict=True)
        masks = [
            torch.stack([torch.stack(list(map(middle, case))) for case in part[:count]])
            for part in (batch["label"], outputs["predicted"])
        ]
        return [Masks(name, middle(image), *both) for (name, image), *both in zip(cases, *masks, strict=True)]

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any] | None:
        """Count overlaps, log the loss, return the metrics of each case's masks and the masks, as segmentation does."""
        predicted, loss = self._predicted(batch)
        self.log_test_loss(loss, 1)
        found = by_case(batch, starmap(of_masks, zip(predicted, batch["label"], strict=True)))
        return found and {**found, "predicted": predicted}

    def summarize_cases(self, cases: Mapping[str, Any]) -> dict[str, Any]:
        """Return the mean over the cases."""
        return {"mean": mean_of(cases)}

    def _predicted(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the masks of whole cases, boolean and counted, and their loss."""
        logits = self.predict_whole(batch["image"])
        loss = self._loss(logits, batch["label"])
        self._count(logits > 0, batch["label"])
        return logits > 0, loss

    def _loss(self, logits: Tensor, label: Tensor) -> Tensor:
        if logits.shape != label.shape:
            raise ConfigError(
                f"{self.network_key}: gives {list(logits.shape[1:])} for a case, and {self.task_name} has masks of "
                f"{list(label.shape[1:])}: a channel for each class."
            )
        loss: Tensor = self.loss(logits, label)
        return loss

    def _count(self, predicted: Tensor, label: Tensor) -> None:
        """Count each mask as a class of its own against everything else."""
        for mask in range(self.n_classes):
            known = ~label[:, mask].isnan()
            found, true = predicted[:, mask][known].long(), label[:, mask][known].long()
            self.dice.update(found * (mask + 1), true * (mask + 1))
