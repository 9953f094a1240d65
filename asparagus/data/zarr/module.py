"""The data module of bio-imaging volumes: random crops to train on, all blocks of the others to validate on."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset

from asparagus.data.epochs import coming_epoch, few_validation_batches
from asparagus.data.layout import Task
from asparagus.data.limited import TimeLimitedLoader
from asparagus.data.sampler import EpochSampler
from asparagus.data.zarr.crops import Crop, CropBlocks, RandomCrops, Windows, open_crops
from asparagus.data.zarr.datasplit import TRAIN, VALIDATE, check_classes, must_be_apart, read_datasplit
from asparagus.data.zarr.generate import Wanted, described, text_of
from asparagus.data.zarr.make import CLASSES_TO_TRAIN, CSV_PATH, VALIDATION_PROB_TO_TRAIN, write_datasplit
from asparagus.data.zarr.settings import DISK_GB, TRANSFORMS, Access, check_transforms, window_of
from asparagus.data.zarr.volumes import Budget, open_anew
from asparagus.errors import ConfigError, DataError

MEGABYTE = 1 << 20

log = logging.getLogger("asparagus")


class CropDataModule(pl.LightningDataModule):
    """Feeds crops of a datasplit; it shards over the ranks itself, so the Trainer must not replace its samplers.

    Volumes are looked at in `setup`.

    Args:
        datasplit_path: Which crops are trained and validated on; written if it is not there (SEEDS E5).
        classes: One output channel each, in this order.
        input_array_info: `shape` in voxels and `scale` in nm per voxel, along z, y and x; a first size of 1 is 2D.
        target_array_info: The same for labels; None: as the input.
        spatial_transforms: How training crops are turned (`mirror`, `transpose`, `rotate`); {} is not at all.
        batch_size: Items per step and worker.
        samples_per_epoch: Random crops of an epoch over all workers; None: as many as fit beside each other.
        validation_time_limit: Seconds that a validation may take; see `CaseDataModule`.
        validation_prob: Share of crops to validate on, of a datasplit that is written.
        force_all_classes: Of a datasplit that is written; see `make_datasplit_csv`.
        use_s3: Have a datasplit that is written name the challenge's buckets.
        search_path: Where volumes are looked for; None: `{dataset}/{dataset}.zarr/recon-1/{name}` in `root`.
        anonymous: Ask stores without credentials; None: where this machine has none.
        memory_mb: How much of the crops each loader process keeps in memory.
        disk_gb: How much (10^9 bytes) of what was read of stores this machine keeps on disk, of all volumes and for
            all processes; what was not used for longest gives way. 0: nothing.
        num_workers: Loader processes per worker; the plan fills in what is left open, None is none here.
        root: The data folder.
        seed: Decides places, turns and order, and the draws of a datasplit that is written.
        rank: Which share of the data is this worker's.
        world_size: How many workers share the data.
        pin_memory: Copy batches to page-locked memory, for a GPU.
        subject_overlap: Let a crop be both trained and validated on: what is measured is then known.

    Raises:
        ConfigError: Something cannot be meant; the key is named.
    """

    train_set: RandomCrops | None = None
    val_set: CropBlocks | None = None

    def __init__(
        self,
        datasplit_path: str = CSV_PATH,
        classes: Sequence[str] = CLASSES_TO_TRAIN,
        *,
        input_array_info: Mapping[str, Any] | None = None,
        target_array_info: Mapping[str, Any] | None = None,
        spatial_transforms: Mapping[str, Any] | None = TRANSFORMS,
        batch_size: int = 8,
        samples_per_epoch: int | None = None,
        validation_time_limit: float | None = None,
        validation_prob: float = VALIDATION_PROB_TO_TRAIN,
        force_all_classes: bool | str = False,
        use_s3: bool = False,
        search_path: str | None = None,
        anonymous: bool | None = None,
        memory_mb: int = 512,
        disk_gb: float = DISK_GB,
        num_workers: int | None = None,
        root: str | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        subject_overlap: bool = False,
    ) -> None:
        super().__init__()
        _check(batch_size, samples_per_epoch, validation_time_limit, memory_mb, disk_gb)
        self.windows = _windows(input_array_info, target_array_info, classes)
        self.transforms = check_transforms(spatial_transforms)
        self.file, self.batch_size, self.samples_per_epoch = Path(datasplit_path), batch_size, samples_per_epoch
        self.validation_time_limit, self.memory_mb = validation_time_limit, memory_mb
        self.access, self.subject_overlap = Access(anonymous, disk_gb), subject_overlap
        self.wanted = Wanted(tuple(classes), force_all_classes, validation_prob, use_s3, search_path, root, seed)
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.workers: dict[str, Any] = {"num_workers": num_workers or 0, "pin_memory": pin_memory}

    @staticmethod
    def task_of(name: str, data: Mapping[str, Any]) -> Task:
        """Describe the data to who builds a network for them: one channel in, one out for each class."""
        return described(name, data)

    def prepare_data(self) -> None:
        """Write the datasplit if it is not there; one process of a machine does this."""
        if not self.file.is_file():
            write_datasplit(self.file, text_of(self.wanted))
            log.info("%s: written, with seed %d and validation_prob %g", self.file, self.seed, self.wanted.prob)

    def setup(self, stage: str | None = None) -> None:
        """Open the volumes, once.

        Raises:
            DataError: The datasplit or a volume cannot be read, or no crop can serve.
        """
        if self.train_set is not None:
            return
        rows = read_datasplit(self.file)
        check_classes(self.file, rows, self.windows.classes)
        must_be_apart(rows, allowed=self.subject_overlap)
        open_anew()
        budget = Budget(self.memory_mb * MEGABYTE)
        train, val = (
            open_crops([row for row in rows if row.usage == usage], self.windows, budget, self.access)
            for usage in (TRAIN, VALIDATE)
        )
        self._must_be_annotated(train)
        if not val:
            log.warning("%s: no row is for validation, so there is none", self.file)
        self.train_set = RandomCrops(train, self.samples_per_epoch, self.transforms, seed=self.seed)
        self.val_set = CropBlocks(val) if val else None
        if val and self.val_set is not None and len(self.val_set) < self.world_size:
            raise DataError(
                f"{self.file}: {len(self.val_set)} blocks to validate on for {self.world_size} workers leave a worker "
                "without one. Ask for fewer workers, or have more crops validated on."
            )

    def _must_be_annotated(self, crops: Sequence[Crop]) -> None:
        """Refuse classes that no crop has at the scale asked for: their channels would learn nothing."""
        for name in self.windows.classes:
            if not any(name in crop.classes for crop in crops):
                there = sorted({known for crop in crops for known in crop.classes})
                raise DataError(
                    f"data.classes: {name!r} is annotated in no training crop of {self.file} at "
                    f"{' x '.join(f'{size:g}' for size in self.windows.target.scale)} nm or finer. There are: "
                    f"{', '.join(there)}. Leave it out, or ask for a coarser data.target_array_info.scale."
                )

    def train_dataloader(self) -> DataLoader[Any]:
        """Return this rank's share of the epoch's random crops; every rank has as many batches."""
        assert self.train_set is not None, "setup() comes first"
        sampler = self._sampler(self.train_set, shuffle=True, even=True)
        sampler.set_epoch(coming_epoch(self.trainer))
        return DataLoader(self.train_set, sampler=sampler, **self._options)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return this rank's share of the blocks to validate on, none twice; an empty list if there are none."""
        if self.val_set is None:
            return []
        limited = self.validation_time_limit is not None or few_validation_batches(self.trainer)
        sampler = self._sampler(self.val_set, shuffle=limited, even=False)
        if self.validation_time_limit is None:
            return DataLoader(self.val_set, sampler=sampler, **self._options)
        return TimeLimitedLoader(self.val_set, seconds=self.validation_time_limit, sampler=sampler, **self._options)

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            **self.workers,
            "persistent_workers": bool(self.workers["num_workers"]),
        }

    def _sampler(self, data: Dataset[Any], *, shuffle: bool, even: bool) -> EpochSampler:
        size = len(data)  # type: ignore[arg-type]
        return EpochSampler(
            size, seed=self.seed, shuffle=shuffle, even=even, rank=self.rank, world_size=self.world_size
        )


def _windows(image: Mapping[str, Any] | None, target: Mapping[str, Any] | None, classes: Sequence[str]) -> Windows:
    window = window_of(image, "data.input_array_info")
    return Windows(window, window_of(target, "data.target_array_info", window), tuple(classes))


def _check(batch_size: int, samples: int | None, seconds: float | None, memory_mb: float, disk_gb: float) -> None:
    for key, size in (("memory_mb", memory_mb), ("disk_gb", disk_gb)):
        if not 0 <= size < math.inf:
            raise ConfigError(f"data.{key}: {size} is no amount. Give a number, or 0 for none.")
    for key, value in (("batch_size", batch_size), ("samples_per_epoch", samples)):
        if value is not None and value < 1:
            raise ConfigError(f"data.{key}: {value} is not at least 1.")
    if seconds is not None and not seconds > 0:
        raise ConfigError(f"data.validation_time_limit: {seconds} is no time. Give seconds, or null.")
