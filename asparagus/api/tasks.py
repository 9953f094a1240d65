"""Tasks to try things on, for notebooks and scripts."""

from __future__ import annotations

from pathlib import Path


def make_task(name: str, *, cases: int | None = None, split: str = "split_80_20") -> Path:
    """Make one of the tasks that asparagus brings, and split it; what is there already is left as it is.

    ```python
    asparagus.make_task("Task001_Digits")
    ```

    Args:
        name: What `asp data make` takes, e.g. `Task001_Digits` or `Task997_LauritSynSeg`.
        cases: How many, where it is not there yet; enough for the demo unless said.
        split: What `asp-split --fn` takes.

    Returns:
        The task's folder, under `ASPARAGUS_DATA`.

    Raises:
        DataError: There is no such task or split, or a folder of that name holds something else.
    """
    from asparagus.data.layout import DATASET_FILE
    from asparagus.data.made import make
    from asparagus.paths import get_paths, load_environment

    load_environment()
    root = Path(get_paths().data)
    there = (root / name / DATASET_FILE).is_file()
    return make(name, root, cases=None if there else cases, split=split)
