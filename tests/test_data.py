"""Tests of asparagus.data: layout, makers, splits, order, items and loaders."""

from __future__ import annotations

import functools
import json
import operator
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from asparagus.data import MAKERS
from asparagus.data.datasets import CaseDataset, case_names
from asparagus.data.digits import make_digits
from asparagus.data.layout import fingerprint, read_paths, read_split, read_task, read_test
from asparagus.data.limited import TimeLimitedLoader
from asparagus.data.modules import CaseDataModule
from asparagus.data.sampler import EpochSampler
from asparagus.data.split import make_split, split_80_20
from asparagus.data.synthetic import make_synthetic
from asparagus.errors import ConfigError, DataError
from asparagus.worker.coming import ComingBatches
from tests.helpers import quiet_trainer

SEG, CLS, PRE, DIGITS = "Task997_LauritSynSeg", "Task996_LauritSynCls", "Task998_LauritSyn", "Task001_Digits"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a data folder with a small version of every task; tests only read it."""
    folder = tmp_path_factory.mktemp("data")
    for name in set(MAKERS) - {DIGITS}:
        make_synthetic(name, folder, cases=10, size=16)
    make_digits(folder, cases=50)
    for name in MAKERS:
        make_split(folder, name, "split_80_20")
    return folder


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


# layout


def test_the_client_reads_layout_and_splits_without_torch():
    code = (
        "import sys, asparagus.data.layout, asparagus.data.split, asparagus.stages, asparagus.optim;"
        "print({'torch', 'numpy', 'sklearn', 'pytorch_lightning', 'monai'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_task_is_what_its_dataset_json_says(root):
    task = read_task(root, SEG)
    assert (task.n_classes, task.n_modalities, task.dimensions, task.shape) == (5, 1, 3, (16, 16, 16))
    assert task.class_names == ("background", "ball", "box", "shell", "core")
    assert read_task(root, DIGITS).shape == (8, 8)


def test_an_unknown_task_is_answered_with_the_nearest_and_the_known(root):
    with pytest.raises(DataError, match=r"Did you mean 'Task997_LauritSynSeg'.*Known there: Task001_Digits, Task995"):
        read_task(root, "Task997_LauritSynSge")


def test_a_task_that_can_be_made_is_answered_with_the_command(tmp_path):
    with pytest.raises(DataError, match="asp data make Task001_Digits"):
        read_task(tmp_path, DIGITS)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "not readable as JSON"),
        ("[]", "expected a JSON object"),
        ('{"dataset_config": {"n_classes": "two", "n_modalities": 1}}', "n_classes: 'two' is not a positive"),
        ('{"dataset_config": {"n_classes": 2, "n_modalities": 1, "dimensions": 4}}', "dimensions: 4 is not 2 or 3"),
    ],
)
def test_a_malformed_dataset_json_is_named(tmp_path, content, match):
    (tmp_path / "T").mkdir()
    (tmp_path / "T" / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=match):
        read_task(tmp_path, "T")


def test_numbers_are_read_from_metadata_when_dataset_config_is_absent(tmp_path):
    (tmp_path / "T").mkdir()
    (tmp_path / "T" / "dataset.json").write_text('{"metadata": {"n_classes": 3, "n_modalities": 2}}')
    assert read_task(tmp_path, "T").n_modalities == 2


def test_split_errors_name_the_setting_and_the_way_out(root, tmp_path):
    shutil.copytree(root / SEG, tmp_path / SEG)
    task = read_task(tmp_path, SEG)
    with pytest.raises(DataError, match=r"data.split.*Known: split_80_20.*asp-split -t Task997_LauritSynSeg"):
        read_split(task, "split_90_10", 0)
    with pytest.raises(DataError, match=r"data.split: no split 'paths'"):
        read_split(task, "paths", 0)
    with pytest.raises(DataError, match=r"data.fold: 5 is not a fold.*folds 0 to 4"):
        read_split(task, "split_80_20", 5)
    (tmp_path / SEG / "mine.json").write_text(json.dumps([{"train": ["/a.pt"], "val": []}]))
    with pytest.raises(DataError, match="'val' is empty"):
        read_split(task, "mine", 0)


def test_moved_data_are_found_and_keep_their_fingerprint(root, tmp_path):
    before = fingerprint(read_task(root, SEG), "split_80_20")
    shutil.copytree(root / SEG, tmp_path / "elsewhere" / SEG)
    task = read_task(tmp_path / "elsewhere", SEG)
    files = read_split(task, "split_80_20", 0)["train"]
    assert all(file.is_relative_to(tmp_path) and file.is_file() for file in files)
    assert fingerprint(task, "split_80_20") == before


def test_the_fingerprint_follows_content_and_names_a_missing_case(root, tmp_path):
    shutil.copytree(root / SEG, tmp_path / SEG)
    task = read_task(tmp_path, SEG)
    before = fingerprint(task, "split_80_20")
    case = read_paths(task)[3]
    case.write_bytes(case.read_bytes() + b"x")
    assert fingerprint(task, "split_80_20") != before
    case.unlink()
    with pytest.raises(DataError, match=case.name):
        fingerprint(task, "split_80_20")


# makers


@pytest.mark.parametrize("name", MAKERS)
def test_every_table_entry_names_a_maker(name, root):
    module, _, function = MAKERS[name].rpartition(".")
    assert callable(getattr(__import__(module, fromlist=[function]), function))
    assert (root / name / "dataset.json").is_file()


def test_making_the_same_task_again_changes_nothing_and_mends_what_is_missing(tmp_path):
    make_synthetic(SEG, tmp_path, cases=3, size=16)
    before = snapshot(tmp_path)
    make_synthetic(SEG, tmp_path, cases=3, size=16)
    assert snapshot(tmp_path) == before
    lost = next(path for path in before if path.suffix == ".pt")
    lost.unlink()
    make_synthetic(SEG, tmp_path, cases=3, size=16)
    assert lost.read_bytes() == before[lost][1]


def test_making_another_task_over_one_is_refused_and_changes_nothing(tmp_path):
    make_synthetic(SEG, tmp_path, cases=3, size=16)
    before = snapshot(tmp_path)
    with pytest.raises(DataError, match=r"size=16.*not .*size=20.*another data folder"):
        make_synthetic(SEG, tmp_path, cases=3, size=20)
    assert snapshot(tmp_path) == before


def test_a_folder_of_the_users_own_is_left_alone(tmp_path):
    (tmp_path / SEG).mkdir()
    (tmp_path / SEG / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="nothing was written"):
        make_synthetic(SEG, tmp_path, cases=3, size=16)
    assert [path.name for path in (tmp_path / SEG).iterdir()] == ["notes.txt"]


def test_an_interrupted_make_goes_on_where_it_stopped(tmp_path):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_synthetic(PRE, tmp_path, cases=4, size=16, progress=stop)
    with pytest.raises(DataError, match="asp data make"):
        read_task(tmp_path, PRE)
    seen = []
    make_synthetic(PRE, tmp_path, cases=4, size=16, progress=lambda *now: seen.append(now))
    assert seen == [(3, 4), (4, 4)]
    assert len(read_paths(read_task(tmp_path, PRE))) == 4


def test_a_case_depends_on_seed_and_number_alone(tmp_path):
    few = read_paths(make_synthetic(SEG, tmp_path / "few", cases=2, size=16))
    more = read_paths(make_synthetic(SEG, tmp_path / "more", cases=3, size=16))
    other = read_paths(make_synthetic(SEG, tmp_path / "other", cases=2, size=16, seed=1))
    assert few[1].read_bytes() == more[1].read_bytes()
    assert not torch.equal(torch.load(few[1]), torch.load(other[1]))


def test_synthetic_cases_have_the_documented_layout(root):
    volume = torch.load(read_paths(read_task(root, SEG))[0], weights_only=True)
    assert volume.shape == (2, 16, 16, 16)
    assert volume.dtype == torch.float32
    assert abs(volume[0].mean()) < 1e-4
    assert abs(volume[0].std() - 1) < 1e-2
    seen = {int(v) for file in read_paths(read_task(root, SEG)) for v in torch.load(file)[1].unique()}
    assert seen == {0, 1, 2, 3, 4}
    image, label = torch.load(read_paths(read_task(root, CLS))[1], weights_only=True)
    assert image.shape == (1, 16, 16, 16)
    assert label.dtype == torch.int64
    assert label == 1
    assert torch.load(read_paths(read_task(root, PRE))[0], weights_only=True).shape == (1, 16, 16, 16)


def test_foreground_locations_point_at_their_class_and_are_capped(root):
    for file in read_paths(read_task(root, SEG)):
        label = torch.load(file)[1]
        locations = json.loads(file.with_suffix(".json").read_text())["foreground_locations"]
        for value, voxels in locations.items():
            assert len(voxels) == min(200, int((label == int(value)).sum()))
            assert all(label[tuple(voxel)] == int(value) for voxel in voxels)


def test_pretraining_volumes_are_not_the_ones_that_are_validated_on(root):
    volumes = [torch.load(read_paths(read_task(root, name))[0])[0] for name in (SEG, PRE)]
    assert not torch.allclose(*volumes)


def test_digits_are_scikit_learns(root):
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    image, label = torch.load(read_paths(read_task(root, DIGITS))[7], weights_only=True)
    assert image.shape == (1, 8, 8)
    assert np.array_equal(image[0].flatten().numpy() * 16, images[7])
    assert label == labels[7]


def test_a_case_file_holds_one_case(root):
    assert read_paths(read_task(root, DIGITS))[0].stat().st_size < 4000


@pytest.mark.parametrize(("options", "match"), [({"size": 4}, "size: 4"), ({"cases": 0}, "cases=0")])
def test_impossible_makes_are_refused(tmp_path, options, match):
    with pytest.raises(DataError, match=match):
        make_synthetic(SEG, tmp_path, **options)


# splits


def test_five_different_folds_of_which_the_first_is_upstreams():
    from sklearn.model_selection import train_test_split

    files = [f"/d/T/{i:03d}.pt" for i in range(50)]
    folds = split_80_20(files[::-1])
    train, val = train_test_split(files, test_size=0.2, random_state=963421)
    assert folds[0] == {"train": train, "val": val}
    assert len({tuple(sorted(fold["val"])) for fold in folds}) == 5
    assert all(len(fold["val"]) == 10 and not set(fold["val"]) & set(fold["train"]) for fold in folds)


def test_a_split_is_written_once_and_never_overwritten(root, tmp_path):
    shutil.copytree(root / SEG, tmp_path / SEG)
    before = snapshot(tmp_path)
    file = make_split(tmp_path, SEG, "split_80_20")  # the copy's paths still name the old folder: the same split
    assert snapshot(tmp_path) == before
    file.write_text("[]")
    with pytest.raises(DataError, match="left as it is"):
        make_split(tmp_path, SEG, "split_80_20")
    assert file.read_text() == "[]"


def test_an_unknown_split_function_is_named(root):
    with pytest.raises(DataError, match=r"--fn: 'split_80_10'.*Did you mean 'split_80_20'"):
        make_split(root, SEG, "split_80_10")


# test data


@pytest.fixture(scope="module")
def tested(root, tmp_path_factory):
    """Return a data folder with a task that has test splits of every form."""
    folder = tmp_path_factory.mktemp("tested")
    shutil.copytree(root / SEG, folder / SEG)
    paths = json.loads((folder / SEG / "paths.json").read_text())  # of the folder that it was copied from
    files = {
        "TEST_20": [*paths[:4], paths[0]],
        "three_parts": [{"train": paths[4:8], "val": paths[8:], "test": paths[at : at + 2]} for at in (0, 2)],
        "no_test": [{"train": paths[4:8], "val": paths[8:], "test": []}],
        "gone": [*paths[:2], *(f"/old/{SEG}/cases/lost_{number}.pt" for number in range(4))],
        "empty": [],
        "odd": {"test": paths[:2]},
    }
    for name, content in files.items():
        (folder / SEG / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("test_split", "split", "fold", "expected"),
    [
        ("TEST_20", "split_80_20", 0, [0, 1, 2, 3]),
        ("TEST_20.json", "split_80_20", 3, [0, 1, 2, 3]),
        ("three_parts", "split_80_20", 1, [2, 3]),
        (None, "three_parts", 0, [0, 1]),
        ("TEST_20", "three_parts", 0, [0, 1, 2, 3]),
        (None, "no_test", 0, []),
        (None, "split_80_20", 0, []),
    ],
)
def test_a15_test_cases_are_listed_or_a_part_of_the_fold(tested, test_split, split, fold, expected):
    cases = read_test(read_task(tested, SEG), test_split, split, fold)
    assert [case.name for case in cases] == [f"{SEG}_{number:04d}.pt" for number in expected]
    assert all(case.is_relative_to(tested) for case in cases)


@pytest.mark.parametrize(
    ("test_split", "match"),
    [
        (
            "TEST_02",
            r"data.test_split: no file TEST_02.json .*Did you mean 'TEST_20'\? There are: TEST_20, empty, gone",
        ),
        ("paths", "data.test_split: no file paths.json with test cases"),
        (
            "gone",
            r"data.test_split: 4 of the 6 test cases in .*gone.json are not there: .*lost_0.pt, .*lost_2.pt, \.\.\.",
        ),
        ("split_80_20", r"data.test_split: fold 1 of .*split_80_20.json has no 'test' part. There are: TEST_20"),
        ("no_test", "data.fold: 1 is not a fold"),
        ("empty", "empty.json is empty: nothing to read"),
        ("odd", "odd.json is not a list of paths"),
    ],
)
def test_a_test_split_that_cannot_be_read_is_named_with_those_that_are_there(tested, test_split, match):
    with pytest.raises(DataError, match=match):
        read_test(read_task(tested, SEG), test_split, "split_80_20", 1)


def test_test_data_are_no_part_of_the_fingerprint(tested):
    task = read_task(tested, SEG)
    before = fingerprint(task, "three_parts")
    folds = json.loads((tested / SEG / "three_parts.json").read_text())
    changed = [{**fold, "test": fold["test"][:1]} for fold in folds]
    (tested / SEG / "other_test.json").write_text(json.dumps(changed))
    assert fingerprint(task, "other_test") == before


def test_a_case_is_called_as_its_file_or_by_its_path_where_two_are_called_the_same(tmp_path):
    one, other = tmp_path / "sub-1" / "T1w.pt", tmp_path / "sub-2" / "T1w.pt"
    assert case_names([one, tmp_path / "b.pt"], tmp_path) == ["T1w.pt", "b.pt"]
    assert case_names([one, other], tmp_path) == ["sub-1/T1w.pt", "sub-2/T1w.pt"]
    assert case_names([one, Path("/elsewhere/T1w.pt")], tmp_path) == ["sub-1/T1w.pt", "/elsewhere/T1w.pt"]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_ranks_share_test_cases_without_doubles_whole_and_by_name(tested, num_workers):
    seen = []
    for rank in range(3):
        options = {"patch_size": [8, 8, 8], "num_workers": num_workers, "rank": rank, "world_size": 3}
        data = CaseDataModule(str(tested), SEG, "seg", test_split="TEST_20", **options)
        data.setup("test")
        batches = list(data.test_dataloader())
        assert {tuple(batch["image"].shape[1:]) for batch in batches} == {(1, 16, 16, 16)}
        seen += [name for batch in batches for name in batch["case"]]
    assert sorted(seen) == [f"{SEG}_{number:04d}.pt" for number in range(4)]


def test_without_test_data_there_is_no_test_loader_and_items_to_validate_on_have_names(tested):
    data = CaseDataModule(str(tested), SEG, "seg")
    data.setup()
    assert data.test_dataloader() == []
    assert (data.test_name, set(data.val_set[0])) == ("split_80_20", {"image", "label", "case"})


def test_fewer_test_cases_than_workers_are_refused_before_the_training(tested):
    data = CaseDataModule(str(tested), SEG, "seg", split="three_parts", world_size=3)
    with pytest.raises(DataError, match=r"data.test_split: 2 test cases for 3 workers.*resources.workers of at most 2"):
        data.setup("fit")


# order


def keys(size, epoch=0, **options):
    sampler = EpochSampler(size, seed=options.pop("seed", 3), **options)
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert len(drawn) == len(sampler)
    assert {e for e, _, _ in drawn} == {epoch}
    return [index for _, index, _ in drawn]


def test_the_training_order_is_a_function_of_seed_and_epoch():
    assert keys(20, 1, shuffle=True) == keys(20, 1, shuffle=True)
    assert sorted(keys(20, 1, shuffle=True)) == list(range(20))
    assert keys(20, 1, shuffle=True) != keys(20, 2, shuffle=True)
    assert keys(20, 1, shuffle=True) != keys(20, 1, shuffle=True, seed=4)


def test_ranks_share_training_evenly_and_validation_without_doubles():
    train = [keys(10, shuffle=True, rank=rank, world_size=4) for rank in range(4)]
    assert [len(part) for part in train] == [3, 3, 3, 3]
    assert set(functools.reduce(operator.iadd, train, [])) == set(range(10))
    val = [keys(10, shuffle=False, rank=rank, world_size=4) for rank in range(4)]
    assert sorted(functools.reduce(operator.iadd, val, [])) == list(range(10))


def test_shuffled_validation_has_no_doubles_either():
    """Where a part of the validation is looked at alone, it comes in another order each time."""
    epochs = [
        [keys(5, epoch, shuffle=True, even=False, rank=rank, world_size=2) for rank in (0, 1)] for epoch in (0, 1)
    ]
    assert [sorted(one + other) for one, other in epochs] == [list(range(5))] * 2
    assert epochs[0] != epochs[1]
    with pytest.raises(DataError, match=r"resources.workers of at most 2"):
        EpochSampler(2, seed=0, shuffle=True, even=False, world_size=3)


def test_more_workers_than_training_cases_still_get_equal_shares():
    assert [len(keys(2, shuffle=True, rank=rank, world_size=5)) for rank in range(5)] == [1] * 5


def test_the_same_items_are_drawn_whatever_the_number_of_ranks():
    alone = keys(12, 2, shuffle=True)
    shared = [keys(12, 2, shuffle=True, rank=rank, world_size=3) for rank in range(3)]
    assert [index for trio in zip(*shared, strict=True) for index in trio] == alone


def test_samples_per_epoch_is_the_total_over_ranks():
    assert len(keys(10, shuffle=True, samples_per_epoch=100, world_size=4)) == 25
    few = keys(10, shuffle=True, samples_per_epoch=6)
    assert len(set(few)) == 6


def test_e12_a_case_that_comes_twice_in_an_epoch_is_another_draw_whatever_the_number_of_ranks(root):
    options = {"seed": 3, "shuffle": True, "samples_per_epoch": 12}
    alone = list(EpochSampler(4, **options))
    shared = [list(EpochSampler(4, **options, rank=rank, world_size=3)) for rank in range(3)]
    assert [key for trio in zip(*shared, strict=True) for key in trio] == alone
    assert len(set(alone)) == 12 > len({index for _, index, _ in alone})
    for case in range(4):
        turns = [turn for _, index, turn in alone if index == case]
        assert turns == list(range(len(turns)))
    cases = dataset(root, SEG, "seg", patch_size=[8, 8, 8])
    assert torch.equal(cases[1, 2]["image"], cases[1, 2, 0]["image"])
    assert not torch.equal(cases[1, 2, 0]["image"], cases[1, 2, 1]["image"])


def test_a_validation_against_the_clock_gives_no_case_to_two_workers(root):
    seen = []
    for rank in range(2):
        data = CaseDataModule(str(root), SEG, "seg", validation_time_limit=60.0, rank=rank, world_size=2)
        data.setup()
        data.val_set.files = data.train_set.files[:3]  # an odd number of them
        data.val_set.names = [file.name for file in data.val_set.files]
        seen += [name for batch in data.val_dataloader() for name in batch["case"]]
    assert len(seen) == 3
    assert sorted(seen) == sorted(data.val_set.names)


def test_a_worker_without_a_validation_case_is_refused():
    with pytest.raises(DataError, match=r"resources.workers of at most 2"):
        EpochSampler(2, seed=0, shuffle=False, world_size=3)


# items


def dataset(root, task, kind, part="train", **options):
    files = read_split(read_task(root, task), "split_80_20", 0)[part]
    return CaseDataset(files, kind, train=part == "train", **options)


def test_an_item_is_a_function_of_seed_epoch_and_index(root):
    options = {"patch_size": [8, 8, 8], "augment": True}
    one, two = (dataset(root, SEG, "seg", seed=5, **options) for _ in range(2))
    assert len(one) == 8
    two[0, 3]  # what was drawn before has no say
    assert torch.equal(one[1, 2]["image"], two[1, 2]["image"])
    assert torch.equal(one[1, 2]["label"], two[1, 2]["label"])
    assert not torch.equal(one[1, 2]["image"], one[2, 2]["image"])
    assert not torch.equal(one[1, 2]["image"], dataset(root, SEG, "seg", seed=6, **options)[1, 2]["image"])


def test_items_have_the_documented_shapes_and_types(root):
    seg = dataset(root, SEG, "seg", patch_size=[8, 8, 8], augment=True)[0, 0]
    assert (seg["image"].shape, seg["label"].shape) == ((1, 8, 8, 8), (8, 8, 8))
    assert (seg["image"].dtype, seg["label"].dtype) == (torch.float32, torch.int64)
    cls = dataset(root, DIGITS, "cls", dimensions=2)[0, 0]
    assert (cls["image"].shape, cls["label"].shape, cls["label"].dtype) == ((1, 8, 8), (), torch.int64)
    assert dataset(root, PRE, "pretrain")[4, 1]["draw"] == "4 1 0"
    assert dataset(root, PRE, "pretrain", "val")[4, 1]["draw"] == "0 1 0"


def test_validation_items_are_whole_middle_and_unchanging(root):
    seg = dataset(root, SEG, "seg", "val", patch_size=[8, 8, 8])
    stored = torch.load(seg.files[0])
    assert torch.equal(seg[0, 0]["image"], stored[:1])
    pre = dataset(root, PRE, "pretrain", "val", patch_size=[8, 8, 8])
    assert torch.equal(pre[0, 1]["image"], torch.load(pre.files[1])[:, 4:12, 4:12, 4:12])
    assert torch.equal(pre[0, 1]["image"], pre[7, 1]["image"])


def test_image_and_label_are_mirrored_together(tmp_path):
    grid = torch.arange(64.0).reshape(4, 4, 4)
    torch.save(torch.stack([grid, grid]), tmp_path / "a.pt")
    items = [CaseDataset([tmp_path / "a.pt"], "seg", train=True, augment=True)[epoch, 0] for epoch in range(8)]
    for item in items:  # jitter moves intensities by far less than a row's step of 16
        assert torch.corrcoef(torch.stack([item["image"].flatten(), item["label"].flatten().float()]))[0, 1] > 0.99
    assert len({int(item["label"][0, 0, 0]) for item in items}) > 1


def test_training_patches_visit_the_foreground_more_than_chance(tmp_path):
    volume = torch.zeros(2, 40, 40, 40)
    volume[1, 3, 3, 3] = 1
    torch.save(volume, tmp_path / "a.pt")
    found = {}
    for name in ("without", "with"):
        data = CaseDataset([tmp_path / "a.pt"], "seg", train=True, patch_size=[6, 6, 6])
        found[name] = sum(int(data[epoch, 0]["label"].sum()) for epoch in range(120))
        (tmp_path / "a.json").write_text(json.dumps({"foreground_locations": {"1": [[3, 3, 3]]}}))
    assert found["without"] < 5
    assert found["with"] > 25


def test_a_case_smaller_than_the_patch_is_padded(root):
    item = dataset(root, SEG, "seg", patch_size=[24, 16, 16])[0, 0]
    assert item["image"].shape == (1, 24, 16, 16)
    assert item["label"][:4].sum() == 0


def test_two_dimensions_take_a_slice_of_a_volume(root):
    val = dataset(root, SEG, "seg", "val", dimensions=2)
    stored = torch.load(val.files[0])
    assert torch.equal(val[0, 0]["image"], stored[:1, ..., 7])
    assert torch.equal(val[0, 0]["label"], stored[1, ..., 7].long())
    train = dataset(root, SEG, "seg", dimensions=2, patch_size=[8, 8, 8])
    assert train[0, 0]["image"].shape == (1, 8, 8)
    assert len({float(train[epoch, 0]["image"].sum()) for epoch in range(5)}) == 5


def test_wrong_files_and_settings_are_named(root, tmp_path):
    with pytest.raises(DataError, match=r"expected \[data, label\] for classification"):
        dataset(root, SEG, "cls")[0, 0]
    with pytest.raises(DataError, match="label as last channel"):
        dataset(root, PRE, "seg")[0, 0]
    with pytest.raises(DataError, match=r"gone\.pt"):
        CaseDataset([tmp_path / "gone.pt"], "seg")[0, 0]
    (tmp_path / "broken.pt").write_bytes(b"no tensor")
    with pytest.raises(DataError, match=r"broken\.pt"):
        CaseDataset([tmp_path / "broken.pt"], "seg")[0, 0]
    with pytest.raises(ConfigError, match=r"data.patch_size: \[8, 8\]"):
        CaseDataset([], "seg", patch_size=[8, 8])
    with pytest.raises(ConfigError, match=r"model.dimensions: 3D does not fit"):
        dataset(root, DIGITS, "cls")[0, 0]


@pytest.mark.parametrize(("kind", "label"), [("seg", 7), ("seg", -1), ("cls", 5)])
def test_a32_a_label_beyond_the_classes_of_the_task_is_refused_when_it_is_read(tmp_path, kind, label):
    image = torch.zeros(1, 4, 4, 4)
    case = [image, label] if kind == "cls" else torch.cat([image, torch.full_like(image, label)])
    torch.save(case, tmp_path / "a.pt")
    assert CaseDataset([tmp_path / "a.pt"], kind, n_classes=8 if label > 0 else None)[0, 0]["label"].max() == label
    for cache in (True, False):
        with pytest.raises(DataError, match=rf"a.pt: has the class {label}, .* n_classes=5: 0 to 4"):
            CaseDataset([tmp_path / "a.pt"], kind, n_classes=5, cache=cache)[0, 0]


def test_a32_the_data_module_knows_the_classes_of_its_task(root):
    data = CaseDataModule(root, SEG, "seg")
    data.setup()
    assert data.train_set.n_classes == data.val_set.n_classes == read_task(root, SEG).n_classes == 5


def test_a_pickle_with_code_in_it_is_refused(tmp_path):
    torch.save([Path("/x"), 1], tmp_path / "a.pt")
    with pytest.raises(DataError, match="not readable as a case"):
        CaseDataset([tmp_path / "a.pt"], "cls")[0, 0]


# loaders


def test_the_module_feeds_batches_and_shards_them(root):
    modules = [
        CaseDataModule(root, DIGITS, "cls", dimensions="2D", batch_size=4, rank=rank, world_size=2) for rank in (0, 1)
    ]
    for module in modules:
        module.setup()
    batch = next(iter(modules[0].train_dataloader()))
    assert (batch["image"].shape, batch["label"].shape) == ((4, 1, 8, 8), (4,))
    assert [len(module.train_dataloader()) for module in modules] == [5, 5]
    assert sum(len(b["label"]) for module in modules for b in module.val_dataloader()) == 10


def test_loader_workers_change_nothing(root):
    def images(num_workers):
        module = CaseDataModule(root, SEG, "seg", patch_size=[8, 8, 8], num_workers=num_workers)
        module.setup()
        return torch.cat([batch["image"] for batch in module.train_dataloader()])

    assert torch.equal(images(0), images(1))


def test_cases_of_different_shapes_need_a_patch_size(root, tmp_path):
    shutil.copytree(root / SEG, tmp_path / SEG)
    file = tmp_path / SEG / "dataset.json"
    content = json.loads(file.read_text())
    del content["dataset_config"]["shape"]
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"data.patch_size: needed"):
        CaseDataModule(tmp_path, SEG, "seg").setup()


@pytest.mark.parametrize(
    ("options", "match"), [({"dimensions": "4D"}, "model.dimensions"), ({"batch_size": 0}, "batch_size: 0")]
)
def test_wrong_module_settings_are_named(root, options, match):
    with pytest.raises(ConfigError, match=match):
        CaseDataModule(root, SEG, "seg", **options)


class Recorder(pl.LightningModule):
    """Trains one number and remembers what it was fed."""

    def __init__(self, *, asks_for_steps=False):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.fed, self.asks_for_steps = [], asks_for_steps

    def training_step(self, batch, batch_idx):
        self.fed.append((self.current_epoch, float(batch["image"].sum())))
        return self.weight * 1.0

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        if self.asks_for_steps:  # as schedules do; Lightning makes the loaders then, before it restores how far it was
            assert self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(pl.Callback):
    """Saves one checkpoint, in the given hook of the first epoch."""

    def __init__(self, hook, file):
        self.file = file
        setattr(self, hook, self.save)

    def save(self, trainer, *_):
        if trainer.current_epoch == 0 and trainer.global_step == 2:
            trainer.save_checkpoint(self.file)


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_end", "on_train_epoch_end"])
@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("asks", [False, True])
def test_a_resumed_training_is_fed_what_an_uninterrupted_one_is(root, tmp_path, hook, num_workers, asks):
    def fit(epochs, ckpt_path=None):
        module = Recorder(asks_for_steps=asks)
        data = CaseDataModule(root, SEG, "seg", batch_size=4, patch_size=[8, 8, 8], num_workers=num_workers, seed=1)
        trainer = quiet_trainer(max_epochs=epochs, callbacks=[ComingBatches(), SaveAt(hook, tmp_path / "0.ckpt")])
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        return module.fed

    whole = fit(3)
    assert len(whole) == 6
    assert fit(3, tmp_path / "0.ckpt") == [fed for fed in whole if fed[0] > 0]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("asks", [False, True])
def test_a_training_resumed_within_an_epoch_is_fed_what_was_left_of_it(root, tmp_path, num_workers, asks):
    def fit(start=None, *callbacks):
        module = Recorder(asks_for_steps=asks)
        options = {"batch_size": 2, "patch_size": [8, 8, 8], "num_workers": num_workers, "samples_per_epoch": 12}
        data = CaseDataModule(root, SEG, "seg", seed=1, **options)
        callbacks = [ComingBatches(), *callbacks]
        trainer = quiet_trainer(max_epochs=3, enable_checkpointing=len(callbacks) > 1, callbacks=callbacks)
        trainer.fit(module, data, ckpt_path=start, weights_only=True)
        return module.fed

    whole = fit(None, ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1))
    assert len(whole) == len(set(whole)) == 18
    for step in (4, 8, 12, 16):  # the middle of each epoch, and the end of one
        assert fit(tmp_path / f"step={step}.ckpt") == whole[step:]


def test_a_short_loader_beside_a_long_one_goes_on_in_its_own_pass(tmp_path):
    """Within an epoch of the long one, it begins again."""

    class Two(pl.LightningDataModule):
        def train_dataloader(self):
            return {name: torch.utils.data.DataLoader(range(size), 2) for name, size in (("long", 13), ("short", 5))}

    class Both(Recorder):
        def training_step(self, batch, batch_idx):
            self.fed.append((self.current_epoch, batch["long"].tolist(), batch["short"].tolist()))
            return self.weight * 1.0

    def fit(start=None, *callbacks):
        module, callbacks = Both(asks_for_steps=True), [ComingBatches(), *callbacks]
        trainer = quiet_trainer(max_epochs=2, enable_checkpointing=len(callbacks) > 1, callbacks=callbacks)
        trainer.fit(module, Two(), ckpt_path=start, weights_only=True)
        return module.fed

    whole = fit(None, ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1))
    assert whole[5] == (0, [10, 11], [4])
    assert fit(tmp_path / "step=5.ckpt") == whole[5:]


# ---- validation within limits (SEEDS E28 to E30) ----


class Waits(torch.utils.data.Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        time.sleep(0.02)
        return index


@pytest.mark.parametrize(("seconds", "least", "most"), [(1e-6, 1, 1), (0.15, 2, 4), (60, 10, 10)])
def test_e28_a_pass_ends_after_the_batch_in_which_the_time_is_over(seconds, least, most):
    loader = TimeLimitedLoader(Waits(), batch_size=2, seconds=seconds)
    for _ in range(2):  # each pass has the time anew
        assert least <= len(list(loader)) <= most
    assert len(loader) == 10


def limited(root, **trainer_arguments):
    options = {"batch_size": 2, "dimensions": "2D", "seed": 3}
    time_limit = trainer_arguments.pop("validation_time_limit", None)
    made = CaseDataModule(root, DIGITS, "cls", validation_time_limit=time_limit, **options)
    made.trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", **trainer_arguments)
    made.setup("fit")
    return made.val_dataloader()


@pytest.mark.parametrize(
    "arguments", [{"limit_val_batches": 1}, {"limit_val_batches": 0.5}, {"validation_time_limit": 9}]
)
def test_e30_with_a_limit_validation_cases_come_in_another_order_each_time(root, arguments):
    sampler = limited(root, **arguments).sampler
    first = [index for _, index, _ in sampler]
    sampler.set_epoch(1)
    assert sorted(first) == list(range(len(first)))
    assert first != [index for _, index, _ in sampler]


@pytest.mark.parametrize("arguments", [{}, {"limit_val_batches": 1.0}])
def test_e30_without_one_all_are_seen_in_their_order(root, arguments):
    order = [index for _, index, _ in limited(root, **arguments).sampler]
    assert order == list(range(len(order)))


def test_e29_whichever_limit_is_reached_first_counts(root):
    """Upstream, the number of batches is not looked at where there is a time (SEEDS E29)."""
    loader = limited(root, validation_time_limit=1e-6, limit_val_batches=3)
    assert len(list(loader)) == 1
    assert len(limited(root, validation_time_limit=60, limit_val_batches=3)) >= 3  # the Trainer takes three


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_e28_no_time_is_refused(root, seconds):
    with pytest.raises(ConfigError, match=r"data\.validation_time_limit: .* is no time"):
        CaseDataModule(root, DIGITS, "cls", validation_time_limit=seconds)
