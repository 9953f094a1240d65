"""The digits training with a learning rate to search, for those that sweep it: the same network, data and metrics."""

from __future__ import annotations

import logging

import pytorch_lightning as pl
import torch
from plain_lightning import Digits

LOW, HIGH = 1e-4, 1e-1
METRIC = "val/accuracy"


class Tuned(Digits):
    """Digits with a learning rate of one's own."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def accuracy(lr: float, train, val) -> float:
    """Train, and nothing else: no checkpoint, no logger, no progress bar, which is as lean as Lightning gets."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    pl.seed_everything(42)
    trainer = pl.Trainer(
        max_epochs=5,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Tuned(lr), train, val)
    return float(trainer.callback_metrics[METRIC])
