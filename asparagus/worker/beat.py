"""Whether a training is alive: a sign after each batch, and the stacks of a process alone that gives none."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from asparagus.attempts import stack_of
from asparagus.worker.here import HERE, dump_stacks

LOOKS = 20
"""How often one looks within the time after which a training hangs."""

log = logging.getLogger("asparagus")


class Beat(Callback):
    """Give a sign of life at everything that Lightning tells of."""

    def _beat(self, doing: str, trainer: Trainer) -> None:
        HERE.beat(doing, trainer.global_step)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Begin to train."""
        self._beat("start of the training", trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Have made a step."""
        self._beat("training", trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Have looked at a batch."""
        self._beat("validation", trainer)

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Have looked at a batch."""
        self._beat("test", trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Have ended an epoch."""
        self._beat("end of an epoch", trainer)


@contextmanager
def watched_alone(after_min: float | None) -> Iterator[None]:
    """Write the stacks of this process down when it gives no sign of life; nobody is there to start it anew."""
    if after_min is None:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(over, after_min * 60), name="alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(over: threading.Event, after_s: float) -> None:
    seen, quiet = HERE.beats, 0
    while not over.wait(after_s / LOOKS):
        quiet = quiet + 1 if HERE.beats == seen else 0
        seen = HERE.beats
        if quiet == LOOKS:
            path = stack_of(Path(HERE.folder), HERE.attempt, HERE.rank)
            dump_stacks(str(path))
            log.warning("no step for %.3g min (%s): where it stands is in %s", after_s / 60, HERE.doing, path)
