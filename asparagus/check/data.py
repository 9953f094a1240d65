"""The section `data`: a data module, or the loaders of datasets of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asparagus.check.annotation import mismatch
from asparagus.check.crops import crops
from asparagus.check.target import call, is_open, nameless, nested, target
from asparagus.data import BATCH_SIZES, BUILT_IN, CASE_DATA, CROP_DATA, LOADER_DATA, LOADER_KEYS
from asparagus.data.layout import Task, known_splits, read_test, too_few_to_test
from asparagus.errors import DataError, one_of
from asparagus.registry import DATASETS
from asparagus.spec import Spec

GIVEN: dict[str, frozenset[str]] = {
    "data": frozenset({"root", "task", "kind", "dimensions", "seed", "rank", "world_size"}),
    "loader": frozenset({"root", "data_source", "sampler"}),
    "dataset": frozenset({"root", "subset", "image_transform"}),
}
"""Arguments that the launcher, the data module and its loaders fill in."""
TRANSFORMS = ("transforms", "augmentations")
OF_ITEMS = ("image", "label")
LOADER_TYPES = {
    "batch_size": "int",
    "batch_size_per_gpu": "int",
    "shuffle": "bool",
    "num_workers": "int",
    "pin_memory": "bool",
    "drop_last": "bool",
    "timeout": "float",
    "persistent_workers": "bool",
    "prefetch_factor": "int",
}


def data_module(data: dict[str, Any]) -> Iterator[str]:
    """Check the data module."""
    for key in ("rank", "world_size"):
        if data.get(key) is not None:
            yield f"data.{key}: is filled in by the launcher, for each worker. Leave it out."
    yield from crops(data) if data.get("_target_") == CROP_DATA else ()
    if data.get("_target_") != LOADER_DATA:
        yield from target("data", data, GIVEN["data"])
        yield from _transforms(data) if data.get("_target_") == CASE_DATA else ()
        return
    yield from _loaders(data)


def _loaders(data: dict[str, Any]) -> Iterator[str]:
    """Check the loaders of `LoaderDataModule`, which gives their parts a root and their data."""
    yield from target("data", {"_recursive_": False, **data}, GIVEN["data"])
    for part in ("train", "val", "test", "extra"):
        section = data.get(part)
        if section is None:
            continue
        if not isinstance(section, dict):
            yield f"data.{part}: {section!r} given, but it is a loader section, or several by name."
            continue
        loaders = {f"data.{part}": section} if "dataset" in section else _named(f"data.{part}", section)
        for where, loader in loaders.items():
            yield from _loader(where, loader)


def _transforms(data: dict[str, Any]) -> Iterator[str]:
    """Check what transforms of our data module are given; `target` looks at their own arguments."""
    for key in TRANSFORMS:
        given = data.get(key)
        if given is None or is_open(given):
            continue
        if not isinstance(given, (dict, list)) or "_target_" in given:
            yield f"data.{key}: {given!r} given, but it takes several. Write sections as a list, or by name."
            continue
        items = given.items() if isinstance(given, dict) else enumerate(given)
        for at, one in items:
            yield from _transform(f"data.{key}[{at}]" if isinstance(at, int) else f"data.{key}.{at}", one)


def _transform(where: str, one: Any) -> Iterator[str]:
    if one is None or is_open(one):
        return
    if not isinstance(one, dict) or "_target_" not in one:
        yield f"{where}: {one!r} given, but it is a section: a _target_ and its arguments."
        return
    asked = one.get("keys", ())
    for name in [asked] if isinstance(asked, str) else asked if isinstance(asked, list) else ():
        if name not in OF_ITEMS and not one.get("allow_missing_keys"):
            yield one_of(f"{where}.keys", name, OF_ITEMS)


def test_cases(spec: Spec, task: Task) -> list[Path]:
    """Look at the test data of a task that can be seen from here; none where there are none, or not ours.

    Raises:
        DataError: They cannot be read, are not there, are fewer than workers, or are none where `run.mode` is `test`.
    """
    split, fold, test_split = (spec.data.get(key) for key in ("split", "fold", "test_split"))
    typed = isinstance(split, str) and isinstance(test_split, str | None)  # else: the signature tells
    if spec.data.get("_target_") != CASE_DATA or not typed:
        return []
    cases = read_test(task, test_split, str(split), 0 if fold is None else fold)
    if problem := too_few_to_test(len(cases), spec.resources.workers):
        raise DataError(problem)
    if spec.run.mode == "test" and not cases:
        raise DataError(
            f"run.mode: test needs test data: data.test_split is not given, and fold {fold or 0} of {split} has no "
            f"'test' part. Give data.test_split one of: {', '.join(known_splits(task))}; or use run.mode=validate."
        )
    return cases


def _named(where: str, section: dict[str, Any]) -> dict[str, Any]:
    return {f"{where}.{name}": loader for name, loader in section.items() if loader is not None}


def _loader(where: str, loader: Any) -> Iterator[str]:
    if not isinstance(loader, dict):
        yield f"{where}: {loader!r} given, but it is a loader section: a dataset, and how it is batched."
        return
    for key in loader.keys() - set(LOADER_KEYS):
        yield one_of(f"{where}.{key}", key, LOADER_KEYS)
    yield from _batching(where, loader)
    if all(loader.get(key) is not None for key in BATCH_SIZES):
        yield f"{where}: cannot set both {' and '.join(BATCH_SIZES)}. Give one of them."
    if loader.get("dataset") is None:
        yield f"{where}.dataset: is missing. Give a section with a _target_, or with a name and a root."
    for key, value in loader.items():
        yield from nested(f"{where}.{key}", value, GIVEN["loader"])
    if isinstance(dataset := loader.get("dataset"), dict) and "_target_" not in dataset:
        yield from _dataset(f"{where}.dataset", dataset)


def _batching(where: str, loader: dict[str, Any]) -> Iterator[str]:
    for key, kind in LOADER_TYPES.items():
        value = loader.get(key)
        if value is None or is_open(value):
            continue
        if takes_kind := mismatch(kind, value):
            yield f"{where}.{key}: {value!r} given, but a loader takes {takes_kind} there."


def _dataset(where: str, section: dict[str, Any]) -> Iterator[str]:
    """Check `{name: cases, root: ..., ...}` against what the name stands for."""
    name = section.get("name")
    if name is None:
        yield from nameless(where, section, [*BUILT_IN, *DATASETS])
        return
    if not isinstance(name, str) or (name not in BUILT_IN and "." not in name):
        see = "Others are registered, or given by their _target_."
        yield one_of(f"{where}.name", name, [*BUILT_IN, *DATASETS], see=see)
        return
    arguments = {key: value for key, value in section.items() if key != "name"}
    yield from call(where, BUILT_IN.get(name, name), arguments, GIVEN["dataset"], named_by="name")
