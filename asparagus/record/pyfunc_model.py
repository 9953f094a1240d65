"""A file as a model folder of MLflow's, which `mlflow models serve` and `mlflow.pyfunc.load_model` take."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

NEEDED = ("asparagus", "torch", "pytorch-lightning", "mlflow")
"""What the model is loaded with."""


def save_pyfunc(data: Path, folder: Path, *, loader: str, about: Mapping[str, Any]) -> None:
    """Write the folder, whole or not at all.

    Args:
        data: The file that the loader reads; copied.
        folder: Where to; not there yet.
        loader: The module whose `_load_pyfunc` reads it. Nothing of ours is pickled.
        about: What the model says of itself in `MLmodel`.
    """
    import mlflow.pyfunc

    writing = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(writing, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        mlflow.pyfunc.save_model(
            path=str(writing),
            loader_module=loader,
            data_path=str(data),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in NEEDED],
            metadata={"asparagus": dict(about)},
        )
        writing.rename(folder)
    finally:
        shutil.rmtree(writing, ignore_errors=True)
