"""Where a training waits at the end of each epoch until its sweep says that it goes on."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.strategies import SingleDeviceStrategy

from asparagus.callbacks.journal_logger import scalars
from asparagus.stopwatch import WATCH, Phase
from asparagus.worker.ranks import InProcess

STOP = object()


class StoppedError(Exception):
    """The sweep has stopped this training; all that it had is written."""


class DivergedError(Exception):
    """A loss or the metric is no number any more."""


@dataclass
class Gate:
    """Two threads meet here: the one that trains, and the one that speaks to the sweep."""

    reports: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    answers: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    stopped: threading.Event = field(default_factory=threading.Event)

    def report(self, epoch: int, metrics: dict[str, float]) -> None:
        """Tell of an epoch, and wait.

        Raises:
            StoppedError: It does not go on.
        """
        if self.stopped.is_set():
            raise StoppedError
        self.reports.put((epoch, metrics))
        if self.answers.get() is STOP:
            raise StoppedError

    def go_on(self) -> None:
        """Let the training go on."""
        self.answers.put(None)

    def stop(self) -> None:
        """End the training where it waits, or will wait next."""
        self.stopped.set()
        self.answers.put(STOP)


class AtTheGate(Checkpoint):
    """Comes after the checkpoint of an epoch is whole (a `Checkpoint` callback runs after all others, in order).

    Args:
        gate: Where to wait.
        watched: Metrics that have to be numbers, besides every `train/loss`.
    """

    def __init__(self, gate: Gate, watched: tuple[str, ...]) -> None:
        self._gate, self._watched = gate, watched

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's
        """Report the epoch and wait."""
        metrics = scalars(trainer)
        WATCH.lap(Phase.CALLBACKS)
        try:
            self._gate.report(trainer.current_epoch, metrics)
        finally:
            WATCH.lap(Phase.SWEEP)
        must_be_numbers(trainer.current_epoch, metrics, self._watched)


def must_be_numbers(epoch: int, metrics: Mapping[str, float], watched: Sequence[str]) -> None:
    """Refuse to go on with a training that has lost its way.

    Args:
        epoch: That has ended.
        metrics: Measured in it.
        watched: Those that have to be numbers, besides every `train/loss`.

    Raises:
        DivergedError: One of them is not.
    """
    lost = [
        name
        for name, value in metrics.items()
        if (name in watched or name.startswith("train/loss")) and not math.isfinite(value)
    ]
    if lost:
        raise DivergedError(f"{', '.join(sorted(lost))} is no number any more, in epoch {epoch}")


class TrialRanks(InProcess):
    """One process by itself, that waits at a gate after each epoch."""

    def __init__(self, gate: Gate, watched: tuple[str, ...]) -> None:
        self._gate, self._watched = gate, watched

    def trainer_arguments(self, strategy: str) -> dict[str, Any]:  # noqa: ARG002 - one process has no other
        """Return arguments for the one device that the trial has."""
        gpu = torch.cuda.is_available() and bool(ray.get_gpu_ids())
        device = torch.device("cuda", 0) if gpu else torch.device("cpu")  # Ray shows a process its own GPUs alone
        return {"accelerator": "auto" if gpu else "cpu", "strategy": SingleDeviceStrategy(device)}

    def commit(self, checkpoint: Path, metrics: dict[str, float]) -> None:
        """Do nothing: a checkpoint that lies in the folder counts."""

    def callbacks(self) -> list[Checkpoint]:
        """Return the one that waits."""
        return [AtTheGate(self._gate, self._watched)]
