"""A sweep as Ray's page "Hyperparameter Tuning with Ray Tune" writes it, with the search of its page on Optuna.

python tune_documented.py TRIALS
"""

from __future__ import annotations

import sys
import tempfile

import pytorch_lightning as pl
import ray
import ray.train
import ray.train.torch
import ray.tune
from plain_lightning import loaders
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, RayTrainReportCallback, prepare_trainer
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.search.optuna import OptunaSearch
from tuned_digits import HIGH, LOW, METRIC, Tuned

STORAGE = tempfile.mkdtemp()


def train_fn_per_worker(train_loop_config: dict) -> None:
    pl.seed_everything(42)
    trainer = pl.Trainer(
        max_epochs=5,
        devices="auto",
        accelerator="auto",
        strategy=RayDDPStrategy(),
        plugins=[RayLightningEnvironment()],
        callbacks=[RayTrainReportCallback()],
        enable_checkpointing=False,
        log_every_n_steps=10,
    )
    trainer = prepare_trainer(trainer)
    trainer.fit(Tuned(train_loop_config["lr"]), *loaders())


def train_driver_fn(config: dict) -> None:
    trainer = ray.train.torch.TorchTrainer(
        train_fn_per_worker,
        train_loop_config=config["train_loop_config"],
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(
            name=f"train-trial_id={ray.tune.get_context().get_trial_id()}",
            storage_path=config["storage"],
            callbacks=[TuneReportCallback()],
        ),
    )
    trainer.fit()


def main(trials: int) -> None:
    # A trial's driver takes a CPU and its worker another one: with fewer than four, two trials wait for each other.
    ray.init(address="local", num_cpus=4)
    tuner = ray.tune.Tuner(
        train_driver_fn,
        param_space={"train_loop_config": {"lr": ray.tune.loguniform(LOW, HIGH)}, "storage": STORAGE},
        run_config=ray.tune.RunConfig(name="digits", storage_path=STORAGE),
        tune_config=ray.tune.TuneConfig(
            metric=METRIC, mode="max", search_alg=OptunaSearch(), num_samples=trials, max_concurrent_trials=2
        ),
    )
    results = tuner.fit()
    finished = len(results) - results.num_errors
    print("trials", finished, "accuracy", results.get_best_result().metrics[METRIC])


if __name__ == "__main__":
    main(int(sys.argv[1]))
