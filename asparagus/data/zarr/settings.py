"""What is cut out of volumes, and how it is turned, as configs say it; checked without torch and zarr."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asparagus.errors import ConfigError, one_of

AXES = ("z", "y", "x")
SHAPE, SCALE = (1, 128, 128), (8.0, 8.0, 8.0)
TRANSFORMS: dict[str, Any] = {
    "mirror": {"axes": {"x": 0.5, "y": 0.5}},
    "transpose": {"axes": ["x", "y"]},
    "rotate": {"axes": {"x": [-180, 180], "y": [-180, 180]}},
}
"""What training crops undergo unless they are told otherwise (SEEDS E20)."""
KINDS = tuple(TRANSFORMS)
DISK_GB = 50.0


@dataclass(frozen=True)
class Access:
    """How object stores are read."""

    anonymous: bool | None = None
    """As of `asparagus.storage.store.Store`."""
    disk_gb: float = DISK_GB
    """How much of them (10^9 bytes) this machine keeps on disk."""


@dataclass(frozen=True)
class Window:
    """So many voxels of such a size."""

    shape: tuple[int, ...]
    """Voxels along z, y and x."""
    scale: tuple[float, ...]
    """Voxel size in nm."""

    @property
    def dimensions(self) -> int:
        """2 where there is one voxel along z, else 3."""
        return 2 if self.shape[0] == 1 else len(self.shape)

    @property
    def voxels(self) -> tuple[int, ...]:
        """The shape of a tensor of it: [y, x] or [z, y, x]."""
        return self.shape[-self.dimensions :]


def window_of(info: Any, key: str, default: Window | None = None) -> Window:
    """Read `{"shape": (z, y, x), "scale": (z, y, x)}` (SEEDS E9, E10); what is left out is the default's.

    Raises:
        ConfigError: It is no such section.
    """
    default = default or Window(SHAPE, SCALE)
    if info is None:
        return default
    if not isinstance(info, Mapping) or info.keys() - {"shape", "scale"}:
        raise ConfigError(f"{key}: {info!r} has to be {{'shape': [z, y, x], 'scale': [z, y, x]}}.")
    shape = _three(info.get("shape", default.shape), f"{key}.shape", "whole numbers of voxels")
    if any(size != int(size) for size in shape):
        raise ConfigError(f"{key}.shape: {list(shape)} has to be three whole numbers of voxels, along z, y and x.")
    scale = _three(info.get("scale", default.scale), f"{key}.scale", "voxel sizes in nm")
    return Window(tuple(int(size) for size in shape), scale)


def check_transforms(given: Any, key: str = "data.spatial_transforms") -> dict[str, Any]:
    """Return spatial transforms that can be carried out.

    Raises:
        ConfigError: An unknown transform or axis, or a value that cannot be meant.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{key}: {given!r} is no section. Give {TRANSFORMS}, or {{}} for none.")
    for kind, section in given.items():
        if kind not in KINDS:
            raise ConfigError(one_of(f"{key}.{kind}", kind, KINDS))
        axes = section.get("axes") if isinstance(section, Mapping) else None
        if not isinstance(axes, Mapping if kind != "transpose" else Sequence) or isinstance(axes, str):
            raise ConfigError(f"{key}.{kind}: {section!r} has to be like {TRANSFORMS[kind]}.")
        for axis in axes:
            if axis not in AXES:
                raise ConfigError(one_of(f"{key}.{kind}.axes", axis, AXES))
        _check_values(kind, axes, f"{key}.{kind}.axes")
    return dict(given)


def _check_values(kind: str, axes: Any, key: str) -> None:
    if kind == "transpose":
        if len(set(axes)) != len(axes):
            raise ConfigError(f"{key}: {list(axes)} names an axis twice.")
        return
    for axis, value in axes.items():
        if kind == "mirror" and not (_is_number(value) and 0 <= value <= 1):
            raise ConfigError(f"{key}.{axis}: {value!r} is no probability. Give 0 to 1.")
        if kind == "rotate" and not _is_range(value):
            raise ConfigError(f"{key}.{axis}: {value!r} is no range of degrees. Give [-180, 180], or less.")


def _is_range(value: Any) -> bool:
    is_pair = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2  # noqa: PLR2004
    return is_pair and all(_is_number(end) for end in value) and value[0] <= value[1]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _three(values: Any, key: str, what: str) -> tuple[float, ...]:
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    if not is_list or len(values) != len(AXES) or not all(_is_number(size) and size > 0 for size in values):
        raise ConfigError(f"{key}: {values!r} has to be three positive {what}, along z, y and x.")
    return tuple(float(size) for size in values)
