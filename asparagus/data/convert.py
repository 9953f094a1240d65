"""Carrying out a conversion: sources -> cases of a task; resumable, never half a file, no failure in silence."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from asparagus.data.case import Job, Recipe, convert_case, is_there
from asparagus.data.conversion import Definition
from asparagus.data.datasets import properties_beside
from asparagus.data.diffusion import gradients, shells
from asparagus.data.files import NIFTI, TENSOR, clear, read_json, write_json
from asparagus.data.layout import DATASET_FILE, PATHS_FILE, Task, reroot
from asparagus.data.pool import Pool
from asparagus.data.sources import Source, find_sources
from asparagus.data.write import UNFINISHED_FILE
from asparagus.errors import DataError, RequestError

log = logging.getLogger(__name__)

LOCK = ".converting.lock"
ELSEWHERE = "was converted, but not into {folder} as it is seen here: is that the same folder on every node?"
IDENTITY = ("preprocessing_config", "saving_config", "dataset_config")
"""Sections of dataset.json that must be the same, or a folder would be a mix."""


class Failure(NamedTuple):
    """A case that could not be made."""

    source: str
    reason: str


@dataclass(frozen=True)
class Converted:
    """What came of a conversion."""

    folder: Path
    made: int
    kept: int
    """Cases that were there already."""
    failures: list[Failure]


def convert(
    definition: Definition,
    data_root: Path,
    source_root: Path,
    pool: Pool[Job],
    *,
    as_nifti: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Convert what is not converted yet, and write `paths.json` and `dataset.json` once all was tried.

    Args:
        definition: The conversion.
        data_root: Where the task's folder is, or comes to be.
        source_root: What a relative `source` is relative to.
        pool: Does the cases after the first, which is tried here before it starts.
        as_nifti: Write `.nii.gz` instead of `.pt`.
        progress: Called with (cases done, cases in all).

    Raises:
        DataError: Nothing to convert or nothing that could be; a folder of something else, of other settings or of the
            other format, or that is being converted.
        ConfigError: A function of the conversion failed.
    """
    conversion, folder = definition.conversion, data_root.absolute() / definition.name
    if as_nifti and conversion.kind in ("cls", "reg"):
        raise DataError(
            f"--save_as_nifti: a {conversion.kind} case holds a label too. Leave it out: tensors hold both."
        )
    recipe = Recipe(str(folder), NIFTI if as_nifti else TENSOR, conversion)
    about = _about(definition.name, recipe)
    _may_convert(folder, about)
    found = find_sources(definition, source_root)
    with _alone_in(folder):
        _may_convert(folder, about)  # another one may just have ended
        if not (folder / DATASET_FILE).is_file():
            write_json(folder / UNFINISHED_FILE, about)
        clear(folder)
        jobs, failures = _jobs(found.sources)
        kept = sum(is_there(recipe, job) for job in jobs)
        failures += _tried(recipe, jobs, pool, progress)
        clear(folder)  # of processes and nodes that died on the way
        failures.sort()
        made = [job for job in jobs if is_there(recipe, job)]
        if not made:
            _give_up(folder, recipe)
            raise DataError(
                f"{definition.name}: no case could be converted; mend {definition.file} or the files, and say the same "
                f"again.\n{listed(failures)}"
            )
        _finish(folder, about, made, recipe, _counts(found.sources, found.excluded, recipe))
    return Converted(folder, len(made) - kept, kept, failures)


def listed(failures: list[Failure]) -> str:
    """Return each failed case with its reason, a line each."""
    return "\n".join(reason if source in reason else f"{source}: {reason}" for source, reason in failures)


def _tried(
    recipe: Recipe, jobs: list[Job], pool: Pool[Job], progress: Callable[[int, int], None] | None
) -> Iterator[Failure]:
    """Do what is not there yet, and yield what could not be done."""
    todo = [job for job in jobs if not is_there(recipe, job)]
    for number, (job, error) in enumerate(_all(partial(convert_case, recipe), todo, pool), start=1):
        if error is not None:
            yield Failure(job.images[0], _reason(error))
        elif not is_there(recipe, job):
            yield Failure(job.images[0], ELSEWHERE.format(folder=recipe.folder))
        if progress:
            progress(len(jobs) - len(todo) + number, len(jobs))


def _all(work: Callable[[Job], None], todo: list[Job], pool: Pool[Job]) -> Iterator[tuple[Job, BaseException | None]]:
    """Try the first one here: what is wrong with all of them is known before many processes start."""
    if not todo:
        return
    try:
        work(todo[0])
    except Exception as error:
        log.debug("the first case failed", exc_info=error)
        yield todo[0], error
    else:
        yield todo[0], None
    yield from pool(work, todo[1:])


def _jobs(sources: list[Source]) -> tuple[list[Job], list[Failure]]:
    """Return the cases that the sources make: of a diffusion series, one for each b-value."""
    jobs: list[Job] = []
    failures: list[Failure] = []
    for source in sources:
        try:
            jobs += _of(source)
        except DataError as error:
            failures.append(Failure(source.images[0], str(error)))
    return jobs, failures


