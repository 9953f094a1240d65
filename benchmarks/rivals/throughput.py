"""A convolutional network on images that are made on the spot: as a plain Lightning script, and as a user's own code.

python throughput.py FILE [key=value ...]    trains without a launcher, and writes how fast into FILE
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Net(pl.LightningModule):
    """A residual network of `depth` blocks."""

    def __init__(self, width: int = 128, depth: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()) for _ in range(depth)
        )
        self.head = nn.Linear(width, 10)

    def training_step(self, batch, _):
        images, labels = batch
        x = self.stem(images)
        for block in self.blocks:
            x = x + block(x)
        loss = nn.functional.cross_entropy(self.head(x.mean((2, 3))), labels)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class _Images(Dataset):
    def __init__(self, count: int, size: int) -> None:
        self.image, self.count = torch.randn(3, size, size), count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        return self.image + index % 10, index % 10


class Images(pl.LightningDataModule):
    """Batches that cost little to make."""

    def __init__(self, steps: int = 300, batch_size: int = 64, size: int = 64, num_workers: int = 4) -> None:
        super().__init__()
        self.data = _Images(steps * batch_size, size)
        self.how = {"batch_size": batch_size, "num_workers": num_workers, "pin_memory": torch.cuda.is_available()}

    def train_dataloader(self):
        return DataLoader(self.data, **self.how)


class Speed(pl.Callback):
    """Write batches per second, without the first ones."""

    def __init__(self, file: str, warm_up: int = 50) -> None:
        self.file, self.warm_up, self.seen, self.started = Path(file), warm_up, 0, 0.0

    def on_train_batch_end(self, *_) -> None:
        self.seen += 1
        if self.seen == self.warm_up:
            self._wait()
            self.started = time.perf_counter()

    def on_train_end(self, trainer, *_) -> None:
        self._wait()
        if trainer.is_global_zero:
            rate = (self.seen - self.warm_up) / (time.perf_counter() - self.started)
            self.file.write_text(json.dumps({"batches_per_s": rate, "device": str(trainer.strategy.root_device)}))

    def _wait(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def main(file: str, *words: str) -> None:
    asked = {key: json.loads(value) for key, value in (word.split("=") for word in words)}
    of_net = {key: asked.pop(key) for key in ("width", "depth") if key in asked}
    warm_up, precision = asked.pop("warm_up", 50), asked.pop("precision", "bf16-mixed")
    pl.seed_everything(0)
    trainer = pl.Trainer(
        max_epochs=1, devices=1, precision=precision, log_every_n_steps=10, callbacks=[Speed(file, warm_up)]
    )
    trainer.fit(Net(**of_net), Images(**asked))


if __name__ == "__main__":
    main(*sys.argv[1:])
