"""Segmentation beside pretraining: what the weights are good for so far, while they are learnt (SEEDS A37)."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from asparagus.checkpoint.transfer import TransferReport, transfer
from asparagus.data.modules import CaseDataModule
from asparagus.errors import ConfigError, RequestError, RunError
from asparagus.stages import STAGES
from asparagus.stages.build import build_module
from asparagus.stages.seg import SegModule

log = logging.getLogger(__name__)

KEY = "plugins.online_segmentation"
METRICS = ("online_train_loss", "online_seg_val_loss", "online_seg_val_dice")
COUNTS = ("every_n_epochs", "epochs", "batches", "train_n_last_params")
THEIRS = re.compile(r"^(?=task:)|\b(?:model|data)\.(?=(?:net|dimensions|split|fold|batch_size|patch_size)\b)")
"""How others begin the names of settings that are this callback's here."""


class OnlineSegmentation(pl.Callback):
    """Every few epochs, train the end of a segmentation network on the weights so far, and log how well it does.

    Each time the network begins from the same fresh weights, takes over what the pretraining has under the same name
    and shape, and sees the same patches: what differs between two epochs is the pretraining's doing. The pretraining
    does not notice: its weights are only read, and the random generators are put back. With several ranks, each does
    the same with all of the data and logs the same values; nothing is communicated.
    """

    _data: CaseDataModule

    def __init__(  # noqa: PLR0913 - as many as there are settings
        self,
        task: str,
        net: Mapping[str, Any],
        *,
        root: str | None = None,
        split: str = "split_80_20",
        fold: int = 0,
        batch_size: int = 2,
        patch_size: Sequence[int] | None = None,
        dimensions: str | None = None,
        every_n_epochs: int = 2,
        epochs: int = 5,
        batches: int = 250,
        lr: float = 1e-4,
        train_n_last_params: int = 4,
        seed: int = 0,
    ) -> None:
        """Keep the settings; data are looked at when the pretraining starts.

        Args:
            task: Name of the segmentation task.
            net: A network section with `_target_`; sizes that it omits are filled in.
            root: The data folder; None takes the pretraining's.
            split: Name of the task's split file, without `.json`.
            fold: Which of its folds.
            batch_size: Items per step.
            patch_size: Voxels per axis; None takes the pretraining's.
            dimensions: `2D` or `3D`; None takes the pretraining's.
            every_n_epochs: Epochs 0, n, 2n, ... of the pretraining are followed by a segmentation.
            epochs: Length of a segmentation.
            batches: Most batches that one of its epochs has.
            lr: Adam's learning rate.
            train_n_last_params: How many of the network's parameter tensors, counted from its end, are trained.
            seed: Decides fresh weights, order, patches and augmentation.

        Raises:
            ConfigError: a network that is no section, or a number that is not positive.
        """
        self.net, self.lr, self.train_n_last_params, self.seed = net, lr, train_n_last_params, seed
        self.every_n_epochs, self.epochs, self.batches = every_n_epochs, epochs, batches
        _check(self)
        self._given: dict[str, Any] = {"root": root, "patch_size": patch_size, "dimensions": dimensions}
        self._feed = partial(
            CaseDataModule, task=task, kind="seg", split=split, fold=fold, batch_size=batch_size, seed=seed
        )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the task and try the transfer: what does not fit is said now, not at the end of an epoch.

        Raises:
            ConfigError, DataError: settings that do not fit the task or the network; no such task, split or fold.
            RunError: no weight of the pretraining fits the segmentation network, or none but norms and biases.
        """
        source = trainer.datamodule
        with _isolated(pl_module), _naming_settings():
            self._data = self._feed(**{name: _or_of(source, name, value) for name, value in self._given.items()})
            self._data.setup("fit")
            _, report = self._network(pl_module)
        log.info("online segmentation: %s", report.describe())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Train and validate the segmentation network and log `METRICS`, in the epochs whose turn it is."""
        if trainer.current_epoch % self.every_n_epochs:
            # Lightning keeps the last values, and the record would show them as this epoch's.
            for name in METRICS:
                trainer.callback_metrics.pop(name, None)
            return
        with _isolated(pl_module), torch.enable_grad():
            torch.manual_seed(self.seed)  # for dropout, alike on every rank
            module, _ = self._network(pl_module)
            values = dict(zip(METRICS, (self._train(module), *_validate(module, self._data)), strict=True))
        pl_module.log_dict(values, on_step=False, on_epoch=True, batch_size=1)

    def _network(self, pl_module: pl.LightningModule) -> tuple[SegModule, TransferReport]:
        """Return a fresh network with the pretraining's weights, on its device, all but the end frozen."""
        data, stage = self._data, STAGES["train_seg"]
        assert data.task is not None, "on_fit_start() read it"
        model = {"net": self.net, "dimensions": f"{data.dimensions}D"}
        module = build_module(stage, model, {}, None, data.task, patch_size=data.patch_size, seed=self.seed)
        report = transfer(module, pl_module.state_dict(), source="the pretraining")
        for parameter in list(module.net.parameters())[: -self.train_n_last_params]:
            parameter.requires_grad = False
        return cast("SegModule", module.to(pl_module.device)), report

    def _train(self, module: SegModule) -> float:
        """Return the mean loss over the last epoch's items."""
        optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=self.lr)
        loader: Any = self._data.train_dataloader()
        for epoch in range(self.epochs):
            loader.sampler.set_epoch(epoch)
            total = items = 0.0
            for image, label in _on_device(islice(loader, self.batches), module):
                loss = module.loss(module(image), label[:, None])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total, items = total + float(loss.detach()) * len(image), items + len(image)
        return total / items


