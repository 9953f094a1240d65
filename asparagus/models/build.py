"""From a config section with `_target_` to the object, with the sizes that the data dictate filled in."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from asparagus.errors import ConfigError, did_you_mean

Sizes = Mapping[str, Any]
"""`spatial_dims`, `in_channels`, `out_channels`: int; `img_size`: voxels per axis, or None when cases differ."""

SIZE_NAMES: dict[str, tuple[str, ...]] = {
    "spatial_dims": ("spatial_dims",),
    "in_channels": ("in_channels", "n_input_channels"),
    "out_channels": ("out_channels", "num_classes", "n_classes"),
    "img_size": ("img_size", "image_size"),
    "in_shape": ("in_shape",),
}
"""What each size is called among the constructor arguments of MONAI's and our networks."""


def build_network(config: Mapping[str, Any], sizes: Sizes, *, key: str = "model.net") -> nn.Module:
    """Build the network that `config` names, filling in the sizes that its constructor takes and the config omits.

    Args:
        config: `_target_`, the dotted path of any class or function that returns an `nn.Module`, and its arguments.
        sizes: What the task dictates, see `Sizes`.
        key: Where the section stands in the config; for messages.

    Raises:
        ConfigError: no such target, arguments that it does not take, or a size that contradicts the data.
    """
    names = _parameters(locate(_target(config, key), key=key))
    given = {**config, **_fill(config, names, sizes, key)}
    network = instantiate(given, key=key)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{key}._target_: {config['_target_']} made a {type(network).__name__}, not an nn.Module.")
    return network


def instantiate(config: Mapping[str, Any], *, key: str, extra: Mapping[str, Any] | None = None) -> Any:
    """Call `_target_` with the section's other entries; nested sections with a `_target_` are built first.

    Args:
        config: The section.
        key: Where it stands in the config; for messages.
        extra: Arguments that are passed on as they are.

    Raises:
        ConfigError: no such target, or arguments that it does not take.
    """
    target = _target(config, key)
    factory = locate(target, key=key)
    arguments = {name: _resolved(value, f"{key}.{name}") for name, value in config.items() if name != "_target_"}
    arguments |= extra or {}
    _check_names(factory, arguments, key, target)
    try:
        return factory(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {target} refused its arguments: {error}") from error


def locate(target: str, *, key: str) -> Callable[..., Any]:
    """Import the class or function at a dotted path.

    Raises:
        ConfigError: no such module or name; the nearest name in the module is given.
    """
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{key}._target_: {target!r} cannot be imported: {error}.") from error
    found = getattr(module, name, None)
    if not callable(found):
        hint = did_you_mean(name, [known for known in vars(module) if not known.startswith("_")])
        raise ConfigError(f"{key}._target_: {module_name} has no class or function {name!r}. {hint}".rstrip())
    return found  # type: ignore[no-any-return]


def _target(config: Mapping[str, Any], key: str) -> str:
    target = config.get("_target_")
    if not isinstance(target, str) or "." not in target:
        raise ConfigError(f"{key}._target_: {target!r} is not a dotted path, e.g. asparagus.models.unet.UNet.")
    return target


def _fill(config: Mapping[str, Any], names: list[str], sizes: Sizes, key: str) -> dict[str, Any]:
    """Return the sizes to add; raise when the config already says otherwise."""
    filled = {}
    for size, value in _all_sizes(sizes).items():
        for name in SIZE_NAMES[size]:
            if config.get(name) is not None and _plain(config[name]) != _plain(value):
                raise ConfigError(
                    f"{key}.{name}: {config[name]} contradicts the data, which need {value} ({size}). "
                    f"Leave {key}.{name} out: it is filled in."
                )
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


def _resolved(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return instantiate(value, key=key)
        return {name: _resolved(part, f"{key}.{name}") for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(part, f"{key}.{i}") for i, part in enumerate(value)]
    return value


def _parameters(factory: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(factory).parameters)


def _check_names(factory: Callable[..., Any], arguments: Mapping[str, Any], key: str, target: str) -> None:
    """Refuse unknown and missing arguments before anything is built."""
    parameters = inspect.signature(factory).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in arguments:
        if name not in parameters and not open_ended:
            hint = did_you_mean(str(name), parameters)
            raise ConfigError(
                " ".join(
                    part
                    for part in (
                        f"{key}.{name}: {target} takes no such argument.",
                        hint,
                        f"It takes: {', '.join(parameters)}.",
                    )
                    if part
                )
            )
    missing = [name for name, parameter in parameters.items() if _required(parameter) and name not in arguments]
    if missing:
        raise ConfigError(
            f"{key}: {target} needs {', '.join(missing)}, which the data do not give. Set {key}.{missing[0]}."
        )


def _required(parameter: inspect.Parameter) -> bool:
    named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    return named and parameter.default is parameter.empty
