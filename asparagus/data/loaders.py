"""Data loaders as an experiment file describes them: each a section with a dataset, a batch size and an order."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from asparagus.data import BATCH_SIZES, BUILT_IN, LOADER_KEYS
from asparagus.errors import ConfigError, DataError, one_of
from asparagus.registry import DATASETS
from asparagus.targets import instantiate, locate, parameters_of, target_of

SAMPLERS = ("sampler", "batch_sampler")
FUNCTIONS = ("collate_fn", "worker_init_fn")
PASSED_ON = ("num_workers", "pin_memory", "timeout", "persistent_workers", "prefetch_factor")
DECIDED_BY = {"sampler": ("shuffle",), "batch_sampler": (*BATCH_SIZES, "shuffle", "sampler", "drop_last")}
A_DATASET = "Give a section with a `_target_`, or with a `name` and a `root`."

Subset = str | Sequence[str] | None
Transform = Callable[..., Any] | None

PARTS_OF_STAGE = {"fit": ("train", "val", "extra"), "validate": ("val", "extra"), "test": ("test",), "predict": ()}
ALONE = ""
"""The name of a part's only loader, where the part is one section and not a mapping of names."""


@dataclass(frozen=True)
class Section:
    """One loader's settings, checked."""

    key: str
    """Where it stands in the experiment: `data.train.supervised`."""
    given: dict[str, Any]
    """What is set, less what is None."""
    batch_size: int
    """Items per step and worker."""
    drop_last: bool
    """Whether items that fill no batch, or do not divide over the workers, are left out."""


