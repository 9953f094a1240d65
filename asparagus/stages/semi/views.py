"""Several views of one image, and small changes that make them differ: functions of torch's own random stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

Transform = Callable[[Any], Any]


class MultiViewTransform:
    """Turns an image into a tuple of views: one for each transform.

    Args:
        transforms: What makes each view; None leaves the image as it is. FixMatch wants the weak one first.
    """

    def __init__(self, transforms: Sequence[Transform | None]) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: Any) -> tuple[Any, ...]:
        """Return the views."""
        return tuple(image if transform is None else transform(image) for transform in self.transforms)


class TwoViews(MultiViewTransform):
    """Turns an image into two views that the same transform makes: it draws twice."""

    def __init__(self, transform: Transform) -> None:
        super().__init__([transform, transform])


class GaussianNoise:
    """Adds noise of this standard deviation to a tensor."""

    def __init__(self, std: float = 0.1) -> None:
        self.std = std

    def __call__(self, image: Tensor) -> Tensor:
        """Return the noisy image."""
        return image + self.std * torch.randn_like(image)


class RandomShift:
    """Moves [C, H, W] by up to so many pixels along both axes; what comes in at the border is 0."""

    def __init__(self, pixels: int = 1) -> None:
        self.pixels = pixels

    def __call__(self, image: Tensor) -> Tensor:
        """Return the moved image."""
        top, left = torch.randint(2 * self.pixels + 1, (2,)).tolist()
        height, width = image.shape[-2:]
        return pad(image, [self.pixels] * 4)[..., top : top + height, left : left + width]
