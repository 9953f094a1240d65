"""Stops a training whose loss is no number any more, before such weights are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from asparagus.errors import NanLossError

IN_A_ROW = 20
"""Steps: a scaler of mixed precision passes over a few by itself."""


class FiniteLoss(Callback):
    """Count on the device, and ask it seldom: a question makes the GPU wait."""

    def __init__(self) -> None:
        self._bad: torch.Tensor | None = None
        self._seen = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._bad, self._seen = None, 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Count the losses in a row that are no numbers.

        Raises:
            NanLossError: There were too many.
        """
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, torch.Tensor):
            return
        wrong = ~torch.isfinite(loss.detach()).all()
        self._bad = wrong.int() if self._bad is None else (self._bad + 1) * wrong.int()
        self._seen += 1
        if self._seen % IN_A_ROW == 0:
            self._look(trainer, IN_A_ROW)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look once more before the epoch's checkpoint is written.

        Raises:
            NanLossError: Not one of the last losses was a number.
        """
        if self._seen:
            self._look(trainer, min(IN_A_ROW, self._seen))

    def _look(self, trainer: Trainer, most: int) -> None:
        if self._bad is not None and int(self._bad.item()) >= most:
            raise NanLossError(
                f"the loss is no number any more: {most} steps in a row, up to step {trainer.global_step} of epoch "
                f"{trainer.current_epoch}. Lower optim.lr, set trainer.gradient_clip_val=1.0, or look for values in "
                "the data that are none (trainer.detect_anomaly=true names the operation). The last checkpoint is "
                "from before."
            )
