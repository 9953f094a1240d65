"""One case of a conversion: read, prepared and written, on any process or machine that sees the files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asparagus.data.conversion import Conversion
from asparagus.data.files import NIFTI, TENSOR, properties_file, replacing, write_json
from asparagus.data.normalise import intensities_of
from asparagus.data.preprocessing import Prepared, foreground_locations, prepare
from asparagus.data.reading import SPACE, Array, Volume, read_volume
from asparagus.data.write import Case, write_case
from asparagus.errors import DataError


@dataclass(frozen=True)
class Job:
    """One case to be written."""

    images: tuple[str, ...]
    target: str
    label: str | float | None = None
    volumes: tuple[int, ...] | None = None
    """Of a 4-D file: the volumes that are averaged; none named: all of them; None: it is 3-D."""


@dataclass(frozen=True)
class Recipe:
    """All else that a case depends on; plain values, so that it can go to any process."""

    folder: str
    suffix: str
    conversion: Conversion


def convert_case(recipe: Recipe, job: Job) -> None:
    """Read, prepare and write one case.

    Raises:
        DataError: It cannot be used; nothing was written.
    """
    conversion = recipe.conversion
    images = [one for path in job.images for one in _channels(_reduced(read_volume(Path(path)), job), job, conversion)]
    is_seg = conversion.kind == "seg"
    if is_seg and not isinstance(job.label, str):
        raise DataError(f"{job.images[0]}: its label is {job.label!r}, and to segment it is a file.")
    label = read_volume(Path(str(job.label))) if is_seg else None
    channels = sum(len(volume.array) for volume in images)
    prepared = prepare(images, label, conversion.preprocessing, dimensions=conversion.dimensions)
    if channels != conversion.n_modalities:
        raise DataError(
            f"{job.images[0]}: has {channels} channels, but n_modalities is {conversion.n_modalities}. Set that to "
            f"{channels}, or name the files of a case in cases()."
        )
    mask = None if prepared.label is None else _classes(prepared.label, conversion, str(job.label))
    properties = {**prepared.properties, "intensities": [intensities_of(channel) for channel in prepared.image]}
    if mask is not None:
        values, counts = np.unique(mask, return_counts=True)
        properties["foreground_locations"] = foreground_locations(mask)
        properties["voxels"] = {str(int(value)): int(count) for value, count in zip(values, counts, strict=True)}
    content = _content(prepared.image, mask, job, conversion)
    if isinstance(content, list):
        properties["label"] = content[1].tolist()
    _write(Path(recipe.folder) / f"{job.target}{recipe.suffix}", content, properties, prepared)


def is_there(recipe: Recipe, job: Job) -> bool:
    """Tell whether a case was written, whole."""
    file = Path(recipe.folder) / f"{job.target}{recipe.suffix}"
    return file.is_file() and properties_file(file).is_file()


def _channels(volume: Volume, job: Job, conversion: Conversion) -> list[Volume]:
    """Return the volumes of the only file of a case as its channels, where it has as many as are asked for."""
    count = len(volume.array)
    if len(job.images) > 1 or conversion.dimensions != SPACE or not 1 < count == conversion.n_modalities:
        return [volume]
    return [volume._replace(array=volume.array[i : i + 1]) for i in range(count)]


def _reduced(volume: Volume, job: Job) -> Volume:
    """Average the volumes that were asked for."""
    if job.volumes is None:
        return volume
    which = list(job.volumes) or list(range(len(volume.array)))
    if max(which) >= len(volume.array):
        raise DataError(f"{volume.source}: has {len(volume.array)} volumes, but b-values for {max(which) + 1} or more.")
    mean = volume.array[which].mean(axis=0, keepdims=True, dtype=np.float64)
    return volume._replace(array=mean.astype(np.float32))


def _classes(label: Array, conversion: Conversion, source: str) -> Array:
    values = np.unique(label)
    if not np.isfinite(values).all() or (values != np.round(values)).any():
        raise DataError(f"{source}: a label is whole numbers, and here is {values[values != np.round(values)][0]:g}.")
    mapped = label.copy()
    for value, known in conversion.label_map.items():
        mapped[label == value] = known
    wrong = sorted({int(value) for value in np.unique(mapped) if not 0 <= value < conversion.n_classes})
    if wrong:
        raise DataError(
            f"{source}: holds the values {wrong}, but n_classes={conversion.n_classes} knows 0 to "
            f"{conversion.n_classes - 1}. Map them with label_map, or raise n_classes."
        )
    return mapped


def _content(image: Array, mask: Array | None, job: Job, conversion: Conversion) -> torch.Tensor | list[torch.Tensor]:
    """Return a case as SEEDS A6 lays it out."""
    if mask is not None:
        return torch.from_numpy(np.concatenate([image, mask[None]]).astype(np.float32))
    tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    if conversion.kind == "pretrain":
        return tensor
    return [tensor, _number(job, conversion)]


def _number(job: Job, conversion: Conversion) -> torch.Tensor:
    label: Any = job.label
    is_whole = isinstance(label, int | np.integer) and not isinstance(label, bool)
    if conversion.kind == "cls":
        if not is_whole or not 0 <= int(label) < conversion.n_classes:
            raise DataError(
                f"{job.images[0]}: its label is {label!r}, and a class is a whole number from 0 to "
                f"{conversion.n_classes - 1}."
            )
        return torch.tensor(int(label))
    if not (is_whole or isinstance(label, float | np.floating)) or not np.isfinite(label):
        raise DataError(f"{job.images[0]}: {label!r} is no number to regress on.")
    return torch.tensor([float(label)])


def _write(file: Path, content: torch.Tensor | list[torch.Tensor], properties: dict[str, Any], case: Prepared) -> None:
    """Write a case; its properties are last, and without them it is made again."""
    if file.name.endswith(TENSOR):
        write_case(file, Case(content, properties))
        return
    import nibabel

    assert isinstance(content, torch.Tensor), "a NIfTI holds no label beside the image"
    channels_last = content.numpy() if len(content) > 1 else content.numpy()[0]
    channels_last = np.moveaxis(channels_last, 0, -1) if len(content) > 1 else channels_last
    with replacing(file) as writing:
        named = writing.with_name(f"{writing.name}{NIFTI}")  # nibabel goes by the name
        nibabel.save(nibabel.Nifti1Image(channels_last, case.affine), named)
        named.replace(writing)
    write_json(properties_file(file), properties)
