"""The section `data` of bio-imaging volumes, and the datasplit that it names or stands for."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asparagus.data import CROP_DATA
from asparagus.data.zarr.datasplit import check_classes, digest_of_rows, must_be_apart, rows_of, text_in
from asparagus.data.zarr.generate import Wanted, text_of
from asparagus.data.zarr.make import CLASSES_TO_TRAIN, CSV_PATH, VALIDATION_PROB_TO_TRAIN
from asparagus.data.zarr.settings import TRANSFORMS, check_transforms, window_of
from asparagus.errors import ConfigError, RequestError
from asparagus.spec import Spec

SEGMENTS = ("train_seg", "finetune_seg")
MASKS = "asparagus.stages.masks.MaskModule"


def crops(data: dict[str, Any]) -> Iterator[str]:
    """Check what is cut out of volumes, and how it is turned."""
    if importlib.util.find_spec("zarr") is None:
        yield "data: volumes need zarr, which is not installed here. pip install 'asparagus[bio]'."
    classes = data.get("classes", CLASSES_TO_TRAIN)
    is_list = isinstance(classes, (list, tuple)) and all(isinstance(name, str) for name in classes)
    if not is_list or not classes or len(set(classes)) != len(classes):
        yield f"data.classes: {classes!r} has to be a list of different names, one output channel each."
    try:
        window_of(data.get("input_array_info"), "data.input_array_info")
        window_of(data.get("target_array_info"), "data.target_array_info")
    except ConfigError as error:
        yield str(error)
    try:
        check_transforms(data.get("spatial_transforms", TRANSFORMS))
    except ConfigError as error:
        yield str(error)


def datasplit_of(spec: Spec, problems: list[str]) -> str | None:
    """Look at the datasplit, or at what would be written where there is none; return what tells it from others."""
    data = spec.data
    if data.get("_target_") != CROP_DATA or problems:
        return None
    if spec.own_module is None and spec.stage in SEGMENTS:
        problems.append(
            f"data: crops have a mask for each class, which may overlap, and {spec.stage} has one class for each "
            f"voxel. Give model.module._target_={MASKS}, or a module of your own."
        )
        return None
    file, classes = Path(data.get("datasplit_path") or CSV_PATH), tuple(data.get("classes") or CLASSES_TO_TRAIN)
    try:
        text = text_in(file) if file.is_file() else text_of(_wanted(spec, classes))
        check_classes(file, rows := rows_of(file, text), classes)
        must_be_apart(rows, allowed=data.get("subject_overlap") is True)
        return digest_of_rows(text)
    except RequestError as error:
        there = "" if file.is_file() else f"{file} is not there, and none can be written: "
        problems.append(f"data.datasplit_path: {there}{error}")
        return None


def _wanted(spec: Spec, classes: tuple[str, ...]) -> Wanted:
    data = spec.data
    return Wanted(
        classes,
        data.get("force_all_classes", False),
        data.get("validation_prob", VALIDATION_PROB_TO_TRAIN),
        bool(data.get("use_s3")),
        data.get("search_path"),
        data.get("root") or spec.paths.data,
        data.get("seed") or spec.seed,
    )
