"""The tasks that asparagus brings, made by their names and split."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from asparagus.data import MAKERS
from asparagus.data.layout import DATASET_FILE
from asparagus.errors import DataError, one_of
from asparagus.storage.tasks import put_task

if TYPE_CHECKING:
    from asparagus.data.layout import Task
    from asparagus.data.write import Progress

SPLIT = "split_80_20"
"""What the shipped experiments train on."""


def must_be_known(name: str) -> None:
    """Refuse a task that asparagus does not bring.

    Raises:
        DataError: With those that it does.
    """
    if name not in MAKERS:
        raise DataError(one_of("task", name, MAKERS))


def make(
    name: str, root: Path, *, cases: int | None = None, split: str = SPLIT, progress: Progress | None = None
) -> Path:
    """Make a task with a split, and return its folder; what is there already is left as it is.

    Args:
        name: One of `MAKERS`.
        root: The data folder.
        cases: How many; unless said as many as it was made with before, or the maker's default.
        split: Its name, as `asp-split --fn` takes it.
        progress: Called with (done, in all).

    Raises:
        DataError: There is no such task or split, or the folder holds another one.
    """
    from asparagus.data.split import make_split, split_named

    must_be_known(name)
    split_named(split)
    module, _, function = MAKERS[name].rpartition(".")
    maker: Callable[..., Task] = getattr(importlib.import_module(module), function)
    cases = _cases_there(root / name) if cases is None else cases
    asked = {} if cases is None else {"cases": cases}
    folder = Path(maker(root, progress=progress, **asked).folder)
    if not (folder / f"{split}.json").is_file():
        make_split(root, name, split)
    put_task(root, name)
    return folder


def _cases_there(folder: Path) -> int | None:
    """Return how many cases a task was made with before; None where it was not, or by somebody else."""
    try:
        content = json.loads((folder / DATASET_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = content.get("preprocessing_config", {}).get("cases") if isinstance(content, dict) else None
    return found if isinstance(found, int) else None
