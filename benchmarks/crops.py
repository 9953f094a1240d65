"""What a random crop of a Zarr volume costs: read by us, and by cellmap-data, out of the same files.

cellmap-data needs zarr 2, and so a folder of its own, which CELLMAP_DATA names:

    pip install --no-deps --target FOLDER cellmap-data zarr==2.18.7 numcodecs==0.15.1 asciitree fasteners deprecated \
         wrapt universal-pathlib pathlib-abc ipython traitlets decorator
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.commands import Asked
    from benchmarks.figures import Measured, Row

TURNS = 5
BATCH, ITEMS, CLASSES = 2, 40, ["nuc", "er"]
VOXELS, CHUNK, DATASETS, CROPS = 256, 64, 2, 3
TURNED: dict[str, dict[str, Any]] = {
    "mirrored and transposed": {
        "mirror": {"axes": {"x": 0.5, "y": 0.5, "z": 0.5}},
        "transpose": {"axes": ["x", "y", "z"]},
    },
    "rotated, too": {
        "mirror": {"axes": {"x": 0.5, "y": 0.5, "z": 0.5}},
        "transpose": {"axes": ["x", "y", "z"]},
        "rotate": {"axes": {"z": [-180, 180]}},
    },
}
SHAPES = {"64^3": [64, 64, 64], "128^2": [1, 128, 128]}
OURS, READING, CELLMAP = "Asparagus", "Asparagus, nothing kept in memory", "cellmap-data"
Loader = Iterable[dict[str, Any]]


def write(root: Path) -> None:
    """Write volumes as the challenge's: images of 256^3, each with three crops of 128^3 that have two classes."""
    import numpy as np
    import zarr

    def volume(place: Path, values: Any, at: float) -> None:
        group = zarr.open_group(str(place), mode="w", zarr_format=2)
        group.create_array("s0", data=values, chunks=(CHUNK,) * 3)
        axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
        transforms = [{"type": "scale", "scale": [8.0] * 3}, {"type": "translation", "translation": [at] * 3}]
        level = {"path": "s0", "coordinateTransformations": transforms}
        group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [level]}]

    rng = np.random.default_rng(0)
    lines = []
    for number in range(DATASETS):
        base = root / f"jrc_{number}" / f"jrc_{number}.zarr" / "recon-1"
        volume(base / "em", rng.integers(0, 255, (VOXELS,) * 3, dtype="u1"), 0.0)
        for crop in range(CROPS):
            for name in CLASSES:
                label = np.kron(rng.random((16,) * 3) < 0.5, np.ones((8,) * 3)).astype("u1")
                volume(base / f"crop{crop}" / name, label, 8.0 * 64)
            lines.append(f'"train","{base}/em","{base}/crop{crop}/[{",".join(CLASSES)}]"\n')
    (root / "datasplit.csv").write_text("".join(lines))


def ours(root: Path, shape: list[int], turned: dict[str, Any], memory_mb: int = 512) -> Loader:
    from asparagus.data.zarr.module import CropDataModule

    window = {"shape": shape, "scale": [8, 8, 8]}
    sizes: dict[str, Any] = {"batch_size": BATCH, "samples_per_epoch": ITEMS, "memory_mb": memory_mb}
    module = CropDataModule(
        str(root / "datasplit.csv"), CLASSES, input_array_info=window, spatial_transforms=turned, **sizes
    )
    module.setup()
    return module.train_dataloader()


def cellmap(root: Path, shape: list[int], turned: dict[str, Any]) -> Loader:
    _stand_in_for_torchvision()
    from cellmap_data import CellMapDataLoader, CellMapDataset, CellMapMultiDataset
    from torch.utils.data import RandomSampler

    arrays = {"shape": shape, "scale": [8.0, 8.0, 8.0]}
    rows = [line.strip().strip('"').split('","') for line in (root / "datasplit.csv").read_text().splitlines()]
    sets = [
        CellMapDataset(raw, labels, CLASSES, {"input": arrays}, {"output": arrays}, spatial_transforms=turned, pad=True)
        for _, raw, labels in rows
    ]
    data = CellMapMultiDataset(sets, CLASSES, {"input": arrays}, {"output": arrays})
    sampler = RandomSampler(data, replacement=True, num_samples=ITEMS)
    loader: Loader = CellMapDataLoader(data, CLASSES, batch_size=BATCH, sampler=sampler).loader
    return loader


