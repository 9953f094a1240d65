"""Images as scanners and microscopes leave them: NIfTI, MGH, MINC, NRRD, DICOM series, PNG, JPEG and TIFF, by MONAI."""

from __future__ import annotations

import gzip
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from asparagus.data.series import read_series
from asparagus.errors import DataError

Array = np.ndarray[Any, Any]

SPACE = 3
CHUNK = 1 << 22
BROKEN = (
    *(OSError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, UserWarning, zlib.error),
    *(MemoryError, OverflowError, RuntimeError, AssertionError, struct.error),  # headers that lie about sizes
)
"""What the readers raise over files that are cut off, not what they are called, or of another make."""


class Volume(NamedTuple):
    """An image as it was stored."""

    array: Array
    """[C, ...] float32; channels are what a file has more than axes in space: colours, points in time."""
    spacing: tuple[float, ...]
    """Millimetres per voxel and axis; 1 where the file knows none."""
    affine: Array | None
    """[4, 4]: voxels to millimetres in RAS; None where the file does not say how it lies in space."""
    source: str


def read_volume(path: Path) -> Volume:
    """Read an image file, or a folder with one DICOM series.

    Raises:
        DataError: It is not there, of an unknown kind, or broken.
    """
    if not path.exists():
        raise DataError(f"{path}: is not there.")
    reader = _reader(path)
    try:
        with warnings.catch_warnings():
            # A slice left out, spacings that differ within a series: MONAI warns, and the volume would be wrong.
            warnings.filterwarnings("error", category=UserWarning, module=r"(monai|asparagus)\.")
            array, spacing, affine = reader(path)
    except ImportError as error:
        raise DataError(f"{path}: {error.name} reads such files and is not installed: pip install it.") from error
    except BROKEN as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__}: {error}). Is it whole?") from error
    _must_lie_somewhere(path, spacing, affine)
    if array.dtype.fields is not None or np.iscomplexobj(array):
        raise DataError(f"{path}: its voxels are {array.dtype}, not single numbers. Convert it to real values first.")
    return Volume(_as_float32(array), tuple(float(length) for length in spacing), affine, str(path))


def _must_lie_somewhere(path: Path, spacing: Any, affine: Array | None) -> None:
    lengths = np.asarray(spacing, float)
    if not np.isfinite(lengths).all() or (lengths <= 0).any():
        raise DataError(f"{path}: its header says that voxels are {lengths.tolist()} mm wide. Mend the header.")
    if affine is not None and not (np.isfinite(affine).all() and abs(np.linalg.det(affine[:SPACE, :SPACE])) > 0):
        raise DataError(f"{path}: its header gives voxels no place in space: {affine.tolist()}. Mend the header.")


def is_readable(path: Path) -> bool:
    """Tell whether there is a reader for files of that name."""
    return path.name.lower().endswith(tuple(READERS))


def _as_float32(array: Array) -> Array:
    with np.errstate(over="ignore"):  # too large is infinite, and refused as that
        return np.ascontiguousarray(array, dtype=np.float32)


Read = tuple[Array, Any, Array | None]
"""Voxels [C, ...], spacing, affine."""


def _reader(path: Path) -> Callable[[Path], Read]:
    if path.is_dir():
        return _dicom
    for suffix, reader in READERS.items():
        if path.name.lower().endswith(suffix):
            return reader
    raise DataError(f"{path}: no reader for such files. Known: {', '.join(READERS)}, and folders with a DICOM series.")


def _nifti(path: Path) -> Read:
    import nibabel
    from monai.data.image_reader import NibabelReader
    from nibabel.affines import voxel_sizes
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    _must_be_whole(path)
    try:
        reader = NibabelReader()
        image = reader.read(path)
        array, about = reader.get_data(image)
    except (ImageFileError, HeaderDataError) as error:
        raise ValueError(str(error)) from error
    spacing = voxel_sizes(about["original_affine"])[:SPACE]
    # A NIfTI without either code says nothing of directions, and its affine is nibabel's guess.
    lies = not isinstance(image, nibabel.Nifti1Image) or bool(about["qform_code"] or about["sform_code"])
    return _channels_first(array, SPACE), spacing, np.asarray(about["original_affine"]) if lies else None