@torch.no_grad()
def _validate(module: SegModule, data: CaseDataModule) -> tuple[float, float]:
    """Return the mean loss over whole cases, and the mean Dice over the foreground classes that are anywhere."""
    module.eval()
    total = items = 0.0
    for image, label in _on_device(data.val_dataloader(), module):
        logits = module.predict_whole(image)
        total, items = total + float(module.loss(logits, label[:, None])) * len(image), items + len(image)
        module.dice.update(logits.argmax(1), label)
    return total / items, float(module.dice.compute().nanmean().nan_to_num())


def _on_device(batches: Any, module: SegModule) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in batches:
        yield batch["image"].to(module.device), batch["label"].to(module.device)


def _isolated(pl_module: pl.LightningModule) -> Any:
    return isolate_rng(include_cuda=pl_module.device.type == "cuda")  # asking for CUDA's generators starts CUDA


def _or_of(source: Any, name: str, value: Any) -> Any:
    """Return a setting, or what the pretraining's data module has under its name."""
    if value is not None:
        return value
    if not hasattr(source, name):
        raise ConfigError(f"{KEY}.{name}: missing, and not known from {type(source).__name__}. Set {KEY}.{name}.")
    found = getattr(source, name)
    return f"{found}D" if name == "dimensions" else found


def _check(callback: OnlineSegmentation) -> None:
    if not isinstance(callback.net, Mapping):
        raise ConfigError(f"{KEY}.net: {callback.net!r} is no section with _target_. Set {KEY}._recursive_=false too.")
    for name in COUNTS:
        if not (isinstance(value := getattr(callback, name), int) and value > 0):
            raise ConfigError(f"{KEY}.{name}: {value!r} is not a positive whole number.")
    if not callback.lr > 0:
        raise ConfigError(f"{KEY}.lr: {callback.lr} is not a positive number.")


@contextmanager
def _naming_settings() -> Iterator[None]:
    """Let errors of the data module, the stage and the transfer name this callback's settings."""
    try:
        yield
    except RequestError as error:
        text = THEIRS.sub(f"{KEY}.", str(error))
        raise type(error)(text if text.startswith(KEY) else f"{KEY}: {text}") from error
    except RunError as error:
        text = str(error).replace("init_from", f"{KEY}.net", 1)
        raise RunError(f"{text}\nChoose a network with the names and sizes of model.pretrain_net.") from error
