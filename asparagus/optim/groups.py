"""Parameter groups: which weights have settings of their own, by dotted path or because they are new."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from asparagus.errors import ConfigError, did_you_mean
from asparagus.optim import canonical
from asparagus.optim.schedules import DECODER, REST

SAWTOOTH = "sawtooth"


def parameter_groups(module: nn.Module, config: Mapping[str, Any], decoder: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Return the weights of a module that need gradients as an optimizer takes them.

    Args:
        module: Whose weights.
        config: The section `optim`. Its `params` names parts by dotted path, each with settings of its own:
            `{.net.encoder: {lr: 1e-5}}` (SEEDS C10); what they leave out is a last group with the section's settings.
        decoder: Where weights that are new in a finetuning begin, below the module's network; the schedule
            `sawtooth` trains these first.

    Raises:
        ConfigError: A path without its dot, that leads nowhere, or weights that two paths name.
    """
    named = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    if not named:
        raise ConfigError("optim: no weight of the module needs a gradient: all are frozen. Leave some trainable.")
    parts = config.get("params")
    groups = _with_the_rest(module, named, parts) if parts else [{"params": list(named.values())}]
    if SAWTOOTH not in _schedules(config):
        return groups
    new = {id(weight) for name, weight in named.items() if name.removeprefix("net.").startswith(tuple(decoder))}
    if not new or len(new) == len(named):
        raise ConfigError(
            f"optim.sched.name: sawtooth trains a decoder before the rest, and this network has none: no weight, or "
            f"every weight, begins with {', '.join(decoder)}. Take warmup_cosine."
        )
    return [half for group in groups for half in _halves(group, new)]


def _with_the_rest(
    module: nn.Module, named: Mapping[str, nn.Parameter], parts: Mapping[str, Any]
) -> list[dict[str, Any]]:
    groups = groups_by_path(module, parts, named)
    taken = {id(weight) for group in groups for weight in group["params"]}
    rest = [weight for weight in named.values() if id(weight) not in taken]
    return [*groups, {"params": rest, "name": REST}] if rest else groups


def _schedules(config: Mapping[str, Any]) -> list[str]:
    """Return the names of the schedules in a section."""
    sched = config.get("sched")
    names = sched.get("name") if isinstance(sched, Mapping) else None
    return [canonical(name) for name in (names if isinstance(names, (list, tuple)) else [names])]


def _halves(group: dict[str, Any], new: set[int]) -> Iterator[dict[str, Any]]:
    """Divide a group into what is new and the rest: each has a role, and the settings of both."""
    for role, is_new in ((REST, False), (DECODER, True)):
        if weights := [weight for weight in group["params"] if (id(weight) in new) is is_new]:
            yield {**group, "params": weights, "role": role}


def groups_by_path(
    module: nn.Module,
    parts: Mapping[str, Any],
    named: Mapping[str, nn.Parameter],
    *,
    key: str = "optim.params",
    inner: str = "",
) -> list[dict[str, Any]]:
    """Return a group for each dotted path, with its settings; a part without any of `named` has none.

    Args:
        module: Where paths begin.
        parts: Path -> settings.
        named: The weights that count, by name.
        key: Where the paths stand in the config; for messages.
        inner: A part of the module where paths may begin as well.

    Raises:
        ConfigError: A path without its dot, that leads nowhere, or weights that two paths name.
    """
    everything = [name for name, _ in module.named_parameters()]
    groups, taken = [], dict[str, str]()
    for path, settings in parts.items():
        if not path.startswith("."):
            raise ConfigError(f"{key}.{path}: a path begins with a dot: '.{path}'.")
        inside = path.removeprefix(".")
        below = _below(everything, inside) or (_below(everything, f"{inner}.{inside}") if inner else [])
        if not below:
            raise ConfigError(_nowhere(module, everything, path, key, inner))
        mine = [name for name in below if name in named]
        if twice := next((name for name in mine if name in taken), None):
            raise ConfigError(f"{key}: {taken[twice]} and {path} both name {twice}. Name each weight once.")
        taken |= dict.fromkeys(mine, path)
        if mine:
            groups.append({**(settings or {}), "params": [named[name] for name in mine], "name": inside})
    return groups


def _below(names: Iterable[str], path: str) -> list[str]:
    return [name for name in names if name == path or name.startswith(f"{path}.")]


def _nowhere(module: nn.Module, names: Iterable[str], path: str, key: str, inner: str) -> str:
    """Say that a path leads nowhere, and which paths as deep as it do not."""
    depth = path.count(".")
    begun = [name.removeprefix(f"{inner}.") if inner else name for name in names]
    there = sorted({f".{'.'.join(name.split('.')[:depth])}" for name in begun})
    found = f"{did_you_mean(path, there)} There are: {', '.join(there)}."
    return f"{key}: No parameter {path} in {type(module).__name__}. {found}"
