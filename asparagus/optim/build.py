"""From the `optim` section to a torch optimizer."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch.optim import Optimizer

from asparagus.errors import ConfigError, did_you_mean, one_of
from asparagus.optim import OPTIMIZER_DEFAULTS, OPTIMIZERS
from asparagus.targets import locate, parameters_of

# `name` or `_target_` choose the class, `sched` is the schedule's, `params` the groups'; the rest is the constructor's.
OF_GROUPS = ("params", "name", "role")
OURS = ("name", "sched", "_target_", "params")


def build_optimizer(config: Mapping[str, Any], parameters: Iterable[Any]) -> Optimizer:
    """Build the optimizer called `config["name"]` with the section's other keys as its arguments.

    Args:
        config: The section `optim`.
        parameters: Weights, or groups of them (`parameter_groups`).

    Raises:
        ConfigError: no name, an unknown name, no lr where the class has one (torch's defaults are nobody's choice), or
            an unknown argument.
    """
    path = config.get("_target_")
    optimizer: Any = locate(str(path), key="optim") if path else optimizer_class(config.get("name"))
    if config.get("lr") is None and _takes_lr(optimizer):
        raise ConfigError("optim.lr: missing; every optimizer needs one. Set it, e.g. optim.lr=1e-3.")
    defaults = {} if path else OPTIMIZER_DEFAULTS.get(str(config.get("name")).lower(), {})
    arguments = defaults | {key: value for key, value in config.items() if key not in OURS}
    return made(optimizer, parameters, arguments)


def made(
    optimizer: Callable[..., Optimizer], parameters: Iterable[Any], arguments: Mapping[str, Any], *, key: str = "optim"
) -> Optimizer:
    """Call an optimizer's class with weights, or groups of them, and arguments that are known to be its own.

    Raises:
        ConfigError: An argument that it does not take, or refuses.
    """
    _check_names(optimizer, arguments, key)
    groups = list(parameters)
    for group in (group for group in groups if isinstance(group, Mapping)):
        _check_names(optimizer, {name: value for name, value in group.items() if name not in OF_GROUPS}, key)
    try:
        return optimizer(groups, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {_called(optimizer)} refused its arguments: {error}") from error


def optimizer_class(name: object) -> type[Optimizer]:
    """Import the optimizer class called `name`, in any case.

    Raises:
        ConfigError: no name, or an unknown one.
    """
    if name is None:
        raise ConfigError(f"optim.name: missing. Known: {', '.join(OPTIMIZERS)}.")
    if str(name).lower() not in OPTIMIZERS:
        raise ConfigError(one_of("optim.name", name, OPTIMIZERS))
    module, _, cls = OPTIMIZERS[str(name).lower()].rpartition(".")
    found: type[Optimizer] = getattr(importlib.import_module(module), cls)
    return found


def _takes_lr(optimizer: Any) -> bool:
    """Tell whether an optimizer has a learning rate; one that does not tell what it takes has."""
    parameters = parameters_of(optimizer)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return not parameters or open_ended or "lr" in parameters


def _check_names(optimizer: Callable[..., Optimizer], arguments: Mapping[str, Any], key: str) -> None:
    parameters = parameters_of(optimizer)
    known = [name for name in parameters if name != "params"]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in arguments:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ConfigError(
                f"{key}.{name}: {_called(optimizer)} takes no such argument. {hint} It takes: {', '.join(known)}."
            )


def _called(optimizer: Callable[..., Optimizer]) -> str:
    return str(getattr(optimizer, "__name__", optimizer))
