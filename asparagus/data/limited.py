"""A loader whose passes end after a time (SEEDS E28)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader


class TimeLimitedLoader(DataLoader[Any]):
    """Give batches until `seconds` have passed since the first was asked for; always at least one.

    A pass ends after the batch during which the time is over, whatever was done with it meanwhile. Ranks may see
    different numbers of batches: whoever sums over them has to weigh by cases.

    Args:
        *arguments: Of a DataLoader.
        seconds: How long a pass may take.
        **options: Of a DataLoader.
    """

    def __init__(self, *arguments: Any, seconds: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seconds = seconds

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield batches."""
        begun = time.monotonic()
        for batch in super().__iter__():
            yield batch
            if time.monotonic() - begun >= self.seconds:
                return
