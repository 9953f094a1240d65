"""Tests of asparagus.data.pictures: images in one folder per class, and what is done to them (SEEDS D20, D32)."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from asparagus.data.loaders import LoaderDataModule
from asparagus.data.pictures import (
    IMAGENET,
    CenterCrop,
    PictureFolder,
    TrainTransform,
    erased,
    image_folder,
    random_box,
    shorter_side,
    whole,
)
from asparagus.errors import ConfigError, DataError

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Norms that change nothing."""
AS_IT_IS = {"gamma_range": (1.0, 1.0), "p_hflip": 0.0, "norms": PLAIN}


def ramp(width=40, height=20):
    """Return an image that gets brighter from left to right."""
    row = np.linspace(0, 255, width).astype(np.uint8)
    return Image.fromarray(np.repeat(np.tile(row, (height, 1))[..., None], 3, axis=2))


@pytest.fixture
def images(tmp_path):
    """Return two subsets of two classes with 2 and 1 images each, and a hidden folder."""
    for subset, count in (("train", 2), ("val", 1), (".cache", 1)):
        for name in ("cat", "dog"):
            (tmp_path / subset / name).mkdir(parents=True)
            for number in range(count):
                ending = "png" if number else "jpeg"
                Image.new("RGB", (4, 4), "red").save(tmp_path / subset / name / f"{number}.{ending}")
    return tmp_path


def loaded(images, subset=None, **options):
    section = {"dataset": {"name": "image_folder", "subset": subset, **options}, "batch_size": 2}
    module = LoaderDataModule(train=section, root=images)
    module.setup("fit")
    return module.train_dataloader()


@pytest.mark.parametrize(
    ("subset", "classes"), [("train", [0, 0, 1, 1]), (["val", "train"], [0, 1, 0, 0, 1, 1]), (None, [0, 0, 1, 1, 0, 1])]
)
def test_d20_image_folder_reads_one_subset_several_or_all(images, subset, classes):
    assert [label for _, labels in loaded(images, subset) for label in labels.tolist()] == classes


def test_d20_an_image_is_rgb_and_goes_through_the_transform(images):
    assert image_folder(images, "val", lambda image: (image.size, image.mode))[0] == (((4, 4), "RGB"), 0)
    Image.new("LA", (4, 4), (128, 255)).save(images / "val" / "cat" / "1.png")
    pixels, label = image_folder(images, "val")[1]
    assert (pixels.shape, label) == ((3, 4, 4), 0)
    assert torch.allclose(pixels, torch.tensor(128 / 255))


def test_d20_images_lie_at_any_depth_and_hidden_and_other_files_are_left(images):
    deep = images / "train" / "cat" / "2026" / "may"
    deep.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(deep / "x.JPG")
    (deep / "notes.txt").write_text("none")
    (deep / "._x.png").write_bytes(b"")
    assert [file.name for file, number in PictureFolder(images / "train").samples if not number] == [
        "0.jpeg",
        "1.png",
        "x.JPG",
    ]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "val" / "emu").mkdir(), r"emu: there is no image in it\. Known endings: .bmp"),
        (lambda root: (root / "val" / "cat" / "0.jpeg").write_bytes(b"no"), "0.jpeg: not readable as an image"),
        (lambda root: Image.new("I;16", (4, 4)).save(root / "val" / "cat" / "0.png"), r"more than 8 bits .*I;16"),
        (lambda root: (root / "val").rename(root / "other"), "val: there is no such folder"),
    ],
)
def test_d20_what_is_no_image_and_what_is_not_there_is_named(images, spoil, said):
    spoil(images)
    with pytest.raises(DataError, match=said):
        list(loaded(images, "val"))


def test_d20_no_subset_and_no_root_are_errors(tmp_path):
    with pytest.raises(DataError, match="there is no subset"):
        image_folder(tmp_path)
    with pytest.raises(DataError, match=r"data\.root is where"):
        image_folder(tmp_path / "gone")


def test_d32_the_defaults_are_those_of_the_source():
    train, val = TrainTransform(), CenterCrop()
    assert (train.crop_dim, train.scale, train.gamma_range, train.p_hflip) == (224, (0.2, 1.0), (0.5, 1.5), 0.5)
    assert (train.random_resized_crop, train.resize, train.p_erase, train.norms) == (True, 256, 0.0, IMAGENET)
    assert (val.resize, val.crop_dim, val.interpolation, val.norms) == (256, 224, "bilinear", IMAGENET)
    assert train(ramp()).shape == val(ramp()).shape == (3, 224, 224)


def test_d32_the_center_crop_by_value():
    image = Image.new("RGB", (40, 20), (255, 0, 51))
    seen = CenterCrop(resize=20, crop_dim=10)(image)
    for channel, value in enumerate((1.0, 0.0, 0.2)):
        wanted = (value - IMAGENET[0][channel]) / IMAGENET[1][channel]
        assert torch.allclose(seen[channel], torch.tensor(wanted), atol=1e-6)
    columns = CenterCrop(resize=20, crop_dim=10, norms=PLAIN)(ramp())[0, 0] * 255
    assert columns.tolist() == pytest.approx([int(255 * x / 39) for x in range(15, 25)], abs=1)


