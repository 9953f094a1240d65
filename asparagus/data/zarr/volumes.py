"""OME-NGFF volumes: their pyramids in nanometres, and blocks of voxels of one level."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asparagus.data.zarr.n5 import COMPRESSIONS
from asparagus.data.zarr.n5 import image_of as multiscales_of_n5
from asparagus.data.zarr.places import forget_stores, is_n5, open_group
from asparagus.data.zarr.settings import AXES, Access
from asparagus.errors import DataError

Vector = NDArray[np.float64]
"""Three numbers, along z, y and x."""

NANOMETRES = {"angstrom": 0.1, "nanometer": 1.0, "micrometer": 1e3, "millimeter": 1e6, "meter": 1e9}
NANOMETRES |= {"nm": 1.0, "um": 1e3, "µm": 1e3, "micron": 1e3, "mm": 1e6}
"""OME-NGFF's units of length, and how others write them; one that is not given is taken for nanometres."""
NUMBERS = "buif"
SAME = 1e-4
"""Voxel sizes that differ by less than this share of each other are the same."""


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an array are: the centre of voxel i is at `origin + i * scale`."""

    origin: tuple[float, ...]
    """Centre of the first voxel, in nm."""
    scale: tuple[float, ...]
    """Voxel size, in nm."""
    shape: tuple[int, ...]

    @property
    def low(self) -> Vector:
        """The outer corner of the first voxel, in nm."""
        return np.subtract(self.origin, np.multiply(self.scale, 0.5))

    @property
    def high(self) -> Vector:
        """The outer corner of the last voxel, in nm."""
        return np.add(self.low, np.multiply(self.scale, self.shape))


@dataclass(frozen=True)
class Level:
    """One resolution of a volume."""

    place: str
    """Of the volume."""
    path: str
    """Inside it."""
    grid: Grid
    order: tuple[int, ...]
    """Which stored axis is z, which y and which x; others have a length of one."""
    unknown: int | None = None
    """The value of voxels that are not annotated, where there is such a value."""
    access: Access = field(default_factory=Access)


class Budget:
    """How many bytes may still be kept in memory."""

    def __init__(self, size: float) -> None:
        self._left = size

    def take(self, size: float) -> bool:
        """Take room for so many bytes, if there is."""
        fits = size <= self._left
        self._left -= size if fits else 0
        return fits


class Source:
    """The voxels of a level; what lies in a region is read once and kept, where there is room.

    Args:
        level: Which voxels.
        low: First voxel of the region.
        high: ... and the one after its last.
        budget: The room for all sources of a data set.
    """

    def __init__(self, level: Level, low: NDArray[np.int64], high: NDArray[np.int64], budget: Budget) -> None:
        self.level = level
        self._low = np.clip(low, 0, level.grid.shape)
        self._high = np.clip(high, self._low, level.grid.shape)
        self._budget = budget
        self._kept: NDArray[Any] | None = None
        self._asked = False

    def read(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[Any]:
        """Return the voxels [z, y, x] from `low` to before `high`, which are inside the level."""
        inside = bool((low >= self._low).all() and (high <= self._high).all())
        if inside and not self._asked:
            array = _array(self.level)
            self._asked = True
            if self._budget.take(float(np.prod(self._high - self._low)) * array.dtype.itemsize):
                self._kept = _block(self.level, self._low, self._high)
        if inside and self._kept is not None:
            return self._kept[_slices(low - self._low, high - self._low)]
        return _block(self.level, low, high)


class TooCoarseError(DataError):
    """A volume has no level that is fine enough."""


def read_level(place: str, scale: Vector, access: Access | None = None) -> Level:
    """Return a volume's coarsest level whose voxels are no larger than asked for on any axis.

    Args:
        place: Folder or URI of the volume, with the multiscales of OME-NGFF 0.4 or 0.5.
        scale: Voxel size along z, y and x, in nm.
        access: How stores are read.

    Raises:
        TooCoarseError: All levels are coarser.
        DataError: It is no such volume, or its axes, units or transformations cannot be meant.
    """
    access = access or Access()
    group = open_group(place, access)
    image = _image(place, dict(group.attrs))
    try:
        names, units = _axes(place, image)
        shared = image.get("coordinateTransformations") or ()
        levels = {
            data["path"]: _places(place, (*data["coordinateTransformations"], *shared), units)
            for data in image["datasets"]
        }
        spatial = [names.index(name) for name in AXES]
        path = _fitting(place, {path: size[spatial] for path, (size, _) in levels.items()}, scale)
        size, origin = levels[path]
        array = _level_of(group, place, path)
        return Level(place, path, _grid(place, array, names, origin, size), tuple(spatial), _unknown(array), access)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise DataError(f"{place}: its multiscales are not as OME-NGFF 0.4 and 0.5 have them: {error!r}.") from error


def is_as_fine_as(place: str, scale: Vector, access: Access | None = None) -> bool:
    """Tell whether a volume has a level whose voxels are no larger than asked for on any axis.

    Raises:
        DataError: It is no such volume.
    """
    try:
        read_level(place, scale, access)
    except TooCoarseError:
        return False
    return True


def _image(place: str, attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the first of the multiscales, in whatever way they are written."""
    try:
        image = (
            multiscales_of_n5(attributes)
            if is_n5(place)
            else next(iter(attributes.get("ome", attributes).get("multiscales") or ()), None)
        )
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise DataError(f"{place}: its attributes do not say where voxels are: {error!r}.") from error
    if not image:
        raise DataError(f"{place}: has no multiscales of OME-NGFF in its attributes. Give the group of the levels.")
    return image