class LoaderDataModule(pl.LightningDataModule):
    """Feeds what an experiment file lists; it shards over the ranks itself, so the Trainer must not replace samplers.

    The datasets inside its section are built here, where their root is known. One that was built already is taken as it
    is. A stream (torch's IterableDataset) shards itself.
    """

    builds_its_parts = True
    """Nested sections are passed to it as they are."""

    def __init__(
        self,
        train: Mapping[str, Any] | None = None,
        val: Mapping[str, Any] | None = None,
        test: Mapping[str, Any] | None = None,
        *,
        extra: Mapping[str, Any] | None = None,
        root: str | Path | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Check the settings; datasets are built in `setup`.

        Args:
            train: A loader section (`LOADER_KEYS`), or a mapping of names to sections: a batch is then `{name: batch}`,
                an epoch as long as the longest loader, and shorter ones begin again.
            val: A loader section, or a mapping of names to sections: these are read one after the other.
            test: As `val`.
            extra: A mapping of names to loader sections: for what a module does besides, when it asks for them.
            root: The folder that a dataset's own `root` is relative to; a dataset without one gets this folder.
            batch_size: Items per step and worker, for loaders that do not say.
            seed: Decides the order of what is shuffled.
            rank: Which share of the data is this worker's.
            world_size: How many workers share the data.

        Raises:
            ConfigError: an unknown key, keys that exclude each other, or an unknown dataset name.
        """
        super().__init__()
        self.root = Path(root).absolute() if root is not None else None
        self.seed, self.rank, self.world_size = seed, rank, world_size
        size = 1 if batch_size is None else _batch_size(batch_size, "data.batch_size")
        given = {"train": train, "val": val, "test": test, "extra": extra}
        self._sections = {part: _sections(value, f"data.{part}", size) for part, value in given.items()}
        self._datasets: dict[str, Dataset[Any]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Build the stage's datasets, once; those with `defer_setup` wait until their loader is asked for.

        Raises:
            ConfigError: a dataset's arguments are wrong.
            DataError: its files are not there.
        """
        for part in PARTS_OF_STAGE[stage] if stage else self._sections:
            for section in self._sections[part].values():
                if not section.given.get("defer_setup"):
                    self._dataset(section)

    def train_dataloader(self) -> DataLoader[Any] | CombinedLoader:
        """Return this rank's share of the training data; every rank has as many batches.

        Raises:
            DataError: there is no training data, or not enough for a batch on every worker.
            ConfigError: settings that the dataset or torch's DataLoader does not take.
        """
        if not self._sections["train"]:
            raise DataError("data.train: there is none, and training was asked for. Give it a loader section.")
        return self._combined("train", "max_size_cycle")

    def val_dataloader(self) -> DataLoader[Any] | CombinedLoader | list[Any]:
        """Return this rank's share of the validation data, no item twice; an empty list if there is no such data.

        Raises:
            DataError: a worker would be left without an item.
            ConfigError: as of `train_dataloader`.
        """
        return self._combined("val", "sequential") if self._sections["val"] else []

    def test_dataloader(self) -> DataLoader[Any] | CombinedLoader | list[Any]:
        """Return this rank's share of the test data, as `val_dataloader` does."""
        return self._combined("test", "sequential") if self._sections["test"] else []

    def extra_dataloaders(self) -> dict[str, DataLoader[Any]]:
        """Return this rank's share of each loader of `data.extra`, no item twice."""
        return self._loaders("extra")

    @property
    def iterations_per_epoch(self) -> int | None:
        """Steps of a training epoch on this rank: the longest loader's batches.

        None without training data, or where a stream does not tell its length. Datasets are built if they are not yet.
        """
        longest = max((_length(loader) for loader in self._loaders("train").values()), default=math.inf)
        return None if math.isinf(longest) else int(longest)

    def _combined(self, part: str, mode: str) -> DataLoader[Any] | CombinedLoader:
        loaders = self._loaders(part)
        return loaders[ALONE] if ALONE in loaders else CombinedLoader(loaders, mode)

    def _loaders(self, part: str) -> dict[str, DataLoader[Any]]:
        return {name: self._loader(section, even=part == "train") for name, section in self._sections[part].items()}

    def _loader(self, section: Section, *, even: bool) -> DataLoader[Any]:
        given, data = section.given, self._dataset(section)
        options = {name: given[name] for name in PASSED_ON if name in given}
        for name in given.keys() & FUNCTIONS:
            function, key = given[name], f"{section.key}.{name}"
            options[name] = instantiate(function, key=key) if isinstance(function, Mapping) else function
        options |= self._order(section, data, even=even)
        try:
            return LateLoader(data, **options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{section.key}: {error}") from error

    def _order(self, section: Section, data: Dataset[Any], *, even: bool) -> dict[str, Any]:
        """Return those of DataLoader's arguments that decide which items make a batch."""
        _refuse_order(section, data)
        given, key = section.given, section.key
        if "batch_sampler" in given:
            return {"batch_sampler": _sampler(given["batch_sampler"], data, f"{key}.batch_sampler")}
        batches = {"batch_size": section.batch_size, "drop_last": section.drop_last}
        if isinstance(data, IterableDataset):
            return batches
        if "sampler" in given:
            return {**batches, "sampler": _sampler(given["sampler"], data, f"{key}.sampler")}
        return {**batches, "sampler": self._shares(section, data, even=even)}

    def _shares(self, section: Section, data: Dataset[Any], *, even: bool) -> IndexSampler | None:
        """Return the order of this rank's items; None is all of them, as they lie."""
        key, size = section.key, _size(data, section.key)
        # The key in it keeps loaders apart that would draw the same items of the same data.
        seeds = (self.seed, zlib.crc32(key.encode())) if section.given.get("shuffle") else None
        sampler = IndexSampler(size, seeds, self.rank, self.world_size, even=even, drop_last=section.drop_last)
        if sampler.total < self.world_size:
            workers = f"{self.world_size} workers leave a worker without one"
            raise DataError(f"{key}: {size} items for {workers}. Ask for resources.workers of at most {size}.")
        if section.drop_last and len(sampler) < section.batch_size:
            lack = f"drop_last with batch_size {section.batch_size} drops all {len(sampler)} items of a worker"
            raise DataError(f"{key}: {lack}. Make {key}.batch_size smaller, or set {key}.drop_last=false.")
        return sampler if seeds or self.world_size > 1 else None

    def _dataset(self, section: Section) -> Dataset[Any]:
        if section.key not in self._datasets:
            self._datasets[section.key] = self._build(section.given["dataset"], f"{section.key}.dataset")
        return self._datasets[section.key]

    def _build(self, config: Any, key: str) -> Dataset[Any]:
        """Build a dataset from its section, with its root under ours."""
        if isinstance(config, Dataset):
            return config
        arguments = dict(config)
        root = arguments.pop("root", None)
        takes_root = "root" in parameters_of(locate(target_of(config, key), key=key))
        if root is not None or (takes_root and self.root is not None):
            arguments["root"] = str((self.root or Path()) / (root or ""))  # joining an absolute path gives that path
        try:
            data: Dataset[Any] = instantiate(arguments, key=key)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(f"{key}: {error}") from error
        return data


class LateLoader(DataLoader[Any]):
    """Begins when its first batch is asked for.

    Torch's own begins when it is iterated over, if it has worker processes. Lightning does that before it tells the
    sampler which epoch it is: a resumed training would be fed the first epoch's order again.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield the batches."""
        yield from super().__iter__()


class IndexSampler(Sampler[int]):
    """Yields this rank's indices: a function of the seeds, the epoch, and how often the epoch's items were begun.

    With `even` (training) every rank gets as many: where they do not divide, some come twice, or with `drop_last` the
    rest is left out. Without (validation, test) each item is seen by one rank only, so that sums over ranks are right.
    """

    def __init__(
        self, size: int, seeds: Sequence[int] | None, rank: int, world_size: int, *, even: bool, drop_last: bool = False
    ) -> None:
        """Set up; without `seeds` the items come as they lie."""
        self.size, self.seeds, self.rank, self.world_size = size, seeds, rank, world_size
        share = size // world_size if drop_last else math.ceil(size / world_size)
        self.total = share * world_size if even else size
        """Items of all ranks together."""
        self.epoch = self.passes = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; Lightning calls it, also after a resume."""
        self.epoch, self.passes = epoch, 0

    def __len__(self) -> int:
        """Return the number of items of this rank."""
        return len(range(self.rank, self.total, self.world_size))

    def __iter__(self) -> Iterator[int]:
        """Yield this rank's indices; a loader that begins again within an epoch gets another order."""
        order = np.arange(self.size)
        if self.seeds is not None:
            order = np.random.default_rng([*self.seeds, self.epoch, self.passes]).permutation(self.size)
        self.passes += 1
        yield from np.resize(order, self.total)[self.rank :: self.world_size].tolist()


def dataset(
    name: str, root: str | Path, subset: Subset = None, image_transform: Transform = None, **kwargs: Any
) -> Dataset[Any]:
    """Build a dataset by its name: one of `BUILT_IN`, or one that was registered.

    Args:
        name: What it is called: a built-in or registered name, or a dotted path.
        root: The folder of its files.
        subset: The part or parts of it to use; None is handed on to a dataset that knows subsets.
        image_transform: What is done to each image.
        **kwargs: Its other arguments.

    Raises:
        ConfigError: no dataset of that name; the known and the nearest ones are given.
    """
    _check_name(name, "dataset.name")
    entry = DATASETS.get(name)
    path, defaults = (entry.path, entry.defaults) if entry else (BUILT_IN.get(name, name), {})
    factory = locate(path, key="dataset")
    # A dataset that does not know the word need not hear that there is none.
    takes = parameters_of(factory).keys() - defaults.keys()
    usual = {"subset": subset, "image_transform": image_transform}
    told = {word: value for word, value in usual.items() if value is not None or word in takes}
    built: Dataset[Any] = factory(root, **(defaults | told | kwargs))
    return built


def _sections(given: Any, key: str, batch_size: int) -> dict[str, Section]:
    """Check one part of the data: a section, or several by name."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or "dataset" in given:
        return {ALONE: _section(given, key, batch_size)}
    named = {str(name): value for name, value in given.items() if value is not None}
    return {name: _section(value, f"{key}.{name}", batch_size) for name, value in named.items()}


def _section(value: Any, key: str, batch_size: int) -> Section:
    """Check one loader's settings."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key}: {value!r} given. A loader is a section with a `dataset`, alone or under a name.")
    given = {name: item for name, item in value.items() if item is not None}
    if problems := [*_wrong_keys(value, given, key)]:
        raise ConfigError(*problems)
    given["dataset"] = _dataset_section(given["dataset"], f"{key}.dataset")
    own = [_batch_size(given[name], f"{key}.{name}") for name in BATCH_SIZES if name in given]
    return Section(key, given, batch_size=own[0] if own else batch_size, drop_last=bool(given.get("drop_last")))


def _wrong_keys(value: Mapping[str, Any], given: Mapping[str, Any], key: str) -> Iterator[str]:
    """Name the keys that are unknown, missing, or cannot stand together."""
    yield from (one_of(f"{key}.{name}", name, LOADER_KEYS) for name in value if name not in LOADER_KEYS)
    if "dataset" not in given:
        yield f"{key}.dataset: is missing. {A_DATASET}"
    if all(name in given for name in BATCH_SIZES):
        yield f"{key}: cannot set both batch_size and batch_size_per_gpu"
    decider = next((name for name in reversed(SAMPLERS) if name in given), "")
    for name in DECIDED_BY.get(decider, ()):
        if given.get(name):
            yield f"{key}.{name}: cannot be set with {decider}, which decides it. Leave one of them out."
    for name in (*SAMPLERS, *FUNCTIONS):
        if isinstance(given.get(name), str):
            yield f"{key}.{name}: {given[name]!r} given. Give a section with its `_target_`."


def _batch_size(value: Any, key: str) -> int:
    if type(value) is not int or value < 1:
        raise ConfigError(f"{key}: {value!r} is not a positive whole number.")
    return value


def _dataset_section(value: Any, key: str) -> Any:
    """Return a dataset's section as one with a `_target_`."""
    if isinstance(value, Dataset) or (isinstance(value, Mapping) and "_target_" in value):
        return value
    if not isinstance(value, Mapping) or "name" not in value:
        raise ConfigError(f"{key}: {value!r} given. {A_DATASET}")
    _check_name(value["name"], f"{key}.name")
    return {"_target_": f"{dataset.__module__}.{dataset.__name__}", **value}


def _check_name(name: Any, key: str) -> None:
    if str(name) not in BUILT_IN and name not in DATASETS and "." not in str(name):
        see = "Others are registered, or given by their `_target_`."
        raise ConfigError(one_of(key, name, [*BUILT_IN, *DATASETS], see=see))


def _refuse_order(section: Section, data: Dataset[Any]) -> None:
    for name in ("shuffle", *SAMPLERS):
        if section.given.get(name) and isinstance(data, IterableDataset):
            raise ConfigError(f"{section.key}.{name}: the dataset is a stream and has its own order. Leave it out.")


def _sampler(value: Any, data: Dataset[Any], key: str) -> Any:
    """Build a sampler, and the one inside it, with the dataset where they take one and nothing is given."""
    if not isinstance(value, Mapping):
        return value
    takes = parameters_of(locate(target_of(value, key), key=key))
    extra: dict[str, Any] = {name: data for name in ("data_source", "dataset") if name in takes and name not in value}
    if isinstance(value.get("sampler"), Mapping):
        extra["sampler"] = _sampler(value["sampler"], data, f"{key}.sampler")
    return instantiate({name: item for name, item in value.items() if name not in extra}, key=key, extra=extra)


def _size(data: Dataset[Any], key: str) -> int:
    if not isinstance(data, Sized):
        raise ConfigError(f"{key}.dataset: {type(data).__name__} has no length. Give the loader a sampler.")
    if not len(data):
        raise DataError(f"{key}.dataset: is empty.")
    return len(data)


def _length(loader: DataLoader[Any]) -> float:
    try:
        return len(loader)
    except TypeError:  # a stream that does not tell
        return math.inf
