"""Tests of asparagus.data.loaders: how sections of an experiment become loaders (SEEDS B3, D3, D10 to D26)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import Dataset, DistributedSampler, IterableDataset

from asparagus.data.loaders import LOADER_KEYS, LateLoader, LoaderDataModule, dataset
from asparagus.errors import ConfigError, DataError
from asparagus.registry import DATASETS
from asparagus.targets import instantiate
from tests.helpers import quiet_trainer

HERE = __name__
BUILT = []


class Numbers(Dataset):
    """The numbers from `first` on; says that it was built."""

    def __init__(self, size: int, first: int = 0) -> None:
        self.size, self.first = size, first
        BUILT.append(size)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return self.first + range(self.size)[index]


class Rooted(Numbers):
    """Keeps what it was given."""

    def __init__(self, root: str, subset: str | None = None, image_transform=None, **others) -> None:
        super().__init__(3)
        self.root, self.subset, self.image_transform, self.others = root, subset, image_transform, others


@dataclass
class Params:
    """Defaults of a registered dataset."""

    subset: str = "train"
    flavour: str = "sweet"


class Bare(Numbers):
    """Knows a root and nothing else."""

    def __init__(self, root: str) -> None:
        super().__init__(3)
        self.root = root


class Missing(Numbers):
    def __init__(self, root: str) -> None:
        Path(root, "labels.csv").read_text()


class Endless(IterableDataset):
    """A stream of `size` numbers that does not tell how many."""

    def __init__(self, size: int = 5) -> None:
        self.size = size

    def __iter__(self):
        return iter(range(self.size))


class Negate:
    """A collate function that is an object."""

    def __call__(self, items):
        return [-item for item in items]


def numbers(size, first=0, **options):
    return {"dataset": {"_target_": f"{HERE}.Numbers", "size": size, "first": first}, **options}


def rooted(**options):
    return {"dataset": {"_target_": f"{HERE}.Rooted", **options}}


def train_loader(section, **options):
    module = LoaderDataModule(section, **options)
    module.setup("fit")
    return module.train_dataloader()


def batches(loader):
    return [batch.tolist() for batch in loader]


def items(loader):
    return [item for batch in loader for item in batch.tolist()]


def built(section, **options):
    return train_loader(section, **options).dataset


# sections


def test_d3_a_section_becomes_a_loader_with_torchs_settings():
    loader = train_loader(
        numbers(5, batch_size=2, num_workers=1, timeout=3, persistent_workers=True, prefetch_factor=4)
    )
    assert (loader.num_workers, loader.timeout, loader.persistent_workers, loader.prefetch_factor) == (1, 3, True, 4)
    assert batches(loader) == [[0, 1], [2, 3], [4]]


def test_d3_defaults_are_in_order_one_by_one_in_this_process_and_keep_the_rest():
    loader = train_loader(numbers(3))
    assert (loader.num_workers, loader.pin_memory, loader.drop_last, loader.timeout) == (0, False, False, 0)
    assert batches(loader) == [[0], [1], [2]]


def test_d3_none_is_as_if_the_key_were_not_there():
    given = dict.fromkeys(LOADER_KEYS) | numbers(3)
    assert batches(train_loader(given, batch_size=2)) == [[0, 1], [2]]


def test_d3_drop_last_leaves_out_the_unfilled_batch():
    assert batches(train_loader(numbers(5, batch_size=2, drop_last=True))) == [[0, 1], [2, 3]]


def test_d3_an_unknown_key_is_named_with_the_nearest():
    with pytest.raises(
        ConfigError, match=r"^data\.train\.supervised\.batchsize: .*Did you mean 'batch_size'\?.*sampler"
    ):
        LoaderDataModule({"supervised": numbers(3, batchsize=2)})
    with pytest.raises(ConfigError, match=r"^data\.val\.shuffled: "):
        LoaderDataModule(val=numbers(3, shuffled=True))


def test_d3_all_problems_of_a_section_are_said_at_once():
    with pytest.raises(ConfigError) as caught:
        LoaderDataModule({"a": {"data_set": 1, "batch_size": 2, "batch_size_per_gpu": 2}})
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == [
        "data.train.a.data_set",
        "data.train.a.dataset",
        "data.train.a",
    ]


@pytest.mark.parametrize(
    ("section", "match"),
    [
        (3, r"^data.train: 3 given. A loader is a section with a `dataset`"),
        ({"shuffle": True}, r"^data.train.shuffle: True given. A loader is a section"),
        ({"dataset": "mnist"}, r"^data.train.dataset: 'mnist' given. Give a section with a `_target_`"),
        ({"dataset": {"root": "x"}}, r"^data.train.dataset: .* given. Give a section"),
        (numbers(3, sampler="random"), r"^data.train.sampler: 'random' given. Give a section with its `_target_`"),
        (numbers(3, collate_fn="my.collate"), r"^data.train.collate_fn: 'my.collate' given"),
        (
            numbers(3, sampler={"_target_": "torch.utils.data.SequentialSampler"}, shuffle=True),
            r"^data.train.shuffle: ",
        ),
        (numbers(3, batch_sampler={"_target_": "a.b"}, batch_size=2), r"^data.train.batch_size: .*batch_sampler"),
        (numbers(3, batch_sampler={"_target_": "a.b"}, drop_last=True), r"^data.train.drop_last: "),
    ],
)
def test_d3_wrong_sections_are_refused_before_any_data_is_read(section, match):
    with pytest.raises(ConfigError, match=match):
        LoaderDataModule(section)


@pytest.mark.parametrize(
    ("section", "match"),
    [
        (numbers(3, num_workers=-1), r"^data.train: num_workers"),
        (numbers(3, prefetch_factor=2), r"^data.train: prefetch_factor"),
        (numbers(3, sampler={"_target_": "torch.utils.data.Shuffle"}), r"^data.train.sampler._target_: "),
        (numbers(3, collate_fn={"size": 3}), r"^data.train.collate_fn._target_: "),
        ({"dataset": {"_target_": f"{HERE}.Numbers", "sizes": 3}}, r"^data.train.dataset.sizes: .*Did you mean 'size'"),
    ],
)
def test_d3_what_torch_or_the_dataset_refuses_is_named(section, match):
    with pytest.raises(ConfigError, match=match):
        train_loader(section)


def test_d3_samplers_are_built_and_get_the_dataset():
    loader = train_loader(numbers(4, batch_size=2, sampler={"_target_": "torch.utils.data.SequentialSampler"}))
    assert batches(loader) == [[0, 1], [2, 3]]
    weights = {"_target_": "torch.utils.data.WeightedRandomSampler", "weights": [0, 0, 1, 0], "num_samples": 3}
    assert items(train_loader(numbers(4, sampler=weights))) == [2, 2, 2]


def test_d3_a_batch_sampler_decides_batches_and_its_own_sampler_gets_the_dataset():
    inner = {"_target_": "torch.utils.data.SequentialSampler"}
    section = {"_target_": "torch.utils.data.BatchSampler", "sampler": inner, "batch_size": 3, "drop_last": False}
    assert batches(train_loader(numbers(4, batch_sampler=section), batch_size=2)) == [[0, 1, 2], [3]]


def test_d3_a_sampler_keeps_the_data_source_that_it_was_given():
    other = {"_target_": f"{HERE}.Numbers", "size": 2}
    sampler = {"_target_": "torch.utils.data.SequentialSampler", "data_source": other}
    assert items(train_loader(numbers(4, sampler=sampler))) == [0, 1]


def test_d3_collate_fn_and_nested_parts_of_the_dataset_are_built():
    loader = train_loader(numbers(3, batch_size=2, collate_fn={"_target_": f"{HERE}.Negate"}))
    assert list(loader) == [[0, -1], [-2]]
    transform = built(rooted(root="x", image_transform={"_target_": f"{HERE}.Negate"})).image_transform
    assert isinstance(transform, Negate)


def test_a_dataset_that_is_built_already_is_taken_as_it_is():
    assert items(train_loader({"dataset": Numbers(3)})) == [0, 1, 2]


def test_a_data_section_is_built_as_it_is_with_the_root_of_the_run():
    section = {"_target_": "asparagus.data.loaders.LoaderDataModule", "_recursive_": False, "train": rooted(root="a")}
    module = instantiate(section, key="data", extra={"root": "/data", "rank": 0, "world_size": 1})
    assert module.train_dataloader().dataset.root == "/data/a"


def test_b3_defer_setup_builds_the_dataset_when_its_loader_is_asked_for():
    module = LoaderDataModule(numbers(901, defer_setup=True), numbers(902), numbers(903))
    BUILT.clear()
    module.setup("fit")
    assert BUILT == [902]
    module.train_dataloader()
    module.train_dataloader()
    module.setup("fit")
    assert BUILT == [902, 901]
    module.setup()
    assert BUILT == [902, 901, 903]


def test_b3_a_missing_part_has_no_loader_and_only_training_needs_one():
    module = LoaderDataModule()
    module.setup()
    assert (module.val_dataloader(), module.test_dataloader(), module.iterations_per_epoch) == ([], [], None)
    with pytest.raises(DataError, match=r"^data\.train: there is none"):
        module.train_dataloader()


# batch size


@pytest.mark.parametrize(
    ("own", "module", "expected"),
    [
        ({"batch_size": 2}, 5, 2),
        ({"batch_size_per_gpu": 3}, 5, 3),
        ({}, 5, 5),
        ({}, None, 1),
        ({"batch_size": None, "batch_size_per_gpu": 4}, 5, 4),
    ],
)
def test_d10_batch_size_is_the_loaders_then_the_modules_then_one(own, module, expected):
    assert train_loader(numbers(9, **own), batch_size=module).batch_size == expected


def test_d10_the_batch_size_is_per_worker():
    loaders = [train_loader(numbers(8, batch_size=2), rank=rank, world_size=2) for rank in range(2)]
    assert [batches(loader) for loader in loaders] == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]


def test_d10_both_batch_sizes_are_refused():
    with pytest.raises(ConfigError, match=r"^data\.train\.x: cannot set both batch_size and batch_size_per_gpu$"):
        LoaderDataModule({"x": numbers(3, batch_size=1, batch_size_per_gpu=1)})


@pytest.mark.parametrize("value", [0, -1, "16", 2.0, True])
def test_d10_a_batch_size_is_a_positive_whole_number(value):
    with pytest.raises(ConfigError, match=r"^data\.val\.batch_size_per_gpu: .* is not a positive whole number"):
        LoaderDataModule(val=numbers(3, batch_size_per_gpu=value))
    with pytest.raises(ConfigError, match=r"^data\.batch_size: "):
        LoaderDataModule(batch_size=value)


# root


@pytest.mark.parametrize(
    ("root", "expected"), [(None, "/data"), ("sub/set", "/data/sub/set"), ("/else/where", "/else/where")]
)
def test_d11_a_datasets_root_is_under_the_modules_unless_absolute(root, expected):
    assert built(rooted(root=root), root="/data").root == expected


def test_d11_a_root_that_is_not_set_is_the_modules():
    assert built(rooted(), root="/data").root == "/data"
    assert built({"dataset": {"_target_": f"{HERE}.Bare"}}, root="/data").root == "/data"


def test_d11_a_dataset_that_takes_no_root_is_given_none():
    assert items(train_loader(numbers(2), root="/data")) == [0, 1]


def test_d11_the_modules_root_is_relative_to_where_it_was_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = LoaderDataModule(rooted(root="a"), root="data")
    monkeypatch.chdir("/")
    module.setup()
    assert module.train_dataloader().dataset.root == str(tmp_path / "data" / "a")


def test_d11_without_any_root_the_dataset_says_what_it_needs():
    with pytest.raises(
        ConfigError, match=r"^data\.train\.dataset: .*Rooted needs root, .*Set data\.train\.dataset\.root"
    ):
        built(rooted())


def test_files_that_are_not_there_are_an_error_of_the_data(tmp_path):
    with pytest.raises(DataError, match=r"^data\.train\.dataset: .*labels\.csv"):
        built({"dataset": {"_target_": f"{HERE}.Missing", "root": "gone"}}, root=tmp_path)


# several loaders


def test_d15_a_mapping_gives_dicts_of_batches_and_shorter_loaders_begin_again():
    combined = train_loader({"long": numbers(5, batch_size=2), "short": numbers(2, first=10)})
    fed = [{name: batch.tolist() for name, batch in given.items()} for given, _, _ in combined]
    assert fed == [
        {"long": [0, 1], "short": [10]},
        {"long": [2, 3], "short": [11]},
        {"long": [4], "short": [10]},
    ]


def test_d15_one_name_is_a_mapping_too_and_none_is_no_loader():
    combined = train_loader({"only": numbers(1), "other": None})
    assert [set(given) for given, _, _ in combined] == [{"only"}]


def test_d15_loaders_that_evaluate_are_read_one_after_the_other():
    module = LoaderDataModule(val={"a": numbers(2), "b": numbers(1, first=7)}, test=numbers(2))
    module.setup()
    assert [(batch.tolist(), which) for batch, _, which in module.val_dataloader()] == [([0], 0), ([1], 0), ([7], 1)]
    assert items(module.test_dataloader()) == [0, 1]


def test_two_shuffled_loaders_of_the_same_data_do_not_draw_the_same_items():
    combined = train_loader({"a": numbers(50, shuffle=True), "b": numbers(50, shuffle=True)})
    pairs = [(int(given["a"]), int(given["b"])) for given, _, _ in combined]
    assert sum(one == other for one, other in pairs) < 10


# order and shares


def orders(section, epochs, **options):
    loader = train_loader(section, **options)
    drawn = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        drawn.append(items(loader))
    return drawn


def test_the_order_is_a_function_of_seed_and_epoch():
    first, second, again = orders(numbers(20, shuffle=True), [0, 1, 0], seed=3)
    assert sorted(first) == list(range(20))
    assert first == again != second
    assert orders(numbers(20, shuffle=True), [1, 0], seed=3) == [second, first]
    assert orders(numbers(20, shuffle=True), [0], seed=4) != [first]


def test_loader_workers_do_not_change_the_order():
    assert orders(numbers(8, shuffle=True, num_workers=1), [2]) == orders(numbers(8, shuffle=True), [2])


def test_a_shorter_loader_gets_another_order_each_time_it_begins_again():
    def passes():
        combined = train_loader({"long": numbers(24), "short": numbers(8, shuffle=True)})
        drawn = [int(given["short"]) for given, _, _ in combined]
        return [drawn[start : start + 8] for start in (0, 8, 16)]

    parts = passes()
    assert [sorted(part) for part in parts] == [list(range(8))] * 3
    assert len({tuple(part) for part in parts}) == 3
    assert parts == passes()


@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_train_on_as_many_items_and_on_all(shuffle):
    drawn = [items(train_loader(numbers(10, shuffle=shuffle), rank=rank, world_size=4)) for rank in range(4)]
    assert [len(part) for part in drawn] == [3] * 4
    assert {item for part in drawn for item in part} == set(range(10))


def test_ranks_draw_what_one_would_draw_alone():
    alone = items(train_loader(numbers(12, shuffle=True), seed=5))
    shared = [items(train_loader(numbers(12, shuffle=True), seed=5, rank=rank, world_size=3)) for rank in range(3)]
    assert [item for trio in zip(*shared, strict=True) for item in trio] == alone


def test_drop_last_shares_without_repeating():
    drawn = [items(train_loader(numbers(10, drop_last=True), rank=rank, world_size=4)) for rank in range(4)]
    assert sorted(item for part in drawn for item in part) == list(range(8))


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("size", [3, 4, 5, 9, 11])
@pytest.mark.parametrize("rank", [0, 2])
def test_training_is_shared_as_torchs_distributed_sampler_does(size, drop_last, rank):
    torchs = DistributedSampler(Numbers(size), 3, rank, shuffle=False, drop_last=drop_last)
    assert items(train_loader(numbers(size, drop_last=drop_last), rank=rank, world_size=3)) == list(torchs)


def test_more_workers_than_training_items_still_get_equal_shares():
    assert [len(train_loader(numbers(2), rank=rank, world_size=5)) for rank in range(5)] == [1] * 5


@pytest.mark.parametrize("part", ["val", "test"])
def test_no_item_is_evaluated_twice(part):
    drawn = []
    for rank in range(3):
        module = LoaderDataModule(**{part: numbers(10, batch_size=2)}, rank=rank, world_size=3)
        module.setup()
        drawn.append(items(getattr(module, f"{part}_dataloader")()))
    assert [len(part) for part in drawn] == [4, 3, 3]
    assert sorted(item for part in drawn for item in part) == list(range(10))


def test_a_worker_without_an_item_to_evaluate_is_refused_on_every_rank():
    for rank in range(3):
        with pytest.raises(DataError, match=r"^data\.val: 2 items for 3 workers .*resources\.workers of at most 2"):
            LoaderDataModule(val=numbers(2), rank=rank, world_size=3).val_dataloader()


def test_data_that_make_no_batch_are_refused():
    with pytest.raises(DataError, match=r"^data\.train\.a: drop_last with batch_size 8 drops all 5 items"):
        train_loader({"a": numbers(5, batch_size=8, drop_last=True)})
    with pytest.raises(DataError, match=r"^data\.train\.dataset: is empty"):
        train_loader(numbers(0))


# streams


def test_a_stream_is_read_as_it_comes():
    stream = {"dataset": {"_target_": f"{HERE}.Endless", "size": 5}, "batch_size": 2}
    assert batches(train_loader(stream)) == [[0, 1], [2, 3], [4]]
    assert batches(train_loader(stream | {"drop_last": True})) == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("name", "value"),
    [("shuffle", True), ("sampler", {"_target_": "a.b"}), ("batch_sampler", {"_target_": "a.b"})],
)
def test_a_stream_cannot_be_put_in_order(name, value):
    with pytest.raises(ConfigError, match=rf"^data\.train\.x\.{name}: the dataset is a stream"):
        train_loader({"x": {"dataset": {"_target_": f"{HERE}.Endless"}, name: value}})


# length


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("size", [24, 25, 29])
def test_d26_an_epoch_is_as_long_as_the_longest_loader_of_this_rank(size, world_size, drop_last):
    train = {"long": numbers(size, drop_last=drop_last), "short": numbers(4, batch_size=1)}
    module = LoaderDataModule(train, batch_size=4, world_size=world_size)
    rounded = math.floor if drop_last else math.ceil
    assert module.iterations_per_epoch == rounded(size / (4 * world_size))


def test_d26_a_stream_does_not_tell_how_long_an_epoch_is():
    train = {"a": numbers(3), "b": {"dataset": {"_target_": f"{HERE}.Endless"}}}
    assert LoaderDataModule(train).iterations_per_epoch is None


# datasets by name


@pytest.fixture
def registered():
    DATASETS.add("rooted", Rooted)
    DATASETS.add("bare", Bare)
    DATASETS.add("flavoured", Rooted, Params)
    yield
    for name in ("rooted", "bare", "flavoured"):
        DATASETS.remove(name)


def test_d18_a_registered_dataset_is_built_by_its_name(registered):
    made = dataset("rooted", "/x", subset="train", flavour="sweet")
    assert (made.root, made.subset, made.image_transform, made.others) == ("/x", "train", None, {"flavour": "sweet"})
    assert dataset("bare", "/x").root == "/x"


def test_d18_a_section_with_a_name_is_built_with_the_modules_root(registered):
    section = {"name": "rooted", "root": "a", "subset": "val", "image_transform": {"_target_": f"{HERE}.Negate"}}
    made = built({"dataset": section | {"flavour": 1}}, root="/data")
    assert (made.root, made.subset, made.others) == ("/data/a", "val", {"flavour": 1})
    assert isinstance(made.image_transform, Negate)
    assert built({"dataset": {"name": "bare"}}, root="/data").root == "/data"


def test_d18_registered_defaults_are_used_unless_something_else_is_said(registered):
    made, other = dataset("flavoured", "/x"), dataset("flavoured", "/x", subset="val", flavour="sour")
    assert (made.subset, made.others) == ("train", {"flavour": "sweet"})
    assert (other.subset, other.others) == ("val", {"flavour": "sour"})


def test_d18_an_unknown_name_is_answered_with_the_known(registered):
    pattern = r"'rooetd' is not known\. Did you mean 'rooted'\? Known: bare, cases, flavoured, image_folder, rooted\."
    with pytest.raises(ConfigError, match=rf"^data\.val\.dataset\.name: {pattern}"):
        LoaderDataModule(val={"dataset": {"name": "rooetd"}})
    with pytest.raises(ConfigError, match=rf"^dataset\.name: {pattern}"):
        dataset("rooetd", "/x")


def test_d18_wrong_arguments_of_a_named_dataset_are_named_with_the_section(registered):
    with pytest.raises(ConfigError, match=r"^data\.train\.dataset: .*flavour"):
        built({"dataset": {"name": "bare", "root": "/x", "flavour": 1}})


# with Lightning


class Recorder(pl.LightningModule):
    """Trains one number and remembers what it was fed."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.fed, self.evaluated = [], []

    def training_step(self, batch, batch_idx):
        parts = batch if isinstance(batch, dict) else {"": batch}
        self.fed.append((self.current_epoch, {name: part.tolist() for name, part in parts.items()}))
        return self.weight * 1.0

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.evaluated.append((dataloader_idx, batch.tolist()))

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.evaluated.append((dataloader_idx, batch.tolist()))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data, ckpt_path=None, **options):
    module = Recorder()
    quiet_trainer(**{"max_epochs": 2, **options}).fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return module


