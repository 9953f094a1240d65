"""Weights of a model as a file and back: tensors by name, loaded without executing anything."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asparagus.archive.container import opened
from asparagus.archive.layout import WEIGHTS
from asparagus.checkpoint.transfer import load_plain
from asparagus.errors import RecordError

OWN = "parameters"
"""Where a split puts the tensors of the model itself, which belong to none of its modules."""


def write_weights(weights: Mapping[str, Any], path: Path) -> None:
    """Save a state dict so that equal weights are equal bytes.

    Raises:
        RecordError: Something in it would have to execute code when it is loaded.
    """
    with path.open("wb") as file:  # torch writes a path's own name into it
        torch.save({name: _compact(value) for name, value in weights.items()}, file)
    if all(isinstance(value, Tensor) for value in weights.values()):
        return
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        extra = ", ".join(name for name, value in weights.items() if not isinstance(value, Tensor))
        raise RecordError(
            f"{extra}: is no tensor, and loading it would execute code, which no archive does. Return tensors and "
            "plain values from get_extra_state."
        ) from error


def load_weights(model: nn.Module, path: Path, *, source: object, strict: bool) -> None:
    """Load the weights of an archive into a model, in place.

    Args:
        model: The target.
        path: Of the extracted weights.
        source: What to call the archive in messages.
        strict: Refuse weights that are missing or left over.

    Raises:
        RecordError: They do not fit.
    """
    weights = load_plain(path, str(source))
    try:
        model.load_state_dict(weights, strict=strict)
    except RuntimeError as error:
        raise RecordError(
            f"{source}: its weights do not fit a {type(model).__name__}: {error}\nRestore it with the config that is "
            "in it, or one that gives the same parameters (override_config_path); strict=False takes what fits by name."
        ) from error


def extract_state_dict_from(
    restore_path: str | Path, save_dir: str | Path, *, split_by_module: bool = False
) -> list[Path]:
    """Write the weights of an archive as plain state dicts; returns the files.

    Args:
        restore_path: The archive.
        save_dir: Where to; made if it is not there.
        split_by_module: One file for each module at the top of the model, `<module>.ckpt`, with the names that the
            module itself has for them; tensors of the model itself go into `parameters.ckpt`.

    Raises:
        RecordError: The archive cannot be read, or one of the files is there already.
    """
    folder = Path(save_dir)
    with opened(Path(restore_path)) as archive, tempfile.TemporaryDirectory(prefix="asparagus-") as inside:
        archive.extract([WEIGHTS], Path(inside))
        weights = load_plain(Path(inside) / WEIGHTS, str(restore_path))
        parts = _by_module(weights) if split_by_module else {Path(WEIGHTS).stem: weights}
        files = {folder / f"{name}.ckpt": part for name, part in parts.items()}
        if there := [str(file) for file in files if file.exists()]:
            raise RecordError(f"{', '.join(there)}: is there already. Give another folder.")
        folder.mkdir(parents=True, exist_ok=True)
        for file, part in files.items():
            write_weights(part, file)
    return list(files)


def _by_module(weights: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {}
    for name, value in weights.items():
        module, _, inner = name.partition(".")
        parts.setdefault(module if inner else OWN, {})[inner or name] = value
    return parts


def _compact(value: Any) -> Any:
    """Return a tensor on the CPU that brings no more memory than its own."""
    if not isinstance(value, Tensor):
        return value
    plain = value.detach().cpu().contiguous()
    own = plain.numel() * plain.element_size()
    return plain if plain.untyped_storage().nbytes() == own else plain.clone()
