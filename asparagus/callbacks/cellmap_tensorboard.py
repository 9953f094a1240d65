"""TensorBoard's scalars under the names and steps that the CellMap challenge documents (SEEDS E24)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger

SCALARS = {"train/loss": "loss", "val/loss": "validation"}
"""What is logged here -> the tag there; what has no name there keeps its own."""


class CellMapTensorBoard(TensorBoardLogger):
    """Write `loss` for each iteration and `validation` for each epoch, both at the number of iterations from 1."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log scalars; Lightning counts steps from 0."""
        renamed = {SCALARS.get(name, name): value for name, value in metrics.items()}
        super().log_metrics(renamed, None if step is None else step + 1)