def two_loaders(**options):
    return {
        "supervised": numbers(3, shuffle=True, batch_size=1, **options),
        "unlabelled": numbers(10, first=100, shuffle=True, batch_size=2, **options),
    }


def test_d15_training_on_two_loaders_of_different_length():
    fed = fit(LoaderDataModule(two_loaders(), val=numbers(2)), limit_val_batches=1).fed
    assert [epoch for epoch, _ in fed] == [0] * 5 + [1] * 5
    for epoch in (0, 1):
        parts = [part for at, part in fed if at == epoch]
        assert sorted(item for part in parts for item in part["unlabelled"]) == list(range(100, 110))
        labelled = [item for part in parts for item in part["supervised"]]
        assert sorted(labelled[:3]) == [0, 1, 2]
        assert len(labelled) == 5
    first, second = ([part for at, part in fed if at == epoch] for epoch in (0, 1))
    assert first != second


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_trainer_tells_every_loader_of_a_mapping_its_epoch(num_workers):
    fed = fit(LoaderDataModule(two_loaders(num_workers=num_workers), seed=2)).fed
    loaders = LoaderDataModule(two_loaders(), seed=2).train_dataloader().iterables
    for epoch in (0, 1):
        loaders["unlabelled"].sampler.set_epoch(epoch)
        loaders["supervised"].sampler.set_epoch(epoch)
        parts = [part for at, part in fed if at == epoch]
        assert [part["unlabelled"] for part in parts] == batches(loaders["unlabelled"])
        assert [part["supervised"] for part in parts][:3] == batches(loaders["supervised"])


