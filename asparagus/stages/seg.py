"""Segmentation: Dice and cross entropy on patches, validated and tested on whole cases through a sliding window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from asparagus.stages.base import StageModule, by_case
from asparagus.stages.case_metrics import mean_of, of_classes
from asparagus.stages.metrics import DicePerClass
from asparagus.stages.shown import Segmented, middle, names_of
from asparagus.targets import instantiate

DEFAULT_LOSS = {"_target_": "monai.losses.DiceCELoss", "to_onehot_y": True, "softmax": True}
WINDOWS_AT_ONCE = 4


class SegModule(StageModule):
    """Trains on patches; validates whole cases and logs `val/dice`, the mean over foreground classes; tests so too."""

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
            n_classes: Number of classes, background included.
            patch_size: Size of the sliding window in voxels; None looks at whole cases at once.
            class_names: One per class, for metric names.
            loss: Arguments for MONAI's DiceCELoss, or a loss of another `_target_`, called as MONAI's are.
            seed: Not used here.
            overlap: Of neighbouring windows, as a share of the patch.
        """
        super().__init__(net, optim, n_classes=n_classes, patch_size=patch_size, class_names=class_names, seed=seed)
        self.loss: nn.Module = instantiate(_loss_config(loss), key="loss")
        self.overlap = overlap
        self.dice = DicePerClass(n_classes)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of `image` [B, C, ...] against `label` [B, ...]."""
        logits = self(batch["image"])
        self.check_channels(logits, batch["label"])
        loss = self._loss(logits, batch["label"])
        self.log_train(loss, len(batch["image"]))
        return loss

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Count overlaps, log the loss, and return the class maps [B, ...]."""
        logits = self.predict_whole(batch["image"])
        self.check_channels(logits, batch["label"])
        self.log_val_loss(self._loss(logits, batch["label"]), len(batch["image"]))
        predicted = logits.argmax(1)
        self.dice.update(predicted, batch["label"])
        return {"predicted": predicted}

    def shown(self, batch: Mapping[str, Any], outputs: Any, most: int) -> list[Segmented]:
        """Return the middle planes of the first cases."""
        count = min(most, len(batch["image"]))
        planes = zip(batch["image"][:count, 0], batch["label"], outputs["predicted"], strict=False)
        return [Segmented(name, *map(middle, case)) for name, case in zip(names_of(batch, count), planes, strict=True)]

    def on_validation_epoch_end(self) -> None:
        """Log `val/dice` and `val/dice/<class>`; classes that are nowhere count for nothing."""
        self._log_dice("val/dice")

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any] | None:
        """Count overlaps, log the loss, return the metrics of each case (`stages.case_metrics`) and the class maps."""
        logits = self.predict_whole(batch["image"])
        self.check_channels(logits, batch["label"])
        self.log_test_loss(self._loss(logits, batch["label"]), len(batch["image"]))
        predicted = logits.argmax(1)
        self.dice.update(predicted, batch["label"])
        pairs = zip(predicted, batch["label"], strict=True)
        found = by_case(batch, (of_classes(case, label, self.n_classes) for case, label in pairs))
        return found and {**found, "predicted": predicted}

    def on_test_epoch_end(self) -> None:
        """Log `test/dice` and `test/dice/<class>` over all cases of all ranks, as in validation."""
        self._log_dice("test/dice")

    def summarize_cases(self, cases: Mapping[str, Any]) -> dict[str, Any]:
        """Return the mean over the cases."""
        return {"mean": mean_of(cases)}

    def _log_dice(self, key: str) -> None:
        scores = self.dice.compute()
        self.dice.reset()
        present = ~scores.isnan()
        mean = scores[present].mean() if present.any() else torch.zeros((), device=scores.device)
        self.log(key, mean, prog_bar=True, sync_dist=True)
        for name, score, there in zip(self.class_names[1:], scores, present, strict=True):
            if there:
                self.log(f"{key}/{name}", score, sync_dist=True)

    def predict_whole(self, image: Tensor) -> Tensor:
        """Return logits for whole cases [B, C, ...], by sliding window where a case is larger than a patch."""
        return windowed(self, image, self.patch_size, self.overlap)

    def _loss(self, logits: Tensor, label: Tensor) -> Tensor:
        # torch wants class indices [B, ...], MONAI [B, 1, ...]
        target = label if isinstance(self.loss, nn.CrossEntropyLoss) else label[:, None]
        loss: Tensor = self.loss(logits, target)
        return loss


def windowed(network: Callable[[Tensor], Tensor], image: Tensor, patch: Sequence[int] | None, overlap: float) -> Tensor:
    """Return what a network says of whole cases [B, C, ...], by sliding window where they are larger than a patch."""
    if patch is None or all(size <= part for size, part in zip(image.shape[2:], patch, strict=True)):
        return network(image)
    said = sliding_window_inference(image, patch, WINDOWS_AT_ONCE, network, overlap=overlap, mode="gaussian")
    assert isinstance(said, Tensor)
    return said


def _loss_config(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the default loss with the given arguments, or the given loss as it stands when it names one."""
    given = dict(given or {})
    return given if "_target_" in given else {**DEFAULT_LOSS, **given}
