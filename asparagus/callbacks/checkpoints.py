"""Checkpoints of the whole training state: written once, in place, with a digest; kept by rule."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from asparagus.callbacks.journal_logger import scalars
from asparagus.checkpoint.folder import STATE, WRITING, Manifest, digest_of, name_of, seal
from asparagus.checkpoint.holds import holds
from asparagus.checkpoint.removal import clear_leftovers, remove, set_aside_torn, size_of, stored
from asparagus.checkpoint.retention import Rule, shortages, to_remove
from asparagus.journal import Journal
from asparagus.secrets import hide_in
from asparagus.spec import ENDLESS, Checkpointing
from asparagus.stopwatch import WATCH, Phase

SAVED_ARGUMENTS = (LightningModule.CHECKPOINT_HYPER_PARAMS_KEY, LightningDataModule.CHECKPOINT_HYPER_PARAMS_KEY)

Commit = Callable[[Path, dict[str, float]], None]
"""Called on every rank once a checkpoint is whole; returns when it counts."""

log = logging.getLogger("asparagus")


class StraightToFile(TorchCheckpointIO):
    """Write a checkpoint where it belongs.

    Lightning's own way goes through memory and a file in the temporary folder, whose disk may be another and smaller
    one, and torch's own writer says of a full disk only that it is at an `unexpected pos`.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write it; it is the folder's name that makes it count."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("wb") as file:
            torch.save(checkpoint, file)


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
        self._asked = rule
        self._rule = Rule.of(rule)
        self._commit = commit
        self._journal = journal
        self._secrets = set(secrets)
        self._warned: set[str] = set()
        self._kept: tuple[int, Path] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the folder in order: of an attempt that was killed, something may lie there, half written or damaged."""
        if stage != "fit":
            return
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = StraightToFile()
        if self._journal is not None:
            clear_leftovers(self._folder)
            set_aside_torn(self._folder, self._rule.keep_best)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Hide secrets among the arguments that a module of one's own saves (`save_hyperparameters`)."""
        for key in SAVED_ARGUMENTS if self._secrets else ():
            if key in checkpoint:
                checkpoint[key] = hide_in(checkpoint[key], self._secrets)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write, make it count, and remove those that the rule no longer keeps."""
        if (trainer.current_epoch + 1) % self._asked.every_n_epochs and not _is_last(trainer):
            return
        self._keep(trainer, scalars(trainer))

    def write_now(self, trainer: Trainer, metrics: dict[str, float]) -> Path:
        """Write one at this moment, unless this step has one.

        Args:
            trainer: Whose state.
            metrics: What was measured of it; nothing in the middle of an epoch.
        """
        if self._kept is None or self._kept[0] != trainer.global_step:
            self._keep(trainer, metrics)
        assert self._kept is not None
        return self._kept[1]

    def _keep(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        WATCH.lap(Phase.CALLBACKS)
        started = time.monotonic()
        final = self._write(trainer, metrics)
        written = time.monotonic()
        self._commit(final, metrics)
        self._kept = trainer.global_step, final
        if self._journal is not None:
            self._tidy()
            self._journal.append(
                "checkpoint",
                name=final.name,
                step=trainer.global_step,
                epoch=trainer.current_epoch,
                write_s=round(written - started, 4),
                commit_s=round(time.monotonic() - written, 4),
            )
        WATCH.lap(Phase.CHECKPOINTS)

    def _write(self, trainer: Trainer, metrics: dict[str, float]) -> Path:
        """Write one, on every rank: sharded strategies need all of them."""
        if self._journal is None:
            name = str(trainer.strategy.broadcast(name_of(trainer.current_epoch, trainer.global_step)))  # rank 0's
            trainer.save_checkpoint(self._folder / f"{WRITING}{name}" / STATE)
            return self._folder / name
        name = _free_name(self._folder, name_of(trainer.current_epoch, trainer.global_step))
        writing = self._folder / f"{WRITING}{name}"
        try:
            # What comes before this checkpoint must be readable if the next thing that happens is a power cut.
            self._journal.sync()
            self._make_room()
            shutil.rmtree(writing, ignore_errors=True)
            writing.mkdir(parents=True)
            trainer.strategy.broadcast(name)
            trainer.save_checkpoint(writing / STATE)
            return seal(writing, self._manifest(trainer, name, metrics))
        except BaseException:
            shutil.rmtree(writing, ignore_errors=True)  # a half is of no use to anybody, and its room may be needed
            raise

    def _manifest(self, trainer: Trainer, name: str, metrics: dict[str, float]) -> Manifest:
        state = self._folder / f"{WRITING}{name}" / STATE
        return Manifest(
            name=name,
            epoch=trainer.current_epoch,
            step=trainer.global_step,
            metrics=metrics,
            digest=digest_of(state),
            bytes=state.stat().st_size,
            world_size=trainer.world_size,
            monitor=self._asked.monitor,
            mode=self._asked.mode,
            batch=batches_of_half_an_epoch(trainer),
        )

    def _make_room(self) -> None:
        """Have the quota hold while the next one is being written: it will be about as large as the last."""
        if self._rule.quota is not None and (found := stored(self._folder)):
            self._tidy(incoming=found[-1].bytes)

    def _tidy(self, *, incoming: int = 0) -> None:
        """Remove what the rule does not keep, or cannot within its quota."""
        found, quota = stored(self._folder), self._rule.quota
        besides = size_of(self._folder) - sum(item.bytes for item in found) if quota is not None else 0
        going = to_remove(found, self._rule, incoming=incoming, besides=besides)
        gone = {name for name in going if remove(self._folder / name)}
        for kind, text in shortages(found, gone, self._rule, incoming=incoming, besides=besides).items():
            if kind not in self._warned:
                log.warning(text)
            self._warned.add(kind)


def _free_name(folder: Path, name: str) -> str:
    """Return the name, or if a held checkpoint has it (the same step, trained again) one with a version after it."""
    free, version = name, 0
    while holds(folder / free):
        version += 1
        free = f"{name}-v{version}"
    return free


def batches_of_half_an_epoch(trainer: Trainer) -> int:
    """Return how many batches of an epoch that has not ended were trained on, also where a state was just restored."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return 0 if progress.is_last_batch else int(progress.current.processed)


def _is_last(trainer: Trainer) -> bool:
    """Tell whether this epoch ends the training: its state is kept, whatever the rule's rhythm."""
    by_steps = trainer.max_steps != ENDLESS and trainer.global_step >= trainer.max_steps
    return bool(trainer.should_stop or by_steps or trainer.current_epoch + 1 == trainer.max_epochs)
