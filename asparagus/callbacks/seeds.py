"""Random numbers by epoch: a run that goes on from a checkpoint draws what the undisturbed run would have drawn."""

from __future__ import annotations

import random

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class EpochSeeds(Callback):
    """Seed Python, NumPy and torch at the start of each epoch from (seed, epoch, rank)."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed all generators."""
        sequence = np.random.SeedSequence([self._seed, trainer.current_epoch, trainer.global_rank])
        for_python, for_numpy, for_torch = (int(word) for word in sequence.generate_state(3))
        random.seed(for_python)
        np.random.seed(for_numpy)  # noqa: NPY002 - the generator that MONAI and user code draw from
        torch.manual_seed(for_torch)
