"""Transforms and augmentations of one's own, repeated draws, and what is kept of the cases in memory."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

import asparagus
from asparagus.data.chain import Chain, seeded
from asparagus.data.datasets import MAPPED_FROM, CaseDataset, foreground, load_case
from asparagus.data.kept import Kept
from asparagus.data.modules import CaseDataModule
from asparagus.data.sampler import EpochSampler
from asparagus.data.split import make_split
from asparagus.data.synthetic import make_synthetic
from asparagus.errors import ConfigError

SEG = "Task997_LauritSynSeg"
PATCH = [8, 8, 8]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_synthetic(SEG, folder, cases=10, size=16)
    make_split(folder, SEG, "split_80_20")
    return folder


@pytest.fixture
def case(tmp_path):
    """Return the file of a case in which each voxel's label is its value."""
    values = torch.arange(6.0**3).reshape(6, 6, 6)
    torch.save(torch.stack([values, values]), tmp_path / "a.pt")
    return tmp_path / "a.pt"


def drawing(x):
    """Add noise from each of the three generators that a function of one's own may use."""
    return x + torch.rand(()) + np.random.rand() + random.random()  # noqa: NPY002


def augmentations():
    from monai.transforms import Compose, RandAffined, RandFlipd, RandGaussianNoise

    affine = {"rotate_range": 0.5, "mode": ["bilinear", "nearest"], "prob": 1.0}
    return [
        Compose([RandFlipd(["image", "label"], prob=0.5, spatial_axis=0)]),
        RandAffined(["image", "label"], **affine),
        RandGaussianNoise(prob=1.0),
        drawing,
    ]


def fed(root, *, world_size=1, num_workers=0, epoch=1, **options):
    """Return all that the workers are fed in an epoch: the sum of each image and of its label, in order of draws."""
    shares = []
    for rank in range(world_size):
        shared = {"batch_size": 1, "patch_size": PATCH, "num_workers": num_workers, "seed": 3}
        data = CaseDataModule(str(root), SEG, "seg", rank=rank, world_size=world_size, **shared, **options)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        shares.append([(float(batch["image"].sum()), int(batch["label"].sum())) for batch in loader])
    return [item for items in zip(*shares, strict=True) for item in items]


def test_augmentations_follow_from_seed_epoch_and_case_alone(root):
    alone = fed(root, augmentations=augmentations())
    random.seed(9)
    assert fed(root, augmentations=augmentations()) == alone
    assert fed(root, augmentations=augmentations(), world_size=2) == alone
    assert fed(root, augmentations=augmentations(), num_workers=2) == alone
    assert fed(root, augmentations=augmentations(), epoch=2) != alone


def test_what_is_drawn_for_an_item_leaves_the_trainings_own_generators_as_they_were(case):
    data = CaseDataset([case], "seg", train=True, augmentations=augmentations())
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    data[0, 0]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])  # noqa: NPY002


