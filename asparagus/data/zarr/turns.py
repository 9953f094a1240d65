"""How a training crop is turned: drawn as one matrix, the same for its image and its label."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asparagus.data.zarr.settings import AXES


def draw_directions(transforms: Mapping[str, Any], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw how a crop is turned: a matrix from its own directions (z, y, x) to those of the volume.

    Mirrored with a probability per axis, then its axes permuted, then rotated about each axis, in degrees.

    Args:
        transforms: As `check_transforms` returns them.
        rng: What is drawn from.
    """
    turned = np.eye(len(AXES))
    for axis, chance in transforms.get("mirror", {}).get("axes", {}).items():
        if rng.random() < chance:
            turned[AXES.index(axis)] *= -1
    among = [AXES.index(axis) for axis in transforms.get("transpose", {}).get("axes", ())]
    if among:
        turned[among] = turned[rng.permutation(among)]
    for axis, (least, most) in transforms.get("rotate", {}).get("axes", {}).items():
        turned = _rotation(AXES.index(axis), math.radians(rng.uniform(least, most))) @ turned
    return turned


def _rotation(axis: int, angle: float) -> NDArray[np.float64]:
    first, second = (other for other in range(len(AXES)) if other != axis)
    matrix = np.eye(len(AXES))
    matrix[[first, second], [first, second]] = math.cos(angle)
    matrix[first, second], matrix[second, first] = -math.sin(angle), math.sin(angle)
    return matrix
