"""A little of the data, for a rehearsal: the first batch, cut small, and errors that name where in `data` they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from pytorch_lightning.utilities.model_helpers import is_overridden

from asparagus.errors import AsparagusError, DataError

ITEMS = 2
"""Of a batch that are enough to see shapes; one would upset batch norm."""
PARTS = {"fit": ("train", "training"), "validate": ("val", "validation"), "test": ("test", "test")}
"""Run mode -> the loader that it reads first, and what its data are called."""
OF_A_DATASET = re.compile(r"dataset\.(\w+): ")


def first_batch(datamodule: pl.LightningDataModule, mode: str) -> Any:
    """Return the first batch that a run would see, cut small; None where the data module has no loader for it.

    Raises:
        DataError: There are loaders, and no batch in them.
    """
    part, name = PARTS[mode]
    datamodule.setup(mode)
    if not is_overridden(f"{part}_dataloader", datamodule):
        return None
    if (loaders := getattr(datamodule, f"{part}_dataloader")()) is None:
        return None
    combined = loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders, "max_size_cycle")
    for batch, *_ in iter(combined):
        return _small(batch)
    raise DataError(f"data: the {name} data are empty: {type(datamodule).__name__} gives no batch.")


@contextmanager
def naming_data(section: Mapping[str, Any]) -> Iterator[None]:
    """Let errors of datasets, which do not know where in `data` they stand, begin with the whole key."""
    try:
        yield
    except AsparagusError as error:
        text = str(error)
        if not (found := OF_A_DATASET.match(text)):
            raise
        there = [place for place, values in _datasets(section, "data") if _said_of(values, found[1], text)]
        raise type(error)(text.replace("dataset", there[0], 1) if there else f"data: {text}") from error


def _datasets(node: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every section of a dataset inside `data`, and where it stands."""
    for key, value in node.items() if isinstance(node, Mapping) else ():
        if key == "dataset" and isinstance(value, Mapping):
            yield f"{place}.{key}", value
        else:
            yield from _datasets(value, f"{place}.{key}")


def _said_of(values: Mapping[str, Any], name: str, text: str) -> bool:
    """Tell whether a message about an argument quotes this dataset's."""
    return name in values and text.startswith(f"dataset.{name}: {values[name]!r}")


def shrink(module: pl.LightningModule) -> None:
    """Have the module see small batches: what Lightning would transfer to a device is cut on the way."""
    transfer_batch = module.transfer_batch_to_device

    def small(batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return transfer_batch(_small(batch), device, dataloader_idx)

    module.transfer_batch_to_device = small


def _small(batch: Any) -> Any:
    if isinstance(batch, torch.Tensor):
        return batch[:ITEMS] if batch.ndim else batch
    if isinstance(batch, Mapping):
        return {key: _small(value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_small(value) for value in batch))
    if isinstance(batch, (list, tuple)):
        whole = all(isinstance(value, (torch.Tensor, Mapping, list, tuple)) for value in batch)
        return type(batch)(_small(value) for value in batch) if whole else type(batch)(batch[:ITEMS])
    return batch


def describe(batch: Any) -> str:
    """Return the shapes in a batch."""
    if isinstance(batch, torch.Tensor):
        return f"{list(batch.shape)}"
    if isinstance(batch, Mapping):
        return ", ".join(f"{key} {describe(value)}" for key, value in batch.items())
    if isinstance(batch, (list, tuple)):
        return ", ".join(describe(value) for value in batch)
    return type(batch).__name__
