"""What a data module asks a Trainer: which epoch comes, and whether it looks at a part of the validation alone."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl


def coming_epoch(trainer: pl.Trainer | None) -> int:
    """Return the epoch that is trained first.

    Lightning tells the sampler so itself, but after a resume only once loader workers have prefetched from epoch 0.
    """
    if trainer is None:
        return 0
    loop = trainer.fit_loop
    epochs = loop.epoch_progress.current
    ended = epochs.ready > epochs.processed and loop.epoch_loop.batch_progress.is_last_batch
    return int(epochs.processed) + int(ended)


def few_validation_batches(trainer: pl.Trainer | None) -> bool:
    """Tell whether a part of the validation is looked at alone: the first batches each time would be a bad sample."""
    limit: Any = trainer.limit_val_batches if trainer is not None else 1.0
    is_share = isinstance(limit, float)
    return bool(limit) and not (is_share and limit >= 1.0)
