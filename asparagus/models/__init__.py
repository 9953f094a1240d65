"""Models: networks of our own, and building any network from its dotted path and the sizes that the data give."""

from __future__ import annotations

from typing import Any

SIZE_NAMES: dict[str, tuple[str, ...]] = {
    "spatial_dims": ("spatial_dims",),
    "in_channels": ("in_channels", "n_input_channels"),
    "out_channels": ("out_channels", "num_classes", "n_classes"),
    "img_size": ("img_size", "image_size"),
    "in_shape": ("in_shape",),
}
"""What each size is called among the constructor arguments of MONAI's and our networks."""


def contradiction(key: str, given: Any, needed: Any, size: str) -> str:
    """Say that a size was typed which the data do not have."""
    return f"{key}: {given} contradicts the data, which need {needed} ({size}). Leave {key} out: it is filled in."