def test_d32_a_crop_that_is_larger_than_the_image_has_black_around():
    seen = CenterCrop(resize=10, crop_dim=14, norms=PLAIN)(Image.new("RGB", (10, 10), "white"))[0]
    assert float(seen.sum()) == 100
    assert float(seen[2:12, 2:12].min()) == 1


def test_d32_the_shorter_side_is_resized_and_the_shape_kept():
    assert shorter_side(ramp(40, 20), 10).size == (20, 10)
    assert shorter_side(ramp(20, 41), 10).size == (10, 20)


def test_d32_boxes_have_the_shares_and_ratios_that_were_asked_for():
    torch.manual_seed(0)
    boxes = [random_box(60, 100, (0.2, 0.5), (3 / 4, 4 / 3)) for _ in range(300)]
    assert all(boxes)
    shares = [high * wide / 6000 for _, _, high, wide in boxes]
    ratios = [wide / high for _, _, high, wide in boxes]
    assert (min(shares), max(shares)) == pytest.approx((0.2, 0.5), abs=0.03)
    assert (min(ratios), max(ratios)) == pytest.approx((3 / 4, 4 / 3), abs=0.05)
    assert all(0 <= top <= 60 - high and 0 <= left <= 100 - wide for top, left, high, wide in boxes)
    assert {top for top, *_ in boxes} >= {0, 1, 2}


def test_d32_where_no_box_fits_the_middle_is_taken():
    assert random_box(2, 200, (1.0, 1.0), (3 / 4, 4 / 3)) is None
    assert whole(Image.new("RGB", (200, 30))) == (0, 80, 30, 40)
    assert whole(Image.new("RGB", (30, 200))) == (80, 0, 40, 30)
    assert TrainTransform(scale=(1.0, 1.0), crop_dim=8)(Image.new("RGB", (200, 2))).shape == (3, 8, 8)


def test_d32_a_random_part_of_a_ramp_is_a_ramp():
    torch.manual_seed(1)
    parts = [TrainTransform(crop_dim=8, scale=(0.2, 0.3), **AS_IT_IS)(ramp())[0, 4] for _ in range(5)]
    assert all((part.diff() > 0).all() for part in parts)
    assert len({float(part[0]) for part in parts}) > 2


def test_d32_mirrors_gamma_and_norms_by_value():
    image = Image.new("RGB", (8, 8), (51, 51, 51))
    options = {"random_resized_crop": False, "resize": 8, "crop_dim": 8}
    bright = TrainTransform(**options, **{**AS_IT_IS, "gamma_range": (0.5, 0.5)})(image)
    assert torch.allclose(bright, torch.tensor(math.sqrt(0.2)))
    assert torch.allclose(
        TrainTransform(**options, **{**AS_IT_IS, "norms": ((0.1,) * 3, (0.5,) * 3)})(image), torch.tensor(0.2)
    )
    straight = {"random_resized_crop": False, "resize": 8, "crop_dim": 8}
    mirrored = TrainTransform(**straight, **{**AS_IT_IS, "p_hflip": 1.0})(ramp(8, 8))
    assert torch.equal(mirrored.flip(-1), TrainTransform(**straight, **AS_IT_IS)(ramp(8, 8)))


def test_d32_what_is_random_follows_torchs_stream():
    transform = pickle.loads(pickle.dumps(TrainTransform(crop_dim=8, p_erase=0.5)))
    torch.manual_seed(3)
    first = [transform(ramp()) for _ in range(4)]
    torch.manual_seed(3)
    again = [transform(ramp()) for _ in range(4)]
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], first[1])


def test_d32_an_erased_box_is_noise():
    torch.manual_seed(0)
    changed = erased(torch.zeros(3, 40, 40)) != 0
    share = float(changed.float().mean())
    assert 0.02 <= share <= 0.34
    rows = changed[0].any(1).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == len(rows), "one box"
    assert TrainTransform(crop_dim=8, p_erase=1.0, **AS_IT_IS)(Image.new("RGB", (9, 9))).abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"crop_dim": 0}, "crop_dim: 0 is no number of pixels"),
        ({"resize": 2.5}, "resize: 2.5"),
        ({"interpolation": "bilinaer"}, "Did you mean 'bilinear'"),
        ({"scale": (0.5, 1.5)}, "scale: .*at most 1"),
        ({"gamma_range": (0.0, 1.0)}, "gamma_range"),
        ({"p_hflip": 2}, "p_hflip: 2 is not within 0 to 1"),
    ],
)
def test_d32_wrong_numbers_are_refused_when_the_transform_is_built(options, said):
    with pytest.raises(ConfigError, match=said):
        TrainTransform(**options)