def test_the_generators_are_put_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(3):
        torch.rand(1 // 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_image_and_label_stay_together_and_are_plain_tensors(case):
    from monai.transforms import RandRotate90d

    data = CaseDataset([case], "seg", train=True, augmentations=[RandRotate90d(["image", "label"], prob=1.0)])
    items = [data[epoch, 0] for epoch in range(4)]
    assert all(torch.equal(item["image"][0].long(), item["label"]) for item in items)
    assert len({int(item["label"][0, 0, 0]) for item in items}) > 1
    assert {type(item["image"]) for item in items} == {torch.Tensor}
    assert (items[0]["image"].dtype, items[0]["label"].dtype) == (torch.float32, torch.int64)


def test_augmentations_are_for_training_and_transforms_for_all(case):
    options = {"transforms": {"twice": lambda x: 2 * x}, "augmentations": [lambda x: x + 1]}
    stored = torch.load(case)[:1]
    assert torch.equal(CaseDataset([case], "seg", train=True, **options)[0, 0]["image"], 2 * stored + 1)
    assert torch.equal(CaseDataset([case], "seg", **options)[0, 0]["image"], 2 * stored)


def test_a_function_that_writes_into_its_item_does_not_change_the_case(case):
    data = CaseDataset([case], "seg", train=True, augmentations=[lambda x: x.zero_()])
    stored = torch.load(case)[:1]
    for epoch in range(2):
        assert not data[epoch, 0]["image"].any()
    assert torch.equal(data._case(0).image, stored)
    assert torch.equal(load_case(case, "seg").image, stored)


def test_transforms_are_done_once_and_foreground_is_found_where_they_moved_it(tmp_path):
    from monai.transforms import Flipd

    volume = torch.zeros(2, 40, 40, 40)
    volume[1, 3, 3, 3] = 1
    torch.save(volume, tmp_path / "a.pt")
    (tmp_path / "a.json").write_text('{"foreground_locations": {"1": [[3, 3, 3]]}}')
    done = []
    steps = [Flipd(["image", "label"], spatial_axis=[0, 1, 2]), lambda x: done.append(1) or x]
    data = CaseDataset([tmp_path / "a.pt"], "seg", train=True, patch_size=[6, 6, 6], transforms=steps)
    found = sum(int(data[epoch, 0]["label"].sum()) for epoch in range(120))
    assert len(done) == 1
    assert found > 25
    assert [voxels.tolist() for voxels in data._case(0).locations] == [[[36, 36, 36]]]


def test_foreground_is_spread_evenly_over_a_class():
    label = torch.zeros(1, 10, 10, 10)
    label[0, :5], label[0, 9, 9, 9] = 1, 2
    first, second = foreground(label)
    assert len(first) == 167
    assert (first[:, 0].min(), first[:, 0].max()) == (0, 4)
    assert second.tolist() == [[9, 9, 9]]


def test_mirror_and_jitter_give_way_to_augmentations_unless_asked_for(root):
    plain = fed(root, augment=False)
    assert fed(root) != plain
    assert fed(root, augmentations=[lambda x: x]) == plain
    assert fed(root, augmentations=[lambda x: x], augment=True) == fed(root)


def test_a_case_that_comes_again_in_an_epoch_gives_another_patch(root):
    data = CaseDataModule(str(root), SEG, "seg", batch_size=1, patch_size=PATCH, samples_per_epoch=40, augment=False)
    data.setup("fit")
    assert len({float(batch["image"].sum()) for batch in data.train_dataloader()}) == 40
    alone = fed(root, samples_per_epoch=40)
    assert fed(root, samples_per_epoch=40, world_size=2) == alone


def test_draws_of_a_case_are_counted_over_all_ranks():
    shares = [
        list(EpochSampler(3, seed=1, shuffle=True, rank=rank, world_size=2, samples_per_epoch=30)) for rank in (0, 1)
    ]
    drawn = shares[0] + shares[1]
    assert len(set(drawn)) == 30
    for index in range(3):
        mine = sorted(again[0] if again else 0 for _, at, *again in drawn if at == index)
        assert mine == list(range(len(mine)))


def test_two_workers_never_see_the_same_validation_case_twice(root):
    seen = []
    for rank in range(2):
        data = CaseDataModule(str(root), SEG, "seg", batch_size=1, rank=rank, world_size=2)
        data.setup("fit")
        seen += [[float(batch["image"].double().sum()) for batch in data.val_dataloader()] for _ in range(2)]
    assert seen[0] == seen[1]
    whole = [float(torch.load(file)[0].double().sum()) for file in data.val_set.files]
    assert sorted(seen[0] + seen[2]) == pytest.approx(sorted(whole))


# ---- what is wrong is named ----


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"augmentations": ["flip"]}, r"data.augmentations\[0\]: 'flip' is no transform"),
        ({"augmentations": {"a": 3}}, r"data.augmentations.a: 3 is no transform"),
        ({"transforms": ["RandFlipd"]}, r"data.transforms\[0\]: RandFlipd is random.*data.augmentations"),
        ({"augmentations": ["Flipd"]}, r"data.augmentations\[0\].keys: 'imgae'.*Did you mean 'image'"),
        ({"cache_gb": -1}, r"data.cache_gb: -1"),
    ],
)
def test_transforms_that_do_not_fit_are_named(root, options, match):
    from monai.transforms import Flipd, RandFlipd

    made = {"RandFlipd": RandFlipd(["image"], prob=0.5), "Flipd": Flipd(["imgae"], 0)}
    if isinstance(next(iter(options.values())), list):
        options = {key: [made.get(one, one) for one in value] for key, value in options.items()}
    with pytest.raises(ConfigError, match=match):
        CaseDataModule(str(root), SEG, "seg", **options).setup("fit")


