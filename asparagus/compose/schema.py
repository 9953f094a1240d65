"""Plain values into the frozen `Spec`: unknown keys, wrong types and unused variables, all found at once."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from asparagus.compose.tree import get
from asparagus.errors import did_you_mean
from asparagus.spec import PARTS, Paths, Spec

if TYPE_CHECKING:
    from omegaconf import DictConfig

MODEL_KEYS = ("dimensions", "module", "compile_mode", "net", "pretrain_net", "seg_net", "cls_net")
MODEL_ENDINGS = ("_net", "_train_n_last_params")
"""`model` may hold networks for plugins, and how much of them is trained (SEEDS A20)."""
SEEDS = 2**31
SWEEP = "sweep"
"""The section that says how a space is searched: no part of a spec."""
MANDATORY = ("task", "stage")
NEEDED = ("model", "data", "optim", "trainer")
"""Sections that nothing works without; `callbacks:` without keys is how one has none."""


def fill(
    values: dict[str, Any], paths: Paths, missing: Iterable[str] = (), referenced: Iterable[str] = ()
) -> tuple[Spec, list[str]]:
    """Return the spec and every problem found; a key that has one is left as if it were not given.

    Args:
        values: The resolved config, in our own spelling.
        paths: The folders of this machine, for those that the config leaves out.
        missing: Mandatory keys that the config left open; an old name may have filled one.
        referenced: Dotted keys that an interpolation refers to: variables, in need of no other use.
    """
    used = tuple(referenced)
    problems = [
        f"{key}: is mandatory and was not given. Give it on the command line, {key}=..., or in the experiment file."
        for key in dict.fromkeys([*missing, *MANDATORY])
        if get(values, key, ...) is ...
    ]
    schema = _schema()
    known = {str(key) for key in schema}
    problems += [
        f"{path}: nothing reads it. Refer to it as ${{{path}}}, or leave it out."
        for key, value in values.items()
        if key not in known and _is_used(key, used)
        for path in _unread(key, value, used)
    ]
    values = {key: value for key, value in values.items() if key in known or not _is_used(key, used)}
    sections = {item.name for item in dataclasses.fields(Spec) if item.default_factory is not dataclasses.MISSING}
    problems += [
        f"{key}: is empty, which takes away all that stood there. Give its keys, or leave the line out."
        for key in NEEDED
        if key in values and values[key] is None
    ]
    values = {key: value for key, value in values.items() if value is not None or key not in sections}
    if isinstance(given := values.get("paths") or {}, dict):
        values["paths"] = {**dataclasses.asdict(paths), **given}
        problems += [f"paths.{key}: is empty. Give a folder." for key, path in given.items() if path == ""]
    if values.get("seed") is None:  # drawn here, once, and recorded (SEEDS D14)
        values["seed"] = random.SystemRandom().randrange(SEEDS)
    if isinstance(model := values.get("model"), dict):
        problems += _unused(model, used)
        # What is left of a variable are the places that it was used in: a run's own config has no use for it.
        values["model"] = {key: value for key, value in model.items() if _is_ours(key)}
    _fill_node(schema, values, "", problems)
    plain = _plain(schema)
    for key in MANDATORY:
        if key not in values:
            plain[key] = ""
    return Spec.from_dict(plain), problems


def filled(section: type, values: dict[str, Any], key: str) -> tuple[dict[str, Any], list[str]]:
    """Return the values of a section that is no part of a spec, and every problem; a key that has one is left out.

    Args:
        section: Its dataclass.
        values: As given, plain.
        key: What it is called.
    """
    from omegaconf import OmegaConf

    problems: list[str] = []
    schema: DictConfig = OmegaConf.structured(section)
    OmegaConf.set_readonly(schema, value=False)
    _fill_node(schema, values, f"{key}.", problems)
    return _plain(schema), problems


def unread(values: dict[str, Any], referenced: Iterable[str]) -> Iterator[str]:
    """Yield, dotted, what stands in no section of ours and is referred to by nothing."""
    ours, used = {field.name for field in dataclasses.fields(Spec)}, tuple(referenced)
    for key in values.keys() - ours:
        yield from _unread(key, values[key], used)


def _unread(path: str, value: Any, used: tuple[str, ...]) -> Iterator[str]:
    if any(path == name or path.startswith(f"{name}.") for name in used):
        return
    if isinstance(value, dict) and _is_used(path, used):
        for key, part in value.items():
            yield from _unread(f"{path}.{key}", part, used)
    elif not _is_used(path, used):
        yield path


def _is_used(key: str, referenced: tuple[str, ...]) -> bool:
    return any(name == key or name.startswith((f"{key}.", f"{key}/")) for name in referenced)


def _is_ours(key: str) -> bool:
    return key in MODEL_KEYS or (key.startswith("plugin_") and key.endswith(MODEL_ENDINGS))


def _unused(model: dict[str, Any], referenced: tuple[str, ...]) -> Iterator[str]:
    """Name the keys of `model` that are neither ours nor a variable: nothing would read them."""
    for key in model:
        if not _is_ours(key) and not _is_used(f"model.{key}", referenced):
            near = did_you_mean(f"model.{key}", [f"model.{name}" for name in MODEL_KEYS])
            yield (
                f"model.{key}: nothing reads it. {near} Arguments belong into the section of what takes them "
                f"(model.seg_net.{key}), or are referred to from there as ${{model.{key}}}."
            ).replace("  ", " ")


def _schema() -> DictConfig:
    """Return `Spec` as an OmegaConf node that may be written to, typed to the last leaf."""
    return copy.deepcopy(_empty_schema())


@cache
def _empty_schema() -> DictConfig:
    """Make it once: a sweep fills one for each trial, and a copy takes a fifth of the time."""
    from omegaconf import OmegaConf

    schema: DictConfig = OmegaConf.structured(Spec)
    OmegaConf.set_readonly(schema, value=False)
    for part in PARTS:
        OmegaConf.set_readonly(schema[part], value=False)
    return schema


def _fill_node(schema: DictConfig, values: dict[str, Any], prefix: str, problems: list[str]) -> None:
    from omegaconf.errors import OmegaConfBaseException

    known = [str(key) for key in schema]
    for key, value in values.items():
        if "." in key:
            problems.append(f"{prefix}{key}: has a dot in it. In a file, keys stand below one another; dots are typed.")
        elif key not in known:
            problems.append(_unknown(f"{prefix}{key}", known, _elsewhere(key, values) if not prefix else ()))
        elif key in PARTS and not prefix:
            _fill_part(schema[key], value, key, problems)
        elif isinstance(value, str) and "${asparagus:" in value:
            where = "model, data, optim, loss, trainer, callbacks, plugins and logger"
            problems.append(f"{prefix}{key}: {value} is known only when the run is planned. It may stand in {where}.")
        else:
            try:
                schema[key] = value
            except OmegaConfBaseException as error:
                problems.append(f"{prefix}{key}: {_misfit(f'{prefix}{key}', value, error)}")


def _misfit(key: str, value: Any, error: Exception) -> str:
    """Say why a value does not fit: in our words where OmegaConf's name its own classes."""
    text = f"{str(error).splitlines()[0]}."
    if "Dict[str" in text:
        choose = f" Choose an option by {key}={value} or a defaults list." if isinstance(value, str) else ""
        return f"{value!r} given, but it is a section.{choose}"
    return f"{value!r} given, but it is a list: {key}=[...]" if "is not a ListConfig" in text else text


