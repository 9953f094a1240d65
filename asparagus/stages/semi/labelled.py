"""A task of which few cases are taken to be labelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import Subset

from asparagus.data.datasets import cases
from asparagus.errors import ConfigError


def few_cases(root: str | Path, count: int, **options: Any) -> Subset[dict[str, Any]]:
    """Return the first cases of a task's split, for the loader `supervised`; those without labels are in another.

    Args:
        root: The data folder that holds the task's folder.
        count: How many.
        options: Those of `asparagus.data.datasets.cases`: `task`, `subset`, `dimensions`, ...

    Raises:
        ConfigError: There are fewer.
    """
    all_of_them = cases(root, **options)
    if not 1 <= count <= len(all_of_them):
        raise ConfigError(f"dataset.count: {count} is not within 1 to {len(all_of_them)}, the cases that there are.")
    return Subset(all_of_them, range(count))
