"""Trainer, module and data module of a spec in this process, for whoever wants to hold them in their hands."""

from __future__ import annotations

import logging
from pathlib import Path

import pytorch_lightning as pl

from asparagus.checkpoint.transfer import take_over
from asparagus.spec import Parent, Spec
from asparagus.worker.parts import Parts
from asparagus.worker.ranks import InProcess

FOLDER = "notebook"

log = logging.getLogger("asparagus")


def objects_of(spec: Spec, parent: Parent | None) -> tuple[pl.Trainer, pl.LightningModule, pl.LightningDataModule]:
    """Build what a spec describes in this process, whatever workers it asks for; the parent's weights are in.

    Raises:
        ConfigError: Something does not fit what was asked.
    """
    parts = Parts(spec, InProcess())
    folder = Path(spec.paths.results) / FOLDER
    if parent is not None:
        log.info(take_over(parts.module, parent, spec.transfer).describe())
    callbacks, loggers = parts.callbacks(), parts.loggers(folder, first=True)
    trainer = pl.Trainer(
        **{
            "default_root_dir": folder,
            "enable_model_summary": False,
            "enable_checkpointing": any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks),
            **parts.trainer_arguments(),
            "logger": loggers or False,
            "callbacks": callbacks,
        }
    )
    return trainer, parts.module, parts.datamodule