def _fill_part(schema: DictConfig, value: Any, key: str, problems: list[str]) -> None:
    if isinstance(value, dict):
        _fill_node(schema, value, f"{key}.", problems)
    else:
        problems.append(f"{key}: {value!r} given, but this is a section with keys: {', '.join(map(str, schema))}.")


def _elsewhere(key: str, values: dict[str, Any]) -> list[str]:
    """Return the sections that have a key of this name, which was given at the root."""
    return [f"{name}.{key}" for name, section in values.items() if isinstance(section, dict) and key in section]


def _unknown(full: str, known: list[str], elsewhere: Sequence[str]) -> str:
    prefix = full.rpartition(".")[0]
    near = (
        f"Did you mean {elsewhere[0]!r}?"
        if elsewhere
        else did_you_mean(
            full, [*(f"{prefix}.{name}" if prefix else name for name in known), *(every_key() if not prefix else ())]
        )
    )
    if full == "experiment":
        near = "A file in experiment/ begins with the line `# @package _global_`."
    return " ".join(
        part for part in (f"{full}: no such key.", near, f"Known here: {', '.join(sorted(known))}.") if part
    )


def every_key() -> Iterator[str]:
    """Yield every key of the schema, dotted: a forgotten section name shows (`workers` is `resources.workers`)."""
    for name, part in PARTS.items():
        yield from (f"{name}.{item.name}" for item in dataclasses.fields(part))


def _plain(schema: DictConfig) -> dict[str, Any]:
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(schema)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
