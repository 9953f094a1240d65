"""Writing a `datasplit.csv`: crops are found by a pattern, and each is drawn into training or validation."""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from asparagus.data.zarr.datasplit import TRAIN, USAGES, VALIDATE, join
from asparagus.data.zarr.settings import Access, window_of
from asparagus.errors import ConfigError, DataError, one_of
from asparagus.storage.store import Store

CLASSES, CLASSES_TO_TRAIN = ("nuc", "mito"), ("nuc", "er")
VALIDATION_PROB, VALIDATION_PROB_TO_TRAIN = 0.1, 0.3
"""The command's own, and those of a training that writes a datasplit because it finds none (SEEDS E6, E14)."""
EVERY = ("*",)
AT_ONCE = 16
SEARCH_PATH = "data/{dataset}/{dataset}.zarr/recon-1/{name}"
RAW_NAME = "em/fibsem-uint8"
CROP_NAME = "labels/groundtruth/{crop}/{label}"
CSV_PATH = "datasplit.csv"
S3_SEARCH_PATH = "{dataset}/{dataset}.zarr/recon-1/{name}"
S3_CROP_NAME = "groundtruth/{crop}/{label}"
LABELS_BUCKET, RAW_BUCKET = "janelia-cellmap-fg5f2y1pl8", "janelia-cosem-datasets"
"""Where the challenge keeps its annotations and its images; both can be read by anybody."""
CONTAINERS = (".zarr", ".n5")

Found = dict[str, list[str]]
"""Crop -> which of the wanted classes it is annotated with, in the order in which they are wanted."""
Place = tuple[str, str]
"""A container (`.../jrc_cos7-1a.zarr`) and what is inside it."""
Places = Callable[[str], tuple[Place, Place] | None]
"""From a crop to its image and its annotation; None where there is no image."""

log = logging.getLogger("asparagus")


@dataclass(frozen=True)
class Datasplit:
    """A datasplit that is not written yet."""

    text: str
    """What the file is to hold."""
    train: int
    """How many crops are trained on."""
    validate: int
    """... and validated on."""
    without_raw: tuple[str, ...]
    """Crops that are left out, for there is no image to them."""

    def told(self, csv_path: str | Path) -> str:
        """Return the counts as they are shown to people (SEEDS E44)."""
        total = self.train + self.validate
        lines = [
            f"Number of datasets: {total}",
            f"Number of training datasets: {self.train} ({self.train / total:.2%})",
            f"Number of validation datasets: {self.validate} ({self.validate / total:.2%})",
            f"CSV written to {csv_path}",
        ]
        return "\n".join([*(f"No raw data for {crop}: left out" for crop in self.without_raw), *lines])


def make_datasplit_csv(  # noqa: PLR0917 - as it is called elsewhere
    classes: Sequence[str] = CLASSES,
    force_all_classes: bool | str = False,  # noqa: FBT001, FBT002
    validation_prob: float = VALIDATION_PROB,
    datasets: Sequence[str] = EVERY,
    crops: Sequence[str] = EVERY,
    search_path: str = SEARCH_PATH,
    raw_name: str = RAW_NAME,
    crop_name: str = CROP_NAME,
    csv_path: str | Path = CSV_PATH,
    dry_run: bool = False,  # noqa: FBT001, FBT002
    *,
    scale: Sequence[float] | None = None,
    seed: int = 42,
) -> Found:
    """Find the crops of a folder and write which of them are trained and validated on (SEEDS E34 to E42).

    Args:
        classes: What is to be segmented.
        force_all_classes: True leaves out crops that lack one of them; `train` or `validate` has those that are drawn
            there go to the other part.
        validation_prob: The chance of a crop to be validated on.
        datasets: Names or patterns for `{dataset}`.
        crops: Names or patterns for `{crop}`.
        search_path: Where volumes are; ends with `{name}`.
        raw_name: `{name}` of an image.
        crop_name: `{name}` of an annotation; ends with `{crop}/{label}`.
        csv_path: The file to write. One that is there and holds something else is kept beside it (`.1`, `.2`, ...).
        dry_run: Write nothing.
        scale: Leave out annotations whose finest voxels are larger than this on any axis, in nm along z, y and x.
        seed: Of the draws.

    Returns:
        For each crop, the classes that it is annotated with.

    Raises:
        ConfigError: An argument cannot be meant.
        DataError: Nothing is found.
    """
    found = find_crops(classes, datasets=datasets, crops=crops, search_path=search_path, crop_name=crop_name)
    found = fine_enough(found, scale)
    if not dry_run:
        places = partial(local_places, raw_name=raw_name, crop_name=crop_name)
        split = draw(found, classes, force_all_classes, validation_prob, seed, places)
        write_datasplit(Path(csv_path), split.text)
        log.info("%s", split.told(csv_path))
    return found


