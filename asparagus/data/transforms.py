"""Cropping and augmenting one case: functions of arrays and a random generator.

MONAI has these too; digits must train without importing it, and per-item generators make the result independent of
the number of loader workers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

FLIP_PROBABILITY = 0.5
JITTER = 0.1
"""Standard deviation of the random contrast, brightness and noise, in units of a z-normalised image."""


def random_starts(
    rng: np.random.Generator, shape: Sequence[int], size: Sequence[int], around: Sequence[int] | None = None
) -> list[int]:
    """Return the low corner of a random crop; with `around`, of one that contains that voxel."""
    if around is None:
        return [int(rng.integers(0, max(full - part, 0) + 1)) for full, part in zip(shape, size, strict=True)]
    starts = [voxel - int(rng.integers(0, part)) for voxel, part in zip(around, size, strict=True)]
    return [min(max(start, 0), max(full - part, 0)) for start, full, part in zip(starts, shape, size, strict=True)]


def middle_starts(shape: Sequence[int], size: Sequence[int]) -> list[int]:
    """Return the low corner of the crop in the middle."""
    return [max(full - part, 0) // 2 for full, part in zip(shape, size, strict=True)]


def crop(tensor: Tensor, starts: Sequence[int], size: Sequence[int]) -> Tensor:
    """Cut `size` voxels from [C, ...] at `starts`; where the case is smaller, zeros are added on both sides."""
    window = tuple(slice(start, start + part) for start, part in zip(starts, size, strict=True))
    cut = tensor[(slice(None), *window)]
    lacking = [part - have for part, have in zip(size, cut.shape[1:], strict=True)]
    if not any(lacking):
        return cut
    # torch.nn.functional.pad counts axes from the last one
    sides = [side for lack in reversed(lacking) for side in (lack // 2, lack - lack // 2)]
    return pad(cut, sides)


def flip(rng: np.random.Generator, *tensors: Tensor) -> list[Tensor]:
    """Mirror [C, ...] along each spatial axis with probability one half: all of them along the same axes."""
    axes = [axis for axis in range(1, tensors[0].ndim) if rng.random() < FLIP_PROBABILITY]
    return [torch.flip(tensor, axes) if axes else tensor for tensor in tensors]


def unit_interval(raw: Tensor) -> Tensor:
    """Return raw intensities from 0 to 255 as float32 from 0 to 1, and 0 where there are none (NaN; SEEDS E26)."""
    scaled = raw.float() / 255
    return scaled.masked_fill(scaled.isnan(), 0.0)


def jitter(rng: np.random.Generator, image: Tensor) -> Tensor:
    """Change contrast and brightness of [C, ...] a little and add noise."""
    contrast, brightness = 1 + JITTER * rng.standard_normal(), JITTER * rng.standard_normal()
    noise = torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
    return noise.mul_(JITTER).add_(image, alpha=contrast).add_(brightness)
