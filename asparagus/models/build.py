"""From a config section with `_target_` to the object, with the sizes that the data dictate filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from asparagus.errors import ConfigError
from asparagus.models import SIZE_NAMES, contradiction
from asparagus.targets import instantiate, locate, parameters_of, target_of

Sizes = Mapping[str, Any]
"""`spatial_dims`, `in_channels`, `out_channels`: int; `img_size`: voxels per axis, or None when cases differ."""


def build_network(config: Mapping[str, Any], sizes: Sizes, *, key: str = "model.net") -> nn.Module:
    """Build the network that `config` names, filling in the sizes that its constructor takes and the config omits.

    Args:
        config: `_target_`, the dotted path of any class or function that returns an `nn.Module`, and its arguments.
        sizes: What the task dictates, see `Sizes`.
        key: Where the section stands in the config; for messages.

    Raises:
        ConfigError: no such target, arguments that it does not take, or a size that contradicts the data.
    """
    names = list(parameters_of(locate(target_of(config, key), key=key)))
    given = {**config, **_fill(config, names, sizes, key)}
    network = instantiate(given, key=key)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{key}._target_: {config['_target_']} made a {type(network).__name__}, not an nn.Module.")
    return network


def _fill(config: Mapping[str, Any], names: list[str], sizes: Sizes, key: str) -> dict[str, Any]:
    """Return the sizes to add; raise when the config already says otherwise."""
    filled = {}
    for size, value in _all_sizes(sizes).items():
        for name in SIZE_NAMES[size]:
            if config.get(name) is not None and _plain(config[name]) != _plain(value):
                raise ConfigError(contradiction(f"{key}.{name}", config[name], value, size))
            if name in names:
                filled[name] = value
    return filled


def _all_sizes(sizes: Sizes) -> dict[str, Any]:
    known = {name: value for name, value in sizes.items() if value is not None}
    if "img_size" in known and "in_channels" in known:
        known["in_shape"] = [known["in_channels"], *known["img_size"]]
    return known


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
