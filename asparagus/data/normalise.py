"""Intensities of one channel, brought into a common range: the operations of SEEDS A8 by their names there.

The formulas are those of asparagus_preprocessing, `utils/normalize.py`; `clipping` is what its documentation says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from asparagus.errors import DataError

Array = np.ndarray[Any, Any]
Intensities = Mapping[str, float]
"""Of the whole dataset, one channel: the numbers that `NEEDED` names."""

EPSILON = 1e-9
PERCENTILES = (0.01, 99.99)
BRIGHTEST = 0.99
"""Quantile of the foreground above which `volume_wise_znorm` cuts."""


def no_norm(array: Array, _: Intensities) -> Array:
    """Leave the values as they are."""
    return array


def volume_wise_znorm(array: Array, _: Intensities) -> Array:
    """Clamp at the foreground's 99th percentile, standardise by the foreground, rescale to [0, 1].

    The background is what has the least value.
    """
    foreground = array != array.min()
    if not foreground.any():
        raise DataError("holds one value alone: volume_wise_znorm has nothing to go by.")
    array = np.minimum(array, np.quantile(array[foreground], BRIGHTEST))
    values = array[foreground]
    if values.std() == 0:
        raise DataError("its foreground is one value: volume_wise_znorm has nothing to go by.")
    array = (array - values.mean()) / values.std()
    scaled: Array = (array - array.min()) / (array.max() - array.min())
    return scaled


def minmax(array: Array, of_dataset: Intensities) -> Array:
    """Map the dataset's least value to 0, and its greatest to 1."""
    return (array - of_dataset["min"]) / (of_dataset["max"] - of_dataset["min"] + EPSILON)


def standardize(array: Array, of_dataset: Intensities) -> Array:
    """Subtract the dataset's mean, divide by its standard deviation."""
    return (array - of_dataset["mean"]) / of_dataset["std"]


def clipping(array: Array, _: Intensities) -> Array:
    """Clip to the volume's percentiles 0.01 and 99.99, rescale those to [0, 1]."""
    low, high = np.percentile(array, PERCENTILES)
    if low == high:
        raise DataError("holds one value alone: clipping has nothing to go by.")
    scaled: Array = (np.clip(array, low, high) - low) / (high - low)
    return scaled


def ct(array: Array, of_dataset: Intensities) -> Array:
    """Clip to the dataset's percentiles 0.5 and 99.5, then standardise by its mean and deviation, as nnU-Net does."""
    clipped = np.clip(array, of_dataset["percentile_00_5"], of_dataset["percentile_99_5"])
    return (clipped - of_dataset["mean"]) / max(of_dataset["std"], 1e-8)


def of_bytes(array: Array, _: Intensities) -> Array:
    """Divide by 255: pictures of 8 bits."""
    return array / 255


OPERATIONS: dict[str, Callable[[Array, Intensities], Array]] = {
    "no_norm": no_norm,
    "volume_wise_znorm": volume_wise_znorm,
    "minmax": minmax,
    "standardize": standardize,
    "clipping": clipping,
    "ct": ct,
    "255to1": of_bytes,
}
"""`normalization_operation` -> what it does."""

NEEDED: dict[str, tuple[str, ...]] = {
    "minmax": ("min", "max"),
    "standardize": ("mean", "std"),
    "ct": ("mean", "std", "percentile_00_5", "percentile_99_5"),
}
"""What an operation must be told of the whole dataset."""


def intensities_of(values: Array) -> dict[str, float]:
    """Return the numbers of an image that the operations go by, and the card shows."""
    low, high = np.percentile(values, (0.5, 99.5))
    found = {
        "min": values.min(),
        "max": values.max(),
        "mean": values.mean(dtype=np.float64),
        "std": values.std(dtype=np.float64),
    }
    return {name: float(value) for name, value in {**found, "percentile_00_5": low, "percentile_99_5": high}.items()}
