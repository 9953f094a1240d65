"""Trainer, module and data module of a plan in this process, for whoever wants to hold them in their hands."""

from __future__ import annotations

import logging
from pathlib import Path

import pytorch_lightning as pl

from asparagus.checkpoint.transfer import read_weights, transfer
from asparagus.plan import Plan
from asparagus.worker.parts import Parts
from asparagus.worker.ranks import InProcess

FOLDER = "notebook"

log = logging.getLogger("asparagus")


def objects_of(plan: Plan) -> tuple[pl.Trainer, pl.LightningModule, pl.LightningDataModule]:
    """Build a plan's objects in this process, whatever workers it asks for; the parent's weights are in.

    Raises:
        ConfigError: Something does not fit what was asked.
    """
    spec = plan.spec
    parts = Parts(spec, InProcess())
    folder = Path(spec.paths.results) / FOLDER
    if plan.parent is not None:
        options = spec.transfer
        weights = read_weights(Path(plan.parent.checkpoint))
        report = transfer(
            parts.module, weights, source=plan.parent.checkpoint, decoder=options.decoder, strict=options.strict
        )
        log.info(report.describe())
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
