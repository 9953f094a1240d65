"""A U-Net of MONAI's blocks, split into encoder, decoder and head so that one pretraining serves every finetune."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from monai.networks.blocks import Convolution
from monai.networks.nets.basic_unet import Down, TwoConv, UpCat
from torch import Tensor, nn

from asparagus.errors import ConfigError

LEAST_LEVELS = 2
FEATURES = (16, 32, 64, 128)
ACT: tuple[str, dict[str, Any]] = ("LeakyReLU", {"negative_slope": 0.1, "inplace": True})
NORM: tuple[str, dict[str, Any]] = ("instance", {"affine": True})

Setting = str | Sequence[Any]
"""A MONAI layer by name, or name and arguments."""


class Encoder(nn.Module):
    """Two convolutions per level, halving the resolution between levels (Falk et al. 2019, as MONAI's BasicUNet)."""

    def __init__(
        self, spatial_dims: int, in_channels: int, features: Sequence[int], act: Setting, norm: Setting, dropout: float
    ) -> None:
        """Build one level per entry of `features`."""
        super().__init__()
        common = (act, norm, True, dropout)
        self.stem = TwoConv(spatial_dims, in_channels, features[0], *common)
        self.downs = nn.ModuleList(Down(spatial_dims, above, below, *common) for above, below in pairwise(features))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of every level, finest first, for [B, C, ...]."""
        levels = [self.stem(x)]
        for down in self.downs:
            levels.append(down(levels[-1]))
        return levels


class Decoder(nn.Module):
    """Back to full resolution, joining the encoder's features at each level."""

    def __init__(
        self, spatial_dims: int, features: Sequence[int], act: Setting, norm: Setting, dropout: float, upsample: str
    ) -> None:
        """Build one step per level below the finest."""
        super().__init__()
        common = (act, norm, True, dropout, upsample)
        pairs = zip(reversed(features[1:]), reversed(features[:-1]), strict=True)
        self.ups = nn.ModuleList(UpCat(spatial_dims, deep, skip, skip, *common) for deep, skip in pairs)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Return features at the resolution of `levels[0]`."""
        x = levels[-1]
        for up, skip in zip(self.ups, reversed(levels[:-1]), strict=True):
            x = up(x, skip)
        return x


class UNet(nn.Module):
    """[B, in_channels, ...] -> [B, out_channels, ...]; weights under `encoder.`, `decoder.` and `head.`."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        features: Sequence[int] = FEATURES,
        *,
        act: Setting = ACT,
        norm: Setting = NORM,
        dropout: float = 0.0,
        upsample: str = "deconv",
    ) -> None:
        """Build a U-Net with `len(features)` levels.

        Raises:
            ConfigError: fewer than two levels.
        """
        super().__init__()
        features = _checked(features)
        self.encoder = Encoder(spatial_dims, in_channels, features, act, norm, dropout)
        self.decoder = Decoder(spatial_dims, features, act, norm, dropout, upsample)
        self.head = Convolution(spatial_dims, features[0], out_channels, kernel_size=1, conv_only=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return one value per output channel and voxel (logits, or the reconstruction)."""
        out: Tensor = self.head(self.decoder(self.encoder(x)))
        return out


class EncoderClassifier(nn.Module):
    """The U-Net's encoder, pooled over space, and a linear head: [B, in_channels, ...] -> [B, out_channels].

    Mean and maximum of every level are pooled: an instance norm has just given each channel the same mean, so that the
    deepest level's mean, the usual choice, says little (measured on Task996 after 20 s: 0.67 accuracy).
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        features: Sequence[int] = FEATURES,
        *,
        act: Setting = ACT,
        norm: Setting = NORM,
        dropout: float = 0.0,
    ) -> None:
        """Build the encoder with the names and shapes that `UNet` gives it.

        Raises:
            ConfigError: fewer than two levels.
        """
        super().__init__()
        features = _checked(features)
        self.encoder = Encoder(spatial_dims, in_channels, features, act, norm, dropout)
        self.head = nn.Linear(2 * sum(features), out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        levels = [level.flatten(2) for level in self.encoder(x)]
        pooled = [part for level in levels for part in (level.mean(-1), level.amax(-1))]
        logits: Tensor = self.head(torch.cat(pooled, dim=1))
        return logits


def _checked(features: Sequence[int]) -> list[int]:
    if len(features) < LEAST_LEVELS or min(features) < 1:
        raise ConfigError(f"features: {list(features)} must be two or more positive numbers, one per level.")
    return list(features)
