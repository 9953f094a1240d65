"""Task001_Digits: scikit-learn's 1797 handwritten digits as a real, small, two-dimensional classification task."""

from __future__ import annotations

from pathlib import Path

import torch

from asparagus.data.layout import Task
from asparagus.data.write import Case, Progress, Recipe, write_task
from asparagus.errors import DataError

NAME = "Task001_Digits"
TOTAL = 1797
HIGHEST = 16.0


def make_digits(data_root: str | Path, *, cases: int = TOTAL, progress: Progress | None = None) -> Task:
    """Make Task001_Digits: [image, label] with images [1, 8, 8] in 0..1 and ten classes; the first `cases` of them.

    Raises:
        DataError: more cases than there are, or a folder that is taken.
    """
    if not 1 <= cases <= TOTAL:
        raise DataError(f"cases: {cases} is not within 1 to {TOTAL}, the size of scikit-learn's digits.")
    from sklearn.datasets import load_digits  # a second that only this maker needs

    images, labels = load_digits(return_X_y=True)
    scaled = torch.from_numpy(images).float().div(HIGHEST).reshape(-1, 1, 8, 8)

    def build(index: int) -> Case:
        label = int(labels[index])
        properties = {"original_shape": [8, 8], "shape": [8, 8], "spacing": [1.0, 1.0], "label": label}
        # clone: a view would drag all 1797 images into each file
        return Case([scaled[index].clone(), torch.tensor(label)], properties)

    return write_task(data_root, _recipe(cases), build, progress)


def _recipe(cases: int) -> Recipe:
    return Recipe(
        name=NAME,
        config={
            "n_classes": 10,
            "n_modalities": 1,
            "dimensions": 2,
            "shape": [8, 8],
            "class_names": [str(digit) for digit in range(10)],
        },
        arguments={"maker": "digits", "cases": cases},
        n_cases=cases,
    )
