"""Parts of a module that are not trained in some range of optimizer steps (SEEDS B22 to B30)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import nn

from asparagus.callbacks.steps import TO_THE_END, Range, range_of
from asparagus.errors import ConfigError, did_you_mean


class FreezeUpdates(Callback):
    """Freeze parts by the number of the optimizer step, from 1; with accumulation, all batches of a step share it.

    A frozen part gets no gradients, not zeros: no momentum and no weight decay moves it. It stays in training mode, so
    running means and dropout go on as in every other part. When its range ends, all of its weights need gradients, but
    those of a part that is named as well and still frozen.

    Args:
        modules: Which part is frozen when. A part is a dotted path in the module, or in its network: `encoder: 200`.
        enabled: False does nothing.

    Raises:
        ConfigError: A range that is none; when a training starts, a part that is not there.
    """

    def __init__(self, modules: Mapping[str, Range], *, enabled: bool = True) -> None:
        self._ranges = {name: range_of(name, given) for name, given in modules.items()} if enabled else {}
        self._parts: dict[str, nn.Module] = {}
        self._frozen: set[str] = set()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the parts."""
        self._parts = {name: _part(pl_module, name) for name in self._ranges}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Freeze and thaw for the step that this batch is of.

        Raises:
            ConfigError: Nothing is left to train.
        """
        step = trainer.global_step + 1
        frozen = {name for name, range_ in self._ranges.items() if _is_in(step, range_)}
        if frozen != self._frozen:
            for name in self._frozen - frozen:
                self._set(name, frozen=False)
            for name in frozen:  # those that were so already, too: a part of theirs or around them was just thawed
                self._set(name, frozen=True)
        if self._frozen and not any(weight.requires_grad for weight in pl_module.parameters()):
            raise ConfigError(
                f"freeze_updates: at step {step} all weights are frozen ({', '.join(sorted(self._frozen))}), and "
                "nothing is left to train. Leave a part out."
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave nothing frozen."""
        for name in list(self._frozen):
            self._set(name, frozen=False)

    def _set(self, name: str, *, frozen: bool) -> None:
        for weight in self._parts[name].parameters():
            weight.requires_grad_(not frozen)
            if frozen:
                weight.grad = None
        (self._frozen.add if frozen else self._frozen.discard)(name)


def _is_in(step: int, range_: tuple[int, int]) -> bool:
    first, last = range_
    return first <= step and (last == TO_THE_END or step <= last)


def _part(module: pl.LightningModule, name: str) -> nn.Module:
    """Return a part of a module, or of its network, by its dotted path."""
    known: dict[str, nn.Module] = dict(module.named_modules())
    found = known.get(name) or known.get(f"net.{name}")
    if found is None:
        names = [known_name.removeprefix("net.") for known_name in known if known_name]
        shallow = sorted({".".join(one.split(".")[: name.count(".") + 1]) for one in names})
        raise ConfigError(
            f"freeze_updates.modules.{name}: {type(module).__name__} has no such part. {did_you_mean(name, shallow)} "
            f"There are: {', '.join(shallow)}."
        )
    return found
