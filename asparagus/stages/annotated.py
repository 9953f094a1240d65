"""Segmentation where each class is a channel of its own, and not every voxel is annotated for every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics import Metric

from asparagus.errors import ConfigError
from asparagus.stages.base import StageModule
from asparagus.targets import instantiate


class MaskedBCE(nn.Module):
    """Binary cross entropy, averaged over the annotated voxels; those whose target is NaN count for nothing.

    Args:
        pos_weight: By how much more a voxel of a class counts than one outside of it: one number, or one per class.
    """

    def __init__(self, pos_weight: float | Sequence[float] | None = None) -> None:
        super().__init__()
        self.pos_weight = None if pos_weight is None else torch.as_tensor(pos_weight, dtype=torch.float32)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of [B, classes, ...]; 0 where nothing is annotated."""
        known = ~target.isnan()
        weight = self.pos_weight
        if weight is not None and weight.ndim:
            weight = weight.to(logits.device).reshape(-1, *(1 for _ in logits.shape[2:]))
        each = binary_cross_entropy_with_logits(logits, target.nan_to_num(), reduction="none", pos_weight=weight)
        # not each * known: what is infinite outside of the annotation stays outside
        return torch.where(known, each, 0).sum() / known.sum().clamp(min=1)


class AnnotatedDice(Metric):
    """Dice of each class over its annotated voxels, summed over all batches and ranks before the division."""

    full_state_update = False
    overlap: Tensor
    volume: Tensor

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        # float64: exact beyond the 2**24 voxels that a float32 counts to
        self.add_state("overlap", torch.zeros(n_classes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("volume", torch.zeros(n_classes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add a batch [B, classes, ...]: a voxel is predicted where its logit is positive."""
        known, axes = ~target.isnan(), (0, *range(2, target.ndim))
        predicted, there = (logits > 0) & known, (target > 0) & known
        self.overlap += (predicted & there).sum(axes)
        self.volume += predicted.sum(axes) + there.sum(axes)

    def compute(self) -> Tensor:
        """Return one number per class; NaN where it is neither predicted nor annotated as present."""
        return (2 * self.overlap / self.volume).float()


class AnnotatedSegModule(StageModule):
    """Trains one logit per class; logs `val/loss`, `val/dice`, its mean over the classes, and `val/dice/<class>`."""

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
            net: [B, C, ...] -> logits [B, n_classes, ...].
            optim: The `optim` section.
            n_classes: Number of classes; there is no background among them.
            patch_size: Not used here: batches are windows already.
            class_names: One per class, for metric names.
            loss: Arguments for `MaskedBCE`, or a loss of another `_target_`, called with logits and targets with NaN.
            seed: Not used here.
        """
        super().__init__(net, optim, n_classes=n_classes, patch_size=patch_size, class_names=class_names, seed=seed)
        given = {"_target_": f"{MaskedBCE.__module__}.{MaskedBCE.__name__}", **(loss or {})}
        self.loss: nn.Module = instantiate(given, key="loss")
        self.dice = AnnotatedDice(n_classes)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of `image` [B, C, ...] against `label` [B, n_classes, ...], NaN where nobody annotated."""
        loss, _ = self._step(batch)
        self.log_train(loss, len(batch["image"]))
        return loss

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Count overlaps and log the loss."""
        loss, logits = self._step(batch)
        self.log_val_loss(loss, len(batch["image"]))
        self.dice.update(logits, batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Log `val/dice` and `val/dice/<class>`; classes that are nowhere count for nothing."""
        scores = self.dice.compute()
        self.dice.reset()
        self.log("val/dice", scores.nanmean().nan_to_num(), prog_bar=True, sync_dist=True)
        for name, score in zip(self.class_names, scores, strict=True):
            if not score.isnan():
                self.log(f"val/dice/{name}", score, sync_dist=True)

    def _step(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits, target = self(batch["image"]), batch["label"]
        if logits.shape != target.shape:
            raise ConfigError(
                f"{self.network_key}: gives {list(logits.shape)}, and the target is {list(target.shape)}: one channel "
                f"for each of {', '.join(self.class_names)}, as large as data.target_array_info says."
            )
        loss: Tensor = self.loss(logits, target)
        return loss, logits
