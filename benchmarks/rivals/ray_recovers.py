"""A training that outlives its workers as Ray's page "Handling Failures and Node Preemption" writes it.

python ray_recovers.py FILE SECONDS EPOCHS    FILE and SECONDS as of steps.Steps
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytorch_lightning as pl
import ray.train
from plain_lightning import Digits, loaders
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, RayTrainReportCallback, prepare_trainer
from ray.train.torch import TorchTrainer
from steps import Steps


def train_func(config: dict) -> None:
    pl.seed_everything(42)
    trainer = pl.Trainer(
        max_epochs=config["epochs"],
        devices="auto",
        accelerator="auto",
        strategy=RayDDPStrategy(),
        plugins=[RayLightningEnvironment()],
        callbacks=[RayTrainReportCallback(), Steps(config["file"], config["seconds"])],
        enable_checkpointing=False,
    )
    trainer = prepare_trainer(trainer)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            trainer.fit(Digits(), *loaders(), ckpt_path=str(Path(folder) / RayTrainReportCallback.CHECKPOINT_NAME))
    else:
        trainer.fit(Digits(), *loaders())


def main(file: str, seconds: float, epochs: int) -> None:
    os.environ.setdefault("RAY_ADDRESS", "local")
    ray.init(runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}, log_to_driver=False)
    trainer = TorchTrainer(
        train_func,
        train_loop_config={"file": file, "seconds": seconds, "epochs": epochs},
        scaling_config=ScalingConfig(num_workers=2, use_gpu=False),
        run_config=RunConfig(storage_path=tempfile.mkdtemp(), failure_config=FailureConfig(max_failures=3)),
    )
    trainer.fit()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
