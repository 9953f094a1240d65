"""A training that goes on is fed what the undisturbed one would have been fed, from the very batch on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, Sampler

from asparagus.callbacks.checkpoints import batches_of_half_an_epoch


class ComingBatches(Callback):
    """Has the loaders begin anew, once it is known where a training goes on.

    Lightning lets them begin as soon as somebody asks how many steps there will be, as schedules do: before it restores
    how far the training was. Those with worker processes have then fetched from the first epoch's order. In the
    middle of an epoch they begin with the cases that have not been seen in it, which holds for map-style loaders with
    a batch size, as ours are; others begin anew, of which Lightning warns.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's
        """Go on where no epoch begins; whoever restores the random numbers does so after this."""
        loop, seen = trainer.fit_loop, batches_of_half_an_epoch(trainer)
        if not (loop.restarted_mid_epoch or loop.restarted_on_epoch_end) or loop._combined_loader is None:  # noqa: SLF001
            return
        for loader in loop._combined_loader.flattened:  # noqa: SLF001
            if isinstance(loader, DataLoader) and loader.batch_sampler is not None and loader.batch_size is not None:
                batches: Any = loader.batch_sampler
                if seen:
                    passes, left = divmod(seen, len(loader))  # a short one begins again within the epoch
                    batches.sampler = _AfterThose(batches.sampler, passes, left * loader.batch_size)
                if hasattr(batches.sampler, "set_epoch"):  # loader workers fetch before Lightning tells it
                    batches.sampler.set_epoch(trainer.current_epoch)
        _begin_anew(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Go on with a whole epoch: Lightning begins each one anew, but the first after a restart."""
        loop = trainer.fit_loop
        if trainer.current_epoch and (loop.is_resuming or loop.epoch_loop.restarting):
            _begin_anew(trainer)


def _begin_anew(trainer: Trainer) -> None:
    fetcher = trainer.fit_loop._data_fetcher  # noqa: SLF001
    if fetcher is not None:
        iter(fetcher)


class _AfterThose(Sampler[Any]):
    """The items of a sampler after so many passes and items, the first time; then all of them.

    It says that it is as long as the other: Lightning counts the batches that were seen before by itself.
    """

    def __init__(self, sampler: Any, passes: int, items: int) -> None:
        self._sampler, self._passes, self._items = sampler, passes, items

    def __iter__(self) -> Iterator[Any]:
        passes, skip = self._passes, self._items
        self._passes = self._items = 0
        for _ in range(passes):
            for _ in self._sampler:
                pass
        items = iter(self._sampler)
        for _ in range(skip):
            next(items, None)
        yield from items

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)  # `set_epoch` and what else one of one's own has
