"""Networks for small images in plain torch: nothing to import but torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Fully connected layers over the flattened image: [B, in_channels, *img_size] -> [B, out_channels]."""

    def __init__(
        self,
        in_channels: int,
        img_size: Sequence[int],
        out_channels: int,
        hidden: Sequence[int] = (128, 64),
        dropout: float = 0.0,
    ) -> None:
        """Build one hidden layer per entry of `hidden`."""
        super().__init__()
        widths = [in_channels * math.prod(img_size), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        self.encoder = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.head(self.encoder(x))
        return logits


class SmallConvNet(nn.Module):
    """Convolutions that halve the resolution, averaged over space: [B, in_channels, H, W] -> [B, out_channels]."""

    def __init__(self, in_channels: int, out_channels: int, features: Sequence[int] = (16, 32)) -> None:
        """Build one convolution per entry of `features`."""
        super().__init__()
        widths = [in_channels, *features]
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Conv2d(width, following, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
        self.encoder = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.head(self.encoder(x).flatten(2).mean(-1))
        return logits