def _must_be_whole(path: Path) -> None:
    """Read a gzipped file to its end: nibabel stops at the last voxel, and the checksum stands behind it."""
    if path.name.lower().endswith(".gz"):
        with gzip.open(path) as stream:
            while stream.read(CHUNK):
                pass


def _nrrd(path: Path) -> Read:
    """Read a NRRD; an axis that is none of space (colours, points in time) holds channels."""
    import nrrd
    from nrrd.errors import NRRDError

    try:
        array, header = nrrd.read(str(path))
    except NRRDError as error:
        raise ValueError(str(error)) from error
    if (directions := header.get("space directions")) is None:
        return _channels_first(array, SPACE), np.nan_to_num(header.get("spacings", np.ones(array.ndim)), nan=1.0), None
    directions = np.asarray(directions, float)
    others = np.flatnonzero(np.isnan(directions).any(axis=1))
    array, directions = np.moveaxis(array, others, range(-len(others), 0)), np.delete(directions, others, axis=0)
    spacing = np.linalg.norm(directions, axis=1)
    signs = _to_ras(str(header.get("space", "left-posterior-superior")))
    if signs is None or directions.shape != (SPACE, SPACE):
        return _channels_first(array, SPACE), spacing, None
    affine = np.eye(SPACE + 1)
    affine[:SPACE, :SPACE] = signs[:, None] * directions.T
    affine[:SPACE, SPACE] = signs * np.asarray(header.get("space origin", np.zeros(SPACE)))
    return _channels_first(array, SPACE), spacing, affine


def _to_ras(space: str) -> Array | None:
    """Return which axes of a NRRD's space are mirrored in RAS; None for one that is no anatomy's."""
    words = space.lower().split("-")
    letters = "".join(word[0] for word in words[:SPACE]) if len(words) >= SPACE else words[0]
    known = {"ras": (1, 1, 1), "las": (-1, 1, 1), "lps": (-1, -1, 1)}
    return np.array(known[letters], float) if letters in known else None


def _dicom(path: Path) -> Read:
    return _in_space(*read_series(path))


def _picture(path: Path) -> Read:
    """Read a picture as rows and columns; the pages of a TIFF are slices, and stand last."""
    try:
        with Image.open(path) as image:
            pages = [np.asarray(page.copy()) for page in ImageSequence.Iterator(image)]
    except (UnidentifiedImageError, SyntaxError) as error:  # Pillow's word for a broken PNG
        raise ValueError(str(error)) from error
    if len({page.shape for page in pages}) > 1:
        raise DataError(f"{path}: its {len(pages)} pages differ in size, so they are no volume.")
    array = np.stack(pages, axis=-1) if len(pages) > 1 else pages[0]
    array = array[None] if pages[0].ndim == 2 else np.moveaxis(array, 2, 0)  # noqa: PLR2004 - rows, columns, colours
    return array, [1.0] * (array.ndim - 1), None


def _in_space(array: Array, affine: Array) -> Read:
    spacing = np.linalg.norm(affine[:SPACE, :SPACE], axis=0)
    return _channels_first(array, SPACE), spacing, affine


def _channels_first(array: Array, axes: int) -> Array:
    """Return [C, ...]: what stands after the axes in space are channels; those of length 1 there are none."""
    array = array.reshape((*array.shape[:axes], *(length for length in array.shape[axes:] if length > 1)))
    if array.ndim <= axes:
        return array[None]
    if array.ndim > axes + 1:
        raise ValueError(f"{array.ndim} axes are too many: {list(array.shape)}")
    return np.moveaxis(array, -1, 0)


READERS: dict[str, Callable[[Path], Read]] = {
    **dict.fromkeys((".nii.gz", ".nii", ".mgz", ".mgh", ".hdr", ".img", ".mnc"), _nifti),
    **dict.fromkeys((".nrrd", ".nhdr"), _nrrd),
    ".dcm": _dicom,
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"), _picture),
}
"""How a file's name ends -> its reader."""
