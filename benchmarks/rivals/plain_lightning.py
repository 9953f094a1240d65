"""The digits training as a plain Lightning script: what a launcher must not cost more than."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy


class Digits(pl.LightningModule):
    """The network of configs/model/mlp.yaml, with the losses and metrics of stage train_cls."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
        )
        self.loss = nn.CrossEntropyLoss()
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch, _):
        images, labels = batch
        loss = self.loss(self.net(images), labels)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, _):
        images, labels = batch
        logits = self.net(images)
        self.accuracy(logits, labels)
        self.log("val/loss", self.loss(logits, labels))
        self.log("val/accuracy", self.accuracy)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def loaders():
    images, labels = load_digits(return_X_y=True)
    images, labels = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    train_x, val_x, train_y, val_y = train_test_split(images, labels, test_size=0.2, random_state=963421)
    train = DataLoader(TensorDataset(train_x, train_y), batch_size=64, shuffle=True)
    return train, DataLoader(TensorDataset(val_x, val_y), batch_size=64)


def main() -> None:
    pl.seed_everything(42)
    trainer = pl.Trainer(max_epochs=5, accelerator="cpu", devices=1, log_every_n_steps=10)
    trainer.fit(Digits(), *loaders())
    print("accuracy", float(trainer.callback_metrics["val/accuracy"]))


if __name__ == "__main__":
    main()
