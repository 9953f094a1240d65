"""Segmentation into classes that may overlap: a mask for each, in which voxels may be left unannotated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from asparagus.errors import ConfigError
from asparagus.stages.base import StageModule
from asparagus.stages.metrics import DicePerClass
from asparagus.stages.seg import windowed
from asparagus.targets import instantiate

DEFAULT_LOSS = {"_target_": "asparagus.stages.losses.AnnotatedBCE"}


class MaskModule(StageModule):
    """Trains on `loss(net(image), label)`, label [B, n_classes, ...] of 0, 1 and NaN, which is no annotation.

    Logs `val/loss`, the mean of the losses of the batches that were looked at (SEEDS E27), and `val/dice`, the mean
    over the classes, counted over annotated voxels.
    """

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
        overlap: float = 0.5,
    ) -> None:
        """Set up.

        Args:
            net: [B, C, ...] -> logits [B, n_classes, ...].
            optim: The `optim` section.
            n_classes: Number of masks; there is none for the background.
            patch_size: Size of the sliding window in voxels; None looks at whole cases at once.
            class_names: One per mask, for metric names.
            loss: Arguments for `AnnotatedBCE`, or a loss of another `_target_`.
            seed: Not used here.
            overlap: Of neighbouring windows, as a share of the patch.
        """
        super().__init__(net, optim, n_classes=n_classes, patch_size=patch_size, class_names=class_names, seed=seed)
        self.loss: nn.Module = instantiate({**DEFAULT_LOSS, **(loss or {})}, key="loss")
        self.overlap = overlap
        self.dice = DicePerClass(n_classes + 1)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of `image` [B, C, ...] against `label` [B, n_classes, ...]."""
        loss = self._loss(self(batch["image"]), batch["label"])
        self.log_train(loss, len(batch["image"]))
        return loss

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Count overlaps, and log the loss; every batch weighs the same, however few cases it has."""
        logits = windowed(self, batch["image"], self.patch_size, self.overlap)
        self.log_val_loss(self._loss(logits, batch["label"]), 1)
        self._count(logits, batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Log `val/dice` and `val/dice/<class>`; classes that are nowhere count for nothing."""
        scores = self.dice.compute()
        self.dice.reset()
        for name, score in zip(self.class_names, scores, strict=True):
            if not score.isnan():
                self.log(f"val/dice/{name}", score, sync_dist=True)
        self.log("val/dice", scores.nanmean().nan_to_num(), prog_bar=True, sync_dist=True)

    def _loss(self, logits: Tensor, label: Tensor) -> Tensor:
        if logits.shape != label.shape:
            raise ConfigError(
                f"{self.network_key}: gives {list(logits.shape[1:])} for a case, and {self.task_name} has masks of "
                f"{list(label.shape[1:])}: a channel for each class."
            )
        loss: Tensor = self.loss(logits, label)
        return loss

    def _count(self, logits: Tensor, label: Tensor) -> None:
        """Count each mask as a class of its own against everything else."""
        for mask in range(self.n_classes):
            known = ~label[:, mask].isnan()
            predicted, true = (logits[:, mask][known] > 0).long(), label[:, mask][known].long()
            self.dice.update(predicted * (mask + 1), true * (mask + 1))
