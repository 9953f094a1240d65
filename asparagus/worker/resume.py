"""The checkpoint that a new run is told to go on from: looked at before Lightning loads it, so that errors speak."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.nn.parameter import is_lazy

from asparagus.checkpoint.transfer import load_plain
from asparagus.errors import RunError

KEY = "run.resume_from_checkpoint"
OF_LIGHTNING = ("state_dict", "pytorch-lightning_version")
OF_A_FIT = ("optimizer_states", "lr_schedulers")
"""What a file without is good for to look at, not to train on: Lightning was told to save the weights alone."""
CHANGES_WEIGHTS = ("setup", "configure_model", "on_load_checkpoint", "load_state_dict")
"""Hooks of a module of one's own after which its weights, or those of the file, may be others than now."""
SHOWN = 5


def check_state(checkpoint: Path, module: pl.LightningModule, mode: str) -> str:
    """Refuse a checkpoint that Lightning could not go on from; return what it is.

    Args:
        checkpoint: The file, or a checkpoint folder of ours.
        module: As it is before the training.
        mode: `run.mode`; a fit needs the state of optimizers too.

    Raises:
        RunError: It is none of Lightning's, lacks what the mode needs, or its weights are not the module's.
    """
    state = load_plain(checkpoint, KEY)
    needed = (*OF_LIGHTNING, *(OF_A_FIT if mode == "fit" else ()))
    there = state if isinstance(state, Mapping) else {}
    if lacks := [name for name in needed if name not in there]:
        advice = f"Give a checkpoint that a Lightning training wrote; weights alone are for init_from=file:{checkpoint}"
        raise RunError(f"{KEY}: {checkpoint} has no {', '.join(lacks)}, so nothing can go on from it. {advice}.")
    if any(is_overridden(hook, module) for hook in CHANGES_WEIGHTS):
        return f"{checkpoint}: matched when it is loaded, since {type(module).__name__} changes weights itself"
    if wrong := [*_misfits(there["state_dict"], module)]:
        more = f"\n  and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        listed = "".join(f"\n  {line}" for line in wrong[:SHOWN])
        raise RunError(f"{KEY}: the weights in {checkpoint} are not this network's.{listed}{more}")
    return f"all {len(there['state_dict'])} tensors and the state of epoch {there.get('epoch')} from {checkpoint}"


def _misfits(given: Mapping[str, Any], module: pl.LightningModule) -> Iterator[str]:
    """Say what does not fit, as strictly as Lightning is about this module."""
    target = module.state_dict()
    for name, value in given.items():
        here = target.get(name)
        if here is None and module.strict_loading:
            yield f"{name}: this network has no weight of that name"
        elif isinstance(here, Tensor) and isinstance(value, Tensor) and not is_lazy(here) and value.shape != here.shape:
            yield f"{name}: shape {tuple(value.shape)}, here {tuple(here.shape)}"
    if module.strict_loading:
        yield from (f"{name}: is not in the checkpoint" for name in target if name not in given)