def make_s3_datasplit_csv(  # noqa: PLR0917
    classes: Sequence[str] = CLASSES,
    force_all_classes: bool | str = False,  # noqa: FBT001, FBT002
    validation_prob: float = VALIDATION_PROB,
    datasets: Sequence[str] = EVERY,
    crops: Sequence[str] = EVERY,
    search_path: str = "",  # noqa: ARG001
    raw_name: str = "",  # noqa: ARG001
    crop_name: str = "",  # noqa: ARG001
    csv_path: str | Path = CSV_PATH,
    dry_run: bool = False,  # noqa: FBT001, FBT002
    *,
    scale: Sequence[float] | None = None,
    seed: int = 42,
) -> Found:
    """Do as `make_datasplit_csv` with the challenge's own buckets, as anybody may read them (SEEDS E43).

    `search_path`, `raw_name` and `crop_name` are taken and not used: the buckets have an order of their own.
    """
    found = fine_enough(find_s3_crops(classes, datasets=datasets, crops=crops), scale, s3_places)
    if not dry_run:
        split = draw(found, classes, force_all_classes, validation_prob, seed, s3_places)
        write_datasplit(Path(csv_path), split.text)
        log.info("%s", split.told(csv_path))
    return found


def find_crops(
    classes: Sequence[str],
    *,
    datasets: Sequence[str] = EVERY,
    crops: Sequence[str] = EVERY,
    search_path: str = SEARCH_PATH,
    crop_name: str = CROP_NAME,
) -> Found:
    """Return the crops of a folder that are annotated with one of the classes at least.

    Raises:
        ConfigError: The patterns cannot be meant.
        DataError: There is none.
    """
    _check_patterns(search_path, crop_name)
    _check_classes(classes)
    found: Found = {}
    for dataset, crop, label in itertools.product(datasets, crops, classes):
        name = crop_name.format(crop=crop, label=label)
        for place in sorted(glob.glob(search_path.format(dataset=dataset, name=name))):  # noqa: PTH207 - a pattern
            _add(found, os.path.dirname(place), label)  # noqa: PTH120 - a text is wanted
    if not found:
        wanted = search_path.format(dataset="|".join(datasets), name=crop_name.format(crop="|".join(crops), label="*"))
        raise DataError(f"No datasets found: nothing is at {wanted} for {', '.join(classes)}. Look at search_path.")
    return found


def find_s3_crops(classes: Sequence[str], *, datasets: Sequence[str] = EVERY, crops: Sequence[str] = EVERY) -> Found:
    """Return the crops of the challenge's bucket that are annotated with one of the classes at least.

    Raises:
        DataError: There is none.
        StoreError: The bucket cannot be listed.
    """
    _check_classes(classes)
    store = Store(f"s3://{LABELS_BUCKET}", anonymous=True)
    children = lru_cache(maxsize=None)(store.folders)
    found: Found = {}
    for dataset, crop, label in itertools.product(datasets, crops, classes):
        name = S3_CROP_NAME.format(crop=crop, label=label)
        pattern = S3_SEARCH_PATH.format(dataset=dataset, name=name)
        for place in _expand(pattern.split("/"), children):
            _add(found, place.rpartition("/")[0], label)
    if not found:
        raise DataError(f"No datasets found: s3://{LABELS_BUCKET} has no crop with {', '.join(classes)}.")
    return found


