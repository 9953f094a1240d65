"""The tasks that asparagus brings, made by their names."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from asparagus.data import MAKERS
from asparagus.errors import DataError, one_of

if TYPE_CHECKING:
    from asparagus.data.write import Progress


def make(name: str, root: Path, *, cases: int | None = None, progress: Progress | None = None) -> Path:
    """Make a task, and return its folder.

    Args:
        name: One of `MAKERS`.
        root: The data folder.
        cases: How many; the maker's default unless said.
        progress: Called with (done, in all).

    Raises:
        DataError: There is no such task, or its folder is taken.
    """
    if name not in MAKERS:
        raise DataError(one_of("task", name, MAKERS))
    module, _, function = MAKERS[name].rpartition(".")
    maker = getattr(importlib.import_module(module), function)
    asked = {} if cases is None else {"cases": cases}
    return Path(maker(root, progress=progress, **asked).folder)
