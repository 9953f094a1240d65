"""What stages share that answer each voxel of a case: windows over whole cases, and the Dice of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from asparagus.stages.base import StageModule
from asparagus.stages.metrics import DicePerClass

WINDOWS_AT_ONCE = 4


class VoxelwiseModule(StageModule):
    """Trains on patches; validates and tests whole cases, and logs `dice`, the mean over the classes, and of each."""

    n_background: ClassVar[int]
    """Classes in front that are not measured: 1 where every voxel has one class, 0 where each class has a mask."""

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
            n_classes: Number of classes, the background included where there is one.
            patch_size: Size of the sliding window in voxels; None looks at whole cases at once.
            class_names: One per class, for metric names.
            loss: Arguments for the default loss, or a loss of another `_target_`.
            seed: Not used here.
            overlap: Of neighbouring windows, as a share of the patch.
        """
        super().__init__(net, optim, n_classes=n_classes, patch_size=patch_size, class_names=class_names, seed=seed)
        self.loss = self.build_loss(loss)
        self.overlap = overlap
        self.dice = DicePerClass(n_classes + 1 - self.n_background)

    def predict_whole(self, image: Tensor) -> Tensor:
        """Return logits for whole cases [B, C, ...], by sliding window where a case is larger than a patch."""
        patch = self.patch_size
        if patch is None or all(size <= part for size, part in zip(image.shape[2:], patch, strict=True)):
            whole: Tensor = self(image)
            return whole
        said = sliding_window_inference(image, patch, WINDOWS_AT_ONCE, self, overlap=self.overlap, mode="gaussian")
        assert isinstance(said, Tensor)
        return said

    def on_validation_epoch_end(self) -> None:
        """Log `val/dice` and `val/dice/<class>`; classes that are nowhere count for nothing."""
        self._log_dice("val/dice")

    def on_test_epoch_end(self) -> None:
        """Log `test/dice` and `test/dice/<class>` over all cases of all ranks, as in validation."""
        self._log_dice("test/dice")

    def _log_dice(self, key: str) -> None:
        scores = self.dice.compute()
        self.dice.reset()
        present = ~scores.isnan()
        mean = scores[present].mean() if present.any() else torch.zeros((), device=scores.device)
        self.log(key, mean, prog_bar=True, sync_dist=True)
        for name, score, there in zip(self.class_names[self.n_background :], scores, present, strict=True):
            if there:
                self.log(f"{key}/{name}", score, sync_dist=True)
