"""What a conversion does to a case: reorient, look whether it is usable, crop, resample, normalise (SEEDS A8)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from asparagus.data.normalise import NEEDED, OPERATIONS, Intensities
from asparagus.data.reading import SPACE, Array, Volume
from asparagus.errors import DataError, one_of

LINEAR_AND_MORE = 3
"""Order of the splines that images are resampled by; labels are by 0, the nearest voxel."""
AXES = "LRPAIS"
LOCATIONS_PER_CLASS = 1000


@dataclass(frozen=True)
class Preprocessing:
    """The same for every case of a task."""

    normalization_operation: str | tuple[str, ...] = "no_norm"
    """One for all channels, or one for each."""
    target_spacing: tuple[float, ...] | None = None
    """Millimetres per voxel; None keeps each case's own. Excludes `target_size`."""
    target_size: tuple[int, ...] | None = None
    """Voxels per axis."""
    keep_aspect_ratio: bool = False
    """With `target_size`: scale all axes alike, and pad with zeros."""
    target_orientation: str | None = "RAS"
    """None leaves the axes as they are stored."""
    crop_to_nonzero: bool = True
    """Cut away what is background all around, as the first channel shows it."""
    background_pixel_value: float = 0
    intensities: tuple[Mapping[str, float], ...] | None = None
    """Of the whole dataset, for each channel; `card.json` has them, after a conversion by no_norm."""
    min_slices: int = 15
    """A case with an axis of fewer voxels is refused."""

    def operations(self, n_modalities: int) -> tuple[str, ...]:
        """Return the operation of each channel."""
        given = self.normalization_operation
        return (given,) * n_modalities if isinstance(given, str) else tuple(given)

    def problems(self, n_modalities: int, dimensions: int) -> Iterator[str]:
        """Yield what is wrong with these settings, each beginning with its name."""
        if self.target_spacing is not None and self.target_size is not None:
            yield "target_spacing: excludes target_size. Give one of them."
        for name in ("target_spacing", "target_size"):
            given = getattr(self, name)
            if given is not None and (len(given) != dimensions or min(given) <= 0):
                yield f"{name}: {list(given)} is not {dimensions} positive numbers."
        if self.keep_aspect_ratio and self.target_size is None:
            yield "keep_aspect_ratio: says how target_size is reached, and that is not given."
        if self.target_orientation is not None and not _is_orientation(self.target_orientation):
            yield f"target_orientation: {self.target_orientation!r} is not three of L/R, P/A and I/S, like 'RAS'."
        yield from self._normalising(n_modalities)

    def _normalising(self, n_modalities: int) -> Iterator[str]:
        operations = self.operations(n_modalities)
        if len(operations) != n_modalities:
            yield f"normalization_operation: {len(operations)} given, but n_modalities is {n_modalities}. Give as many."
        stated = self.intensities
        if stated is not None and len(stated) != n_modalities:
            yield f"intensities: {len(stated)} given, but n_modalities is {n_modalities}. Give as many."
            return
        for channel, operation in enumerate(operations[:n_modalities]):
            if operation not in OPERATIONS:
                yield one_of("normalization_operation", operation, OPERATIONS)
            lacking = [name for name in NEEDED.get(operation, ()) if name not in (stated[channel] if stated else {})]
            if lacking:
                yield (
                    f"intensities: {operation} needs {', '.join(lacking)} of channel {channel} over the whole dataset. "
                    "Convert with no_norm under another task's name: its card.json has them."
                )


class Prepared(NamedTuple):
    """A case, ready to be written."""

    image: Array
    """[C, ...] float32."""
    label: Array | None
    """[...] of whole numbers, for segmentation."""
    properties: dict[str, Any]
    affine: Array
    """[4, 4]: voxels to millimetres; an identity with spacing where the file knew none."""


class _Lying(NamedTuple):
    array: Array
    affine: Array | None
    spacing: tuple[float, ...]
    was: str | None
    """Its orientation in the file."""


