"""Ranges of optimizer steps, as `freeze_updates` writes them (SEEDS B23 to B26). Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asparagus.errors import ConfigError

FREEZES = "asparagus.callbacks.freezing.FreezeUpdates"
"""The callback that reads them."""
WAITING = ("auto", "ddp", "ddp_find_unused_parameters_false")
"""Strategies whose ranks wait for the gradients of every weight."""
UNUSED = "ddp_find_unused_parameters_true"
"""What takes their place where parts freeze."""
TO_THE_END = -1
PAIR = 2
SPELLED = "N (the first N steps), [A, B] (from step A to step B, both of them), [A, -1] or -1 (to the end)"

Range = int | Sequence[int]


def range_of(name: str, given: Range) -> tuple[int, int]:
    """Return the first and the last step, from 1, that a range has; -1 is the end of the training.

    Args:
        name: Whose range; for messages.
        given: As it is written.

    Raises:
        ConfigError: It is no range.
    """
    numbers: list[Any] = list(given) if isinstance(given, (list, tuple)) else [given]
    wrong = f"freeze_updates.modules.{name}: {given!r} is no range of steps. Give {SPELLED}."
    if isinstance(given, bool) or not all(isinstance(number, int) for number in numbers):
        raise ConfigError(wrong)
    if isinstance(given, int):
        if given < TO_THE_END:
            raise ConfigError(wrong)
        return 0, given
    if len(numbers) != PAIR or numbers[0] < 0 or numbers[1] < TO_THE_END:
        raise ConfigError(wrong)
    first, last = numbers
    if last != TO_THE_END and last < first:
        raise ConfigError(f"freeze_updates.modules.{name}: {numbers} ends before it begins. Give {SPELLED}.")
    return first, last
