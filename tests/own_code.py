"""Code of a user's own, as tests need it: a module that is written where a test wants it, and the words that use it."""

from __future__ import annotations

from pathlib import Path

import pytest

SOURCE = """
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


class Line(pl.LightningModule):
    def __init__(self, lr=0.1, fails=False, nan=False):
        super().__init__()
        self.model, self.lr, self.fails, self.nan = torch.nn.Linear(2, 1), lr, fails, nan

    def _loss(self, batch):
        x, y = batch
        loss = ((self.model(x) - y) ** 2).mean()
        return loss * float("nan") if self.nan else loss

    def training_step(self, batch, index):
        if self.fails:
            raise ZeroDivisionError("on purpose")
        loss = self._loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, index):
        self.log("val/loss", self._loss(batch), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Points(pl.LightningDataModule):
    def __init__(self, n=32):
        super().__init__()
        x = torch.arange(2.0 * n).reshape(n, 2) / n
        self.data = TensorDataset(x, x.sum(1, keepdim=True))

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=8)

    def val_dataloader(self):
        return DataLoader(self.data, batch_size=8)
"""


def write_own_code(file: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write the module, put it on the path, and return its name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(SOURCE)
    monkeypatch.syspath_prepend(str(file.parent))
    return file.stem


def OWN(module: str) -> list[str]:  # noqa: N802 - reads like the constant that it would be
    """Return the words that train the module's `Line` on its `Points`."""
    targets = [f"model.module._target_={module}.Line", f"data._target_={module}.Points"]
    return ["train", "task=Own", "trainer.max_epochs=1", *targets]
