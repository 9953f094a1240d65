"""What a stage has to show of a batch, as plain values: who draws it needs to know no stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segmented:
    """One case of a segmentation; planes of whole cases are their middle ones (SEEDS E25)."""

    case: str
    image: Tensor
    """[H, W], of the first channel."""
    truth: Tensor
    """Class indices [h, w]: as large as the image, or what a network that needs a margin leaves of its middle."""
    predicted: Tensor
    """Class indices [h, w]."""
    first: ClassVar[int] = 1
    """The first class that has a figure: the background has none."""

    def of(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return of a class truth, prediction, and where the truth is known; each boolean [h, w]."""
        return self.truth == number, self.predicted == number, torch.ones_like(self.truth, dtype=torch.bool)


@dataclass(frozen=True)
class Masks:
    """One case of a segmentation into classes that may overlap."""

    case: str
    image: Tensor
    """[H, W], of the first channel."""
    truth: Tensor
    """Of each class 0, 1, or NaN where nobody annotated, [n, h, w]."""
    predicted: Tensor
    """Boolean [n, h, w]."""
    first: ClassVar[int] = 0
    """As of `Segmented`."""

    def of(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return of a class truth, prediction, and where the truth is known; each boolean [h, w]."""
        return self.truth[number] == 1, self.predicted[number], ~self.truth[number].isnan()


@dataclass(frozen=True)
class Restored:
    """One case of a masked reconstruction."""

    case: str
    image: Tensor
    """[H, W], of the first channel."""
    hidden: Tensor
    """True where the network did not see it, [H, W]."""
    output: Tensor
    """[H, W]."""


@dataclass(frozen=True)
class Answers:
    """What was answered for each case of a batch: classes [B], or numbers [B, n]."""

    cases: Sequence[str]
    predicted: Tensor
    truth: Tensor


Shown = Sequence[Segmented] | Sequence[Masks] | Sequence[Restored] | Answers
"""What `shown(batch, outputs, most)` of a module may return."""


def middle(volume: Tensor) -> Tensor:
    """Return the plane in the middle of the last axis (`size // 2`) of [H, W, D], and [H, W] as it is.

    It is a copy: a view would keep its whole batch in memory.
    """
    plane = volume[..., volume.shape[-1] // 2] if volume.ndim == len(("H", "W", "D")) else volume
    return plane.detach().clone()


def names_of(batch: Mapping[str, Any], count: int) -> list[str]:
    """Return what the first cases of a batch are called: by their place in it where it does not say."""
    named = batch.get("case")
    return [str(name) for name in named[:count]] if named else [f"case {number}" for number in range(1, count + 1)]
