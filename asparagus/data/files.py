"""Files of a task folder, written whole or not at all: a killed process leaves no half one under its name."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asparagus.errors import DataError

TENSOR, NIFTI = ".pt", ".nii.gz"
WRITING = ".tmp"
"""How a file ends while it is written; hidden, and no case, split or list of paths to anyone."""


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield where to write; what stands there at the end of the body takes the file's name, in one step."""
    file.parent.mkdir(parents=True, exist_ok=True)
    writing = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}{WRITING}")
    try:
        yield writing
        writing.replace(file)
    finally:
        writing.unlink(missing_ok=True)


def write_json(file: Path, content: Any) -> None:
    """Write JSON (indent 4, keys sorted) so that a reader sees the old file or the new one, never a part."""
    with replacing(file) as writing:
        writing.write_text(json.dumps(content, indent=4, sort_keys=True) + "\n", encoding="utf-8")


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: It is not there, or is none.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not readable as JSON: {error}.") from error


def clear(folder: Path) -> None:
    """Remove what killed processes were writing below a folder; nobody else may be writing there now."""
    for left in folder.rglob(f".*{WRITING}"):
        left.unlink(missing_ok=True)


def properties_file(case: Path) -> Path:
    """Return where the properties of a case are: beside it."""
    return case.with_name(f"{case.name.removesuffix(NIFTI).removesuffix(case.suffix)}.json")
