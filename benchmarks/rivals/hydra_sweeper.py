"""A sweep by Hydra's Optuna sweeper with its default launcher, which runs one trial after the other in this process.

python hydra_sweeper.py -m hydra/sweeper=optuna hydra.sweeper.n_trials=8 'lr=tag(log,interval(1e-4,1e-1))'
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import hydra
import torch
from hydra.core.config_store import ConfigStore
from plain_lightning import loaders
from tuned_digits import accuracy


@dataclass
class Config:
    """What is searched."""

    lr: float = 3e-3


ConfigStore.instance().store("digits", Config)
data = functools.cache(loaders)


@hydra.main(version_base=None, config_path=None, config_name="digits")
def main(config: Config) -> float:
    torch.set_num_threads(1)
    reached = accuracy(config.lr, *data())
    print("trials", hydra.core.hydra_config.HydraConfig.get().job.num + 1, "accuracy", reached, flush=True)
    return reached


if __name__ == "__main__":
    main()