def fine_enough(found: Found, scale: Sequence[float] | None, places: Places | None = None) -> Found:
    """Return crops without the annotations that are coarser than asked for; a crop without any is left out.

    Args:
        found: The crops.
        scale: Voxel size along z, y and x, in nm; None: any.
        places: Where an annotation of a store is.

    Raises:
        ConfigError: It is no scale, or zarr is not installed.
        DataError: None is left, or a volume cannot be read.
    """
    if scale is None:
        return found
    import numpy as np

    from asparagus.data.zarr.volumes import is_as_fine_as

    access = Access(anonymous=True) if places else None
    size = np.asarray(window_of({"scale": tuple(scale)}, "scale").scale)

    def fine(crop: str) -> list[str]:
        both = places(crop) if places else None
        place = join(*both[1]) if both else crop
        return [name for name in found[crop] if is_as_fine_as(join(place, name), size, access)]

    with ThreadPoolExecutor(min(AT_ONCE, len(found))) as pool:
        left = {crop: names for crop, names in zip(found, pool.map(fine, found), strict=True) if names}
    if not left:
        asked = " x ".join(f"{voxel:g}" for voxel in scale)
        raise DataError(
            f"No datasets found: all {len(found)} crops are coarser than {asked} nm. Ask for a larger scale."
        )
    return left


def draw(
    found: Found,
    classes: Sequence[str],
    force_all_classes: bool | str,  # noqa: FBT001 - a name of a part, or whether at all
    validation_prob: float,
    seed: int,
    places: Places,
) -> Datasplit:
    """Draw each crop into a part.

    Args:
        found: The crops.
        classes: What is wanted of them.
        force_all_classes: As of `make_datasplit_csv`.
        validation_prob: The chance of a crop to be validated on.
        seed: Of the draws.
        places: Where a crop's image and annotation are.

    Raises:
        ConfigError: A chance that is none, or a part that is not known.
        DataError: No crop is left.
    """
    if not 0 <= validation_prob <= 1:
        raise ConfigError(f"validation_prob: {validation_prob} is no share. Give 0 to 1.")
    if force_all_classes not in (True, False, *USAGES):
        raise ConfigError(one_of("force_all_classes", str(force_all_classes), ("True", "False", *USAGES)))
    at = {crop: both for crop in found if (both := places(crop))}
    whole = {crop: len(names) == len(classes) for crop, names in found.items()}
    kept = [crop for crop in found if crop in at and (whole[crop] or force_all_classes is not True)]
    lost = tuple(crop for crop in found if crop not in at)
    if not kept:
        why = "none has an image beside it" if lost else "none has all classes, which force_all_classes asks for"
        raise DataError(f"No datasets found: of {len(found)} crops, {why}.")
    usages = _usages(kept, whole, force_all_classes, validation_prob, seed)
    lines = [_line(usages[crop], *at[crop], found[crop]) for crop in kept]
    train = sum(usage == TRAIN for usage in usages.values())
    return Datasplit("".join(lines), train, len(kept) - train, lost)


def local_places(crop: str, raw_name: str = RAW_NAME, crop_name: str = CROP_NAME) -> tuple[Place, Place] | None:
    """Return where the image and the annotation of a crop are; an image may be in the container's N5 twin."""
    crop = os.path.abspath(crop)  # noqa: PTH100 - the file may lie elsewhere
    depth = len(Path(crop_name).parts) - 1
    base = "/".join(crop.split("/")[:-depth])
    raw = os.path.normpath(f"{base}/{raw_name}")
    if not Path(raw).exists():
        raw = ".n5/".join(raw.rsplit(".zarr/", 1))
    return (_inside(raw), _inside(crop)) if Path(raw).exists() else None


