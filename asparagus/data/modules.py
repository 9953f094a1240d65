"""The data module: a task, a split and a fold become Lightning's train, validation and test loaders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from asparagus.data import samples_of
from asparagus.data.chain import Transforms
from asparagus.data.datasets import CaseDataset, NamedCaseDataset
from asparagus.data.epochs import coming_epoch, few_validation_batches
from asparagus.data.layout import DIMENSIONS, Task, read_split, read_task, read_test, test_name, too_few_to_test
from asparagus.data.limited import TimeLimitedLoader
from asparagus.data.sampler import EpochSampler
from asparagus.data.subjects import must_be_apart
from asparagus.errors import ConfigError, DataError, one_of


class CaseDataModule(pl.LightningDataModule):
    """Feeds the cases of a task; it shards over the ranks itself, so the Trainer must not replace its samplers.

    Files are looked at in `setup`.

    Args:
        root: The data folder that holds the task's folder.
        task: Name of the task.
        kind: `pretrain`, `seg`, `cls` or `reg`.
        split: Name of the split file, without `.json`.
        fold: Which of its folds.
        test_split: Name of the file that lists the test cases (see `read_test`); None: the split's own, if any.
        batch_size: Items per step and worker.
        patch_size: Voxels per axis; None keeps whole cases.
        dimensions: `2D` or `3D`.
        samples_per_epoch: Items of an epoch of all workers, drawn anew in each; None is every case once.
        iterations_per_epoch: The same in batches of each worker (SEEDS E12).
        validation_time_limit: Seconds that a validation may take; at least one batch is seen. With it, or with
            Trainer's `limit_val_batches`, cases come in another order each time (SEEDS E28 to E30); None: no limit.
        num_workers: Loader processes per worker; None is none here, the plan fills it in.
        cache: Keep cases: large files mapped, so that all processes share them, others in memory.
        cache_gb: The most memory (10^9 bytes) that the latter fill, for each part of the split and worker.
        augment: Mirror and jitter the training items; None: unless there are `augmentations`.
        transforms: Of each whole case, once: MONAI's dictionary transforms, or functions of an image [C, ...].
        augmentations: As `transforms`, of each training item; what is random follows from seed, epoch and case.
        seed: Decides order, patches and augmentation.
        rank: Which share of the data is this worker's.
        world_size: How many workers share the data.
        pin_memory: Copy batches to page-locked memory, for a GPU.
        subject_overlap: Let a case or a subject be in two parts of the split: what is measured is then known.

    Raises:
        ConfigError: a batch size, time or memory that is none, dimensions other than 2D and 3D, two epoch lengths.
    """

    # What `setup` reads; of test data there may be none.
    task: Task | None = None
    train_set: CaseDataset | None = None
    val_set: NamedCaseDataset | None = None
    test_set: NamedCaseDataset | None = None

    def __init__(
        self,
        root: str,
        task: str,
        kind: str,
        *,
        split: str = "split_80_20",
        fold: int = 0,
        test_split: str | None = None,
        batch_size: int = 2,
        patch_size: Sequence[int] | None = None,
        dimensions: str = "3D",
        samples_per_epoch: int | None = None,
        iterations_per_epoch: int | None = None,
        validation_time_limit: float | None = None,
        num_workers: int | None = None,
        cache: bool = True,
        cache_gb: float = 4.0,
        augment: bool | None = None,
        transforms: Transforms = None,
        augmentations: Transforms = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        subject_overlap: bool = False,
    ) -> None:
        super().__init__()
        _check(dimensions, batch_size, validation_time_limit, cache_gb)
        self.validation_time_limit, self.subject_overlap, self.seed = validation_time_limit, subject_overlap, seed
        self.root, self.task_name, self.kind, self.rank, self.world_size = root, task, kind, rank, world_size
        self.split, self.fold, self.batch_size, self.patch_size = split, fold, batch_size, patch_size
        self.samples_per_epoch = _samples(samples_per_epoch, iterations_per_epoch, batch_size, world_size)
        self.dimensions, self.test_split = DIMENSIONS[dimensions], test_split
        self.of_cases: dict[str, Any] = {"cache": cache, "cache_gb": cache_gb, "transforms": transforms}
        augment = not augmentations if augment is None else augment
        self.of_training: dict[str, Any] = {"augment": augment, "augmentations": augmentations}
        self.workers = _workers(num_workers or 0, pin_memory=pin_memory)

    @property
    def test_name(self) -> str:
        """What the test data are called."""
        return test_name(self.test_split, self.split)

    def setup(self, stage: str | None = None) -> None:
        """Read the task and its split, once.

        Raises:
            DataError: no such task, split, fold or test split; fewer test cases than workers.
            ConfigError: cases of different shapes that would have to share a batch.
        """
        if self.train_set is not None:
            return
        self.task = read_task(self.root, self.task_name)
        if self.task.shape is None and self.patch_size is None and self.batch_size > 1:
            raise ConfigError(
                f"data.patch_size: needed, since the cases of {self.task.name} differ in shape and "
                f"data.batch_size={self.batch_size} of them make a batch. Or set data.batch_size=1."
            )
        parts = read_split(self.task, self.split, self.fold)
        shared: dict[str, Any] = {
            "dimensions": self.dimensions,
            "patch_size": self.patch_size,
            "seed": self.seed,
            "n_classes": self.task.n_classes,
            **self.of_cases,
        }
        # Now, and not after hours of training: what is wrong with the test data would end the run.
        tested = read_test(self.task, self.test_split, self.split, self.fold)
        if problem := too_few_to_test(len(tested), self.world_size):
            raise DataError(problem)
        measured = stage not in (None, "fit")  # what was trained on may be looked at, too
        must_be_apart({**parts, "test": tested}, self.task, allowed=self.subject_overlap or measured)
        self.train_set = CaseDataset(parts["train"], self.kind, train=True, **self.of_training, **shared)
        folder = self.task.folder
        self.val_set = NamedCaseDataset(parts["val"], self.kind, folder=folder, **shared)
        self.test_set = NamedCaseDataset(tested, self.kind, folder=folder, **shared) if tested else None

    def train_dataloader(self) -> DataLoader[Any]:
        """Return this rank's share of the training cases; every rank has as many batches."""
        assert self.train_set is not None, "setup() comes first"
        sampler = self._sampler(len(self.train_set), shuffle=True)
        sampler.set_epoch(coming_epoch(self.trainer))
        return DataLoader(self.train_set, batch_size=self.batch_size, sampler=sampler, **self.workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return this rank's share of the validation cases; no case is seen twice."""
        assert self.val_set is not None, "setup() comes first"
        if self.validation_time_limit is None and not few_validation_batches(self.trainer):
            return self._all_once(self.val_set)
        sampler = self._sampler(len(self.val_set), shuffle=True, once=True)
        options: dict[str, Any] = {"batch_size": self._whole_batch_size(), "sampler": sampler, **self.workers}
        if self.validation_time_limit is None:
            return DataLoader(self.val_set, **options)
        return TimeLimitedLoader(self.val_set, seconds=self.validation_time_limit, **options)

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return this rank's share of the test cases, no case twice; an empty list if there are none."""
        return [] if self.test_set is None else self._all_once(self.test_set)

    def _all_once(self, cases: CaseDataset) -> DataLoader[Any]:
        sampler = self._sampler(len(cases), shuffle=False)
        return DataLoader(cases, batch_size=self._whole_batch_size(), sampler=sampler, **self.workers)

    def _sampler(self, size: int, *, shuffle: bool, once: bool = False) -> EpochSampler:
        return EpochSampler(
            size,
            seed=self.seed,
            shuffle=shuffle,
            even=shuffle and not once,
            rank=self.rank,
            world_size=self.world_size,
            samples_per_epoch=self.samples_per_epoch if shuffle and not once else None,
        )

    def _whole_batch_size(self) -> int:
        # Whole cases of different shapes cannot be stacked.
        assert self.task is not None
        return 1 if self.kind == "seg" and self.task.shape is None else self.batch_size


def _workers(number: int, *, pin_memory: bool) -> dict[str, Any]:
    return {"num_workers": number, "persistent_workers": number > 0, "pin_memory": pin_memory}


def _samples(samples: int | None, iterations: int | None, batch_size: int, world_size: int) -> int | None:
    if iterations is None:
        return samples
    if samples is not None:
        raise ConfigError(
            f"data.iterations_per_epoch: {iterations} and data.samples_per_epoch: {samples} exclude each other. "
            "Give one of them."
        )
    return samples_of(iterations, batch_size, world_size)


def _check(dimensions: str, batch_size: int, validation_time_limit: float | None, cache_gb: float) -> None:
    if dimensions not in DIMENSIONS:
        raise ConfigError(one_of("model.dimensions", dimensions, DIMENSIONS))
    if batch_size < 1:
        raise ConfigError(f"data.batch_size: {batch_size} is not at least 1.")
    if validation_time_limit is not None and not validation_time_limit > 0:
        raise ConfigError(f"data.validation_time_limit: {validation_time_limit} is no time. Give seconds, or null.")
    if not cache_gb >= 0:
        raise ConfigError(f"data.cache_gb: {cache_gb} is no amount of memory. Give 10^9 bytes, or data.cache=false.")
