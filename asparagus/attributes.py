"""Attributes of a run inside its config, `${asparagus:max_iterations}`: filled in where known (SEEDS D26 to D28).

How many devices there are is known to the plan; how long an epoch is, to the plan where it can see the data, and to the
worker everywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from asparagus.spec import ENDLESS

ATTRIBUTE = re.compile(r"\$\{asparagus:(\w+)\}")


def substituted(values: Any, known: Mapping[str, Any]) -> Any:
    """Return the values with known attributes filled in: as they are where they stand alone, as text inside a text.

    Args:
        values: Nested plain values.
        known: Attribute -> value. Others stay as they are written.
    """
    if isinstance(values, Mapping):
        return {key: substituted(value, known) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [substituted(value, known) for value in values]
    if not isinstance(values, str):
        return values
    alone = ATTRIBUTE.fullmatch(values)
    if alone and alone[1] in known:
        return known[alone[1]]
    return ATTRIBUTE.sub(lambda match: str(known.get(match[1], match[0])), values)


def has_attributes(values: Any) -> bool:
    """Tell whether any attribute is still open."""
    return ATTRIBUTE.search(str(values)) is not None


def lengths(trainer: Mapping[str, Any], batches: float | None) -> dict[str, int | None]:
    """Return `iterations_per_epoch` and `max_iterations`, the latter in optimizer steps: what schedules count.

    Args:
        trainer: The Trainer's arguments: `max_steps`, `max_epochs`, `accumulate_grad_batches`, and what limits batches.
        batches: Training batches of one epoch on one worker: infinite for a stream that does not tell, None without
            training data.
    """
    steps, epochs = trainer.get("max_steps"), trainer.get("max_epochs")
    if batches is None:
        return {"iterations_per_epoch": None, "max_iterations": None}
    limit = trainer.get("overfit_batches") or trainer.get("limit_train_batches")
    if rehearsed := int(trainer.get("fast_dev_run") or 0):
        limit, steps, epochs = rehearsed, rehearsed, 1
    if isinstance(limit, int) and not isinstance(limit, bool):
        batches = min(batches, limit)
    elif isinstance(limit, float) and math.isfinite(batches):
        batches = int(batches * limit)
    ends = [float(steps)] if isinstance(steps, int) and steps > ENDLESS else []
    if isinstance(epochs, int) and epochs > ENDLESS:
        ends.append(epochs * _ceil(batches / int(trainer.get("accumulate_grad_batches") or 1)))
    return {"iterations_per_epoch": _whole(batches), "max_iterations": _whole(min(ends, default=math.inf))}


def _ceil(number: float) -> float:
    return math.ceil(number) if math.isfinite(number) else number


def _whole(number: float) -> int | None:
    """Return a number that can be counted; None for what does not end, or does not tell."""
    return int(number) if math.isfinite(number) else None
