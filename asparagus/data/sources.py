"""Which cases a source folder holds: found by the endings of files, or listed by a conversion's own `cases`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asparagus.data.conversion import Conversion, Definition, RawCase
from asparagus.data.write import CASES_FOLDER
from asparagus.errors import ConfigError, DataError

DICOM = ".dcm"


@dataclass(frozen=True)
class Source:
    """One case to be made; plain values, so that it can go to any process."""

    images: tuple[str, ...]
    target: str
    """Inside the task, without suffix."""
    label: str | float | None = None
    kind: str = "standard"
    """`standard`, `DWI` or `PET`."""


@dataclass(frozen=True)
class Found:
    """What a source folder holds."""

    sources: list[Source]
    excluded: int


def find_sources(definition: Definition, source_root: Path) -> Found:
    """Return every case that the source folder holds, in the order of its names.

    Raises:
        DataError: No such folder, nothing in it, or two files that would become the same case.
        ConfigError: A function of the conversion failed.
    """
    conversion = definition.conversion
    root = source_root / Path(conversion.source).expanduser()
    if not root.is_dir():
        raise DataError(f"{definition.file}: source: {root} is no folder. Unpack the data there, or name another one.")
    if definition.cases is not None:
        return Found(_unique(_listed(definition, definition.cases, root), definition), 0)
    files = sorted(files_below(root, conversion.extensions))
    kept = [file for file in files if not any(part in _inside(file, root) for part in conversion.patterns_exclusion)]
    if not kept:
        raise DataError(
            f"{root}: holds no {' or '.join(conversion.extensions)} to convert ({len(files)} left out by "
            f"patterns_exclusion). Look at source, extensions and patterns_exclusion in {definition.file}."
        )
    sources = [
        Source(
            (str(file),), _placed(_target(file, root)), _label(definition, file), _kind(_inside(file, root), conversion)
        )
        for file in kept
    ]
    return Found(_unique(sources, definition), len(files) - len(kept))


def files_below(root: Path, extensions: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files of these suffixes, small letters or capitals, below a folder; of DICOM slices, their folder."""
    endings = tuple(ending.lower() for ending in extensions)
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and not _leads_back(folder, name)]
        seen = [name for name in names if name.lower().endswith(endings) and not name.startswith(".")]
        slices = [name for name in seen if name.lower().endswith(DICOM)]
        if slices:
            yield Path(folder)
        yield from (Path(folder, name) for name in seen if name not in slices)


def _leads_back(folder: str, name: str) -> bool:
    """Tell whether a link leads to a folder that it lies in: everything there would be found again, without end."""
    link = Path(folder, name)
    return link.is_symlink() and Path(folder).resolve().is_relative_to(link.resolve())


def _inside(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _target(path: Path, root: Path) -> str:
    """Return where a case goes: as it lies in the source, without its suffix."""
    if path == root:
        return path.name
    where = _inside(path, root).lstrip("/")
    if path.is_dir():
        return where
    ending = next((ending for ending in (".nii.gz", path.suffix) if where.lower().endswith(ending.lower())), "")
    return where[: len(where) - len(ending)]


def _kind(path: str, conversion: Conversion) -> str:
    for kind in ("DWI", "PET"):
        if any(part in path for part in getattr(conversion, f"patterns_{kind}")):
            return kind
    return "standard"


def _listed(definition: Definition, cases: Callable[[Path], Any], root: Path) -> list[Source]:
    found = _call(definition, cases, root)
    if not isinstance(found, Iterable) or not all(isinstance(case, RawCase) for case in found):
        raise ConfigError(f"{definition.file}: cases() gave {_shown(found)}: it has to yield RawCase([image, ...]).")
    return [_own(case, definition, root) for case in found]


def _shown(found: Any) -> str:
    """Say what was given instead of cases."""
    if not isinstance(found, Iterable):
        return repr(found)
    return repr(next(case for case in found if not isinstance(case, RawCase)))


def _own(case: RawCase, definition: Definition, root: Path) -> Source:
    given = [case.images] if isinstance(case.images, str | Path) else [*case.images]
    if not given or not all(isinstance(image, str | Path) for image in given):
        raise ConfigError(f"{definition.file}: cases: {case!r} has no images. Give their files: RawCase([image, ...]).")
    images = tuple(str(root / image) for image in given)
    target = case.name or _target(Path(images[0]), root)
    if Path(target).is_absolute() or ".." in Path(target).parts:
        raise ConfigError(f"{definition.file}: cases: {target!r} is no name of a case inside the task.")
    return Source(images, _placed(target), _where(case.label, definition, root))


def _placed(target: str) -> str:
    """Return where a case goes that lies in no folder: beside dataset.json, it could be taken for a split."""
    return target if "/" in target else f"{CASES_FOLDER}/{target}"


def _label(definition: Definition, image: Path) -> str | float | None:
    return (
        None
        if definition.label is None
        else _where(_call(definition, definition.label, image), definition, image.parent)
    )


def _where(label: Any, definition: Definition, folder: Path) -> Any:
    """Return a segmentation's label as the path of its file; others are as they are, and judged with their case."""
    is_file = definition.conversion.kind == "seg" and isinstance(label, str | Path)
    return str(folder / label) if is_file else label


def _call(definition: Definition, function: Callable[[Path], Any], path: Path) -> Any:
    """Call a function of the user's; a generator is run to its end, where its errors are."""
    try:
        found = function(path)
        return [*found] if isinstance(found, Iterator) else found
    except Exception as error:
        raise ConfigError(
            f"{definition.file}: {function.__name__}({path}) failed: {type(error).__name__}: {error}"
        ) from error


def _unique(sources: list[Source], definition: Definition) -> list[Source]:
    seen: dict[str, Source] = {}
    for source in sources:
        if other := seen.get(source.target):
            raise DataError(
                f"{source.images[0]} and {other.images[0]} would both become {source.target}. Leave one out "
                f"(patterns_exclusion), or name them in cases(): {definition.file}."
            )
        seen[source.target] = source
    if not sources:
        raise DataError(f"{definition.file}: cases() found nothing.")
    return sources
