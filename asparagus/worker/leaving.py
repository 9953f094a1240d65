"""Leaving in time: all ranks end at the same step, with a checkpoint, when one of them is told to."""

from __future__ import annotations

import logging
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from asparagus.callbacks.checkpoints import CheckpointWriter
from asparagus.callbacks.journal_logger import scalars
from asparagus.errors import LeftError

ASK_S = 0.5
"""How often ranks ask one another; counted in steps, so that all ask at the same one."""
MOST_STEPS = 1000
FOLLOWED = "another rank was told to leave"

log = logging.getLogger("asparagus")


class LeaveInTime(Checkpoint):
    """Ends the training after a step, or an epoch, once somebody has asked for it.

    Args:
        writer: Writes the checkpoint.
        asked: Says why this rank is to leave; empty while it may stay.
    """

    def __init__(self, writer: CheckpointWriter, asked: Callable[[], str]) -> None:
        self._writer, self._asked = writer, asked
        self._every, self._passed, self._since = 1, 0, time.monotonic()
        self._left: LeftError | None = None
        self._random: list[dict[str, Any]] = []
        self._restored: list[dict[str, Any]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's
        """Go on with the random numbers of the step at which it left, where it did so in the middle of an epoch."""
        self._since = time.monotonic()
        _answer_sigterm_ourselves(trainer)
        if self._restored and len(self._restored) == trainer.world_size and trainer.fit_loop.restarted_mid_epoch:
            _set_random(self._restored[trainer.global_rank])
        self._restored = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Write a checkpoint between two steps of the optimizer, if asked to; an epoch's end has its own."""
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate() or loop.batch_progress.is_last_batch:  # noqa: SLF001 - no public name
            return
        self._passed += 1
        if self._passed < self._every:
            return
        if why := self._agreed(trainer):
            self._random = _gathered(_random_state())
            # What was measured is written down before the step counts as done: who is killed now goes on after it.
            trainer._logger_connector.update_train_step_metrics()  # noqa: SLF001 - no public name
            self._left = self._end(trainer, why, {})

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:  # noqa: ARG002
        """Leave: only now is written down all that the step before has measured, by whoever is asked after us too.

        Raises:
            LeftError: It has left.
        """
        if self._left is not None:
            raise self._left

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Leave at the end of an epoch.

        Raises:
            LeftError: It has left.
        """
        if why := self._agreed(trainer):
            raise self._end(trainer, why, scalars(trainer))

    def state_dict(self) -> dict[str, Any]:
        """Return the random numbers of all ranks, if this is a checkpoint in the middle of an epoch."""
        return {"random": self._random} if self._random else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them."""
        self._restored = list(state_dict.get("random", []))

    def _end(self, trainer: Trainer, why: str, metrics: dict[str, float]) -> LeftError:
        """Write the checkpoint."""
        checkpoint = self._writer.write_now(trainer, metrics)
        told = f"{why}: it has left after step {trainer.global_step}, with {checkpoint.name}."
        return LeftError(told, followed=why == FOLLOWED)

    def _agreed(self, trainer: Trainer) -> str:
        """Return why to leave, if any rank was told to; all ranks ask at the same step."""
        why = self._asked()
        if not _many():
            return why
        each = (time.monotonic() - self._since) / max(self._passed, 1)
        steps = min(max(round(ASK_S / max(each, 1e-6)), 1), MOST_STEPS)
        mine = torch.tensor([int(bool(why)), steps], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(mine, op=torch.distributed.ReduceOp.MAX)
        leave, self._every = (int(value) for value in mine.tolist())
        self._passed, self._since = 0, time.monotonic()
        return (why or FOLLOWED) if leave else ""


def _answer_sigterm_ourselves(trainer: Trainer) -> None:
    """Put back the handler that was there before Lightning's, which would end the training without a checkpoint."""
    before = trainer._signal_connector._original_handlers.get(signal.SIGTERM)  # noqa: SLF001 - no public name
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _many() -> bool:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return ready and torch.distributed.get_world_size() > 1


def _gathered(mine: dict[str, Any]) -> list[dict[str, Any]]:
    if not _many():
        return [mine]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, mine)
    return found


def _random_state() -> dict[str, Any]:
    """Return where this process's generators stand, as values that a checkpoint may hold."""
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - the one that others draw from
    version, words, normal = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [str(name), [int(key) for key in keys], int(position), int(has_gauss), float(gauss)],
        "python": [version, list(words), normal],
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    version, words, normal = state["python"]
    random.setstate((version, tuple(words), normal))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
