"""What a data module of one's own may inherit: loaders and transforms of the datasets that it makes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sized
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from asparagus.data import OF_SUBCLASSES
from asparagus.errors import ConfigError, DataError
from asparagus.section import section_of
from asparagus.targets import instantiate

OF_PROCESSES = ("prefetch_factor", "persistent_workers")
"""Settings of loader processes; torch refuses them where there are none of those."""

Transform = Callable[[Any], Any]


class ToTensor:
    """Makes a tensor of an array, an image of PIL's, a list or a number; values and axes stay as they are."""

    def __call__(self, x: Any) -> Tensor:
        """Return the tensor."""
        return x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))


class BaseDataModule(pl.LightningDataModule):
    """Loaders of the datasets that a subclass makes. Data modules of one task have one test set.

    ```python
    class DefaultDataModule(asparagus.BaseDataModule):
        def prepare_data(self):
            download(FOLDER)

        def setup(self, stage=None):
            parts = ("train", "val", "test")
            self.datasets = {part: Ovaries(FOLDER / part, transform=self.get_transform(part)) for part in parts}
    ```
    """

    builds_its_parts = True
    """Nested sections are passed to it as they are."""

    def __init__(
        self,
        dataloader_spec: Mapping[str, Any],
        val_dataloader_spec_override: Mapping[str, Any] | None = None,
        transform_factory: Any = ToTensor,
        augmentation_factory: Any = nn.Identity,
        additional_config: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep the settings.

        Args:
            dataloader_spec: Arguments of torch's DataLoader.
            val_dataloader_spec_override: Those that are others for validation and test data.
            transform_factory: What makes the transform of all data: a section with a `_target_`, a class, or a function
                that takes nothing; or the transform itself.
            augmentation_factory: What makes the augmentation of training data, which follows their transform.
            additional_config: What a subclass asks for besides, as `self.additional_config.key`.

        Raises:
            ConfigError: A subclass lacks `prepare_data` or `setup`.
        """
        super().__init__()
        lacks = [name for name in OF_SUBCLASSES if getattr(type(self), name) is getattr(BaseDataModule, name)]
        if lacks:
            raise ConfigError(*(f"data: {type(self).__name__} has no {name}. {OF_SUBCLASSES[name]}" for name in lacks))
        self.dataloader_spec = dict(dataloader_spec)
        self.val_dataloader_spec = {**self.dataloader_spec, **(val_dataloader_spec_override or {})}
        self.transform_factory, self.augmentation_factory = transform_factory, augmentation_factory
        self.additional_config = section_of(additional_config or {}, "data.additional_config")
        self.datasets: dict[str, Dataset[Any]] = {}
        """`train`, `val` and `test`; made in `setup`."""

    def prepare_data(self) -> None:
        """Do the slow work, in one process of each machine; a subclass writes it."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Make `self.datasets`, in every process; a subclass writes it."""
        raise NotImplementedError

    def get_transform(self, stage: str) -> Transform:
        """Return the transform of a part of the data; that of `train` has the augmentation after it.

        Raises:
            ConfigError: One of the two cannot be built.
        """
        transform = _built(self.transform_factory, "data.transform_factory")
        if stage != "train":
            return transform
        return partial(_in_turn, (transform, _built(self.augmentation_factory, "data.augmentation_factory")))

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training data, in another order each epoch; the Trainer shares them out over the workers.

        Raises:
            DataError: `setup` made none.
            ConfigError: DataLoader does not take what `dataloader_spec` says.
        """
        if "train" not in self.datasets:
            made = ", ".join(self.datasets) or "nothing"
            raise DataError(f"data: setup of {type(self).__name__} made {made}; self.datasets needs a 'train'.")
        return _loader(self.datasets["train"], {"shuffle": True, **self.dataloader_spec}, "data.dataloader_spec")

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return this worker's share of the validation data, no item twice; an empty list if there are none."""
        return self._all_once("val")

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return this worker's share of the test data, as `val_dataloader` does."""
        return self._all_once("test")

    def _all_once(self, part: str) -> DataLoader[Any] | list[Any]:
        data = self.datasets.get(part)
        if data is None:
            return []
        spec, workers = {"shuffle": False, **self.val_dataloader_spec}, self.trainer.world_size if self.trainer else 1
        if workers > 1 and isinstance(data, Sized) and not {"sampler", "batch_sampler"} & spec.keys():
            if len(data) < workers:
                raise DataError(
                    f"data: {len(data)} {part} items for {workers} workers leave a worker without one. Ask for "
                    f"resources.workers of at most {len(data)}."
                )
            rank = self.trainer.global_rank if self.trainer else 0
            # Lightning's own would give some items to two workers, so that all have as many.
            spec["sampler"] = UnrepeatedDistributedSampler(data, num_replicas=workers, rank=rank, shuffle=False)
        return _loader(data, spec, "data.val_dataloader_spec_override")


def _loader(data: Dataset[Any], spec: dict[str, Any], key: str) -> DataLoader[Any]:
    if not spec.get("num_workers"):
        spec = {name: value for name, value in spec.items() if name not in OF_PROCESSES}
    try:
        return DataLoader(data, **spec)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: torch's DataLoader refused it: {error}") from error


def _built(factory: Any, key: str) -> Transform:
    """Return a transform, from its section, its factory or itself."""
    built = instantiate(factory, key=key) if isinstance(factory, Mapping) else factory
    if _is_factory(built):
        built = built()
    if built is None:
        return nn.Identity()
    if not callable(built):
        raise ConfigError(f"{key}: a {type(built).__name__} is no transform: it cannot be called with an item.")
    return built  # type: ignore[no-any-return]


def _is_factory(built: Any) -> bool:
    """Tell what is called with nothing, to make a transform, from a transform, which is called with an item."""
    if isinstance(built, (type, partial)):
        return True
    if isinstance(built, nn.Module) or not callable(built):  # a module's __call__ takes anything
        return False
    try:
        takes = inspect.signature(built).parameters.values()
    except ValueError:  # compiled: torch.as_tensor
        return False
    return all(one.default is not one.empty or one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in takes)


def _in_turn(transforms: tuple[Transform, ...], x: Any) -> Any:
    for transform in transforms:
        x = transform(x)
    return x
