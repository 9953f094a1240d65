"""The same training as Ray's page "Get Started with Distributed Training using PyTorch Lightning" writes it."""

from __future__ import annotations

import os
import sys
import tempfile
import time

import pytorch_lightning as pl
from plain_lightning import Digits, loaders
from ray.train import RunConfig, ScalingConfig
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, RayTrainReportCallback, prepare_trainer
from ray.train.torch import TorchTrainer


class Timed(RayTrainReportCallback):
    """The documented callback, and how long each of its reports held the training up."""

    def __init__(self) -> None:
        super().__init__()
        self.stalls: list[float] = []

    def on_train_epoch_end(self, trainer, pl_module):
        started = time.monotonic()
        super().on_train_epoch_end(trainer, pl_module)
        self.stalls.append(time.monotonic() - started)


def train_func() -> list[float]:
    timed = Timed()
    pl.seed_everything(42)
    trainer = pl.Trainer(
        max_epochs=5,
        devices="auto",
        accelerator="auto",
        strategy=RayDDPStrategy(),
        plugins=[RayLightningEnvironment()],
        callbacks=[timed],
        enable_checkpointing=False,
        log_every_n_steps=10,
    )
    trainer = prepare_trainer(trainer)
    trainer.fit(Digits(), *loaders())
    return timed.stalls


def main(workers: int) -> None:
    os.environ.setdefault("RAY_ADDRESS", "local")  # else it joins any Ray, or waits for one that is gone
    trainer = TorchTrainer(
        train_func,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=False),
        run_config=RunConfig(storage_path=tempfile.mkdtemp()),
    )
    result = trainer.fit()
    print("accuracy", result.metrics["val/accuracy"])
    print("stalls", *result.return_value)


if __name__ == "__main__":
    main(int(sys.argv[1]))