def test_pretraining_items_have_no_label(root):
    from monai.transforms import Flipd

    with pytest.raises(ConfigError, match=r"data.augmentations\[0\].keys: 'label'"):
        Chain([Flipd(["image", "label"], 0)], "data.augmentations", names=["image"], is_random=True)
    Chain(
        [Flipd(["image", "label"], 0, allow_missing_keys=True)], "data.augmentations", names=["image"], is_random=True
    )


# ---- memory ----


class Held:
    def __init__(self, held):
        self.held = held


def test_cases_are_kept_while_they_fit_and_none_is_dropped():
    kept = Kept(10)
    for index, size in enumerate((4, 4, 4, 2, 0)):
        kept.offer(index, Held(size))
    assert [index for index in range(5) if kept.get(index)] == [0, 1, 3, 4]
    assert (len(kept), kept.held) == (4, 10)


def test_large_files_are_mapped_and_hold_no_memory(tmp_path):
    for name, size in (("large", 32), ("small", 8)):
        torch.save(torch.rand(2, size, size, size), tmp_path / f"{name}.pt")
    assert (tmp_path / "large.pt").stat().st_size > MAPPED_FROM > (tmp_path / "small.pt").stat().st_size
    assert load_case(tmp_path / "large.pt", "seg").held == 0
    assert load_case(tmp_path / "small.pt", "seg").held == 2 * 8**3 * 4
    torch.save(torch.rand(2, 32, 32, 32).half(), tmp_path / "half.pt")
    assert load_case(tmp_path / "half.pt", "seg").held == 32**3 * 4


def test_a_file_of_torchs_old_form_is_read(tmp_path):
    volume = torch.rand(2, 32, 32, 32)
    torch.save(volume, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(load_case(tmp_path / "old.pt", "seg").image, volume[:1])


def resident():
    """Return the bytes of this process that are no file's."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def test_memory_does_not_grow_with_epochs_nor_with_the_data(tmp_path):
    """CellMap-Segmentation-Challenge #183: an epoch that fills 79 GB."""
    for number in range(40):
        torch.save(torch.rand(2, 64, 64, 64), tmp_path / f"{number}.pt")  # 2 MB each
    files = sorted(tmp_path.glob("*.pt"))
    plain = CaseDataset(files, "seg", train=True, patch_size=[32, 32, 32])
    changed = CaseDataset(files, "seg", train=True, patch_size=[32, 32, 32], transforms=[torch.neg], cache_gb=0.01)
    grown = []
    for epoch in range(4):
        for index in range(40):
            plain[epoch, index], changed[epoch, index]
        grown.append(resident())
    assert grown[-1] - grown[0] < 8e6  # of 80 MB, twice
    assert (len(plain._kept), plain._kept.held) == (40, 0)
    assert (len(changed._kept), changed._kept.held) == (4, 4 * 2 * 64**3 * 4)


# ---- as it is written in an experiment ----


def test_a_training_of_digits_is_augmented_by_monai(home):
    turn = "{_target_: monai.transforms.RandRotated, keys: image, range_x: 0.3, prob: 1.0}"
    noise = "{_target_: monai.transforms.RandGaussianNoise, prob: 1.0, std: 0.05}"
    words = ["trainer.max_epochs=1", "resources.workers=0", "data.num_workers=0"]
    scaled = "data.transforms=[{_target_: monai.transforms.ScaleIntensity, minv: -1.0, maxv: 1.0}]"
    outcomes = [
        asparagus.launch(
            "experiment/digits", [*words, f"+data.augmentations={{turn: {turn}, noise: {noise}}}", f"+{scaled}"]
        ),
        asparagus.launch("experiment/digits", [*words, f"+{scaled}"]),
    ]
    losses = [outcome.metrics["train/loss"] for outcome in outcomes]
    assert losses[0] != losses[1]