def test_ranks_are_told_the_epoch_too():
    halves = [fit(LoaderDataModule(two_loaders(), seed=2, rank=rank, world_size=2)).fed for rank in range(2)]
    for epoch in (0, 1):
        drawn = [item for half in halves for at, part in half if at == epoch for item in part["unlabelled"]]
        assert sorted(drawn) == list(range(100, 110))
    assert [part["unlabelled"] for at, part in halves[0] if at == 0] != [
        part["unlabelled"] for at, part in halves[0] if at == 1
    ]


def test_b3_parts_that_are_missing_are_skipped_by_the_trainer():
    module = fit(LoaderDataModule(numbers(2)), max_epochs=1)
    assert (len(module.fed), module.evaluated) == (2, [])
    assert quiet_trainer().test(module, LoaderDataModule(numbers(2))) == []
    assert module.evaluated == []


def test_b3_a_stage_builds_its_own_datasets_alone():
    data = LoaderDataModule(numbers(901), numbers(902), numbers(903))
    BUILT.clear()
    module = Recorder()
    quiet_trainer().test(module, data)
    assert BUILT == [903]
    assert len(module.evaluated) == 903


def test_d15_validation_on_two_loaders_tells_which():
    data = LoaderDataModule(numbers(1), {"a": numbers(2), "b": numbers(1, first=7)})
    assert fit(data, max_epochs=1).evaluated == [(0, [0]), (0, [1]), (1, [7])]