def prepare(
    images: Sequence[Volume], label: Volume | None, settings: Preprocessing, *, dimensions: int = 3
) -> Prepared:
    """Bring a case into the form of its task.

    Args:
        images: One or more channels each, of the same shape and place.
        label: For segmentation: whole numbers, [1, ...].
        settings: What to do.
        dimensions: Axes in space.

    Raises:
        DataError: A case that cannot be used: its channels or its label do not fit, it is not 3-D, too small, all
            zeros, or holds NaN; or an operation has nothing to go by.
    """
    images = [_squeezed(volume, dimensions) for volume in images]
    lying = [_reorient(volume, settings, dimensions) for volume in images]
    mask = None if label is None else _reorient(_squeezed(label, dimensions), settings, dimensions)
    for volume, other in zip([*images[1:], label], [*lying[1:], mask], strict=True):
        if volume is not None and other is not None:
            _must_align(lying[0], other, volume.source)
    for volume, one in zip(images, lying, strict=True):
        _must_be_usable(one.array, volume.source, settings.min_slices, dimensions)
    whole = np.concatenate([one.array for one in lying])
    original, spacing = whole.shape[1:], np.asarray(lying[0].spacing[:dimensions])

    box = _box(whole[0], settings, images[0].source)
    cropped = whole[:, *box].shape[1:]
    size, final = sizes(cropped, spacing, settings)
    array, pad = _padded(resize(whole[:, *box], size, LINEAR_AND_MORE), final)
    array = _normalised(array, settings, images[0].source)
    labels = None if mask is None else _padded(resize(mask.array[:, *box], size, 0), final)[0]

    spacing = spacing * np.asarray(cropped) / np.asarray(size)
    properties = {
        "original_shape": list(original),
        "original_spacing": [float(length) for length in lying[0].spacing[:dimensions]],
        "original_orientation": lying[0].was,
        "orientation": _name(lying[0].affine),
        "crop_box": [[part.start, part.stop] for part in box],
        "pad": pad,
        "shape": list(array.shape[1:]),
        "spacing": [float(length) for length in spacing],
    }
    affine = _moved(lying[0].affine, lying[0].spacing, box, pad, np.asarray(cropped) / np.asarray(size))
    if lying[0].affine is not None:
        properties["affine"] = affine.tolist()  # what is predicted is written where the case lies
    return Prepared(array, None if labels is None else labels[0], properties, affine)


