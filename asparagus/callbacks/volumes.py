"""Class maps as NIfTI files, where their case lies in space as far as the JSON beside it says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asparagus.data.transforms import middle_starts
from asparagus.errors import DataError

AXES = 3
"""Of a NIfTI image; a plane has a third one of size 1."""
SUFFIX = ".nii.gz"
ODD = re.compile(r"[^\w.+=-]+")


def map_file(folder: Path, case: str) -> Path:
    """Return the file for a case's class map: its name, with `.nii.gz` in place of `.pt` or what it has."""
    return folder / f"{ODD.sub('_', case.removesuffix('.pt').removesuffix(SUFFIX))}{SUFFIX}"


def write_map(file: Path, classes: Tensor, properties: Mapping[str, Any]) -> None:
    """Write a class map.

    Args:
        file: `<case>.nii.gz`; a reader sees the whole of it or none.
        classes: Class indices [H, W] or [H, W, D]; or boolean, a mask for each class before those axes: they stand last
            in the file.
        properties: Of the case (`affine_of`).
    """
    import nibabel

    masks = classes.movedim(0, -1) if classes.dtype == torch.bool else classes[..., None]
    volume = masks.to(torch.uint8 if int(masks.max()) <= torch.iinfo(torch.uint8).max else torch.int16).cpu()
    *inside, count = volume.shape
    inside += [1] * (AXES - len(inside))
    image = nibabel.Nifti1Image(
        volume.reshape(*inside, *([count] if count > 1 else [])).numpy(), affine_of(properties, inside)
    )
    image.header.set_xyzt_units("mm")
    file.parent.mkdir(parents=True, exist_ok=True)
    writing = file.with_name(f"writing.{file.name}")
    nibabel.save(image, writing)
    writing.replace(file)


def affine_of(properties: Mapping[str, Any], shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """Return the map from voxels to millimetres, float64 [4, 4].

    Args:
        properties: `affine` [4, 4] of the case; else `spacing` in millimetres per voxel and axis; else each voxel is
            a cube of one millimetre. `shape` of the case says where a map lies that is its middle alone.
        shape: Of the map.

    Raises:
        DataError: An affine that is no 4 x 4 matrix.
    """
    affine = np.eye(AXES + 1)
    if "affine" in properties:
        affine = np.array(properties["affine"], dtype=float)
        if affine.shape != (AXES + 1, AXES + 1):
            raise DataError(f"affine: {properties['affine']!r} beside a case is no matrix of 4 x 4 numbers.")
    elif spacing := properties.get("spacing"):
        affine[range(len(spacing)), range(len(spacing))] = spacing
    whole = properties.get("shape")
    if whole is not None and len(whole) == len(shape):
        affine[:AXES, AXES] += affine[:AXES, :AXES] @ middle_starts(whole, shape)
    return affine
