"""Optimizers and schedulers as robbytorch writes them: `id` is a class of torch's, the rest its arguments."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from asparagus.errors import ConfigError, one_of
from asparagus.optim import STEPPING
from asparagus.optim.build import made
from asparagus.optim.groups import groups_by_path
from asparagus.optim.schedules import MONITOR
from asparagus.targets import instantiate

SHOWN = 3
"""Names of weights in a message."""

log = logging.getLogger("asparagus")


def optimizer_of(
    spec: str | Mapping[str, Any] | Optimizer, module: nn.Module, *, key: str = "optimizer_spec", inner: str = ""
) -> Optimizer:
    """Build the optimizer that a spec describes.

    Args:
        spec: The name of a class in `torch.optim`, case and all; or `{id: name, ...}` with its arguments. There,
            `params` may name parts by dotted path, each with settings of its own (`{.backbone: {lr: 1e-5}}`); what no
            path names is not trained. `filter_requires_grad: false` hands on frozen weights too. Or an optimizer, which
            is returned.
        module: Whose weights, all of them unless `params` says otherwise.
        key: Where the spec stands; for messages.
        inner: The part of the module where paths may begin as well.

    Raises:
        ConfigError: An unknown `id`, path or argument, or no weights.
    """
    if isinstance(spec, Optimizer):
        return spec
    arguments = _arguments(spec, key)
    cls = _class(arguments.pop("id", None), torch.optim, Optimizer, key)
    filtered, parts = arguments.pop("filter_requires_grad", True), arguments.pop("params", None)
    named = {name: weight for name, weight in module.named_parameters() if weight.requires_grad or not filtered}
    if parts is not None and not isinstance(parts, Mapping):
        raise ConfigError(
            f"{key}.params: {parts!r} given, but it is a section of dotted paths: {{.head: {{lr: 1e-4}}}}"
        )
    groups: list[dict[str, Any]] = [{"params": [*named.values()]}] if named else []
    if parts is not None:
        groups = groups_by_path(module, parts, named, key=f"{key}.params", inner=inner)
        _tell_of_the_rest(named, groups, key)
    if not groups:
        raise ConfigError(
            f"{key}: no weight of {type(module).__name__} is left to train: none is there, or not frozen."
        )
    return made(cls, groups, arguments, key=key)


def scheduler_of(
    spec: str | Mapping[str, Any] | LRScheduler | None, optimizer: Optimizer, *, key: str = "scheduler_spec"
) -> dict[str, Any] | None:
    """Build the scheduler that a spec describes, as Lightning takes it; it is stepped after each epoch.

    Args:
        spec: `{id: name, ...}` with the name of a class in `torch.optim.lr_scheduler` and its arguments; Lightning's
            `interval`, `frequency` and `monitor` may stand beside them. Or a scheduler; None is none.
        optimizer: Whose learning rates.
        key: Where the spec stands; for messages.

    Raises:
        ConfigError: An unknown `id` or argument.
    """
    if spec is None:
        return None
    if isinstance(spec, LRScheduler):
        return {"scheduler": spec, "interval": "epoch"}
    arguments = _arguments(spec, key)
    cls = _class(arguments.pop("id", None), lr_scheduler, LRScheduler, key)
    stepping = {name: arguments.pop(name) for name in STEPPING if name in arguments}
    if cls is lr_scheduler.ReduceLROnPlateau:
        stepping.setdefault("monitor", MONITOR)
    section = {**arguments, "_target_": f"{cls.__module__}.{cls.__qualname__}"}
    return {"interval": "epoch", **stepping, "scheduler": instantiate(section, key=key, extra={"optimizer": optimizer})}


def _tell_of_the_rest(named: Mapping[str, nn.Parameter], groups: list[dict[str, Any]], key: str) -> None:
    taken = {id(weight) for group in groups for weight in group["params"]}
    if rest := [name for name, weight in named.items() if id(weight) not in taken]:
        log.warning(
            "%s.params names no path of %s: %d weights are not trained", key, ", ".join(rest[:SHOWN]), len(rest)
        )


def _arguments(spec: Any, key: str) -> dict[str, Any]:
    if isinstance(spec, str):
        return {"id": spec}
    if not isinstance(spec, Mapping):
        raise ConfigError(f"{key}: {spec!r} given, but it is a section: the name of a class under id, and arguments.")
    return dict(spec)


def _class(name: Any, home: ModuleType, base: type, key: str) -> Any:
    if isinstance(name, type) and issubclass(name, base):
        return name
    known = {one: cls for one, cls in vars(home).items() if isinstance(cls, type) and issubclass(cls, base)}
    names = [one for one, cls in known.items() if cls is not base and not one.startswith("_")]
    if name is None:
        raise ConfigError(f"{key}.id: is missing. Known: {', '.join(sorted(names))}.")
    if name not in names:
        raise ConfigError(one_of(f"{key}.id", name, names))
    return known[name]
