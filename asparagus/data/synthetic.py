"""Synthetic volumes with learnable structure (SEEDS A10): to pretrain, segment and classify, and to regress on.

All share one generator, so that what is learnt on one helps on the others. A volume is smooth noise in which
lie balls, boxes and shells with a core. A ball is as bright as a shell and a box as dark as a core: telling them apart
takes context, not a threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asparagus.data.layout import Task
from asparagus.data.write import Case, Progress, Recipe, write_task
from asparagus.errors import DataError, one_of

SEED = 421890
# 32 voxels: the smallest cube that survives four poolings and leaves 2 voxels a side for an instance norm.
SIZE = 32
SMALLEST = 16
CLASS_NAMES = ["background", "ball", "box", "shell", "core"]
KINDS = ["ball", "box", "shell"]
# Mean intensity of each class, in standard deviations of the noise.
INTENSITY = (0.0, 2.2, -2.0, 2.2, -2.0)
# Half the edge of a box and the radius of a core, as shares of the structure's radius.
BOX_REACH = 0.7
CORE_REACH = 0.6
LOCATIONS_PER_CLASS = 200

Array = np.ndarray[Any, Any]


def make_synthetic_pretrain(
    data_root: str | Path, *, cases: int = 64, size: int = SIZE, seed: int = SEED, progress: Progress | None = None
) -> Task:
    """Make Task998_LauritSyn: images only, [1, size, size, size]."""
    return _make(
        "Task998_LauritSyn",
        data_root,
        _pretrain_case,
        {"n_classes": 1},
        cases=cases,
        size=size,
        seed=seed,
        progress=progress,
    )


def make_synthetic_seg(
    data_root: str | Path, *, cases: int = 40, size: int = SIZE, seed: int = SEED, progress: Progress | None = None
) -> Task:
    """Make Task997_LauritSynSeg: [2, size, size, size], the label (5 classes with background) in the last channel."""
    config = {"n_classes": len(CLASS_NAMES), "class_names": CLASS_NAMES}
    return _make(
        "Task997_LauritSynSeg", data_root, _seg_case, config, cases=cases, size=size, seed=seed, progress=progress
    )


def make_synthetic_cls(
    data_root: str | Path, *, cases: int = 60, size: int = SIZE, seed: int = SEED, progress: Progress | None = None
) -> Task:
    """Make Task996_LauritSynCls: [image, label]; the label is the kind of structure that the volume holds."""
    config = {"n_classes": len(KINDS), "class_names": KINDS}
    return _make(
        "Task996_LauritSynCls", data_root, _cls_case, config, cases=cases, size=size, seed=seed, progress=progress
    )


def make_synthetic_reg(
    data_root: str | Path, *, cases: int = 60, size: int = SIZE, seed: int = SEED, progress: Progress | None = None
) -> Task:
    """Make Task995_LauritSynReg: [image, label]; the label is how much of the volume is structure, in percent."""
    config = {"n_classes": 1, "class_names": ["filled_percent"]}
    return _make(
        "Task995_LauritSynReg", data_root, _reg_case, config, cases=cases, size=size, seed=seed, progress=progress
    )


SYNTHETIC: dict[str, Callable[..., Task]] = {
    "Task995_LauritSynReg": make_synthetic_reg,
    "Task996_LauritSynCls": make_synthetic_cls,
    "Task997_LauritSynSeg": make_synthetic_seg,
    "Task998_LauritSyn": make_synthetic_pretrain,
}


def make_synthetic(
    name: str,
    data_root: str | Path,
    *,
    cases: int | None = None,
    size: int = SIZE,
    seed: int = SEED,
    progress: Progress | None = None,
) -> Task:
    """Make the synthetic task called `name`; `cases=None` makes as many as the task has by default.

    Raises:
        DataError: no such task, a size or number of cases that cannot be made, or a folder that is taken.
    """
    if name not in SYNTHETIC:
        raise DataError(one_of("task", name, SYNTHETIC))
    given = {} if cases is None else {"cases": cases}
    return SYNTHETIC[name](data_root, size=size, seed=seed, progress=progress, **given)


def _make(
    name: str,
    data_root: str | Path,
    build: Callable[[int, int, int], Case],
    config: dict[str, Any],
    *,
    cases: int,
    size: int,
    seed: int,
    progress: Progress | None,
) -> Task:
    if size < SMALLEST:
        raise DataError(
            f"size: {size} voxels leave no room for structures. At least {SMALLEST}; the default is {SIZE}."
        )
    if cases < 1 or seed < 0:
        raise DataError(f"cases={cases}, seed={seed}: cases must be at least 1 and the seed not negative.")
    recipe = Recipe(
        name=name,
        config={**config, "n_modalities": 1, "dimensions": 3, "shape": [size] * 3},
        arguments={"maker": "synthetic", "cases": cases, "size": size, "seed": seed},
        n_cases=cases,
    )
    return write_task(data_root, recipe, lambda index: build(seed, index, size), progress)


def _pretrain_case(seed: int, index: int, size: int) -> Case:
    rng = _rng(seed, index, stream=0)
    image, _ = _volume(rng, size, _mixed_kinds(rng))
    return Case(torch.from_numpy(image[None]), _properties(size))


def _seg_case(seed: int, index: int, size: int) -> Case:
    rng = _rng(seed, index, stream=1)
    image, label = _volume(rng, size, _mixed_kinds(rng))
    properties = {**_properties(size), "foreground_locations": _locations(rng, label)}
    return Case(torch.from_numpy(np.stack([image, label.astype(np.float32)])), properties)


def _cls_case(seed: int, index: int, size: int) -> Case:
    rng = _rng(seed, index, stream=2)
    kind = index % len(KINDS)  # balanced by construction
    image, _ = _volume(rng, size, [kind] * int(rng.integers(3, 6)))
    return Case([torch.from_numpy(image[None]), torch.tensor(kind)], {**_properties(size), "label": kind})


def _reg_case(seed: int, index: int, size: int) -> Case:
    rng = _rng(seed, index, stream=3)
    image, label = _volume(rng, size, _mixed_kinds(rng))
    filled = 100 * float((label > 0).mean())
    return Case([torch.from_numpy(image[None]), torch.tensor([filled])], {**_properties(size), "label": filled})


def _rng(seed: int, index: int, *, stream: int) -> np.random.Generator:
    # The stream keeps the tasks apart: a case that is pretrained on must not be one that is validated on.
    return np.random.default_rng([seed, stream, index])


def _mixed_kinds(rng: np.random.Generator) -> list[int]:
    return [*range(len(KINDS)), *(int(kind) for kind in rng.integers(0, len(KINDS), size=2))]


def _volume(rng: np.random.Generator, size: int, kinds: list[int]) -> tuple[Array, Array]:
    """Return a z-normalised float32 image and its uint8 label, both [size, size, size]."""
    label = np.zeros((size,) * 3, np.uint8)
    taken: list[tuple[Array, float]] = []
    for kind in kinds:
        place = _free_place(rng, size, taken)
        if place is not None:
            taken.append(place)
            _draw(rng, label, kind, *place)
    image = np.asarray(INTENSITY)[label] + _background(rng, size)
    return ((image - image.mean()) / image.std()).astype(np.float32), label


def _background(rng: np.random.Generator, size: int) -> Array:
    """Return smooth noise plus fine noise, [size, size, size]."""
    coarse = torch.from_numpy(rng.standard_normal((1, 1) + (max(2, size // 8),) * 3))
    smooth = torch.nn.functional.interpolate(coarse, size=(size,) * 3, mode="trilinear", align_corners=True)
    return np.asarray(0.8 * smooth[0, 0].numpy() + 0.5 * rng.standard_normal((size,) * 3))


def _free_place(
    rng: np.random.Generator, size: int, taken: list[tuple[Array, float]], tries: int = 40
) -> tuple[Array, float] | None:
    """Return a centre and a radius in voxels that touch nothing placed so far, or None when the volume is full."""
    for _ in range(tries):
        radius = float(rng.uniform(0.13, 0.21)) * size
        centre = rng.uniform(radius, size - radius, size=3)
        if all(np.linalg.norm(centre - other) > radius + reach for other, reach in taken):
            return centre, radius
    return None


def _draw(rng: np.random.Generator, label: Array, kind: int, centre: Array, radius: float) -> None:
    """Write one structure into `label`, in place."""
    stretch = rng.uniform(0.8, 1.0, size=3)
    grid = np.indices(label.shape).transpose(1, 2, 3, 0)
    offset = (grid - centre) / (radius * stretch)
    if KINDS[kind] == "box":
        label[np.abs(offset).max(-1) < BOX_REACH] = CLASS_NAMES.index("box")
        return
    distance = np.linalg.norm(offset, axis=-1)
    label[distance < 1] = CLASS_NAMES.index(KINDS[kind])
    if KINDS[kind] == "shell":
        label[distance < CORE_REACH] = CLASS_NAMES.index("core")


def _properties(size: int) -> dict[str, Any]:
    return {"original_shape": [size] * 3, "shape": [size] * 3, "spacing": [1.0, 1.0, 1.0]}


def _locations(rng: np.random.Generator, label: Array) -> dict[str, list[list[int]]]:
    """Return up to 200 voxel coordinates of each foreground class, for oversampling patches."""
    found = {}
    for value in range(1, len(CLASS_NAMES)):
        voxels = np.argwhere(label == value)
        keep = rng.permutation(len(voxels))[:LOCATIONS_PER_CLASS]
        found[str(value)] = voxels[np.sort(keep)].tolist()
    return found
