"""Regression: numbers of a whole case or patch, by their mean squared and mean absolute error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric

from asparagus.errors import ConfigError
from asparagus.stages.case import CaseModule


class RegModule(CaseModule):
    """Trains a network of one output per number, and logs `val/loss`, `val/mse` and `val/mae`; tests so too."""

    default_loss: ClassVar[Mapping[str, Any]] = {"_target_": "torch.nn.MSELoss"}

    def measures(self) -> Mapping[str, Metric]:
        """Return the two errors."""
        return {"mse": MeanSquaredError(), "mae": MeanAbsoluteError()}

    def must_fit(self, output: Tensor, label: Tensor) -> None:
        """Refuse another number of outputs than a case has numbers: a loss would spread one over the other.

        Raises:
            ConfigError: There are more or fewer.
        """
        if output.shape != label.shape:
            raise ConfigError(
                f"{self.network_key}: gives {tuple(output.shape[1:])} for a case, and {self.task_name} has "
                f"{label.shape[1]} numbers. Set the argument that decides to {label.shape[1]}; one that is called "
                "out_channels, num_classes or n_classes is filled in where it is left out."
            )

    def answers(self, output: Tensor) -> Tensor:
        """Return the numbers of each case, [B, n]."""
        return output

    def summarize_cases(self, cases: Mapping[str, Any]) -> dict[str, Any]:
        """Return the mean squared and the mean absolute error of all numbers of all cases."""
        errors = [
            predicted - true
            for case in cases.values()
            for predicted, true in zip(case["prediction"], case["label"], strict=True)
        ]
        mse, mae = (sum(error**2 for error in errors), sum(map(abs, errors)))
        return {"metrics": {"MSE": mse / len(errors), "MAE": mae / len(errors)}} if errors else {}
