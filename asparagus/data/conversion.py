"""What becomes a task and how: a conversion is a Python file of one's own, and this is what it says (SEEDS A5)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asparagus.data import CONVERSIONS
from asparagus.data.fields import OF_CONVERSION, OF_PREPROCESSING, wrong_fields
from asparagus.data.preprocessing import Preprocessing
from asparagus.data.reading import READERS, is_readable
from asparagus.errors import ConfigError, DataError, did_you_mean, one_of
from asparagus.python_file import execute

__all__ = ["Conversion", "Preprocessing", "RawCase"]

KINDS = ("pretrain", "seg", "cls", "reg")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

TEMPLATE = '''"""{name}: what these data are, where they come from, under which licence.

Write it with asp data convert {name}; docs/data.md says what each line means.
"""

from pathlib import Path

from asparagus.data.conversion import Conversion, Preprocessing, RawCase

conversion = Conversion(
    kind="pretrain",  # pretrain, seg, cls or reg
    source="{source}",  # a folder of ASPARAGUS_SOURCE, or a whole path
    extensions=(".nii.gz", ".nii"),  # also .nrrd, .dcm (a folder is a series), .png, .tif
    n_classes=1,  # seg: with the background
    n_modalities=1,
    patterns_exclusion=("func", "fmap"),  # a path with one of these in it is left out
    patterns_DWI=("_dwi",),  # diffusion series, .bval and .bvec beside them: an image for each b-value
    patterns_PET=("_pet",),  # averaged over time
    preprocessing=Preprocessing(
        normalization_operation="no_norm",
        target_spacing=None,  # (1.0, 1.0, 1.0) for 1 mm
        target_orientation="RAS",
        crop_to_nonzero=False,
        min_slices=15,
    ),
)


# seg: the file with the label. cls: its class, from 0 on. reg: a number.
# def label(image: Path) -> Path | int | float:
#     return image.with_name(image.name.replace("_image", "_label"))


# Several files are one case, or the rules above do not find them:
# def cases(source: Path):
#     for folder in sorted(source.glob("sub-*")):
#         yield RawCase([folder / "t1.nii.gz", folder / "flair.nii.gz"], label=folder / "seg.nii.gz", name=folder.name)
'''


@dataclass(frozen=True)
class RawCase:
    """Files that are one case."""

    images: Iterable[Path]
    """One for each modality; a DICOM series is a folder."""
    label: Path | float | None = None
    name: str | None = None
    """Where it goes in the task, without a suffix; None: as its first file lies in the source."""


@dataclass(frozen=True)
class Conversion:
    """A dataset, as it lies there, and what to make of it."""

    kind: str
    source: str
    n_classes: int = 1
    n_modalities: int = 1
    dimensions: int = 3
    extensions: tuple[str, ...] = (".nii.gz", ".nii")
    patterns_exclusion: tuple[str, ...] = ()
    patterns_DWI: tuple[str, ...] = ()  # noqa: N815 - upstream's name
    patterns_PET: tuple[str, ...] = ()  # noqa: N815 - upstream's name
    class_names: tuple[str, ...] | None = None
    label_map: Mapping[int, int] = field(default_factory=dict)
    """Segmentation: value in the file -> class; what is not in it stays."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    def problems(self) -> Iterator[str]:
        """Yield what is wrong, each beginning with its name."""
        if wrong := [*self._wrong_fields()]:
            yield from wrong  # what follows counts on them
            return
        if self.kind not in KINDS:
            yield one_of("kind", self.kind, KINDS)
        if self.dimensions not in (2, 3):
            yield f"dimensions: {self.dimensions!r} is not 2 or 3."
        if self.class_names is not None and len(self.class_names) != self.n_classes:
            yield f"class_names: {len(self.class_names)} given, but n_classes is {self.n_classes}."
        if unread := [ending for ending in self.extensions if not is_readable(Path(f"a{ending}"))]:
            yield one_of("extensions", unread[0], READERS)
        if beyond := sorted({known for known in self.label_map.values() if not 0 <= known < self.n_classes}):
            yield f"label_map: maps to {beyond}, but n_classes={self.n_classes} knows 0 to {self.n_classes - 1}."
        for problem in self.preprocessing.problems(self.n_modalities, self.dimensions):
            yield f"preprocessing.{problem}"

    def _wrong_fields(self) -> Iterator[str]:
        yield from wrong_fields(self, OF_CONVERSION)
        given: object = self.preprocessing  # a user's Python, which no checker of types has seen
        if not isinstance(given, Preprocessing):
            yield f"preprocessing: {given!r} is not Preprocessing(...)."
            return
        for problem in wrong_fields(given, OF_PREPROCESSING):
            yield f"preprocessing.{problem}"


@dataclass(frozen=True)
class Definition:
    """A conversion file that was read."""

    name: str
    """Of the task."""
    file: Path
    conversion: Conversion
    label: Callable[[Path], Any] | None
    cases: Callable[[Path], Iterable[RawCase]] | None


def new_conversion(name: str, configs: Path) -> Path:
    """Write a conversion to fill in and return its file.

    Raises:
        DataError: A name that is no folder's, or a conversion of that name that is there.
    """
    if not NAME.fullmatch(name):
        raise DataError(f"{name!r} is no name for a task. Letters, digits, '_', '-' and '.': Task500_Mine.")
    file = configs / CONVERSIONS / f"{name}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(TEMPLATE.format(name=name, source=name.partition("_")[2] or name))
    except FileExistsError as error:
        raise DataError(f"{file}: is there already, and was left as it is.") from error
    return file


def conversions(configs: Path) -> list[str]:
    """Return the names of the conversions there are, sorted."""
    return sorted(path.stem for path in (configs / CONVERSIONS).glob("*.py"))


def read_conversion(name: str, configs: Path) -> Definition:
    """Run the conversion of a task (its name, or the path of a Python file) and check what it says.

    Raises:
        ConfigError: No such file, one that fails, or settings that are wrong: all of them.
    """
    file = Path(name) if name.endswith(".py") else _file_of(name, configs / CONVERSIONS)
    if not file.is_file():
        known = conversions(configs)
        raise ConfigError(
            f"{file}: there is no such conversion. {did_you_mean(name, known)} Known: {', '.join(known) or 'none'}. "
            f"asp data new-conversion {Path(name).stem} writes one to fill in.".replace("  ", " ")
        )
    if not NAME.fullmatch(file.stem):
        raise ConfigError(f"{file}: its name is the task's, and {file.stem!r} is none. Letters, digits, '_', '-', '.'.")
    names = execute(file)
    conversion = names.get("conversion")
    if not isinstance(conversion, Conversion):
        raise ConfigError(f"{file}: needs conversion = Conversion(...), and has {type(conversion).__name__}.")
    problems = [*conversion.problems()]
    if conversion.kind != "pretrain" and not (names.get("label") or names.get("cases")):
        problems.append(f"label: kind {conversion.kind!r} needs a function label(image) or cases(source).")
    if problems:
        raise ConfigError(*(f"{file}: {problem}" for problem in problems))
    return Definition(file.stem, file.absolute(), conversion, names.get("label"), names.get("cases"))


def _file_of(name: str, folder: Path) -> Path:
    """Return the file of a conversion; `PT001` is `PT001_Name`, where there is one alone."""
    longer = sorted(folder.glob(f"{name}_*.py"))
    exact = folder / f"{name}.py"
    return longer[0] if not exact.is_file() and len(longer) == 1 else exact
