"""Crops of a datasplit as training items: each a function of seed, epoch and index, wherever it is read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from asparagus.data.sampler import Key
from asparagus.data.zarr.cut import Matrix, image_of, label_of, reach
from asparagus.data.zarr.datasplit import Row, join
from asparagus.data.zarr.places import NoGroupError
from asparagus.data.zarr.settings import Access, Window
from asparagus.data.zarr.turns import draw_directions
from asparagus.data.zarr.volumes import Budget, Level, Source, TooCoarseError, Vector, read_level
from asparagus.errors import DataError

AT_ONCE = 16
SHOWN = 5
EDGE = 1e-6
"""Parts of a voxel by which an edge may be missed: positions are sums of decimals."""
STRAIGHT = np.eye(3)

Indices = NDArray[np.int64]
Item = dict[str, Tensor]

log = logging.getLogger("asparagus")


@dataclass(frozen=True)
class Windows:
    """What is cut out of a crop, and what of it is told apart."""

    image: Window
    target: Window
    classes: tuple[str, ...]
    """One output channel each, in this order."""


class Crop:
    """An annotated box in a volume, and where windows fit into it.

    Args:
        image: The level of the raw volume.
        labels: The level of each class that is annotated.
        windows: What is cut out.
        budget: How much of it may be kept in memory.

    Raises:
        DataError: Image and annotation do not overlap.
    """

    def __init__(self, image: Level, labels: Mapping[str, Level], windows: Windows, budget: Budget) -> None:
        self._windows = windows
        low = np.min([level.grid.low for level in labels.values()], axis=0)
        high = np.max([level.grid.high for level in labels.values()], axis=0)
        low, high = np.maximum(low, image.grid.low), np.minimum(high, image.grid.high)
        if (high <= low).any():
            raise DataError(f"{next(iter(labels.values())).place}: lies outside of its image {image.place}.")
        self._step = np.asarray(windows.image.scale)
        # Voxels of a window are those of the image where these are as large, and share out evenly where they are finer.
        self._origin = np.asarray(image.grid.origin) + (self._step - image.grid.scale) / 2
        self._first, self._last, self.blocks = self._places(low, high)
        self.positions = int(np.prod(self._last - self._first + 1))
        """How many windows there are to draw from."""
        self._image = Source(image, *_around(image, low, high, windows.image), budget)
        whole = np.zeros(3, dtype=np.int64)
        self._labels = {
            name: Source(level, whole, np.asarray(level.grid.shape), budget) for name, level in labels.items()
        }

    @property
    def classes(self) -> tuple[str, ...]:
        """What is annotated."""
        return tuple(self._labels)

    def cut(self, place: Indices, directions: Matrix = STRAIGHT) -> Item:
        """Return `image` [1, ...] and `label` [classes, ...], both float32, of the window at a place.

        Args:
            place: Its first voxel, counted in voxels of the window.
            directions: Those of its axes in the volume.
        """
        windows, centre = self._windows, self._centre(place)
        label = torch.full((len(windows.classes), *windows.target.shape), torch.nan)
        for channel, name in enumerate(windows.classes):
            if name in self._labels:
                label[channel] = label_of(self._labels[name], windows.target, centre, directions)
        image = image_of(self._image, windows.image, centre, directions)
        return {
            "image": image.reshape(1, *windows.image.voxels),
            "label": label.reshape(len(label), *windows.target.voxels),
        }

    def random_place(self, rng: np.random.Generator) -> Indices:
        """Draw one of the positions."""
        return rng.integers(self._first, self._last + 1)

    def block(self, index: int) -> Indices:
        """Return the place of one of the blocks that cover the crop, each voxel once."""
        at = np.asarray(np.unravel_index(index, self.blocks))
        target = self._windows.target
        size = np.asarray(target.shape) * target.scale / self._step
        return np.asarray(self._begin + np.rint(at * size).astype(np.int64))

    def _centre(self, place: Indices) -> Vector:
        shape = np.asarray(self._windows.image.shape)
        return np.asarray(self._origin + self._step * (place + (shape - 1) / 2))

    def _places(self, low: Vector, high: Vector) -> tuple[Indices, Indices, tuple[int, ...]]:
        """Return the first and last place whose target is annotated, and how many blocks there are along each axis."""
        target = self._windows.target
        scale, shape = np.asarray(target.scale), np.asarray(target.shape)
        middle = (np.asarray(self._windows.image.shape) - 1) / 2
        half = scale * (shape - 1) / 2  # from the middle of a target to its outermost voxels

        def place(centre: Vector) -> Vector:
            return np.asarray((centre - self._origin) / self._step - middle)

        begin = np.ceil(place(low + half) - EDGE).astype(np.int64)
        last = np.floor(place(high - half) + EDGE).astype(np.int64)
        self._begin = begin
        outermost = self._centre(begin) - half
        voxels = np.floor((high - outermost) / scale + EDGE).astype(np.int64) + 1
        # What is smaller than a window has one place, in its middle.
        middle_one = np.rint(place((low + high) / 2)).astype(np.int64)
        small = last < begin
        first, last = np.where(small, middle_one, begin), np.where(small, middle_one, last)
        return first, last, tuple(np.maximum(1, -(-voxels // shape)).tolist())


class RandomCrops(Dataset[Item]):
    """So many independent draws in an epoch: a place in one of the crops, turned at random (SEEDS E12, E20).

    Args:
        crops: Where from; each position of each crop is as likely.
        samples: Draws in an epoch; None: as many as windows fit beside each other.
        transforms: How they are turned.
        seed: With epoch and index, all that a draw depends on.
    """

    def __init__(
        self, crops: Sequence[Crop], samples: int | None, transforms: Mapping[str, Any], *, seed: int = 0
    ) -> None:
        self._crops, self._transforms, self._seed = list(crops), transforms, seed
        self._samples = samples or sum(int(np.prod(crop.blocks)) for crop in crops)
        self._ends = np.cumsum([crop.positions for crop in crops])

    def __len__(self) -> int:
        """Return the number of draws."""
        return self._samples

    def __getitem__(self, key: Key | int) -> Item:
        """Return the draw of an (epoch, index); of an index alone, that of the first epoch."""
        rng = np.random.default_rng([self._seed, *((0, key) if isinstance(key, int) else key)])
        drawn = int(rng.integers(self._ends[-1]))
        crop = self._crops[int(np.searchsorted(self._ends, drawn, side="right"))]
        place = crop.random_place(rng)
        return crop.cut(place, draw_directions(self._transforms, rng))


class CropBlocks(Dataset[Item]):
    """Blocks that cover all crops, each annotated voxel once; what sticks out is NaN in the label.

    Args:
        crops: In this order.
    """

    def __init__(self, crops: Sequence[Crop]) -> None:
        self._crops = list(crops)
        self._ends = np.cumsum([int(np.prod(crop.blocks)) for crop in crops])

    def __len__(self) -> int:
        """Return the number of blocks."""
        return int(self._ends[-1])

    def __getitem__(self, key: Key | int) -> Item:
        """Return a block; the epoch does not matter."""
        index = key if isinstance(key, int) else key[1]
        number = int(np.searchsorted(self._ends, index, side="right"))
        crop = self._crops[number]
        return crop.cut(crop.block(index - int(self._ends[number]) + int(np.prod(crop.blocks))))


def open_crops(rows: Sequence[Row], windows: Windows, budget: Budget, access: Access | None = None) -> list[Crop]:
    """Open the volumes of a datasplit's rows; crops that cannot serve are left out, and said.

    Args:
        rows: Of one part.
        windows: What will be cut out of them.
        budget: How much of them may be kept in memory.
        access: How stores are read.

    Raises:
        DataError: A volume is missing or malformed, or no crop can serve.
    """
    if not rows:
        return []
    with ThreadPoolExecutor(min(AT_ONCE, len(rows))) as pool:
        opened = list(pool.map(lambda row: _open(row, windows, budget, access or Access()), rows))
    crops = [crop for crop in opened if isinstance(crop, Crop)]
    problems = [crop for crop in opened if not isinstance(crop, Crop)]
    for problem in problems if crops else ():
        log.warning("a crop is left out: %s", problem)
    if not crops:
        told = [str(problem) for problem in problems[:SHOWN]]
        more = [f"... and {len(problems) - SHOWN} more."] if len(problems) > SHOWN else []
        raise DataError("\n".join(["no crop can serve:", *told, *more]))
    return crops


def _open(row: Row, windows: Windows, budget: Budget, access: Access) -> Crop | str:
    """Open a crop, or say why it cannot serve."""
    try:
        labels, coarse = _labels_of(row, windows, access)
        if not labels and not coarse:
            return f"{row.where}: {row.labels} has none of the classes {', '.join(windows.classes)}."
        if not labels:
            return f"{row.where}: {coarse[0]} Ask for data.target_array_info.scale of at least that."
        image = read_level(row.raw, np.asarray(windows.image.scale), access)
        return Crop(image, labels, windows, budget)
    except TooCoarseError as error:
        return f"{row.where}: {error} Ask for data.input_array_info.scale of at least that."
    except DataError as error:
        raise DataError(f"{row.where}: {error}") from error


def _labels_of(row: Row, windows: Windows, access: Access) -> tuple[dict[str, Level], list[str]]:
    """Return the annotation of each class that a crop has, and of those that are too coarse, why."""
    labels, coarse = {}, []
    for name in windows.classes:
        if row.classes is not None and name not in row.classes:
            continue
        try:
            labels[name] = read_level(join(row.labels, name), np.asarray(windows.target.scale), access)
        except TooCoarseError as error:
            coarse.append(str(error))
        except NoGroupError:
            if row.classes is not None:  # a row that does not name its classes has those that are there
                raise
    return labels, coarse


def _around(image: Level, low: Vector, high: Vector, window: Window) -> tuple[Indices, Indices]:
    """Return which voxels of an image windows of a crop can reach."""
    scale, origin = np.asarray(image.grid.scale), np.asarray(image.grid.origin)
    far = reach(window, scale)
    first = np.floor((low - origin) / scale - far).astype(np.int64)
    return first, np.ceil((high - origin) / scale + far).astype(np.int64) + 1
