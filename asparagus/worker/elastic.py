"""A training on fewer workers than planned means the same: as many cases per step, as many steps per epoch."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from asparagus.journal import Journal
from asparagus.spec import Spec

ACCUMULATE = "accumulate_grad_batches"
PER_WORKER = ("limit_train_batches", "overfit_batches", "val_check_interval")
"""Numbers of batches that a worker counts, where they are whole."""

log = logging.getLogger("asparagus")


def at_size(spec: Spec, world_size: int) -> tuple[Spec, list[str]]:
    """Return the spec for so many of the workers that were planned, and what of its meaning could not be kept.

    Args:
        spec: As planned, for `resources.workers`.
        world_size: Workers that train now.
    """
    planned = spec.resources.workers
    if not spec.resources.is_elastic or world_size == planned:
        return spec, []
    accumulate = int(spec.trainer.get(ACCUMULATE) or 1)
    scaled: dict[str, Any] = {ACCUMULATE: max(1, round(planned * accumulate / world_size))}
    for key in PER_WORKER:
        value = spec.trainer.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value:
            scaled[key] = math.ceil(value * planned / world_size)
    return dataclasses.replace(spec, trainer={**spec.trainer, **scaled}), [*_notes(spec, world_size, scaled)]


def by_hand(trainer: dict[str, Any], planned: Spec) -> dict[str, Any]:
    """Return the Trainer's arguments for a module that calls its optimizers itself: nothing accumulates for it."""
    log.warning("the module optimizes by hand: on fewer workers than planned, a step sees fewer batches")
    rest = {key: value for key, value in trainer.items() if key != ACCUMULATE}
    return rest | ({ACCUMULATE: planned.trainer[ACCUMULATE]} if ACCUMULATE in planned.trainer else {})


def _notes(spec: Spec, world_size: int, scaled: dict[str, Any]) -> list[str]:
    planned, accumulate = spec.resources.workers, int(spec.trainer.get(ACCUMULATE) or 1)
    now, meant = world_size * scaled[ACCUMULATE], planned * accumulate
    told = (
        f"{world_size} of {planned} workers: trainer.{ACCUMULATE} is {scaled[ACCUMULATE]} in place of {accumulate}, so "
    )
    if now == meant:
        return [f"{told}a step sees as many batches as planned ({meant})"]
    why = f"{meant} does not divide by {world_size}. The learning rate stays as it is"
    return [f"{told}a step sees {now} batches where {meant} were planned: {why}"]


class WorldSizes(Callback):
    """Record how many workers trained from which step on."""

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal

    def on_train_start(self, trainer: Trainer, _: LightningModule) -> None:
        """Write it where metrics are written."""
        if self._journal is not None:
            step, epoch = trainer.global_step, trainer.current_epoch
            self._journal.append("metrics", step=step, epoch=epoch, values={"world_size": float(trainer.world_size)})
