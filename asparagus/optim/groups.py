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
    parts = {path: dict(settings or {}) for path, settings in (config.get("params") or {}).items()}
    groups = _by_path(module, named, parts) if parts else [{"params": list(named.values())}]
    if SAWTOOTH not in _schedules(config):
        return groups
    new = {id(weight) for name, weight in named.items() if name.removeprefix("net.").startswith(tuple(decoder))}
    if not new or len(new) == len(named):
        raise ConfigError(
            f"optim.sched.name: sawtooth trains a decoder before the rest, and this network has none: no weight, or "
            f"every weight, begins with {', '.join(decoder)}. Take warmup_cosine."
        )
    return [half for group in groups for half in _halves(group, new)]


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


def _by_path(module: nn.Module, named: Mapping[str, nn.Parameter], parts: Mapping[str, Any]) -> list[dict[str, Any]]:
    groups, taken = [], dict[str, str]()
    for path, settings in parts.items():
        if not path.startswith("."):
            raise ConfigError(f"optim.params.{path}: a path begins with a dot: '.{path}'.")
        inside = path.removeprefix(".")
        mine = {name: weight for name, weight in named.items() if name == inside or name.startswith(f"{inside}.")}
        if not mine:
            there = sorted({f".{'.'.join(name.split('.')[: inside.count('.') + 1])}" for name in named})
            raise ConfigError(
                f"optim.params: No parameter {path} in {type(module).__name__}. {did_you_mean(path, there)} There are: "
                f"{', '.join(there)}."
            )
        if twice := next((name for name in mine if name in taken), None):
            raise ConfigError(f"optim.params: {taken[twice]} and {path} both name {twice}. Name each weight once.")
        taken |= dict.fromkeys(mine, path)
        groups.append({**settings, "params": list(mine.values()), "name": inside})
    rest = [weight for name, weight in named.items() if name not in taken]
    return [*groups, {"params": rest, "name": REST}] if rest else groups
