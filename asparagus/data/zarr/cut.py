"""A box of voxels out of a level, of any size and direction: sliced where its voxels are the level's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from asparagus.data.zarr.settings import Window
from asparagus.data.zarr.volumes import Source, Vector

Matrix = NDArray[np.float64]

CLOSE = 1e-3
"""Parts of a voxel that are no distance."""


def image_of(source: Source, window: Window, centre: Vector, directions: Matrix) -> Tensor:
    """Return raw values in a window, float32 [z, y, x]: of 8 and 16 bits as shares of the largest, 0 outside.

    Args:
        source: The image.
        window: Its voxels.
        centre: Where its middle is, in nm.
        directions: Those of its axes in the volume.
    """
    matrix, start = _indices(source, window, centre, directions)
    cut = _sliced(source, window, matrix, start, nearest=False)
    cut = _resampled(source, window, matrix, start, nearest=False) if cut is None else cut
    return cut.nan_to_num_(0.0)


def label_of(source: Source, window: Window, centre: Vector, directions: Matrix) -> Tensor:
    """Return what is annotated in a window, float32 [z, y, x]: 1 where the class is, 0 where not, NaN where unknown.

    Args:
        source: The annotation; the nearest voxel counts.
        window: Its voxels.
        centre: Where its middle is, in nm.
        directions: Those of its axes in the volume.
    """
    matrix, start = _indices(source, window, centre, directions)
    cut = _sliced(source, window, matrix, start, nearest=True)
    return _resampled(source, window, matrix, start, nearest=True) if cut is None else cut


def reach(window: Window, scale: Vector) -> Vector:
    """Return how far from its middle a window can reach when it is turned in any way, in voxels of a size."""
    return np.ceil(np.linalg.norm(np.multiply(window.shape, window.scale)) / 2 / scale) + 1


def _indices(source: Source, window: Window, centre: Vector, directions: Matrix) -> tuple[Matrix, Vector]:
    """Return how the index of a voxel of the level follows from that of the window: `matrix @ index + start`."""
    grid = source.level.grid
    matrix = directions * np.asarray(window.scale) / np.asarray(grid.scale)[:, None]
    middle = (np.asarray(window.shape) - 1) / 2
    return matrix, (centre - np.asarray(grid.origin)) / np.asarray(grid.scale) - matrix @ middle


def _sliced(source: Source, window: Window, matrix: Matrix, start: Vector, *, nearest: bool) -> Tensor | None:
    """Return voxels as they are stored, mirrored and transposed at most; None where they would be between others."""
    whole, at = np.rint(matrix), np.rint(start)
    if np.abs(matrix - whole).max() > CLOSE / max(window.shape) or (np.abs(whole).sum(0) != 1).any():
        return None
    if (np.abs(whole).sum(1) != 1).any() or (not nearest and np.abs(start - at).max() > CLOSE):
        return None
    axes = np.abs(whole).argmax(1)  # of the window, along each axis of the level
    signs = whole.sum(1)
    sizes = np.asarray(window.shape)[axes]
    low = (at + np.minimum(signs * (sizes - 1), 0)).astype(np.int64)
    block = _read(source, low, low + sizes, is_label=nearest)
    block = block.flip([int(axis) for axis in np.flatnonzero(signs < 0)])
    return block.permute(*np.argsort(axes).tolist()).contiguous()


def _resampled(source: Source, window: Window, matrix: Matrix, start: Vector, *, nearest: bool) -> Tensor:
    corners = np.stack(np.meshgrid(*([0, size - 1] for size in window.shape), indexing="ij"), -1).reshape(-1, 3)
    ends = corners @ matrix.T + start
    low, high = np.floor(ends.min(0)).astype(np.int64) - 1, np.ceil(ends.max(0)).astype(np.int64) + 2
    shape = np.asarray(source.level.grid.shape)
    low, high = np.clip(low, 0, shape), np.clip(high, 0, shape)
    if (high <= low).any():
        return torch.full(window.shape, torch.nan)
    block = _read(source, low, high, is_label=nearest)
    block = (
        block + 1 if nearest else block.nan_to_num(0.0)
    )  # so that what is outside, 0, is told from what is not there
    places = _positions(window, matrix, start - low, high - low)
    mode = "nearest" if nearest else "bilinear"
    cut = grid_sample(block[None, None], places[None], mode=mode, padding_mode="zeros", align_corners=False)[0, 0]
    return torch.where(cut == 0, torch.nan, cut - 1) if nearest else cut


def _positions(window: Window, matrix: Matrix, start: Vector, shape: NDArray[np.int64]) -> Tensor:
    """Return where each voxel is, as grid_sample wants it: [z, y, x, 3], along x, y, z, from -1 to 1."""
    # index i of n voxels is at (2 i + 1) / n - 1
    scaled, moved = 2 * matrix / shape[:, None], (2 * start + 1) / shape - 1
    axes = [torch.arange(size, dtype=torch.float32) for size in window.shape]
    parts = []
    for row, first in zip(scaled[::-1], moved[::-1], strict=True):
        z, y, x = (axis * float(step) for axis, step in zip(axes, row, strict=True))
        parts.append(z[:, None, None] + y[None, :, None] + x[None, None, :] + float(first))
    return torch.stack(parts, -1)


def _read(source: Source, low: NDArray[np.int64], high: NDArray[np.int64], *, is_label: bool) -> Tensor:
    """Return a block as float32, NaN where the level has no voxels; labels as 0, 1 and NaN."""
    shape = np.asarray(source.level.grid.shape)
    first, last = np.clip(low, 0, shape), np.clip(high, 0, shape)
    if (last <= first).any():
        return torch.full(tuple((high - low).tolist()), torch.nan)
    found = source.read(first, last)
    values = _as_label(found, source.level.unknown) if is_label else _as_float(found)
    if (first == low).all() and (last == high).all():
        return values
    block = torch.full(tuple((high - low).tolist()), torch.nan)
    block[tuple(slice(a, b) for a, b in zip((first - low).tolist(), (last - low).tolist(), strict=True))] = values
    return block


def _as_label(found: NDArray[Any], unknown: int | None) -> Tensor:
    label = torch.from_numpy((found > 0).astype(np.float32))
    if found.dtype.kind == "f":
        label[torch.from_numpy(np.isnan(found))] = torch.nan
    if unknown is not None:
        label[torch.from_numpy(found == unknown)] = torch.nan
    return label


def _as_float(found: NDArray[Any]) -> Tensor:
    largest = np.iinfo(found.dtype).max if np.issubdtype(found.dtype, np.integer) else 1
    return torch.from_numpy(found.astype(np.float32)).div_(float(largest))
