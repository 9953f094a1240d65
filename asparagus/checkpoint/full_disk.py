"""A disk that is full, recognised in whatever was raised, and said so that the run can go on. Standard library only."""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from asparagus.checkpoint.folder import manifests
from asparagus.checkpoint.retention import size_told
from asparagus.errors import RunError

FULL = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "has no more room for you: your quota there is used up",
    errno.EFBIG: "takes no file of that size (see ulimit -f)",
}
TORCHS = re.compile(r"unexpected pos|iostream error|PytorchStreamWriter")
"""What torch's own writer says of a file that it could not write to; it does not say why."""


def is_full(error: BaseException | None) -> bool:
    """Tell whether an error, or one that it came from, is that of a full disk."""
    return any(_why(cause) for cause in _chain(error))


def full_disk(error: BaseException, folder: Path, run_id: int) -> RunError:
    """Return the error that a run ends with whose disk is full: which disk, what is kept, how it goes on.

    Args:
        error: What was raised.
        folder: Of the run.
        run_id: Its number.
    """
    causes = sorted(_chain(error), key=lambda cause: not isinstance(cause, OSError))  # torch's word is the vaguer one
    why = next(filter(None, map(_why, causes)), FULL[errno.ENOSPC])
    kept = manifests(folder / "checkpoints")
    if kept:
        goes_on = f"it goes on from {folder / 'checkpoints' / kept[-1].name}"
        saved = f"Kept, and whole: {', '.join(manifest.name for manifest in kept)}."
    else:
        goes_on, saved = "it begins again", "No checkpoint was written yet."
    return RunError(
        f"run {run_id} stopped: the disk of {folder} {why} ({_room(folder)}). {saved}\n"
        f"Free some room (asp gc shows what can go) and run the same command again: {goes_on}."
    )


def _why(error: BaseException) -> str:
    if isinstance(error, OSError):
        return FULL.get(error.errno or 0, "")
    return "could not be written to" if isinstance(error, RuntimeError) and TORCHS.search(str(error)) else ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from, the cause before the context."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _room(folder: Path) -> str:
    """Say how much is free where the run lies, and where temporary files go if that is another disk."""
    there, temporary = _existing(folder), Path(tempfile.gettempdir())
    told = f"{size_told(shutil.disk_usage(there).free)} free"
    if temporary.stat().st_dev == there.stat().st_dev:
        return told
    return f"{told}; {size_told(shutil.disk_usage(temporary).free)} free in {temporary}"


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())
