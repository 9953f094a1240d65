"""N5 volumes: read by zarr-n5, and where their voxels are said as OME-NGFF says it.

N5 counts axes the other way round than numpy: its arrays are [x, y, z]. What is written for numpy is turned round here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asparagus.errors import ConfigError

if TYPE_CHECKING:
    from zarr.abc.store import Store

AXES = ("x", "y", "z")
COMPRESSIONS = ("raw", "gzip", "zstd", "blosc")
"""What zarr-n5 reads."""


def readable(store: Store) -> Store:
    """Return a store in which N5 looks like Zarr.

    Raises:
        ConfigError: zarr-n5 is not installed.
    """
    try:
        from zarr_n5 import N5WrapperStore
    except ModuleNotFoundError as error:
        raise ConfigError("data: N5 volumes need zarr-n5: pip install 'asparagus[bio]'.") from error
    wrapped: Store = N5WrapperStore(store)
    return wrapped


def image_of(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the attributes of an N5 pyramid as an image of OME-NGFF's, its axes as the arrays have them.

    Three ways to write them are known: OME-NGFF's own, COSEM's (`transform` of each level), and that of neuroglancer
    and the N5 viewer (`pixelResolution` or `resolution`, and `scales` or `downsamplingFactors`).

    Returns:
        None if there is none of these.
    """
    for image in attributes.get("multiscales") or ():
        return _of_ome(image) if "axes" in image else _of_cosem(image)
    return _of_viewer(attributes)


def _of_ome(image: Mapping[str, Any]) -> dict[str, Any]:
    levels = [
        {"path": level["path"], "coordinateTransformations": _turned(level["coordinateTransformations"])}
        for level in image["datasets"]
    ]
    shared = _turned(image.get("coordinateTransformations") or ())
    return {"axes": image["axes"][::-1], "datasets": levels, "coordinateTransformations": shared}


def _turned(transforms: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value if key == "type" else value[::-1] for key, value in one.items()} for one in transforms]


def _of_cosem(image: Mapping[str, Any]) -> dict[str, Any]:
    first = image["datasets"][0]["transform"]
    way = 1 if first.get("order") == "F" else -1
    levels = [
        _level(level["path"], level["transform"]["scale"][::way], level["transform"]["translate"][::way])
        for level in image["datasets"]
    ]
    return {"axes": _axes(first["axes"][::way], first["units"][::way]), "datasets": levels}


def _of_viewer(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    resolution = attributes.get("pixelResolution") or attributes.get("resolution")
    if not resolution:
        return None
    size, unit = (
        (resolution["dimensions"], resolution["unit"]) if isinstance(resolution, Mapping) else (resolution, "nm")
    )
    names = attributes.get("axes") or AXES[: len(size)]
    units = attributes.get("units") or [unit] * len(size)
    factors = attributes.get("scales") or attributes.get("downsamplingFactors") or [[1] * len(size)]
    levels = [
        # A voxel of a coarser level is the mean of `factor` of the finest, and lies in their middle.
        _level(
            f"s{number}",
            [voxel * by for voxel, by in zip(size, factor, strict=True)],
            [voxel * (by - 1) / 2 for voxel, by in zip(size, factor, strict=True)],
        )
        for number, factor in enumerate(factors)
    ]
    return {"axes": _axes(names, units), "datasets": levels}


def _axes(names: Sequence[str], units: Sequence[str]) -> list[dict[str, str]]:
    return [{"name": name, "unit": unit} for name, unit in zip(names, units, strict=True)]


def _level(path: str, scale: Sequence[float], translation: Sequence[float]) -> dict[str, Any]:
    transforms = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": translation}]
    return {"path": path, "coordinateTransformations": transforms}
