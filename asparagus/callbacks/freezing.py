"""Parts of a module that are not trained in some range of optimizer steps (SEEDS B22 to B30)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import nn

from asparagus.errors import ConfigError, did_you_mean

TO_THE_END = -1
PAIR = 2
SPELLED = "N (the first N steps), [A, B] (from step A to step B, both of them), [A, -1] or -1 (to the end)"

Range = int | Sequence[int]


class FreezeUpdates(Callback):
    """Freeze parts by the number of the optimizer step, from 1; with accumulation, all batches of a step share it.

    A frozen part gets no gradients, not zeros: no momentum and no weight decay moves it. It stays in training mode, so
    running means and dropout go on as in every other part. When its range ends, all of its weights need gradients.

    Args:
        modules: Which part is frozen when. A part is a dotted path in the module, or in its network: `encoder: 200`.
        enabled: False does nothing.

    Raises:
        ConfigError: A range that is none; when a training starts, a part that is not there.
    """

    def __init__(self, modules: Mapping[str, Range], *, enabled: bool = True) -> None:
        self._ranges = {name: _range(name, given) for name, given in modules.items()} if enabled else {}
        self._parts: dict[str, nn.Module] = {}
        self._frozen: set[str] = set()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the parts."""
        self._parts = {name: _part(pl_module, name) for name in self._ranges}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Freeze and thaw for the step that this batch is of."""
        step = trainer.global_step + 1
        for name, (first, last) in self._ranges.items():
            frozen = first <= step and (last == TO_THE_END or step <= last)
            if frozen != (name in self._frozen):
                self._set(name, frozen=frozen)

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


def _range(name: str, given: Range) -> tuple[int, int]:
    """Return the first and the last step, from 1, in which a part is frozen; -1 is the end of the training."""
    numbers: list[Any] = list(given) if isinstance(given, (list, tuple)) else [given]
    if isinstance(given, bool) or not all(isinstance(number, int) for number in numbers):
        raise ConfigError(f"freeze_updates.modules.{name}: {given!r} is no range of steps. Give {SPELLED}.")
    if isinstance(given, int):
        return (0, TO_THE_END) if given == TO_THE_END else (0, max(0, given))
    if len(numbers) != PAIR or not numbers[0] > TO_THE_END:
        raise ConfigError(f"freeze_updates.modules.{name}: {numbers} is no range of steps. Give {SPELLED}.")
    first, last = numbers
    if last != TO_THE_END and last < first:
        raise ConfigError(f"freeze_updates.modules.{name}: {numbers} ends before it begins. Give {SPELLED}.")
    return first, last


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
