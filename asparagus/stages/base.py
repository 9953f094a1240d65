"""What all stages share: one network under `net.`, its optimizer and schedule, and the names of what is logged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import pytorch_lightning as pl
from torch import Tensor, nn

from asparagus.checkpoint.transfer import DECODER
from asparagus.errors import ConfigError
from asparagus.optim.build import build_optimizer
from asparagus.optim.groups import parameter_groups
from asparagus.optim.schedules import lightning_schedules
from asparagus.stages.shown import Shown
from asparagus.targets import instantiate

Loss = TypeVar("Loss")
LIBRARIES = ("torch", "monai")
"""Whose losses learn nothing: their buffers are settings."""


class StageModule(pl.LightningModule):
    """A network and how to optimize it; subclasses say what the loss is.

    Weights are saved under `net.` in every stage, so that they transfer by name. No hyperparameters are saved: the
    run's own config says how the module was built, and checkpoints load with `weights_only=True`.
    """

    network_key = "model.module"
    """Where the network stands in the config; for messages."""
    task_name = "the task"
    """For messages."""

    default_loss: ClassVar[Mapping[str, Any]] = {}
    """A section; arguments of the experiment's own join it, and another `_target_` replaces it."""

    def __init__(
        self,
        net: nn.Module,
        optim: Mapping[str, Any],
        *,
        n_classes: int,
        patch_size: Sequence[int] | None = None,
        class_names: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        """Keep the network and the settings.

        Args:
            net: The network.
            optim: The `optim` section: name, lr, the optimizer's arguments, `sched`.
            n_classes: Number of classes of the task, background included.
            patch_size: Spatial size of a training patch in voxels; None for whole cases.
            class_names: One per class, for metric names.
            seed: Decides what is random inside the stage.
        """
        super().__init__()
        self.net = net
        self.optim_config = dict(optim)
        self.n_classes, self.seed = n_classes, seed
        self.patch_size = None if patch_size is None else tuple(patch_size)
        self.class_names = list(class_names) if class_names else [str(i) for i in range(n_classes)]

    def build_loss(self, given: Mapping[str, Any] | None, **extra: Any) -> nn.Module:
        """Return the loss that an experiment's section describes.

        Args:
            given: Arguments for `default_loss`, or a loss of another `_target_`; None is the default itself.
            extra: Arguments that the stage needs of any loss.

        Raises:
            ConfigError: There is no such loss, it does not take these arguments, or weighs another number of classes.
        """
        section = dict(given or {})
        chosen = section if "_target_" in section else {**self.default_loss, **section}
        loss: nn.Module = instantiate(chosen, key="loss", extra=extra)
        self._check_weights(loss)
        return constants_left_out(loss)

    def _check_weights(self, loss: nn.Module) -> None:
        for part in loss.modules():
            weight = part.weight if isinstance(part, nn.CrossEntropyLoss) else None
            if weight is not None and len(weight) != self.n_classes:
                raise ConfigError(
                    f"loss.weight: {len(weight)} weights, and there are {self.n_classes} classes. Give one for each."
                )

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output for [B, C, ...]."""
        out = self.net(x)
        # MONAI's transformers return (output, hidden states)
        result: Tensor = out[0] if isinstance(out, tuple) else out
        return result

    def check_channels(self, logits: Any, label: Tensor) -> None:
        """Refuse logits that are not one per class: losses and metrics make numbers of others too, without a meaning.

        Args:
            logits: [B, n_classes, ...]; a list of them where the network is supervised at several depths, stacked along
                an axis 1 or not.
            label: Class indices [B, ...].

        Raises:
            ConfigError: there are more or fewer.
        """
        for output in logits if isinstance(logits, (list, tuple)) else (logits,):
            if not isinstance(output, Tensor) or output.ndim <= label.ndim or label.is_floating_point():
                continue  # a loss of one's own may want it so; torch's tell themselves
            channels = output.shape[output.ndim - label.ndim]
            if channels != self.n_classes:
                raise ConfigError(
                    f"{self.network_key}: gives {channels} channels, and {self.task_name} has {self.n_classes} "
                    f"classes. Set the argument that decides to {self.n_classes}; one that is called out_channels, "
                    "num_classes or n_classes is filled in where it is left out."
                )

    def setup_optimizer_param_groups(self) -> list[dict[str, Any]]:
        """Return what is trained, in groups with settings of their own: `{"params": [...], "lr": ...}` (SEEDS B11).

        A subclass may override it, e.g. for a learning rate per layer; what a group leaves out is the section's.
        """
        return parameter_groups(self, self.optim_config, DECODER)

    def configure_optimizers(self) -> Any:
        """Return optimizer and per-step schedule; its length comes from trainer, data and real world size."""
        groups = self.setup_optimizer_param_groups()
        if not groups:
            raise ConfigError(
                f"{type(self).__name__}.setup_optimizer_param_groups: returned {groups!r}. Return the groups, as "
                "torch's optimizers take them: [{'params': [...], 'lr': ...}]."
            )
        optimizer = build_optimizer(self.optim_config, groups)
        return [optimizer], lightning_schedules(optimizer, self.optim_config.get("sched"), self.trainer)

    def log_train(self, loss: Tensor, batch_size: int) -> None:
        """Log `train/loss` and `optim/lr` of this step, and `train/loss_epoch`, the epoch's mean over all ranks."""
        self.log("train/loss", loss, on_step=True, on_epoch=False, batch_size=batch_size)
        self.log("train/loss_epoch", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=batch_size)
        if "lr" in (group := self.trainer.optimizers[0].param_groups[0]):
            self.log("optim/lr", group["lr"], on_step=True, on_epoch=False)

    def log_val_loss(self, loss: Tensor, batch_size: int) -> None:
        """Log `val/loss`: the mean over all cases of all ranks, however they are shared out."""
        self.log("val/loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=batch_size, prog_bar=True)

    def log_test_loss(self, loss: Tensor, batch_size: int) -> None:
        """Log `test/loss` as `val/loss` is."""
        self.log("test/loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=batch_size)

    def shown(self, batch: Mapping[str, Any], outputs: Any, most: int) -> Shown | None:
        """Return what figures show of a validation batch; nothing where a stage has nothing to show.

        Args:
            batch: As `validation_step` got it.
            outputs: What `validation_step` returned.
            most: Of how many cases there is room for a picture.
        """
        return None

    def summarize_cases(self, cases: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the predictions file says of all test cases together; nothing where a stage adds nothing."""
        return {}


def constants_left_out(loss: Loss) -> Loss:
    """Let what a section says of a loss of torch's or MONAI's (`weight`) be no weight of the module.

    It would be saved with the weights, and another training that starts from them would take it over.
    """
    for part in loss.modules() if isinstance(loss, nn.Module) else ():
        if type(part).__module__.partition(".")[0] in LIBRARIES:
            for name, value in list(part.named_buffers(recurse=False)):
                part.register_buffer(name, value, persistent=False)
    return loss


def by_case(batch: Mapping[str, Any], found: Iterable[Any]) -> dict[str, Any] | None:
    """Return what `test_step` offers to the predictions file: what was found of each case, by its name.

    Args:
        batch: With `case`, the names; without it, nothing is offered.
        found: One for each case of the batch; looked at only where there are names.
    """
    names = batch.get("case")
    return {"cases": dict(zip(names, found, strict=True))} if names else None