def _stand_in_for_torchvision() -> None:
    """Do without torchvision, of whose classes cellmap-data's reader uses none: the CPU's torch has no build of it."""

    class Anything(ModuleType):
        __path__: list[str] = []  # noqa: RUF012 - a package without files

        def __getattr__(self, name: str) -> Any:
            return type(name, (), {"__init__": lambda *_, **__: None})

    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.v2")
    sys.modules.update({name: Anything(name) for name in names})
    for name in names[1:]:
        above, _, own = name.rpartition(".")
        setattr(sys.modules[above], own, sys.modules[name])


WAYS: dict[str, Callable[..., Loader]] = {
    OURS: ours,
    READING: lambda *given: ours(*given, memory_mb=0),
    CELLMAP: cellmap,
}


def milliseconds(way: str, root: Path, shape: str, turned: str) -> float:
    """Take two epochs in this process; returns the CPU time of a crop of the second."""
    import torch

    torch.set_num_threads(1)
    loader = WAYS[way](root, SHAPES[shape], TURNED[turned])
    for _ in range(2):
        begun = time.process_time()
        items = sum(len(next(iter(batch.values()))) for batch in loader)
        taken = time.process_time() - begun
    return taken * 1000 / items


def apart(way: str, *words: str, side: str | None) -> float:
    """Measure in a process of its own: two versions of zarr do not live in one."""
    paths = [side] if way == CELLMAP and side else []
    path = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, __file__, way, *words]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{way}: {done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


def measure(asked: Asked) -> Measured:
    """Cut the same kind of crops by every way, in turns."""
    from benchmarks.figures import Measured

    side, turns = os.environ.get("CELLMAP_DATA"), asked.turns(TURNS)
    ways = [way for way in WAYS if way != CELLMAP or side]
    found: dict[tuple[str, str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        for turn, shape, turned, way in product(range(turns), SHAPES, TURNED, ways):
            found.setdefault((shape, turned, way), []).append(now := apart(way, folder, shape, turned, side=side))
            print(f"{turn + 1}/{turns}  {shape}, {turned}: {now:.1f} ms CPU, {way}", flush=True)
    about = (
        f"{DATASETS} images of {VOXELS}^3 voxels (8 bits, OME-NGFF 0.4, chunks of {CHUNK}^3), each with {CROPS} crops "
        f"of 128^3 with {len(CLASSES)} classes; batches of {BATCH}, one process, one thread, CPU time of the second "
        f"{ITEMS} crops. Medians of {turns} turns."
    )
    remarks = (
        () if side else ("cellmap-data was not measured: CELLMAP_DATA names no folder with it (benchmarks/crops.py).",)
    )
    return Measured(about, tuple(row(*key, runs, found) for key, runs in found.items()), remarks)


def row(shape: str, turned: str, way: str, runs: list[float], found: dict[tuple[str, str, str], list[float]]) -> Row:
    from benchmarks.figures import Row

    what, middle, rivals = f"{way}: {shape}, {turned}", statistics.median(runs), found.get((shape, turned, CELLMAP))
    if way == CELLMAP or not rivals:
        return Row(what, middle, "ms")
    ratios = [run / other for run, other in zip(runs, rivals, strict=True)]
    return Row(what, middle, "ms", CELLMAP, statistics.median(ratios))


if __name__ == "__main__":
    name, place, *kind = sys.argv[1:]
    print(milliseconds(name, Path(place), *kind))
