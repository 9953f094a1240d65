"""Weights of a run's newest or best checkpoint into a network in a notebook, by what was recorded (SEEDS E31, E32)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from asparagus.checkpoint.folder import Manifest, best_of, is_whole, manifests
from asparagus.checkpoint.transfer import read_weights, transfer

NET = "net."
"""Under which a stage's module has its network."""

log = logging.getLogger("asparagus")


def load_latest(folder: Path | str, model: nn.Module) -> int | None:
    """Load the weights of the newest whole checkpoint into a model, in place.

    Args:
        folder: Of a run, or of its checkpoints.
        model: A stage's module, or the bare network; what does not fit is left, and logged.

    Returns:
        The epoch that they are of, counted from 0 as everywhere; None if there is no whole checkpoint.

    Raises:
        RunError: None of the weights fits the model.
    """
    checkpoints = _checkpoints(folder)
    return _load(checkpoints, _first_whole(checkpoints, manifests(checkpoints)[::-1]), model)


def load_best(folder: Path | str, model: nn.Module) -> int | None:
    """Load the weights of the best whole checkpoint into a model, in place.

    The best is the one whose own manifest records the best value of the metric that the run was monitored by.

    Args:
        folder: Of a run, or of its checkpoints.
        model: A stage's module, or the bare network; what does not fit is left, and logged.

    Returns:
        The epoch that they are of, counted from 0 as everywhere; None if none was measured.

    Raises:
        RunError: None of the weights fits the model.
    """
    checkpoints, left, in_turn = _checkpoints(folder), manifests(_checkpoints(folder)), []
    while (best := best_of(left)) is not None:
        in_turn.append(best)
        left.remove(best)
    return _load(checkpoints, _first_whole(checkpoints, in_turn), model)


def _checkpoints(folder: Path | str) -> Path:
    inside = Path(folder) / "checkpoints"
    return inside if inside.is_dir() else Path(folder)


def _first_whole(checkpoints: Path, found: list[Manifest]) -> Manifest | None:
    for manifest in found:
        if is_whole(checkpoints / manifest.name, manifest):
            return manifest
        log.warning("%s is torn or was changed; the one before it is taken", checkpoints / manifest.name)
    return None


def _load(checkpoints: Path, chosen: Manifest | None, model: nn.Module) -> int | None:
    if chosen is None:
        log.warning("%s: no checkpoint to load; the model is as it was", checkpoints)
        return None
    weights = _named_for(model, read_weights(checkpoints / chosen.name))
    report = transfer(model, weights, source=chosen.name)
    log.info(report.describe())
    return chosen.epoch


def _named_for(model: nn.Module, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Take the module's part off the names where the model is the bare network."""
    if weights.keys() & model.state_dict().keys():
        return weights
    return {name.removeprefix(NET): value for name, value in weights.items()}
