"""Checkpoints of the whole training state: written once, in place, with a digest; kept by rule."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from asparagus.callbacks.journal_logger import scalars
from asparagus.checkpoint.folder import STATE, WRITING, Manifest, digest_of, manifests, name_of, retained, seal
from asparagus.journal import Journal
from asparagus.secrets import hide_in
from asparagus.spec import ENDLESS, Checkpointing

SAVED_ARGUMENTS = (LightningModule.CHECKPOINT_HYPER_PARAMS_KEY, LightningDataModule.CHECKPOINT_HYPER_PARAMS_KEY)

Commit = Callable[[Path, dict[str, float]], None]
"""Called on every rank once a checkpoint is whole; returns when it counts."""


class CheckpointWriter(Checkpoint):
    """Write `checkpoints/epoch=E-step=S/` at the end of epochs. Every rank has one; rank 0 seals and tidies.

    A `Checkpoint` callback runs after all others and after the module's own hook: what they log is in it.

    Args:
        folder: The run's `checkpoints` folder.
        rule: When and what to keep.
        commit: Makes it known to whoever restarts lost workers.
        journal: Rank 0's.
        secrets: Names of environment variables whose values are not saved.
    """

    def __init__(
        self,
        folder: Path,
        rule: Checkpointing,
        commit: Commit,
        journal: Journal | None,
        secrets: Iterable[str] = (),
    ) -> None:
        self._folder = folder
        self._rule = rule
        self._commit = commit
        self._journal = journal
        self._secrets = set(secrets)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Hide secrets among the arguments that a module of one's own saves (`save_hyperparameters`)."""
        for key in SAVED_ARGUMENTS if self._secrets else ():
            if key in checkpoint:
                checkpoint[key] = hide_in(checkpoint[key], self._secrets)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write, make it count, and remove those that the rule no longer keeps."""
        epoch = trainer.current_epoch
        if (epoch + 1) % self._rule.every_n_epochs and not _is_last(trainer):
            return
        started = time.monotonic()
        metrics = scalars(trainer)
        final = self._write(trainer, metrics)
        written = time.monotonic()
        self._commit(final, metrics)
        if self._journal is not None:
            self._tidy()
            self._journal.append(
                "checkpoint",
                name=final.name,
                step=trainer.global_step,
                epoch=epoch,
                write_s=round(written - started, 4),
                commit_s=round(time.monotonic() - written, 4),
            )

    def _write(self, trainer: Trainer, metrics: dict[str, float]) -> Path:
        name = name_of(trainer.current_epoch, trainer.global_step)
        writing = self._folder / f"{WRITING}{name}"
        if self._journal is not None:
            # What comes before this checkpoint must be readable if the next thing that happens is a power cut.
            self._journal.sync()
            shutil.rmtree(writing, ignore_errors=True)
            writing.mkdir(parents=True)
        trainer.strategy.barrier("checkpoint folder")
        trainer.save_checkpoint(writing / STATE)  # on every rank: sharded strategies need all of them
        if self._journal is None:
            return self._folder / name
        manifest = Manifest(
            name=name,
            epoch=trainer.current_epoch,
            step=trainer.global_step,
            metrics=metrics,
            digest=digest_of(writing / STATE),
            bytes=(writing / STATE).stat().st_size,
            world_size=trainer.world_size,
            monitor=self._rule.monitor,
            mode=self._rule.mode,
        )
        return seal(writing, manifest)

    def _tidy(self) -> None:
        found = manifests(self._folder)
        keep = retained(found, self._rule.keep_best)
        for manifest in found:
            if manifest.name not in keep:
                shutil.rmtree(self._folder / manifest.name)


def _is_last(trainer: Trainer) -> bool:
    """Tell whether this epoch ends the training: its state is kept, whatever the rule's rhythm."""
    by_steps = trainer.max_steps != ENDLESS and trainer.global_step >= trainer.max_steps
    return bool(trainer.should_stop or by_steps or trainer.current_epoch + 1 == trainer.max_epochs)
