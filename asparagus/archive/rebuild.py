"""From the config in a run's archive to its module, as a worker builds it; the data need not be here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from asparagus.archive.artifacts import Extracted, references
from asparagus.archive.layout import PREFIX
from asparagus.data.layout import Task
from asparagus.errors import RecordError, one_of
from asparagus.secrets import reveal
from asparagus.stages import STAGES
from asparagus.stages.build import build_module

PARTS = ("stage", "task", "seed", "model", "optim", "loss", "patch_size")
"""What the config in a run's archive has: all that decides how its module is built, and `run`, the rest to read."""
FACTS = tuple(fact.name for fact in fields(Task) if fact.name != "folder")
"""What of a task decides the sizes of a network."""


def module_of_run(config: Mapping[str, Any], extracted: Extracted) -> pl.LightningModule:
    """Build the module of a run, with its first weights.

    Args:
        config: As the archive has it.
        extracted: Where its artifacts are.

    Raises:
        RecordError: The config lacks a part, or its stage is not known here.
        ConfigError: What it names is not installed here.
    """
    if lost := [part for part in PARTS if part not in config]:
        raise RecordError(
            f"{extracted.archive}: its config lacks {', '.join(lost)}. Give one as return_config=True returns it."
        )
    if config["stage"] not in STAGES:
        raise RecordError(one_of(f"{extracted.archive}: stage", config["stage"], STAGES, see="Update asparagus."))
    here = with_paths(config, extracted)
    built = reveal({part: here[part] for part in ("model", "optim", "loss")})
    return build_module(
        STAGES[config["stage"]],
        built["model"],
        built["optim"],
        built["loss"],
        task_of(config),
        patch_size=config["patch_size"],
        seed=config["seed"],
    )


def task_of(config: Mapping[str, Any]) -> Task | None:
    """Return what a run's config says of its task; None where the run knew no more than the name."""
    facts = dict(config["task"])
    if "n_classes" not in facts:
        return None
    for name in ("shape", "class_names"):
        facts[name] = None if facts.get(name) is None else tuple(facts[name])
    return Task(**{name: facts[name] for name in FACTS}, folder=Path())


def with_paths(config: Any, extracted: Extracted) -> Any:
    """Return a plain config with the paths of artifacts in place of their names."""
    if not references(config):
        return config
    if isinstance(config, Mapping):
        return {key: with_paths(value, extracted) for key, value in config.items()}
    if isinstance(config, list):
        return [with_paths(value, extracted) for value in config]
    return str(extracted.path_of(config.removeprefix(PREFIX)))
