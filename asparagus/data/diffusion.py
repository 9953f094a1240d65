"""Diffusion series: which of their volumes make a 3-D image (SEEDS A9), as asparagus_preprocessing groups them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from asparagus.errors import DataError

Array = np.ndarray[Any, Any]

UNWEIGHTED = 5.0
"""b-values (s/mm2) up to this are none."""
TOLERANCE = 50.0
"""b-values as close as this are one shell."""
DIRECTIONS = 3


def shells(bvals: Array, bvecs: Array) -> dict[str, tuple[int, ...]]:
    """Return b-value -> the volumes that are averaged into its image.

    Of unweighted volumes it is the first; of a shell, those whose directions are nearest x, y and z. A shell of fewer
    than three volumes has no image.

    Args:
        bvals: [N] in s/mm2.
        bvecs: [3, N].
    """
    found: dict[str, tuple[int, ...]] = {}
    unweighted = np.flatnonzero(bvals <= UNWEIGHTED)
    if len(unweighted):
        found["0"] = (int(unweighted[0]),)
    left = bvals > UNWEIGHTED
    for bval in np.unique(bvals[left]):
        shell = np.flatnonzero(left & (np.abs(bvals - bval) <= TOLERANCE))
        if len(shell) >= DIRECTIONS:
            left[shell] = False
            found[str(round(float(bvals[shell].mean())))] = tuple(int(shell[i]) for i in _basis(bvecs[:, shell]))
    return found


def gradients(image: Path, stem: str) -> tuple[Array, Array]:
    """Read `<stem>.bval` [N] and `<stem>.bvec` [3, N] beside an image.

    Raises:
        DataError: One is missing, or they are not what they should be.
    """
    bvals, bvecs = (_table(image, image.with_name(f"{stem}{suffix}")) for suffix in (".bval", ".bvec"))
    bvals = bvals.ravel()
    if bvecs.shape[0] != DIRECTIONS and bvecs.shape[-1] == DIRECTIONS:
        bvecs = bvecs.T
    if bvecs.shape != (DIRECTIONS, len(bvals)):
        raise DataError(f"{image}: {len(bvals)} b-values, but its .bvec is {list(bvecs.shape)}, not [3, {len(bvals)}].")
    return bvals, bvecs


def _table(image: Path, file: Path) -> Array:
    try:
        return np.loadtxt(file, ndmin=2)
    except FileNotFoundError as error:
        raise DataError(f"{image}: a diffusion series needs {file.name} beside it.") from error
    except ValueError as error:
        raise DataError(f"{file}: is no table of numbers ({error}).") from error


def _basis(bvecs: Array) -> list[int]:
    """Return the columns whose directions are nearest x, y and z."""
    lengths = np.linalg.norm(bvecs, axis=0)
    cosines = np.divide(bvecs, lengths, out=np.full(bvecs.shape, -1.0), where=lengths > 0)
    return [int(i) for i in cosines.argmax(axis=1)]