def _of(source: Source) -> list[Job]:
    if source.kind == "PET":
        return [Job(source.images, source.target, source.label, ())]
    if source.kind != "DWI":
        return [Job(source.images, source.target, source.label)]
    image = Path(source.images[0])
    if not image.with_name(f"{Path(source.target).name}.bval").exists() and _is_single(image):
        return [Job(source.images, source.target, source.label, ())]
    found = shells(*gradients(image, Path(source.target).name))
    if not found:
        raise DataError(f"{image}: no unweighted volume, and no b-value with three directions: nothing to average.")
    return [Job(source.images, f"{source.target}_bval_{bval}", source.label, which) for bval, which in found.items()]


def _is_single(image: Path) -> bool:
    """Tell whether a NIfTI holds one volume; its header alone is read. What cannot be read is told later."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        return int(np.prod(nibabel.load(image).shape[3:])) == 1
    except (OSError, EOFError, ValueError, ImageFileError):
        return True


def _about(name: str, recipe: Recipe) -> dict[str, Any]:
    conversion = recipe.conversion
    config = {
        "kind": conversion.kind,
        "n_classes": conversion.n_classes,
        "n_modalities": conversion.n_modalities,
        "dimensions": conversion.dimensions,
        "class_names": conversion.class_names,
        "label_map": {str(value): known for value, known in conversion.label_map.items()},
    }
    saving = {"save_as_tensor": recipe.suffix == TENSOR, "tensor_dtype": "float32", "save_file_metadata": True}
    found = {
        "name": name,
        "dataset_config": config,
        "preprocessing_config": dataclasses.asdict(conversion.preprocessing),
        "saving_config": saving,
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _may_convert(folder: Path, about: dict[str, Any]) -> None:
    """Refuse a folder that holds something else: nothing of it is changed."""
    for name in (DATASET_FILE, UNFINISHED_FILE):
        if (folder / name).is_file():
            _same_or_raise(folder, read_json(folder / name), about)
            return
    if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
        raise DataError(
            f"{folder}: holds files but no {DATASET_FILE}; nothing was written. Move them, or rename the task."
        )


def _same_or_raise(folder: Path, there: dict[str, Any], asked: dict[str, Any]) -> None:
    formats = [part.get("saving_config", {}).get("save_as_tensor", True) for part in (there, asked)]
    if formats[0] != formats[1]:
        was, now = ("tensors" if one else "NIfTI files" for one in formats)
        raise DataError(f"{folder}: holds {was}, and {now} were asked for. Ask for {was}, or give it another name.")
    changed = [
        f"{section}.{key}: {one.get(key)!r} there, {other.get(key)!r} asked for"
        for section in IDENTITY
        for one, other in [(there.get(section) or {}, asked[section])]
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)  # 1 mm is 1.0 mm
    ]
    if changed:
        raise DataError(
            f"{folder}: was converted in another way, and a task is never a mix; nothing was changed.\n"
            + "\n".join(f"  {line}" for line in changed)
            + "\nConvert under another name, or delete that folder."
        )


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let one conversion at a time write here; a killed one holds nobody up."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise DataError(f"{folder}: is being converted by another process. Wait for it, or end it.") from error


def _counts(sources: list[Source], excluded: int, recipe: Recipe) -> dict[str, Any]:
    kinds = [source.kind for source in sources]
    conversion = recipe.conversion
    return {
        "n_classes": conversion.n_classes,
        "n_modalities": conversion.n_modalities,
        "file_suffix": recipe.suffix,
        "files_source_directory_total": len(sources) + excluded,
        **{f"files_source_directory_{kind}": kinds.count(kind) for kind in ("standard", "DWI", "PET")},
        "files_source_directory_excluded": excluded,
        **{name: list(getattr(conversion, name)) for name in ("patterns_exclusion", "patterns_DWI", "patterns_PET")},
    }


def _finish(folder: Path, about: dict[str, Any], made: list[Job], recipe: Recipe, counts: dict[str, Any]) -> None:
    """Write what makes the folder a task, `dataset.json` last. Cases whose source is gone stay in it."""
    before = read_json(folder / PATHS_FILE) if (folder / PATHS_FILE).is_file() else []
    task = Task(folder.name, folder, counts["n_classes"], counts["n_modalities"], recipe.conversion.dimensions)
    paths = {folder / f"{job.target}{recipe.suffix}" for job in made}
    paths |= {path for path in (reroot(stored, task) for stored in before) if path.is_file()}
    shapes = {tuple(properties_beside(path).get("shape", ())) for path in paths}
    total = counts["files_source_directory_total"]
    metadata = {
        **counts,
        "files_target_directory_total": len(paths),
        "files_delta_after_processing": len(paths) - total,
        "shape": (list(shapes.pop()) or None) if len(shapes) == 1 else None,
    }
    write_json(folder / PATHS_FILE, sorted(map(str, paths)))
    write_json(folder / DATASET_FILE, {**about, "metadata": metadata})
    (folder / UNFINISHED_FILE).unlink(missing_ok=True)


def _give_up(folder: Path, recipe: Recipe) -> None:
    """Forget a conversion that made nothing: with other settings it may begin anew."""
    if not (folder / DATASET_FILE).is_file() and not any(folder.rglob(f"*{recipe.suffix}")):
        (folder / UNFINISHED_FILE).unlink(missing_ok=True)


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, RequestError) else f"{type(error).__name__}: {error}"
