"""Regression: numbers of a whole case or patch, by their mean squared and mean absolute error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanSquaredError

from asparagus.errors import ConfigError
from asparagus.stages.base import StageModule, by_case
from asparagus.targets import instantiate

DEFAULT_LOSS = {"_target_": "torch.nn.MSELoss"}


class RegModule(StageModule):
    """Trains a network of one output per number, and logs `val/loss`, `val/mse` and `val/mae`; tests so too."""

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
            net: [B, C, ...] -> [B, n_classes].
            optim: The `optim` section.
            n_classes: How many numbers a case has.
            patch_size: Not used here; the data module cuts patches.
            class_names: What the numbers are called.
            loss: Arguments for torch's MSELoss, or a loss of another `_target_`.
            seed: Not used here.
        """
        super().__init__(net, optim, n_classes=n_classes, patch_size=patch_size, class_names=class_names, seed=seed)
        self.loss: nn.Module = instantiate({**DEFAULT_LOSS, **(loss or {})}, key="loss")
        # Sums over cases of all ranks, so that uneven shares weigh what they should.
        self.mse, self.mae = MeanSquaredError(), MeanAbsoluteError()

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of `image` [B, C, ...] against `label` [B, n_classes]."""
        _, loss = self._compared(batch)
        self.log_train(loss, len(batch["image"]))
        return loss

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Add up the errors and log the loss."""
        _, loss = self._compared(batch, measure=True)
        self.log_val_loss(loss, len(batch["image"]))

    def on_validation_epoch_end(self) -> None:
        """Log the errors over all cases of all ranks."""
        self._log_errors("val")

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any] | None:
        """Add up the errors, log the loss, and return prediction and label of each case."""
        predicted, loss = self._compared(batch, measure=True)
        self.log_test_loss(loss, len(batch["image"]))
        pairs = zip(predicted.tolist(), batch["label"].tolist(), strict=True)
        return by_case(batch, ({"prediction": prediction, "label": label} for prediction, label in pairs))

    def on_test_epoch_end(self) -> None:
        """Log the errors over all cases of all ranks."""
        self._log_errors("test")

    def summarize_cases(self, cases: Mapping[str, Any]) -> dict[str, Any]:
        """Return the mean squared and the mean absolute error of all numbers of all cases."""
        errors = [
            predicted - true
            for case in cases.values()
            for predicted, true in zip(case["prediction"], case["label"], strict=True)
        ]
        mse, mae = (sum(error**2 for error in errors), sum(map(abs, errors)))
        return {"metrics": {"MSE": mse / len(errors), "MAE": mae / len(errors)}} if errors else {}

    def _compared(self, batch: Mapping[str, Any], *, measure: bool = False) -> tuple[Tensor, Tensor]:
        """Return the predictions [B, n_classes] and their loss.

        Raises:
            ConfigError: The network gives another number of outputs than a case has numbers.
        """
        predicted, label = self(batch["image"]), batch["label"]
        if predicted.shape != label.shape:  # a loss would spread one over the other, and say nothing
            raise ConfigError(
                f"{self.network_key}: gives {tuple(predicted.shape[1:])} for a case, and {self.task_name} has "
                f"{label.shape[1]} numbers. Set the argument that decides to {label.shape[1]}; one that is called "
                "out_channels, num_classes or n_classes is filled in where it is left out."
            )
        if measure:
            self.mse.update(predicted.contiguous(), label)
            self.mae.update(predicted.contiguous(), label)
        return predicted, self.loss(predicted, label)

    def _log_errors(self, where: str) -> None:
        for name, metric in (("mse", self.mse), ("mae", self.mae)):
            self.log(f"{where}/{name}", metric.compute(), prog_bar=True, sync_dist=True)
            metric.reset()
