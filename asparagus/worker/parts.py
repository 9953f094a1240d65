"""From a spec to what a Trainer is given: module, data module, callbacks, loggers; on workers and in notebooks."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.data import sized_len
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from pytorch_lightning.utilities.model_helpers import is_overridden

from asparagus.attributes import has_attributes, lengths, substituted
from asparagus.callbacks.seeds import EpochSeeds
from asparagus.data.layout import Task, read_task
from asparagus.errors import DataError
from asparagus.secrets import hide_in, references, reveal
from asparagus.spec import Spec
from asparagus.stages import STAGES
from asparagus.stages.build import build_module
from asparagus.targets import instantiate, locate, parameters_of
from asparagus.worker.here import HERE
from asparagus.worker.ranks import Ranks

NOT_LIGHTNINGS = ("strategy", "enable_checkpointing", "max_samples")
"""Trainer arguments that are not passed on as they are: ranks decide, checkpoints are always written, steps counted."""


class Parts:
    """What a spec describes, built for one rank.

    Args:
        spec: As planned; references to secrets are resolved here and stay in memory.
        ranks: Which share of the data is this rank's.

    Raises:
        AsparagusError: Something does not fit what was asked; the key is named.
    """

    def __init__(self, spec: Spec, ranks: Ranks) -> None:
        pl.seed_everything(spec.seed, workers=True, verbose=False)
        self.spec = Spec.from_dict(reveal(spec.to_dict()))
        self._written = spec
        self.secrets = set(references(spec.to_dict()))
        self._task = _task(self.spec)
        self.datamodule, self.shards = _datamodule(self.spec, ranks, self._task)
        self._ranks = ranks
        self._hide_secrets(self.datamodule)
        self._fill_in_lengths()

    @cached_property
    def module(self) -> pl.LightningModule:
        """The module with its first weights, built when it is first asked for."""
        return self.build_module()

    def build_module(self) -> pl.LightningModule:
        """Build a module; each has the same first weights."""
        spec = self.spec
        module = build_module(
            STAGES[spec.stage],
            spec.model,
            spec.optim,
            spec.loss,
            self._task,
            patch_size=spec.data.get("patch_size"),
            seed=spec.seed,
        )
        self._hide_secrets(module)
        return module

    def prepare(self) -> None:
        """Have the data prepared, once: Lightning would do it again for the test that follows a fit (SEEDS C5)."""
        data = self.datamodule
        if data.prepare_data is _prepared or not is_overridden("prepare_data", data):
            return
        HERE.beat("prepare_data", -1)
        self._ranks.once(data.prepare_data, per_node=data.prepare_data_per_node)
        data.prepare_data = _prepared

    def callbacks(self) -> list[Callback]:
        """Return the callbacks of the sections `callbacks` and `plugins`, and what keeps epochs reproducible."""
        return [EpochSeeds(self.spec.seed), *self.asked_callbacks().values()]

    def asked_callbacks(self) -> dict[str, Callback]:
        """Return the callbacks of the sections `callbacks` and `plugins`, by their keys."""
        sections = {
            f"{part}.{name}": section
            for part in ("callbacks", "plugins")
            for name, section in getattr(self.spec, part).items()
        }
        return {key: instantiate(section, key=key) for key, section in sections.items() if section is not None}

    def loggers(self, folder: Path, *, first: bool) -> list[Logger]:
        """Return the loggers of the section `logger`; they write into `folder` unless it says where.

        Args:
            folder: Where files go.
            first: Whether this is rank 0, which tells them the config.
        """
        built = []
        for key, section in self.spec.logger.items():
            if section is None:
                continue
            takes = parameters_of(locate(section["_target_"], key=f"logger.{key}"))
            place = {"save_dir": str(folder)} if "save_dir" in takes and not section.get("save_dir") else {}
            rest = {name: value for name, value in section.items() if name not in place}
            logger: Logger = instantiate(rest, key=f"logger.{key}", extra=place)
            if first:
                logger.log_hyperparams(self._written.to_dict())  # secrets as they are written
            built.append(logger)
        return built

    def trainer_arguments(self) -> dict[str, Any]:
        """Return the section `trainer` as the Trainer takes it; objects are built."""
        asked = {key: value for key, value in self.spec.trainer.items() if key not in NOT_LIGHTNINGS}
        return {key: _built(value, f"trainer.{key}") for key, value in asked.items()}

    def _hide_secrets(self, part: Any) -> None:
        if self.secrets and hasattr(part, "_hparams_initial"):  # what Lightning tells to loggers
            part._hparams_initial = hide_in(part.hparams_initial, self.secrets)  # noqa: SLF001 - no public name

    def _fill_in_lengths(self) -> None:
        """Ask the data for what only they know: how long an epoch is."""
        values = self.spec.to_dict()
        if not has_attributes(values):
            return
        try:
            self.prepare()
            batches = _batches(self.datamodule)
        except DataError:
            if self.spec.run.mode == "fit":
                raise
            batches = None  # who looks at other data needs none to train on
        self.spec = Spec.from_dict(substituted(values, lengths(self.spec.trainer, batches)))


def _prepared() -> None:
    """Stand where `prepare_data` was that has been called."""


def _batches(datamodule: pl.LightningDataModule) -> float | None:
    """Count the batches of a training epoch as the Trainer will: infinite for a stream, None without such data."""
    datamodule.setup("fit")
    if not is_overridden("train_dataloader", datamodule) or (loaders := datamodule.train_dataloader()) is None:
        return None
    combined = loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders, "max_size_cycle")
    each = [math.inf if (length := sized_len(loader)) is None else length for loader in combined.flattened]
    mode = combined._mode  # noqa: SLF001 - nothing else tells
    if mode == "sequential":
        return sum(each)
    return min(each) if mode == "min_size" else max(each)


def _task(spec: Spec) -> Task | None:
    """Read the task where the data come from one; a data module may describe its own, or have no use for one."""
    factory = locate(spec.data["_target_"], key="data")
    if describe := getattr(factory, "task_of", None):
        task: Task = describe(spec.task, spec.data)
        return task
    try:
        return read_task(spec.data_root, spec.task)
    except DataError:
        if "task" in parameters_of(factory):
            raise
        return None


def _datamodule(spec: Spec, ranks: Ranks, task: Task | None) -> tuple[pl.LightningDataModule, bool]:
    """Build the data module with what it takes of the facts of the run; tell whether it shards its data itself."""
    given = {
        "root": spec.paths.data,
        "task": spec.task,
        "kind": STAGES[spec.stage].kind,
        "dimensions": spec.model.get("dimensions") or (f"{task.dimensions}D" if task else "3D"),
        "seed": spec.seed,
        "rank": ranks.rank,
        "world_size": ranks.world_size,
    }
    section = spec.data
    factory = locate(section["_target_"], key="data")
    if getattr(factory, "builds_its_parts", False):
        section = {"_recursive_": False, **section}
    parameters = parameters_of(factory)
    # What the section leaves open (`root: null`) is given too.
    taken = {key: value for key, value in given.items() if key in parameters and section.get(key) is None}
    section = {key: value for key, value in section.items() if key not in taken}
    return instantiate(section, key="data", extra=taken), {"rank", "world_size"} <= parameters.keys()


def _built(value: Any, key: str) -> Any:
    if isinstance(value, dict) and "_target_" in value:
        return instantiate(value, key=key)
    return [_built(item, f"{key}[{index}]") for index, item in enumerate(value)] if isinstance(value, list) else value
