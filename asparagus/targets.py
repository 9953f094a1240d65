"""From a config section with a `_target_` to the object: Hydra's `instantiate`, for rooms that must not know Hydra."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from asparagus.errors import ConfigError, did_you_mean

TENSOR = re.compile(r"(?:typing\.)?(?:Optional\[)?(?:torch\.)?Tensor\]?(?: \| None)?")
"""How an annotation is written that means a tensor, or None."""
SPECIAL = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")
"""Keys of a section that are Hydra's, not arguments; values are always plain, whatever `_convert_` says."""


def instantiate(config: Mapping[str, Any], *, key: str, extra: Mapping[str, Any] | None = None) -> Any:
    """Call `_target_` with the section's other entries; nested sections with a `_target_` are built first.

    A list of numbers becomes a tensor where the target is annotated to take nothing else (`weight` of a loss).
    `_args_` are passed by position, `_partial_: true` returns the callable with its arguments bound, `_recursive_:
    false` passes nested sections on as they are.

    Args:
        config: The section.
        key: Where it stands in the config; for messages.
        extra: Arguments that are passed on as they are.

    Raises:
        ConfigError: no such target, or arguments that it does not take.
    """
    target = target_of(config, key)
    factory = locate(target, key=key)
    build = _resolved if config.get("_recursive_", True) else _as_it_is
    arguments = {name: build(value, f"{key}.{name}") for name, value in config.items() if name not in SPECIAL}
    arguments |= extra or {}
    positional = build(list(config.get("_args_", ())), f"{key}._args_")
    arguments |= _tensors(factory, arguments)
    partial = bool(config.get("_partial_"))
    _check_names(factory, target, len(positional), arguments, key, whole=not partial)
    if partial:
        return functools.partial(factory, *positional, **arguments)
    try:
        return factory(*positional, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {target} refused its arguments: {error}") from error


def locate(target: str, *, key: str) -> Callable[..., Any]:
    """Import the class or function at a dotted path; a method of a class counts too (`pkg.Net.small`).

    Raises:
        ConfigError: no such module or name; the nearest name in the module is given.
    """
    parts = target.split(".")
    found: Any = None
    for cut in range(len(parts) - 1, 0, -1):
        module_name, names = ".".join(parts[:cut]), parts[cut:]
        try:
            found = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")) and cut > 1:
                continue
            raise ConfigError(f"{key}._target_: {target!r} cannot be imported: {error}.") from error
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{key}._target_: {target!r} cannot be imported: {error}.") from error
        break
    for name in names:
        inside, found = found, getattr(found, name, None)
        if found is None:
            hint = did_you_mean(name, [known for known in vars(inside) if not known.startswith("_")])
            where = getattr(inside, "__name__", module_name)
            raise ConfigError(f"{key}._target_: {where} has no class or function {name!r}. {hint}".rstrip())
    if not callable(found):
        raise ConfigError(f"{key}._target_: {target} is a {type(found).__name__}, not a class or function.")
    return found  # type: ignore[no-any-return]


def target_of(config: Mapping[str, Any], key: str) -> str:
    """Return a section's `_target_`.

    Raises:
        ConfigError: It has none, or one that is no dotted path.
    """
    target = config.get("_target_")
    if not isinstance(target, str) or "." not in target:
        raise ConfigError(f"{key}._target_: {target!r} is not a dotted path, e.g. asparagus.models.unet.UNet.")
    return target


def parameters_of(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return what a class or function takes, by name; empty for what does not tell (compiled code)."""
    try:
        return inspect.signature(factory).parameters
    except ValueError:
        return {}


def _tensors(factory: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lists of numbers among some arguments as tensors, where a parameter is a tensor or None."""
    parameters = parameters_of(factory)
    lists = {name: value for name, value in arguments.items() if name in parameters and _is_numbers(value)}
    meant = {name: value for name, value in lists.items() if TENSOR.fullmatch(_annotation(parameters[name]))}
    if not meant:
        return {}
    import torch

    return {name: torch.tensor(value, dtype=torch.get_default_dtype()) for name, value in meant.items()}


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(number) in (int, float) for number in value)


def _annotation(parameter: inspect.Parameter) -> str:
    given = parameter.annotation
    return (
        given
        if isinstance(given, str)
        else getattr(given, "__name__", str(given))
        if isinstance(given, type)
        else str(given)
    )


def _as_it_is(value: Any, key: str) -> Any:  # noqa: ARG001 - stands in for `_resolved`
    return value


def _resolved(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return instantiate(value, key=key)
        return {name: _resolved(part, f"{key}.{name}") for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(part, f"{key}.{i}") for i, part in enumerate(value)]
    return value


def _check_names(
    factory: Callable[..., Any], target: str, positional: int, arguments: Mapping[str, Any], key: str, *, whole: bool
) -> None:
    """Refuse unknown and missing arguments before anything is built."""
    parameters = parameters_of(factory)
    open_ended = not parameters or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in arguments:
        if name not in parameters and not open_ended:
            hint = did_you_mean(str(name), parameters)
            known = f"It takes: {', '.join(parameters)}."
            raise ConfigError(
                " ".join(part for part in (f"{key}.{name}: {target} takes no such argument.", hint, known) if part)
            )
    needed = [name for name, parameter in parameters.items() if _required(parameter)][positional:]
    missing = [name for name in needed if name not in arguments]
    if missing and whole:
        raise ConfigError(f"{key}: {target} needs {', '.join(missing)}, which nothing gives. Set {key}.{missing[0]}.")


def _required(parameter: inspect.Parameter) -> bool:
    named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    return named and parameter.default is parameter.empty
