"""A DICOM series, one slice a file: read by pydicom and MONAI, once it is known that its slices make one volume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asparagus.errors import DataError

SLICE = ".dcm"
OF_ONE = {"SeriesInstanceUID": "series", "PatientID": "patients", "StudyInstanceUID": "studies"}
"""What all slices of a volume have in common, and what several of it are."""
UNEVEN = 0.1
"""Slices are evenly spaced if the gaps between them differ by no more than this share."""


def read_series(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the voxels of a DICOM file, or of a folder that holds one series, and their affine [4, 4] (RAS).

    Raises:
        DataError: The folder holds no slices, or those of several volumes, or not all of one.
        ValueError: They cannot be decoded.
    """
    import pydicom
    from monai.data.image_reader import PydicomReader

    files = _slices(path)
    slices = []
    for file in files:
        try:
            slices.append(pydicom.dcmread(file))
        except pydicom.errors.InvalidDicomError as error:
            raise ValueError(f"{file.name}: {error}") from error
    _must_be_one_volume(path, slices)
    reader = PydicomReader()
    reader.has_series = len(slices) > 1
    order = _along(path, slices)
    for number, index in enumerate(order, start=1):
        slices[index].InstanceNumber = number  # what MONAI goes by: scanners count otherwise, or not at all
    reader.filenames = [[str(file) for file in files]] if reader.has_series else [str(files[0])]
    try:
        array, about = reader.get_data(slices if reader.has_series else slices[0])
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(str(error)) from error  # compressed in a way that pydicom does not know
    return array, np.asarray(about["original_affine"])


def _slices(path: Path) -> list[Path]:
    """Return the slices of a folder: what is called so, or else what is DICOM by its first bytes."""
    from pydicom.misc import is_dicom

    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    called = [file for file in files if file.name.lower().endswith(SLICE)]
    found = called or [file for file in files if file.name != "DICOMDIR" and is_dicom(file)]
    if not found:
        raise DataError(f"{path}: holds no DICOM slices. Name a file, or the folder of a series.")
    return found


def _must_be_one_volume(path: Path, slices: Sequence[Any]) -> None:
    for one in slices:
        frames = int(getattr(one, "NumberOfFrames", None) or 1)
        if frames > 1 and not hasattr(one, "SegmentSequence"):  # of segmentations, MONAI knows the frames
            raise DataError(f"{path}: has {frames} frames in one file. Convert it to NIfTI first: dcm2niix.")
    for tag, what in OF_ONE.items():
        there = {str(getattr(one, tag, "")) for one in slices}
        if len(there) > 1:
            raise DataError(f"{path}: holds {len(there)} DICOM {what}; a folder is read as one. Give each its own.")


def _along(path: Path, slices: Sequence[Any]) -> list[int]:
    """Return the slices' order along their normal; as they are numbered, where one does not say where it lies.

    Raises:
        DataError: They are turned differently, lie at the same place, or one is missing between others.
    """
    if len(slices) == 1:
        return [0]
    if not all(hasattr(one, "ImagePositionPatient") and hasattr(one, "ImageOrientationPatient") for one in slices):
        return sorted(range(len(slices)), key=lambda index: int(getattr(slices[index], "InstanceNumber", None) or 0))
    turned = np.array([one.ImageOrientationPatient for one in slices], float)
    if np.abs(turned - turned[0]).max() > UNEVEN:
        raise DataError(f"{path}: its slices are turned differently: a localizer? Leave it out, or give each its own.")
    normal = np.cross(turned[0, :3], turned[0, 3:])
    heights = np.array([one.ImagePositionPatient for one in slices], float) @ normal
    order = np.argsort(heights, kind="stable")
    gaps = np.diff(heights[order])
    usual = float(np.median(gaps[gaps > gaps.max() * UNEVEN])) if gaps.max() > 0 else 0.0
    if gaps.min() <= usual * UNEVEN:
        raise DataError(
            f"{path}: {int((gaps <= usual * UNEVEN).sum())} of its {len(slices)} slices lie where another lies: points "
            "in time, echoes? Give each volume its own folder."
        )
    if gaps.max() - gaps.min() > UNEVEN * usual:
        raise DataError(
            f"{path}: its slices lie {gaps.min():.4g} to {gaps.max():.4g} mm apart: is one missing? Complete it."
        )
    return [int(index) for index in order]