class SaveAt(pl.Callback):
    """Saves one checkpoint, in the given hook of the first epoch."""

    def __init__(self, hook, file):
        self.file = file
        setattr(self, hook, self.save)

    def save(self, trainer, *_):
        if trainer.current_epoch == 0 and trainer.global_step == 5:
            trainer.save_checkpoint(self.file)


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_end", "on_train_epoch_end"])
@pytest.mark.parametrize("workers", [{}, {"num_workers": 1}, {"num_workers": 1, "persistent_workers": True}], ids=str)
def test_a_resumed_training_is_fed_what_an_uninterrupted_one_is(tmp_path, hook, workers):
    data = {"train": two_loaders(**workers), "val": numbers(2), "seed": 1}
    whole = fit(LoaderDataModule(**data), max_epochs=3, callbacks=[SaveAt(hook, tmp_path / "0.ckpt")]).fed
    assert len(whole) == 15
    resumed = fit(LoaderDataModule(**data), tmp_path / "0.ckpt", max_epochs=3).fed
    assert resumed == [part for part in whole if part[0] > 0]


def test_a_loader_that_was_not_asked_for_a_batch_has_not_begun():
    loader = train_loader(numbers(4, shuffle=True, num_workers=1))
    assert isinstance(loader, LateLoader)
    iter(loader)
    assert loader.sampler.passes == 0
