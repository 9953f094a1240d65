"""From a stage, the config sections and a task to the LightningModule that trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import nn
from torch.nn.parameter import is_lazy

from asparagus.data.layout import DIMENSIONS, Task
from asparagus.errors import ConfigError, one_of
from asparagus.models.build import build_network
from asparagus.stages import Stage
from asparagus.stages.base import StageModule
from asparagus.targets import instantiate, locate, parameters_of, target_of

MEETS_DATA = ("setup", "configure_model", "on_fit_start")
"""Hooks in which a module of one's own may put a first batch through its lazy layers."""


def build_module(
    stage: Stage,
    model: Mapping[str, Any],
    optim: Mapping[str, Any],
    loss: Mapping[str, Any] | None,
    task: Task | None,
    *,
    patch_size: Sequence[int] | None = None,
    seed: int = 0,
) -> pl.LightningModule:
    """Build the stage's module around the network that the `model` section names for it, or a module of your own.

    A module of your own (`model.module._target_`) is given what it takes of: `net`, `optim`, `loss`, `n_classes`,
    `class_names`, `patch_size`, `seed`.

    Args:
        stage: Which row of the stage table.
        model: `dimensions` ("2D" or "3D"; the task's own when left out), the stage's network (`pretrain_net`,
            `seg_net` or `cls_net`; `net` serves all), `module`: arguments of the LightningModule, or a `_target_` of
            one's own, and `compile_mode`, a mode of `torch.compile` for the network.
        optim: Passed on; used when training starts.
        loss: Passed on; None or empty for the stage's own.
        task: What the data dictate: channels, classes, dimensions; None where a data module of one's own knows.
        patch_size: `data.patch_size`, in voxels; only the first `dimensions` entries count.
        seed: Decides the first weights, on every rank alike.

    Raises:
        ConfigError: no network for the stage, dimensions that do not fit the task, or arguments that do not fit.
    """
    config = {**({"_target_": stage.module} if stage.module else {}), **(model.get("module") or {})}
    target = target_of(config, "model.module")
    factory = locate(target, key="model.module")
    given: dict[str, Any] = {
        "optim": optim,
        "patch_size": patch_size,
        "loss": loss or None,
        "seed": seed,
        "n_classes": task.n_classes if task else None,
        "class_names": task.class_names if task else None,
    }
    if _takes(factory, "net"):
        dimensions = spatial_dims(model, task)
        given["patch_size"] = None if patch_size is None else list(patch_size)[:dimensions]
        given["net"] = _network(stage, model, _sizes(stage, task, dimensions, given["patch_size"]), seed)
    extra = {name: value for name, value in given.items() if _takes(factory, name) and name not in config}
    # Weights of a module of one's own depend on the seed alone, as those of a network do.
    with _seeded(seed):
        module = instantiate(config, key="model.module", extra=extra)
    if not isinstance(module, pl.LightningModule):
        raise ConfigError(
            f"model.module._target_: {target} made a {type(module).__name__}, not a LightningModule of "
            "pytorch_lightning."
        )
    if isinstance(module, StageModule):
        module.network_key = f"model.{_network_name(stage, model)}" if "net" in extra else "model.module"
        module.task_name = task.name if task else "the task"
    _refuse_lazy(module, target)
    _compile(module, model.get("compile_mode"))
    return module


def lazy_weights(module: nn.Module) -> list[str]:
    """Return the names of weights that have no shape before a first batch (`torch.nn.LazyLinear`)."""
    named: chain[tuple[str, Any]] = chain(module.named_parameters(), module.named_buffers())
    return [name for name, weight in named if is_lazy(weight)]


def _refuse_lazy(module: pl.LightningModule, target: str) -> None:
    """Refuse a module whose weights would have no shapes when its optimizer is built."""
    lazy = lazy_weights(module)
    if lazy and not any(is_overridden(hook, module) for hook in MEETS_DATA):
        raise ConfigError(
            f"model.module: {target} has {len(lazy)} lazy weights ({lazy[0]}, ...), which have no shape before a first "
            "batch, and optimizers and checkpoints need one. Put a batch of zeros through in its __init__ or setup."
        )


def _takes(factory: Callable[..., Any], name: str) -> bool:
    """Tell whether a module has a parameter; with `**kwargs` it has all of a stage module's if it is one."""
    parameters = parameters_of(factory)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    is_stage = isinstance(factory, type) and issubclass(factory, StageModule)
    return name in parameters or (open_ended and is_stage)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a stream of its own: the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _compile(module: pl.LightningModule, mode: str | None) -> None:
    """Compile the network in place, so that the names of its weights stay what they are."""
    if mode is not None:
        getattr(module, "net", module).compile(mode=mode)


def spatial_dims(model: Mapping[str, Any], task: Task | None) -> int:
    """Return 2 or 3 as `model.dimensions` says, or as the task is when it says nothing.

    Raises:
        ConfigError: anything but 2D and 3D, or 3D for a 2D task.
    """
    given = model.get("dimensions")
    if given is None:
        return task.dimensions if task else DIMENSIONS["3D"]
    if given not in DIMENSIONS:
        raise ConfigError(one_of("model.dimensions", given, DIMENSIONS))
    if task is not None and DIMENSIONS[given] > task.dimensions:
        raise ConfigError(
            f"model.dimensions: {given} does not fit {task.name}, whose cases are 2D. Set model.dimensions=2D."
        )
    return DIMENSIONS[given]


def _sizes(stage: Stage, task: Task | None, dimensions: int, patch: list[int] | None) -> dict[str, Any]:
    """Return what the data dictate; nothing but the dimensions where nobody knows the data."""
    if task is None:
        return {"spatial_dims": dimensions, "img_size": patch}
    whole = list(task.shape[:dimensions]) if task.shape else None
    return {
        "spatial_dims": dimensions,
        "in_channels": task.n_modalities,
        "out_channels": task.n_modalities if stage.kind == "pretrain" else task.n_classes,
        "img_size": patch or whole,
    }


def _network_name(stage: Stage, model: Mapping[str, Any]) -> str:
    return "net" if model.get("net") else stage.network  # `net` was meant for this stage, the shelf's for any


def _network(stage: Stage, model: Mapping[str, Any], sizes: Mapping[str, Any], seed: int) -> nn.Module:
    name = _network_name(stage, model)
    if not model.get(name):
        there = ", ".join(sorted(key for key in model if key.endswith("net"))) or "none"
        raise ConfigError(f"model.{stage.network}: missing, and {stage.name} needs it. Networks there: {there}.")
    # The first weights depend on the seed and on nothing that ran before.
    with _seeded(seed):
        network = build_network(model[name], sizes, key=f"model.{name}")
        if lazy_weights(network):
            _give_shapes(network, sizes, f"model.{name}")
        return network


def _give_shapes(network: nn.Module, sizes: Mapping[str, Any], key: str) -> None:
    """Put zeros of an item's shape through: optimizers, transfer and checkpoints need shapes before a first batch.

    Raises:
        ConfigError: nobody knows the shape of an item.
    """
    channels, spatial = sizes.get("in_channels"), sizes.get("img_size")
    if channels is None or spatial is None:
        raise ConfigError(
            f"{key}: has {len(lazy_weights(network))} lazy weights, whose shapes follow from those of the data, and "
            f"these are not known before a first batch. Set data.patch_size where cases differ in shape, or give {key} "
            "its sizes."
        )
    modes = [(part, part.training) for part in network.modules()]
    network.eval()  # nothing is learnt from zeros, running means neither
    with torch.no_grad():
        network(torch.zeros(1, channels, *spatial))
    for part, training in modes:
        part.training = training
