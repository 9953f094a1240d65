"""Plain values into the frozen `Spec`: unknown keys, wrong types and old names, all found at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from asparagus.errors import did_you_mean
from asparagus.spec import PARTS, Paths, Spec

if TYPE_CHECKING:
    from omegaconf import DictConfig

ALIASES = {"run_id": "run.id", "experiment.task": "task", "experiment.stage": "stage"}
"""Documented spellings of the Asparagus papers' code base that mean a key of ours (SEEDS A23, A43)."""
PARENT_KEYS = ("pretrained_run_id", "pretrained_checkpoint_name")
DEFAULT_CHECKPOINT = "last"


def fill(values: dict[str, Any], paths: Paths, missing: Iterable[str] = ()) -> tuple[Spec | None, list[str]]:
    """Return the spec and every problem found; the spec is `None` when it could not be built.

    Args:
        values: The resolved config.
        paths: The folders of this machine, for those that the config leaves out.
        missing: Mandatory keys that the config left open; an old name may have filled one.
    """
    problems: list[str] = []
    values = _with_parent(_without_aliases(values, problems), problems)
    problems += [
        f"{key}: is mandatory and was not given. Give it on the command line, {key}=..., or in the experiment file."
        for key in missing
        if key not in values
    ]
    values["paths"] = {**dataclasses.asdict(paths), **(values.get("paths") or {})}
    schema = _schema()
    _fill_node(schema, values, "", problems)
    if problems or not {"stage", "task"} <= values.keys():
        return None, problems
    return Spec.from_dict(_plain(schema)), problems


def _without_aliases(values: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    values = {key: (dict(value) if isinstance(value, dict) else value) for key, value in values.items()}
    for old, new in ALIASES.items():
        given = _pop(values, old)
        if given is None:
            continue
        section, _, leaf = new.rpartition(".")
        target = values.setdefault(section, {}) if section else values
        if target.get(leaf) not in (None, given):
            problems.append(f"{old}: {given!r} and {new}: {target[leaf]!r} mean the same key. Give one of them.")
        target[leaf] = given
    return values


def _with_parent(values: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Turn the documented `pretrained_run_id` and `pretrained_checkpoint_name` into `init_from` (SEEDS A29, A30)."""
    run_id, name = (_pop(values, key) for key in PARENT_KEYS)
    if run_id is None and name is not None:
        problems.append(f"pretrained_checkpoint_name: {name!r} needs pretrained_run_id, the run that it belongs to.")
    if run_id is not None:
        meant = f"run:{run_id}/{name or DEFAULT_CHECKPOINT}"
        if values.get("init_from") not in (None, meant):
            problems.append(
                f"init_from: {values['init_from']!r} and pretrained_run_id: {run_id!r} both name a parent. Give one."
            )
        values["init_from"] = meant
    return values


def _pop(values: dict[str, Any], key: str) -> Any:
    """Take a key or `section.key` out; a section that this leaves empty goes too."""
    section, _, leaf = key.rpartition(".")
    if not section:
        return values.pop(leaf, None)
    node = values.get(section)
    if not isinstance(node, dict):
        return None
    given = node.pop(leaf, None)
    if not node:
        values.pop(section)
    return given


def _schema() -> DictConfig:
    """Return `Spec` as an OmegaConf node that may be written to, typed to the last leaf."""
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
        if key not in known:
            problems.append(_unknown(f"{prefix}{key}", known))
        elif key in PARTS and not prefix:
            _fill_part(schema[key], value, key, problems)
        else:
            try:
                schema[key] = value
            except OmegaConfBaseException as error:
                problems.append(f"{prefix}{key}: {str(error).splitlines()[0]}.")


def _fill_part(schema: DictConfig, value: Any, key: str, problems: list[str]) -> None:
    if isinstance(value, dict):
        _fill_node(schema, value, f"{key}.", problems)
    else:
        problems.append(f"{key}: {value!r} given, but this is a section with keys: {', '.join(map(str, schema))}.")


def _unknown(full: str, known: list[str]) -> str:
    prefix = full.rpartition(".")[0]
    near = did_you_mean(
        full, [*(f"{prefix}.{name}" if prefix else name for name in known), *(every_key() if not prefix else ())]
    )
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