def sizes(
    shape: Sequence[int], spacing: Array, settings: Preprocessing
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Return the size to resample to, and the size to pad to after that (None: as it is).

    Upstream's: round(spacing / target_spacing * shape); with an aspect ratio to keep, the largest that fits.
    """
    if settings.target_spacing is not None:
        wanted = np.round(spacing / np.asarray(settings.target_spacing) * np.asarray(shape)).astype(int)
        return tuple(int(n) for n in np.maximum(wanted, 1)), None
    if settings.target_size is None:
        return tuple(shape), None
    target = tuple(int(n) for n in settings.target_size)
    if not settings.keep_aspect_ratio:
        return target, None
    scale = min(wanted / there for wanted, there in zip(target, shape, strict=True))
    # A touch more than the product, so that what is whole is not rounded off below itself.
    return tuple(max(1, int(there * scale + 1e-6)) for there in shape), target


def resize(array: Array, size: Sequence[int], order: int) -> Array:
    """Resample each channel so that the volume's outer faces stay where they are.

    As `skimage.transform.resize`, which upstream calls: splines, smoothed by a Gaussian before an axis shrinks
    (sigma (factor - 1) / 2), clipped to the range of before. Labels (order 0) are the nearest voxel.

    Args:
        array: [C, ...].
        size: Of the axes after the first.
        order: Of the splines.
    """
    if tuple(array.shape[1:]) == tuple(size):
        return array
    from scipy import ndimage

    factors = np.asarray(array.shape[1:]) / np.asarray(size)
    sigma = np.maximum(0, (factors - 1) / 2) if order else np.zeros(len(factors))
    found = np.empty((len(array), *size), np.float32)
    for channel, target in zip(array, found, strict=True):
        smooth = ndimage.gaussian_filter(channel, sigma, mode="mirror") if sigma.any() else channel
        ndimage.zoom(smooth, 1 / factors, output=target, order=order, mode="mirror", grid_mode=True)
        np.clip(target, channel.min(), channel.max(), out=target)
    return found


def foreground_locations(label: Array) -> dict[str, list[list[int]]]:
    """Return voxels of each class but 0, evenly taken, at most a thousand: patches are centred on them.

    Args:
        label: [...] of whole numbers.
    """
    found = {}
    for value in np.unique(label):
        if value > 0:
            voxels = np.argwhere(label == value)
            found[str(int(value))] = voxels[:: -(-len(voxels) // LOCATIONS_PER_CLASS)].tolist()
    return found


def _is_orientation(text: str) -> bool:
    return len(text) == SPACE and sorted(AXES.find(letter) // 2 for letter in text) == [0, 1, 2]


def _name(affine: Array | None) -> str | None:
    if affine is None:
        return None
    from nibabel.orientations import aff2axcodes

    return "".join(axis or "?" for axis in aff2axcodes(affine))


def _squeezed(volume: Volume, dimensions: int) -> Volume:
    """Drop axes of one voxel that are too many."""
    array = volume.array
    while array.ndim > dimensions + 1 and array.shape[-1] == 1:
        array = array[..., 0]
    return volume._replace(array=array)


def _reorient(volume: Volume, settings: Preprocessing, dimensions: int) -> _Lying:
    """Turn and mirror the axes, by MONAI; a file that does not say how it lies is left as it is."""
    was = _name(volume.affine)
    stays = _Lying(volume.array, volume.affine, volume.spacing, was)
    in_space = dimensions == SPACE and volume.array.ndim == SPACE + 1
    if volume.affine is None or not in_space or settings.target_orientation in (None, was):
        return stays
    import torch
    from monai.data import MetaTensor
    from monai.transforms import Orientation

    tensor = MetaTensor(torch.from_numpy(volume.array), affine=torch.from_numpy(np.array(volume.affine, np.float64)))
    turned = Orientation(axcodes=settings.target_orientation, labels=(("L", "R"), ("P", "A"), ("I", "S")))(tensor)
    affine = np.asarray(turned.affine)
    spacing = np.linalg.norm(affine[:SPACE, :SPACE], axis=0)
    return _Lying(np.ascontiguousarray(turned.numpy()), affine, tuple(float(length) for length in spacing), was)


def _must_align(first: _Lying, other: _Lying, source: str) -> None:
    """Refuse what is of another shape, or lies elsewhere: corners more than a voxel apart."""
    shape = first.array.shape[1:]
    if other.array.shape[1:] != shape:
        raise DataError(f"{source}: its shape {list(other.array.shape[1:])} is not that of the image, {list(shape)}.")
    if first.affine is None or other.affine is None or len(shape) != SPACE:
        return
    corners = np.array(list(np.ndindex((2,) * SPACE))) * (np.asarray(shape) - 1)
    corners = np.c_[corners, np.ones(len(corners))].T
    apart = np.linalg.norm(((first.affine - other.affine) @ corners)[:SPACE], axis=0).max()
    if apart > min(first.spacing):
        raise DataError(f"{source}: lies up to {apart:.3g} mm from where the image lies. Resample it onto the image.")


def _must_be_usable(array: Array, source: str, min_slices: int, dimensions: int) -> None:
    """Refuse, in upstream's order."""
    if array.ndim != dimensions + 1 or (dimensions == SPACE and len(array) > 1):
        shape = [*array.shape[1:], len(array)] if len(array) > 1 else list(array.shape[1:])
        more = f" n_modalities={len(array)} takes its volumes as channels, patterns_PET averages them;"
        raise DataError(
            f"{source}: is not {dimensions}-D: its shape is {shape}.{more if len(array) > 1 else ''} "
            "patterns_exclusion leaves it out."
        )
    if min(array.shape[1:]) < min_slices:
        raise DataError(
            f"{source}: its shape {list(array.shape[1:])} is below min_slices={min_slices}. Lower that, or leave the "
            "case out (patterns_exclusion)."
        )
    if not array.any():
        raise DataError(f"{source}: is all zeros.")
    if not np.isfinite(array).all():
        what = "NaN" if np.isnan(array).any() else "infinite values"
        raise DataError(f"{source}: holds {what}.")


def _box(channel: Array, settings: Preprocessing, source: str) -> tuple[slice, ...]:
    if not settings.crop_to_nonzero:
        return tuple(slice(0, length) for length in channel.shape)
    there = channel != settings.background_pixel_value
    if not there.any():
        raise DataError(f"{source}: is background all over ({settings.background_pixel_value:g}).")
    kept = [
        np.flatnonzero(there.any(axis=tuple(i for i in range(there.ndim) if i != axis))) for axis in range(there.ndim)
    ]
    return tuple(slice(int(along[0]), int(along[-1]) + 1) for along in kept)


def _padded(array: Array, size: tuple[int, ...] | None) -> tuple[Array, list[list[int]]]:
    """Pad with zeros on both sides, the odd one behind."""
    lacking = (
        [0] * (array.ndim - 1) if size is None else [max(0, n - m) for n, m in zip(size, array.shape[1:], strict=True)]
    )
    pad = [[n // 2, n - n // 2] for n in lacking]
    return (np.pad(array, [[0, 0], *pad]) if any(lacking) else array), pad


def _normalised(array: Array, settings: Preprocessing, source: str) -> Array:
    stated: Sequence[Intensities] = settings.intensities or [{}] * len(array)
    operations = settings.operations(len(array))
    try:
        done = [
            OPERATIONS[name](channel, of_dataset)
            for channel, name, of_dataset in zip(array, operations, stated, strict=True)
        ]
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    return np.stack(done).astype(np.float32)


def _moved(
    affine: Array | None, spacing: Sequence[float], box: tuple[slice, ...], pad: list[list[int]], factors: Array
) -> Array:
    """Return where the voxels lie now: after the crop, the padding and the resampling, faces in place."""
    axes = len(box)
    found: Array = np.diag([*spacing[:axes], *[1.0] * (4 - axes)]) if affine is None else np.array(affine)
    start = np.array([part.start for part in box]) + (factors - 1) / 2 - factors * [before for before, _ in pad]
    found[:SPACE, 3] += found[:SPACE, :axes] @ start
    found[:SPACE, :axes] *= factors
    return found
