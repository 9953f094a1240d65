"""Small OME-NGFF volumes for tests, written with zarr as the challenge's are."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

AXES = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
Three = Sequence[float]


def write_volume(
    place: Path, levels: Sequence[tuple[Any, Three, Three]], *, version: str = "0.4", axes: Any = AXES, **more: Any
) -> None:
    """Write a group with levels s0, s1, ...: each an array, its voxel size and the centre of its first voxel."""
    group = zarr.open_group(str(place), mode="w", zarr_format=2 if version == "0.4" else 3)
    listed = []
    for number, (values, scale, origin) in enumerate(levels):
        group.create_array(f"s{number}", data=np.asarray(values), chunks=tuple(min(16, n) for n in values.shape))
        transforms = [{"type": "scale", "scale": list(scale)}, {"type": "translation", "translation": list(origin)}]
        listed.append({"path": f"s{number}", "coordinateTransformations": transforms})
    image = {"axes": axes, "datasets": listed, "name": "", "coordinateTransformations": [], **more}
    if version == "0.4":
        group.attrs["multiscales"] = [{**image, "version": "0.4"}]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [image]}


def pyramid(values: Any, scale: float, origin: float = 0.0, depth: int = 2) -> list[tuple[Any, Three, Three]]:
    """Return levels of halved resolution; each voxel is the mean of eight, and lies in their middle."""
    levels = []
    for _ in range(depth):
        levels.append((values, (scale,) * 3, (origin,) * 3))
        z, y, x = (size // 2 for size in values.shape)
        halved = values[: 2 * z, : 2 * y, : 2 * x].reshape(z, 2, y, 2, x, 2).mean((1, 3, 5))
        values, origin, scale = halved.astype(values.dtype), origin + scale / 2, scale * 2
    return levels


def write_data(root: Path, crops: Mapping[str, Mapping[str, Sequence[str]]], *, size: int = 48, at: int = 8) -> Path:
    """Write volumes of `size` voxels of 8 nm, with crops that lack `at` voxels on each side.

    Args:
        root: The data folder.
        crops: Data set -> crop -> the classes that it is annotated with.
        size: Voxels of an image along each axis.
        at: Where crops begin.

    A voxel is a nucleus where it is bright, and the reticulum where it is dark: what can be learnt.
    """
    for number, (dataset, of_crops) in enumerate(crops.items()):
        base = root / dataset / f"{dataset}.zarr" / "recon-1"
        rng = np.random.default_rng(number)
        bright = np.kron(rng.random((size // 8,) * 3) < 0.5, np.ones((8,) * 3)).astype(bool)
        image = np.where(bright, 200, 50).astype(np.uint8)
        write_volume(base / "em" / "fibsem-uint8", pyramid(image, 8.0))
        inner = (slice(at, size - at),) * 3
        for crop, classes in of_crops.items():
            for name in classes:
                label = (bright if name == "nuc" else ~bright)[inner].astype(np.uint8)
                write_volume(base / "labels" / "groundtruth" / crop / name, [(label, (8.0,) * 3, (8.0 * at,) * 3)])
    return root


def write_n5(place: Path, values: Any, attributes: Mapping[str, Any], compression: str = "gzip") -> None:
    """Write a group with the level s0, by N5's own specification: blocks of 16, big-endian, x varying fastest.

    Args:
        place: The group.
        values: [z, y, x]; N5 has them as [x, y, z].
        attributes: Of the group.
        compression: gzip or raw.
    """
    values = np.asarray(values)
    array = {
        "dimensions": values.shape[::-1],
        "blockSize": [16] * values.ndim,
        "dataType": str(values.dtype),
        "compression": {"type": compression},
    }
    for folder, content in ((place, attributes), (place / "s0", array)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "attributes.json").write_text(json.dumps(content))
    for at in np.ndindex(*(-(-size // 16) for size in values.shape)):
        block = values[tuple(slice(16 * first, 16 * first + 16) for first in at)]
        header = struct.pack(f">HH{block.ndim}I", 0, block.ndim, *block.shape[::-1])
        content = block.astype(block.dtype.newbyteorder(">")).tobytes()
        file = place / "s0" / "/".join(map(str, at[::-1]))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(header + (gzip.compress(content) if compression == "gzip" else content))
