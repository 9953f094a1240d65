"""Looking at data without training: what a look needs, and the test of the best checkpoint after a fit (SEEDS A48)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden

from asparagus.callbacks.predictions import name_of_test, predictions_file
from asparagus.checkpoint.folder import STATE, best_of, is_whole, manifests
from asparagus.data.own import BaseDataModule
from asparagus.errors import ConfigError
from asparagus.journal import JOURNAL, Journal, JournalReader
from asparagus.spec import Assignment

log = logging.getLogger("asparagus")


def must_have(mode: str, module: pl.LightningModule, datamodule: pl.LightningDataModule) -> None:
    """Refuse to look at data that are not there: Lightning would look at nothing and say nothing (SEEDS D12)."""
    part = "val" if mode == "validate" else "test"
    step = "validation_step" if mode == "validate" else "test_step"
    if not is_overridden(step, module):
        raise ConfigError(f"run.mode: {mode} needs a {step}, and {type(module).__name__} has none.")
    if not is_overridden(f"{part}_dataloader", datamodule):
        raise ConfigError(f"run.mode: {mode} needs {part} data, and {type(datamodule).__name__} has none.")
    if not _has_data(mode, part, datamodule):
        raise ConfigError(f"run.mode: {mode} needs {part} data. Give {_given_by(datamodule, part)}.")


def _given_by(datamodule: pl.LightningDataModule, part: str) -> str:
    if isinstance(datamodule, BaseDataModule):
        return f"self.datasets[{part!r}] in setup of {type(datamodule).__name__}"
    return "data.test_split" if hasattr(datamodule, "test_split") else f"the section data.{part}"


def can_test(module: pl.LightningModule, datamodule: pl.LightningDataModule) -> bool:
    """Tell whether a module has a test step, and its data module something to test on."""
    steps = is_overridden("test_step", module) and is_overridden("test_dataloader", datamodule)
    return steps and _has_data("test", "test", datamodule)


def test_the_best(
    assignment: Assignment,
    trainer: pl.Trainer,
    module: pl.LightningModule,
    datamodule: pl.LightningDataModule,
    journal: Journal | None,
) -> dict[str, float]:
    """Test the best checkpoint of a run whose fit has ended, on all ranks; once, whatever was lost in between.

    The module has that checkpoint's weights afterwards.

    Returns:
        What was measured; nothing where there is nothing to test on, or with.
    """
    if trainer.limit_test_batches == 0 or not can_test(module, datamodule):
        return {}
    folder, task, split = Path(assignment.folder), assignment.spec.task, name_of_test(datamodule)
    # Rank 0 decides: it is the one that tidies checkpoints away, and others may see the folder as it was.
    mine = _chosen(folder, task, split) if trainer.is_global_zero else None
    chosen, known = trainer.strategy.broadcast(mine)
    if chosen is None or known is not None:
        return known or {}
    log.info("testing %s on %s", chosen.name, split)
    trainer.test(module, datamodule=datamodule, ckpt_path=str(chosen / STATE), verbose=False, weights_only=True)
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    if journal is not None:
        file = predictions_file(folder, task, split, chosen)
        there = file.name if file.is_file() else None
        journal.append("test", checkpoint=chosen.name, split=split, file=there, values=metrics)
    return metrics


def joined(fitted: dict[str, float], tested: dict[str, float]) -> dict[str, float]:
    """Return the metrics of a fit and of the test after it; where both have a name, the test's is `test/<name>`."""
    return fitted | {f"test/{key}" if key in fitted else key: value for key, value in tested.items()}


def _has_data(stage: str, part: str, datamodule: pl.LightningDataModule) -> bool:
    datamodule.setup(stage)
    loaders: Any = getattr(datamodule, f"{part}_dataloader")()
    return loaders is not None and not (isinstance(loaders, list) and not loaders)


def _chosen(folder: Path, task: str, split: str) -> tuple[Path | None, dict[str, float] | None]:
    """Return the checkpoint to test, and what an earlier attempt measured if it was there to the end of the test."""
    chosen = _best_whole(folder / "checkpoints")
    if chosen is None:
        log.warning("%s holds no whole checkpoint: nothing is tested", folder)
        return None, None
    for event in reversed(JournalReader(folder / JOURNAL).read()):
        if event["kind"] == "test" and (event["checkpoint"], event["split"]) == (chosen.name, split):
            there = event["file"] is None or predictions_file(folder, task, split, chosen).is_file()
            return chosen, event["values"] if there else None
    return chosen, None


def _best_whole(checkpoints: Path) -> Path | None:
    """Return the best checkpoint, or the last where nothing was measured; one that is torn counts for nothing."""
    left = manifests(checkpoints)
    while left:
        chosen = best_of(left) or left[-1]
        if is_whole(checkpoints / chosen.name, chosen):
            return checkpoints / chosen.name
        log.warning("%s is torn or was changed; another is tested", checkpoints / chosen.name)
        left.remove(chosen)
    return None
