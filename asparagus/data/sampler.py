"""Which case comes when: an order that is a function of seed and epoch alone, shared out over the ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from asparagus.errors import DataError

Indices = np.ndarray[tuple[int], np.dtype[np.int64]]
Key = tuple[int, int] | tuple[int, int, int]
"""(epoch, index, turn): all that a random transform of one item may depend on. The turn counts from 0, left out or not,
how often the index came before in its epoch."""


class EpochSampler(Sampler[Key]):
    """Yields `(epoch, index, turn)` for one rank.

    With `even` (training) every rank gets the same number of items, wrapping around where they do not divide.
    Without (validation, test) each item is seen by exactly one rank, so that sums over ranks are right.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        shuffle: bool,
        even: bool | None = None,
        rank: int = 0,
        world_size: int = 1,
        samples_per_epoch: int | None = None,
    ) -> None:
        """Set up; `samples_per_epoch` is the total over all ranks, drawn with replacement when it exceeds `size`.

        What is shuffled is `even` unless something else is said.

        Raises:
            DataError: nothing to draw from, or an epoch that leaves a rank without an item.
        """
        if size < 1:
            raise DataError("data: there is no case to draw from.")
        if samples_per_epoch is not None and samples_per_epoch < 1:
            raise DataError(
                f"data.samples_per_epoch: {samples_per_epoch} is not a positive number; leave it out for all."
            )
        even = shuffle if even is None else even
        if not even and size < world_size:
            raise DataError(
                f"data: {size} cases to validate or test on for {world_size} workers leave a worker without one. "
                f"Ask for resources.workers of at most {size}, or use a split with more of them."
            )
        self.size, self.seed, self.shuffle, self.even = size, seed, shuffle, even
        self.rank, self.world_size = rank, world_size
        self.total = size if samples_per_epoch is None else samples_per_epoch
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; Lightning calls it, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of items of this rank."""
        if self.even:
            return math.ceil(self.total / self.world_size)
        return len(range(self.rank, self.size, self.world_size))

    def __iter__(self) -> Iterator[Key]:
        """Yield this rank's items of the current epoch."""
        epoch = self.epoch
        order = self._order(epoch) if self.shuffle else np.arange(self.size)
        share = slice(self.rank, None, self.world_size)
        for index, turn in zip(order[share].tolist(), _turns(order)[share].tolist(), strict=True):
            yield epoch, index, turn

    def _order(self, epoch: int) -> Indices:
        """Return the epoch's items of all ranks; with `even`, as many as divide evenly."""
        rng = np.random.default_rng([self.seed, epoch])
        if self.total > self.size:
            drawn = rng.integers(0, self.size, size=self.total)
        else:
            drawn = rng.permutation(self.size)[: self.total]
        return np.resize(drawn, len(self) * self.world_size) if self.even else drawn


def _turns(order: Indices) -> Indices:
    """Return for each index how many of its kind come before it."""
    by_index = np.argsort(order, kind="stable")
    turns = np.empty_like(order)
    turns[by_index] = np.arange(len(order)) - np.searchsorted(order[by_index], order[by_index])
    return turns
