"""What a section `data` of crops says before any volume is opened: its task, and the datasplit that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from asparagus.data.layout import Task
from asparagus.data.zarr.make import (
    CLASSES_TO_TRAIN,
    CSV_PATH,
    S3_SEARCH_PATH,
    draw,
    find_crops,
    find_s3_crops,
    local_places,
    s3_places,
)
from asparagus.data.zarr.settings import window_of


class Wanted(NamedTuple):
    """What decides the rows of a datasplit that is written because it is not there."""

    classes: tuple[str, ...]
    force_all_classes: bool | str
    prob: float
    use_s3: bool
    search_path: str | None
    root: str | None
    seed: int


def text_of(wanted: Wanted) -> str:
    """Return what the datasplit would hold.

    Raises:
        DataError: No crop is found.
        ConfigError: A setting cannot be meant.
    """
    classes, force, prob, use_s3, search_path, root, seed = wanted
    if use_s3:
        return draw(find_s3_crops(classes), classes, force, prob, seed, s3_places).text
    where = search_path or str(Path(root or ".") / S3_SEARCH_PATH)
    found = find_crops(classes, search_path=where)
    return draw(found, classes, force, prob, seed, partial(local_places)).text


def described(name: str, data: Mapping[str, Any]) -> Task:
    """Describe crops as a task: one channel in, one class for each channel out.

    Raises:
        ConfigError: `input_array_info` cannot be meant.
    """
    window = window_of(data.get("input_array_info"), "data.input_array_info")
    classes = tuple(data.get("classes") or CLASSES_TO_TRAIN)
    folder = Path(str(data.get("datasplit_path") or CSV_PATH)).parent
    return Task(name, folder, len(classes), 1, window.dimensions, window.voxels, classes)