def _level_of(group: Any, place: str, path: str) -> Any:
    try:
        array = group[path]
    except KeyError as error:
        raise DataError(f"{place}: its multiscales name the level {path!r}, and there is none.") from error
    except ValueError as error:
        more = f" Of N5, {', '.join(COMPRESSIONS)} are read; zarrify converts it." if is_n5(place) else ""
        raise DataError(f"{place}: the level {path!r} cannot be opened: {error}.{more}") from error
    if array.dtype.kind not in NUMBERS:
        raise DataError(f"{place}: the level {path!r} holds {array.dtype}, and numbers are needed.")
    return array


def _fitting(place: str, sizes: Mapping[str, Vector], scale: Vector) -> str:
    fit = {path: float(size.prod()) for path, size in sizes.items() if (size <= scale * (1 + SAME)).all()}
    if not fit:
        finest = min(sizes.values(), key=lambda size: float(size.prod()))
        raise TooCoarseError(
            f"{place}: its finest voxels are {_shown(finest)} nm, and {_shown(scale)} nm are asked for."
        )
    return max(fit, key=fit.__getitem__)


def _shown(scale: Vector) -> str:
    return " x ".join(f"{size:g}" for size in scale)


def _axes(place: str, image: Mapping[str, Any]) -> tuple[list[str], list[float]]:
    names = [str(axis["name"]) for axis in image["axes"]]
    if not set(AXES) <= set(names):
        raise DataError(f"{place}: has the axes {', '.join(names)}; z, y and x are needed.")
    units = []
    for axis in image["axes"]:
        unit = axis.get("unit") or "nanometer"
        if axis["name"] in AXES and unit not in NANOMETRES:
            raise DataError(f"{place}: axis {axis['name']} is in {unit!r}. Known: {', '.join(NANOMETRES)}.")
        units.append(NANOMETRES.get(unit, 1.0))
    return names, units


def _places(place: str, transforms: Sequence[Mapping[str, Any]], units: list[float]) -> tuple[Vector, Vector]:
    """Return voxel size and centre of the first voxel along all axes, in nm where these are lengths."""
    scale, origin = np.ones(len(units)), np.zeros(len(units))
    for transform in transforms:
        if transform["type"] == "scale":
            scale, origin = scale * transform["scale"], origin * transform["scale"]
        elif transform["type"] == "translation":
            origin = origin + transform["translation"]
        elif transform["type"] != "identity":
            raise DataError(f"{place}: has a transformation {transform['type']!r}, which is not known.")
    if not (np.isfinite(scale) & (scale > 0) & np.isfinite(origin)).all():
        raise DataError(f"{place}: has voxels of {scale.tolist()} at {origin.tolist()}, which are none.")
    return scale * units, origin * units


def _grid(place: str, array: Any, names: Sequence[str], origin: Vector, scale: Vector) -> Grid:
    shape = dict(zip(names, array.shape, strict=True))
    if any(size != 1 for name, size in shape.items() if name not in AXES):
        raise DataError(
            f"{place}: has {array.shape} voxels along {', '.join(names)}, and volumes of one channel are read."
        )
    at = [names.index(name) for name in AXES]
    return Grid(tuple(origin[at].tolist()), tuple(scale[at].tolist()), tuple(shape[name] for name in AXES))


def _unknown(array: Any) -> int | None:
    """Return what CellMap's annotations have in voxels that nobody looked at."""
    node: Any = dict(array.attrs)
    for key in ("cellmap", "annotation", "annotation_type", "encoding", "unknown"):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, int) else None


def open_anew() -> None:
    """Forget which volumes this process has open: they may have been written anew since."""
    _opened.cache_clear()
    forget_stores()


@lru_cache(maxsize=4096)
def _opened(place: str, path: str, access: Access, _process: int) -> Any:
    return open_group(place, access)[path]


def _array(level: Level) -> Any:
    return _opened(level.place, level.path, level.access, os.getpid())


def _block(level: Level, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[Any]:
    array = _array(level)
    stored: list[Any] = [0] * array.ndim
    for axis, part in zip(level.order, _slices(low, high), strict=True):
        stored[axis] = part
    try:
        block = np.asarray(array[tuple(stored)])
    except (OSError, RuntimeError, ValueError, TypeError) as error:  # whatever its codec raises
        where = ", ".join(f"{first} to {last - 1}" for first, last in zip(low.tolist(), high.tolist(), strict=True))
        raise DataError(f"{level.place}: voxels {where} of {level.path!r} cannot be read: {error}") from error
    rank = np.argsort(np.argsort(level.order))  # where each of z, y, x is, the others being gone
    return np.ascontiguousarray(block.transpose(rank))


def _slices(low: NDArray[np.int64], high: NDArray[np.int64]) -> tuple[slice, ...]:
    return tuple(itertools.starmap(slice, zip(low.tolist(), high.tolist(), strict=True)))
