"""From a stage, the config sections and a task to the LightningModule that trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from asparagus.data.layout import Task
from asparagus.errors import ConfigError, one_of
from asparagus.models.build import build_network
from asparagus.stages import Stage
from asparagus.stages.base import StageModule
from asparagus.targets import instantiate

DIMENSIONS = {"2D": 2, "3D": 3}


def build_module(
    stage: Stage,
    model: Mapping[str, Any],
    optim: Mapping[str, Any],
    loss: Mapping[str, Any] | None,
    task: Task,
    *,
    patch_size: Sequence[int] | None = None,
    seed: int = 0,
) -> StageModule:
    """Build the stage's module around the network that the `model` section names for it.

    Args:
        stage: Which row of the stage table.
        model: `dimensions` ("2D" or "3D"; the task's own when left out), the stage's network (`pretrain_net`,
            `seg_net` or `cls_net`; `net` serves all), and `module`: arguments of the LightningModule, or a
            `_target_` of one's own.
        optim: Passed on; used when training starts.
        loss: Passed on; None or empty for the stage's own.
        task: What the data dictate: channels, classes, dimensions.
        patch_size: `data.patch_size`, in voxels; only the first `dimensions` entries count.
        seed: Decides the first weights, on every rank alike.

    Raises:
        ConfigError: no network for the stage, dimensions that do not fit the task, or arguments that do not fit.
    """
    dimensions = spatial_dims(model, task)
    patch = None if patch_size is None else list(patch_size)[:dimensions]
    net = _network(stage, model, _sizes(stage, task, dimensions, patch), seed)
    config = {"_target_": stage.module, **(model.get("module") or {})}
    extra = {
        "net": net,
        "optim": optim,
        "n_classes": task.n_classes,
        "patch_size": patch,
        "class_names": task.class_names,
        "loss": loss or None,
        "seed": seed,
    }
    module: StageModule = instantiate(config, key="model.module", extra=extra)
    return module


def spatial_dims(model: Mapping[str, Any], task: Task) -> int:
    """Return 2 or 3 as `model.dimensions` says, or as the task is when it says nothing.

    Raises:
        ConfigError: anything but 2D and 3D, or 3D for a 2D task.
    """
    given = model.get("dimensions")
    if given is None:
        return task.dimensions
    if given not in DIMENSIONS:
        raise ConfigError(one_of("model.dimensions", given, DIMENSIONS))
    if DIMENSIONS[given] > task.dimensions:
        raise ConfigError(
            f"model.dimensions: {given} does not fit {task.name}, whose cases are 2D. Set model.dimensions=2D."
        )
    return DIMENSIONS[given]


def _sizes(stage: Stage, task: Task, dimensions: int, patch: list[int] | None) -> dict[str, Any]:
    whole = list(task.shape[:dimensions]) if task.shape else None
    return {
        "spatial_dims": dimensions,
        "in_channels": task.n_modalities,
        "out_channels": task.n_modalities if stage.kind == "pretrain" else task.n_classes,
        "img_size": patch or whole,
    }


def _network(stage: Stage, model: Mapping[str, Any], sizes: Mapping[str, Any], seed: int) -> nn.Module:
    name = stage.network if model.get(stage.network) else "net"
    if not model.get(name):
        there = ", ".join(sorted(key for key in model if key.endswith("net"))) or "none"
        raise ConfigError(f"model.{stage.network}: missing, and {stage.name} needs it. Networks there: {there}.")
    # The global generator is left as it was: the first weights depend on the seed and on nothing that ran before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(model[name], sizes, key=f"model.{name}")
