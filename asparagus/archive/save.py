"""From a model to its archive."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from asparagus.archive import container
from asparagus.archive.kept import Kept, kept_by, packed, packed_with
from asparagus.archive.layout import MODEL, RUN, WEIGHTS, Index
from asparagus.archive.weights import write_weights
from asparagus.errors import RecordError

INSIDE = "<locals>"
"""Stands in the name of a class that is defined inside a function."""


def save(
    model: nn.Module, path: Path, lineage: Mapping[str, Any], *, weights: Mapping[str, Any] | None = None
) -> Index:
    """Write the archive of an archivable model; returns its index.

    Args:
        model: What it is of.
        path: The archive.
        lineage: Where the weights come from.
        weights: Others than the model has now.

    Raises:
        RecordError: An artifact is gone, or the class could not be found again.
    """
    _must_be_found_again(type(model))
    return _write(packed(model), MODEL, path, lineage, model.state_dict() if weights is None else weights)


def save_kept(kept: Kept, path: Path, lineage: Mapping[str, Any], weights: Mapping[str, Any]) -> Index:
    """Write the archive of a run; returns its index.

    Args:
        kept: The config and the artifacts.
        path: The archive.
        lineage: Where the weights come from.
        weights: The state dict.

    Raises:
        RecordError: An artifact is gone.
    """
    return _write(packed_with(kept.cfg, kept.artifacts), RUN, path, lineage, weights)


def save_again(model: nn.Module, path: Path | str) -> Index:
    """Write the archive of a model that was restored from one; returns its index.

    Args:
        model: What `restore` returned; its weights may have changed since.
        path: The archive.

    Raises:
        RecordError: It came from no archive, or an artifact is gone.
    """
    kept = kept_by(model)
    if kept is None:
        raise RecordError(
            f"{type(model).__name__}: came from no archive and is not Archivable, so nobody knows how it is built. Let "
            "it inherit from Archivable, or export the run that trained it: asp model export N."
        )
    target = Path(path).absolute()
    if kept.kind == RUN:
        return save_kept(kept, target, kept.lineage, model.state_dict())
    return save(model, target, kept.lineage)


def _write(
    packed: tuple[str, Mapping[str, Path]],
    kind: str,
    path: Path,
    lineage: Mapping[str, Any],
    weights: Mapping[str, Any],
) -> Index:
    config, artifacts = packed
    with tempfile.TemporaryDirectory(prefix="asparagus-") as folder:
        written = Path(folder) / WEIGHTS
        write_weights(weights, written)
        return container.write(path, kind=kind, config=config, files={WEIGHTS: written, **artifacts}, lineage=lineage)


def _must_be_found_again(cls: type) -> None:
    if INSIDE in cls.__qualname__:
        raise RecordError(
            f"{cls.__qualname__}: is defined inside a function, so nobody finds it again when the archive is restored. "
            "Define the class in a module."
        )
