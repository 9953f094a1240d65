"""Data: the task folders of SEEDS A5-A15, how they are made, split, read and fed to a Trainer."""

from __future__ import annotations

MAKERS: dict[str, str] = {
    "Task001_Digits": "asparagus.data.digits.make_digits",
    "Task995_LauritSynReg": "asparagus.data.synthetic.make_synthetic_reg",
    "Task996_LauritSynCls": "asparagus.data.synthetic.make_synthetic_cls",
    "Task997_LauritSynSeg": "asparagus.data.synthetic.make_synthetic_seg",
    "Task998_LauritSyn": "asparagus.data.synthetic.make_synthetic_pretrain",
}
"""Tasks that `asp data make NAME` can build: name -> dotted path of `maker(data_root, **options) -> Task`.

Strings, so that the client can list them without importing torch.
"""

CONVERSIONS = "conversions"
"""Folder of one's own configs: Python files, one for each dataset (`asp data convert`)."""

CASE_DATA = "asparagus.data.modules.CaseDataModule"
LOADER_DATA = "asparagus.data.loaders.LoaderDataModule"
CROP_DATA = "asparagus.data.zarr.module.CropDataModule"
"""Our data modules: the cases of a task folder, loaders of datasets of one's own, and crops of bio-imaging volumes."""


def samples_of(iterations: int, batch_size: int, workers: int) -> int:
    """Return the samples of all workers in so many batches of each."""
    return iterations * batch_size * max(1, workers)


BUILT_IN: dict[str, str] = {
    "cases": "asparagus.data.datasets.cases",
    "image_folder": "asparagus.data.pictures.image_folder",
}
"""Datasets that a loader section may call by `name`, beside the registered ones: name -> dotted path."""

BATCH_SIZES = ("batch_size", "batch_size_per_gpu")
LOADER_KEYS = (
    "dataset",
    *BATCH_SIZES,
    "shuffle",
    "sampler",
    "batch_sampler",
    "drop_last",
    "collate_fn",
    "worker_init_fn",
    "num_workers",
    "pin_memory",
    "timeout",
    "persistent_workers",
    "prefetch_factor",
    "defer_setup",
)
"""What a loader section of `data.train`, `data.val` or `data.test` may hold (SEEDS D3); None is as if it were not."""

OF_SUBCLASSES: dict[str, str] = {
    "prepare_data": "Slow work that is done once goes there (download, convert); `pass` if there is none.",
    "setup": "It makes self.datasets, a dict with train, val and test, in every worker.",
}
"""What every subclass of `BaseDataModule` writes, and what for."""
