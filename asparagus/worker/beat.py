"""Whether a training is alive, and where its time goes: a sign after each batch, and a line of account now and then."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from asparagus.attempts import stack_of
from asparagus.journal import Journal
from asparagus.stopwatch import PLACING, TIMING, TRAINING, WATCH, Phase
from asparagus.worker.here import HERE, dump_stacks

LOOKS = 20
"""How often one looks within the time after which a training hangs."""
AT_LEAST_S, AT_MOST_S = 1.0, 30.0
"""Of an account: short epochs share one, and a long one has several."""

log = logging.getLogger("asparagus")


class Beat(Callback):
    """Give a sign of life at everything that Lightning tells of, and book the time until then.

    It stands behind the other callbacks, so what they do at a batch's end counts to the step. On a GPU a step returns
    when its work is queued: what waits for the GPU first, which may be the next batch's way there, is what takes long.

    Args:
        journal: Rank 0's: it is told of the first step at once, and then at most once a second.
    """

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal
        self._before, self._step = Phase.DATA, Phase.FIRST_STEP

    def _beat(self, doing: str, trainer: Trainer) -> None:
        HERE.beat(doing, trainer.global_step)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Have data."""
        if stage != "test":  # all of a test is one phase
            WATCH.lap(Phase.DATA)

    def on_fit_start(self, *_: Any) -> None:
        """Have a model on its device."""
        WATCH.lap(Phase.MODEL)

    def on_sanity_check_start(self, *_: Any) -> None:
        """Have the state to go on from."""
        WATCH.lap(Phase.MODEL)

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Begin to train."""
        WATCH.lap(Phase.DATA)
        self._before, self._step = Phase.DATA, Phase.FIRST_STEP
        self._beat("start of the training", trainer)

    def on_train_epoch_start(self, *_: Any) -> None:
        """Begin an epoch: the one before, and its checkpoint, are whole."""
        if WATCH.lap(Phase.CALLBACKS) > AT_LEAST_S and self._step is Phase.STEPS:
            tell(self._journal)

    def on_train_batch_start(self, *_: Any) -> None:
        """Have a batch."""
        WATCH.lap(self._before)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Have made a step."""
        since = WATCH.lap(self._step)
        self._beat("training", trainer)
        if since > AT_MOST_S or self._step is Phase.FIRST_STEP:
            self._before, self._step = Phase.LOADING, Phase.STEPS
            tell(self._journal)

    def on_validation_start(self, *_: Any) -> None:
        """Have the loaders of a validation."""
        WATCH.lap(Phase.VALIDATION)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Have looked at a batch."""
        self._beat("validation", trainer)
        if WATCH.lap(Phase.VALIDATION) > AT_MOST_S:
            tell(self._journal)

    def on_validation_end(self, *_: Any) -> None:
        """Have looked at all."""
        WATCH.lap(Phase.VALIDATION)

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Have looked at a batch."""
        self._beat("test", trainer)
        if WATCH.lap(Phase.TEST) > AT_MOST_S:
            tell(self._journal)

    def on_test_end(self, *_: Any) -> None:
        """Have looked at all."""
        WATCH.lap(Phase.TEST)

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        """Have ended an epoch."""
        self._beat("end of an epoch", trainer)

    def on_train_end(self, *_: Any) -> None:
        """Have ended the training."""
        WATCH.lap(Phase.CALLBACKS)


def tell(journal: Journal | None) -> None:
    """Write down where this process's time went, since it was last told."""
    if journal is not None:
        journal.append(TIMING, by=TRAINING, attempt=HERE.attempt, **WATCH.tell())


@contextmanager
def accounted(journal: Journal | None) -> Iterator[None]:
    """Tell how this try was placed, and what is left when it ends; in the middle of what, nobody knows who fails."""
    if journal is not None and HERE.placed:
        phases = {Phase.WORKERS: max(0.0, WATCH.began - HERE.placed)}  # the controller's clock, and this machine's
        placing = {"attempt": HERE.attempt, "began": HERE.placed, "ended": WATCH.began, "phases": phases}
        journal.append(TIMING, flush=False, by=PLACING, **placing)
    HERE.placed = 0.0
    try:
        yield
    except BaseException:
        WATCH.lap(Phase.LOST)
        raise
    else:
        WATCH.lap(Phase.END)
    finally:
        tell(journal)


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