def s3_places(crop: str) -> tuple[Place, Place]:
    """Return where the image and the annotation of a crop of the challenge's buckets are."""
    depth = len(Path(S3_CROP_NAME).parts) - 1
    base = "/".join(crop.split("/")[:-depth])
    return _inside(f"s3://{RAW_BUCKET}/{base}/{RAW_NAME}"), _inside(f"s3://{LABELS_BUCKET}/{crop}")


def write_datasplit(file: Path, text: str) -> Path | None:
    """Write a datasplit whole or not at all; return where one is kept that said something else (`.1`, `.2`, ...).

    Raises:
        DataError: It cannot be written there.
    """
    if file.is_file() and file.read_bytes() == text.encode():
        return None
    kept = None
    writing = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        writing.write_text(text, encoding="utf-8")
        if file.is_file():
            kept = next(place for place in _numbered(file) if not place.exists())
            os.link(file, kept)
        writing.replace(file)
    except OSError as error:
        raise DataError(
            f"{file}: cannot be written ({error.strerror}). Give another place for the datasplit."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            writing.unlink(missing_ok=True)
    return kept


def _usages(
    crops: Sequence[str],
    whole: dict[str, bool],
    force_all_classes: bool | str,  # noqa: FBT001
    validation_prob: float,
    seed: int,
) -> dict[str, str]:
    import numpy as np  # the client plans without it

    # The generator that the challenge's own tools seed: the same seed and crops give the same draws.
    rng = np.random.RandomState(seed)
    usages = {crop: TRAIN if rng.rand() > validation_prob else VALIDATE for crop in crops}
    for crop, usage in usages.items():
        if usage == force_all_classes and not whole[crop]:
            usages[crop] = _other(usage)
    for lacking in USAGES:  # of two crops or more, one is in each part
        if len(crops) > 1 and lacking not in usages.values():
            fit = [crop for crop in crops if whole[crop] or lacking != force_all_classes] or list(crops)
            usages[fit[int(rng.randint(len(fit)))]] = lacking
    return usages


def _other(usage: str) -> str:
    return VALIDATE if usage == TRAIN else TRAIN


def _line(usage: str, raw: Place, labels: Place, names: Sequence[str]) -> str:
    return f'"{usage}","{raw[0]}","{raw[1]}","{labels[0]}","{labels[1]}/[{",".join(names)}]"\n'


def _inside(place: str) -> Place:
    """Split a place after its container."""
    for suffix in CONTAINERS:
        container, found, inside = place.partition(f"{suffix}/")
        if found:
            return f"{container}{suffix}", inside
    raise DataError(f"{place}: is not inside a container. Its name has to end with {' or '.join(CONTAINERS)}.")


def _numbered(file: Path) -> Iterator[Path]:
    return (file.with_name(f"{file.name}.{number}") for number in itertools.count(1))


def _add(found: Found, crop: str, label: str) -> None:
    names = found.setdefault(crop, [])
    if label not in names:  # found by two patterns
        names.append(label)


def _expand(parts: Sequence[str], children: Callable[[str], Sequence[str]], base: str = "") -> Iterator[str]:
    """Yield the folders that a pattern stands for, as glob does for a file system."""
    if not parts:
        yield base
        return
    for name in fnmatch.filter(children(base), parts[0]):
        yield from _expand(parts[1:], children, f"{base}/{name}" if base else name)


def _check_patterns(search_path: str, crop_name: str) -> None:
    if not search_path.endswith("{name}") or "{dataset}" not in search_path:
        raise ConfigError(f"search_path: {search_path!r} has to contain {{dataset}} and end with {{name}}.")
    if not crop_name.endswith("{crop}/{label}"):
        raise ConfigError(f"crop_name: {crop_name!r} has to end with {{crop}}/{{label}}.")


def _check_classes(classes: Sequence[str]) -> None:
    if not classes or isinstance(classes, str) or len(set(classes)) != len(classes):
        raise ConfigError(f"classes: {classes!r} has to be a list of different names, like ['nuc', 'mito'].")
