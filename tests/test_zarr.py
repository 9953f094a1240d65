"""Crops of OME-NGFF volumes: where voxels are, what is NaN, how crops are turned, drawn, shared out and streamed."""

from __future__ import annotations

import itertools
import logging
import shutil

import numpy as np
import pytest
import torch
import zarr

from asparagus.data.zarr.crops import Crop, CropBlocks, RandomCrops, Windows
from asparagus.data.zarr.cut import image_of, label_of
from asparagus.data.zarr.datasplit import read_datasplit
from asparagus.data.zarr.module import CropDataModule
from asparagus.data.zarr.settings import TRANSFORMS, Window, check_transforms, window_of
from asparagus.data.zarr.turns import draw_directions
from asparagus.data.zarr.volumes import Budget, Source, TooCoarseError, read_level
from asparagus.errors import ConfigError, DataError
from tests.helpers import quiet_trainer
from tests.volumes import AXES, pyramid, write_data, write_n5, write_volume

EIGHT = (8.0, 8.0, 8.0)
STRAIGHT = np.eye(3)
RNG = np.random.default_rng(5)


def level_of(place, scale=EIGHT):
    return read_level(str(place), np.asarray(scale, dtype=float))


def whole(level):
    return Source(level, np.zeros(3, dtype=int), np.asarray(level.grid.shape), Budget(1e9))


def centre_of(level, first, shape, scale=None):
    """The middle, in nm, of a window that begins with voxel `first` of a level."""
    scale = np.asarray(scale or level.grid.scale)
    return np.asarray(level.grid.origin) + np.asarray(level.grid.scale) * first + scale * (np.asarray(shape) - 1) / 2


@pytest.fixture(scope="module")
def noise():
    return RNG.integers(0, 256, (24, 20, 16), dtype=np.uint8)


@pytest.fixture
def volume(tmp_path, noise):
    write_volume(tmp_path / "v.zarr" / "em", [(noise, EIGHT, (0, 0, 0))])
    return level_of(tmp_path / "v.zarr" / "em")


# Levels


def test_e9_the_coarsest_level_that_is_fine_enough_is_read(tmp_path, noise):
    write_volume(tmp_path / "em", pyramid(noise, 4.0, depth=3))
    for asked, path, origin in ((4, "s0", 0.0), (7.9, "s0", 0.0), (8, "s1", 2.0), (12, "s1", 2.0), (16, "s2", 6.0)):
        level = level_of(tmp_path / "em", (asked,) * 3)
        assert (level.path, level.grid.origin) == (path, (origin,) * 3)
    assert level_of(tmp_path / "em", (16, 8, 16)).path == "s1", "no axis may be coarser than asked for"


def test_e9_finer_than_there_is_is_refused_with_what_there_is(tmp_path, noise):
    write_volume(tmp_path / "em", pyramid(noise, 4.0))
    with pytest.raises(TooCoarseError, match="its finest voxels are 4 x 4 x 4 nm, and 2 x 4 x 4 nm are asked for"):
        level_of(tmp_path / "em", (2, 4, 4))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_both_formats_of_zarr_are_read(version, tmp_path, noise):
    write_volume(tmp_path / "em", [(noise, (4, 8, 8), (1, 2, 3))], version=version)
    grid = level_of(tmp_path / "em").grid
    assert (grid.origin, grid.scale, grid.shape) == ((1, 2, 3), (4, 8, 8), (24, 20, 16))


def test_units_and_the_transformation_of_all_levels_count(tmp_path, noise):
    axes = [{**axis, "unit": "micrometer"} for axis in AXES]
    shared = [{"type": "scale", "scale": [2, 2, 2]}, {"type": "translation", "translation": [1, 0, 0]}]
    levels = [(noise, (0.004,) * 3, (0.5, 0, 0))]
    write_volume(tmp_path / "em", levels, axes=axes, coordinateTransformations=shared)
    grid = level_of(tmp_path / "em").grid
    assert grid.scale == pytest.approx(EIGHT)
    assert grid.origin == pytest.approx((2000, 0, 0))


def test_axes_in_another_order_and_a_channel_of_one(tmp_path, noise):
    names = "cxyz"
    axes = [{"name": name, "type": "channel" if name == "c" else "space"} for name in names]
    write_volume(tmp_path / "em", [(noise.T[None], (1, 2, 4, 8), (0, 1, 2, 3))], axes=axes)
    level = level_of(tmp_path / "em")
    assert (level.grid.shape, level.grid.scale, level.grid.origin) == (noise.shape, (8, 4, 2), (3, 2, 1))
    found = whole(level).read(np.array([1, 2, 3]), np.array([5, 9, 11]))
    assert (found == noise[1:5, 2:9, 3:11]).all()


# A window


def test_e26_raw_values_are_shares_of_the_largest_and_0_outside(volume, noise):
    window = Window((4, 5, 6), EIGHT)
    found = image_of(whole(volume), window, centre_of(volume, (2, 3, 4), window.shape), STRAIGHT)
    assert torch.equal(found, torch.from_numpy(noise[2:6, 3:8, 4:10].astype(np.float32)) / 255)
    outside = image_of(whole(volume), window, centre_of(volume, (22, 0, 0), window.shape), STRAIGHT)
    assert torch.equal(outside[2:], torch.zeros(2, 5, 6))
    assert outside[:2].max() > 0
    far = image_of(whole(volume), window, np.full(3, 1e6), STRAIGHT)
    assert torch.equal(far, torch.zeros(4, 5, 6))


def test_e26_sixteen_bits_too_and_numbers_that_are_none_are_0(tmp_path):
    write_volume(tmp_path / "a", [(np.full((4, 4, 4), 65535, np.uint16), EIGHT, (0, 0, 0))])
    values = np.full((4, 4, 4), 0.5, np.float32)
    values[0] = np.nan
    write_volume(tmp_path / "b", [(values, EIGHT, (0, 0, 0))])
    window = Window((4, 4, 4), EIGHT)
    for name, expected in (("a", [1, 1, 1, 1]), ("b", [0, 0.5, 0.5, 0.5])):
        level = level_of(tmp_path / name)
        found = image_of(whole(level), window, centre_of(level, (0, 0, 0), window.shape), STRAIGHT)
        assert found[:, 0, 0].tolist() == expected


def test_e26_labels_are_0_1_and_nan_where_nobody_annotated(tmp_path):
    values = RNG.integers(0, 3, (6, 6, 6), dtype=np.uint8)
    values[0, 0, 0] = 255
    write_volume(tmp_path / "nuc", [(values, EIGHT, (0, 0, 0))])
    array = zarr.open_group(str(tmp_path / "nuc"), mode="r+")["s0"]
    encoding = {"absent": 0, "present": 1, "unknown": 255}
    array.attrs["cellmap"] = {"annotation": {"annotation_type": {"encoding": encoding}}}
    level, window = level_of(tmp_path / "nuc"), Window((8, 8, 8), EIGHT)
    found = label_of(whole(level), window, centre_of(level, (-1, -1, -1), window.shape), STRAIGHT)
    assert torch.equal(found.isnan(), torch.nn.functional.pad(torch.from_numpy(values == 255), [1] * 6, value=True))
    assert torch.equal(
        found[1:-1, 1:-1, 1:-1].nan_to_num(7),
        torch.from_numpy(values > 0).float().where(torch.from_numpy(values != 255), torch.tensor(7.0)),
    )


def test_e26_labels_of_decimals_are_nan_where_they_say_so(tmp_path):
    values = np.array([[[0, 1, np.nan, 3]]], np.float32)
    write_volume(tmp_path / "nuc", [(values, EIGHT, (0, 0, 0))])
    level, window = level_of(tmp_path / "nuc"), Window((1, 1, 4), EIGHT)
    for tilt in (STRAIGHT, draw_directions({"rotate": {"axes": {"z": [0.01, 0.01]}}}, RNG)):
        found = label_of(whole(level), window, centre_of(level, (0, 0, 0), window.shape), tilt)
        assert np.array_equal(found[0, 0], [0, 1, np.nan, 1], equal_nan=True)


def test_e9_a_coarser_scale_averages_the_finer_voxels(volume, noise):
    """Half the resolution of a pyramid that does not have it is what the pyramid would have."""
    window = Window((4, 4, 4), (16.0,) * 3)
    centre = np.full(3, 4 * 8.0 - 4)  # of the first 8 voxels along each axis
    found = image_of(whole(volume), window, centre, STRAIGHT)
    mean = noise[:8, :8, :8].reshape(4, 2, 4, 2, 4, 2).mean((1, 3, 5)) / 255
    assert np.allclose(found, mean, atol=1e-4)


def test_e9_voxels_between_voxels_are_interpolated(tmp_path):
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[:, None, None] * 8, (32, 8, 8))
    write_volume(tmp_path / "em", [(ramp, EIGHT, (0, 0, 0))])
    level, window = level_of(tmp_path / "em"), Window((8, 2, 2), EIGHT)
    found = image_of(whole(level), window, centre_of(level, (4.25, 2, 2), window.shape), STRAIGHT)
    assert np.allclose(found[:, 0, 0] * 255, (np.arange(8) + 4.25) * 8, atol=0.05)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_e20_mirrored_and_transposed_windows_are_the_voxels_themselves(axes, signs, volume, noise):
    directions = np.eye(3)[list(axes)] * np.asarray(signs)
    window = Window((6, 6, 6), EIGHT)
    found = image_of(whole(volume), window, centre_of(volume, (3, 4, 5), window.shape), directions)
    box = noise[3:9, 4:10, 5:11]
    expected = np.flip(np.transpose(box, np.argsort(axes)), [axis for axis in range(3) if signs[axis] < 0])
    assert np.array_equal((found * 255).round().numpy(), expected)


def test_e20_a_turn_of_90_degrees_is_that_of_numpy_however_it_is_carried_out(volume, noise):
    window = Window((6, 6, 6), EIGHT)
    centre = centre_of(volume, (3, 4, 5), window.shape)
    transforms = {"rotate": {"axes": {"z": [90, 90]}}}
    directions = draw_directions(transforms, np.random.default_rng(0))
    sliced = image_of(whole(volume), window, centre, directions)
    tilted = draw_directions({"rotate": {"axes": {"z": [89.9, 89.9]}}}, np.random.default_rng(0))
    resampled = image_of(whole(volume), window, centre, tilted)
    box = noise[3:9, 4:10, 5:11] / 255
    turned = [np.rot90(box, k, axes=(1, 2)) for k in (1, 3)]
    which = int(np.abs(sliced.numpy() - turned[1]).max() < 1e-6)
    assert np.allclose(sliced, turned[which])
    assert np.allclose(resampled, turned[which], atol=0.02)


def test_e20_an_oblique_window_has_the_raw_and_the_label_of_the_same_places(tmp_path):
    """A label that is where the image is bright stays so, whichever way both are turned."""
    bright = np.zeros((32, 32, 32), np.uint8)
    bright[8:24, 10:20, 4:28] = 1
    write_volume(tmp_path / "em", [(bright * 255, EIGHT, (0, 0, 0))])
    write_volume(tmp_path / "nuc", [(bright[6:26, 6:26, 6:26], EIGHT, (48, 48, 48))])
    image, label = level_of(tmp_path / "em"), level_of(tmp_path / "nuc")
    window, centre = Window((16, 16, 16), EIGHT), np.full(3, 15 * 8.0)
    for seed in range(8):
        transforms = {**TRANSFORMS, "rotate": {"axes": {axis: [-180, 180] for axis in "zyx"}}}
        directions = draw_directions(transforms, np.random.default_rng(seed))
        assert np.allclose(directions @ directions.T, np.eye(3)), "lengths stay what they are"
        raw = image_of(whole(image), window, centre, directions)
        there = label_of(whole(label), window, centre, directions)
        known = ~there.isnan() & ((raw < 0.2) | (raw > 0.8))
        assert known.sum() > 500
        assert ((raw > 0.5).float() == there)[known].float().mean() > 0.995


# How crops are turned


def test_e20_axes_are_mirrored_with_their_probability():
    transforms = check_transforms({"mirror": {"axes": {"x": 0.5, "y": 0.1}}})
    rng = np.random.default_rng(0)
    drawn = np.array([np.diag(draw_directions(transforms, rng)) for _ in range(2000)])
    assert (drawn[:, 0] == 1).all()
    assert (drawn[:, 2] < 0).mean() == pytest.approx(0.5, abs=0.04)
    assert (drawn[:, 1] < 0).mean() == pytest.approx(0.1, abs=0.03)


def test_e20_only_the_axes_named_are_transposed():
    rng = np.random.default_rng(0)
    drawn = {tuple(draw_directions({"transpose": {"axes": ["x", "y"]}}, rng).argmax(1).tolist()) for _ in range(40)}
    assert drawn == {(0, 1, 2), (0, 2, 1)}


def test_e20_angles_are_in_their_range():
    rng = np.random.default_rng(0)
    turned = [draw_directions({"rotate": {"axes": {"z": [10, 30]}}}, rng) for _ in range(200)]
    angles = np.degrees([np.arccos(matrix[1, 1]) for matrix in turned])
    assert 10 <= angles.min() < 12
    assert 28 < angles.max() <= 30
    assert all((matrix[0] == [1, 0, 0]).all() for matrix in turned)


def test_e20_the_default_is_the_documented_one():
    assert TRANSFORMS == {
        "mirror": {"axes": {"x": 0.5, "y": 0.5}},
        "transpose": {"axes": ["x", "y"]},
        "rotate": {"axes": {"x": [-180, 180], "y": [-180, 180]}},
    }
    assert check_transforms(TRANSFORMS) == TRANSFORMS
    assert check_transforms(None) == check_transforms({}) == {}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"mirrors": {"axes": {"x": 0.5}}}, "'mirror'"),
        ({"mirror": {"axes": {"w": 0.5}}}, "axes: 'w'"),
        ({"mirror": {"axes": {"x": 1.5}}}, "axes.x: 1.5 is no probability"),
        ({"mirror": {"axes": ["x"]}}, "has to be like"),
        ({"mirror": 0.5}, "has to be like"),
        ({"transpose": {"axes": ["x", "t"]}}, "axes: 't'"),
        ({"transpose": {"axes": "xy"}}, "has to be like"),
        ({"transpose": {"axes": ["x", "x"]}}, "twice"),
        ({"rotate": {"axes": {"x": 90}}}, "axes.x: 90 is no range of degrees"),
        ({"rotate": {"axes": {"x": [90, -90]}}}, "is no range of degrees"),
        ("mirror", "is no section"),
    ],
)
def test_e20_what_cannot_be_carried_out_is_named(given, named):
    with pytest.raises(ConfigError, match=r"data.spatial_transforms") as caught:
        check_transforms(given)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "info",
    [
        {"shape": (128, 128), "scale": EIGHT},
        {"shape": (1, 128, 128), "scale": (8, 8)},
        {"shape": (0, 128, 128)},
        {"shape": (1.5, 128, 128)},
        {"scale": (8, 8, -8)},
        {"shapes": (1, 128, 128)},
        {"shape": "abc"},
        128,
    ],
)
def test_e9_a_shape_or_scale_that_cannot_be_meant_is_named(info):
    with pytest.raises(ConfigError, match=r"data.input_array_info"):
        window_of(info, "data.input_array_info")


def test_e9_the_defaults_and_what_makes_a_window_two_dimensional():
    window = window_of(None, "data.input_array_info")
    assert (window.shape, window.scale, window.dimensions, window.voxels) == ((1, 128, 128), EIGHT, 2, (128, 128))
    assert window_of({"shape": [4, 8, 8]}, "k").voxels == (4, 8, 8)
    assert window_of({"scale": [4, 4, 4]}, "k", window).shape == window.shape


# Crops


def windows(shape, scale=EIGHT, target=None, classes=("nuc",)):
    image = Window(shape, scale)
    return Windows(image, target or image, classes)


@pytest.fixture
def crop_of(tmp_path, noise):
    """A crop of 10 x 9 x 8 voxels of 8 nm, that begins at voxel (4, 5, 6) of its image; labels number the voxels."""
    numbers = np.arange(10 * 9 * 8).reshape(10, 9, 8) % 2
    write_volume(tmp_path / "em", [(noise, EIGHT, (0, 0, 0))])
    write_volume(tmp_path / "c1" / "nuc", [(numbers.astype(np.uint8), EIGHT, (32, 40, 48))])

    def made(asked, labels=("nuc",)):
        levels = {name: level_of(tmp_path / "c1" / name, asked.target.scale) for name in labels}
        return Crop(level_of(tmp_path / "em", asked.image.scale), levels, asked, Budget(1e9))

    return made


def test_e12_every_place_of_a_crop_can_be_drawn_and_is_annotated(crop_of):
    crop = crop_of(windows((4, 4, 4)))
    assert crop.positions == 7 * 6 * 5
    rng = np.random.default_rng(0)
    drawn = {tuple(crop.random_place(rng).tolist()) for _ in range(4000)}
    assert drawn == set(itertools.product(range(4, 11), range(5, 11), range(6, 11)))
    assert not any(crop.cut(np.asarray(place))["label"].isnan().any() for place in drawn)


def test_e10_raw_and_label_of_a_place_are_those_of_the_volumes(crop_of, noise):
    crop = crop_of(windows((4, 4, 4)))
    item = crop.cut(np.array([5, 6, 7]))
    assert item["image"].shape == item["label"].shape == (1, 4, 4, 4)
    assert torch.equal(item["image"][0], torch.from_numpy(noise[5:9, 6:10, 7:11].astype(np.float32)) / 255)
    numbers = (np.arange(720).reshape(10, 9, 8) % 2)[1:5, 1:5, 1:5]
    assert torch.equal(item["label"][0], torch.from_numpy(numbers.astype(np.float32)))


def test_e9_a_first_size_of_one_makes_tensors_of_two_dimensions(crop_of):
    item = crop_of(windows((1, 4, 6))).cut(np.array([5, 6, 7]))
    assert (item["image"].shape, item["label"].shape) == ((1, 4, 6), (1, 4, 6))


def test_e10_a_target_of_another_size_and_scale_has_the_same_middle(tmp_path):
    image = np.zeros((40, 40, 40), np.uint8)
    image[16:24, 16:24, 16:24] = 255
    write_volume(tmp_path / "em", [(image, (4,) * 3, (0,) * 3)])
    write_volume(tmp_path / "c1" / "nuc", [((image > 0).astype(np.uint8), (4,) * 3, (0,) * 3)])
    asked = windows((12, 12, 12), (4.0,) * 3, Window((4, 4, 4), (8.0,) * 3))
    crop = Crop(level_of(tmp_path / "em", (4,) * 3), {"nuc": level_of(tmp_path / "c1" / "nuc")}, asked, Budget(1e9))
    item = crop.cut(np.array([14, 14, 14]))
    assert (item["image"].shape, item["label"].shape) == ((1, 12, 12, 12), (1, 4, 4, 4))
    assert torch.equal(item["image"][0, :, 6, 6], torch.tensor([0.0] * 2 + [1.0] * 8 + [0.0] * 2))
    assert item["label"].min() == 1


def test_e14_classes_are_channels_in_their_order_and_nan_where_a_crop_has_not_got_one(crop_of):
    crop = crop_of(windows((2, 2, 2), classes=("er", "nuc", "mito")))
    label = crop.cut(np.array([4, 5, 6]))["label"]
    assert label.shape == (3, 2, 2, 2)
    assert label[0].isnan().all()
    assert label[2].isnan().all()
    assert not label[1].isnan().any()


def test_blocks_cover_each_annotated_voxel_once(crop_of):
    crop = crop_of(windows((4, 4, 4)))
    assert crop.blocks == (3, 3, 2)
    data = CropBlocks([crop, crop])
    assert len(data) == 2 * 18
    labels = torch.stack([data[index]["label"] for index in range(18)])
    assert int((~labels.isnan()).sum()) == 10 * 9 * 8
    assert int(labels.nansum()) == 10 * 9 * 8 // 2
    assert torch.equal(data[0]["image"], data[18]["image"])


def test_a_crop_that_is_smaller_than_a_window_is_in_its_middle(crop_of):
    crop = crop_of(windows((16, 4, 4)))
    label = crop.cut(crop.random_place(np.random.default_rng(0)))["label"][0]
    known = (~label[:, 0, 0].isnan()).nonzero().flatten()
    assert (known[0], known[-1]) == (3, 12)
    blocks = CropBlocks([crop])
    assert int(sum((~blocks[index]["label"].isnan()).sum() for index in range(len(blocks)))) == 720


def test_places_lie_on_the_voxels_of_the_image_so_that_it_is_not_blurred(tmp_path, noise):
    write_volume(tmp_path / "em", [(noise, EIGHT, (0, 0, 0))])
    fine = np.ones((40, 40, 40), np.uint8)
    write_volume(tmp_path / "c1" / "nuc", [(fine, (2,) * 3, (33, 33, 33))])  # half a voxel of its own off
    crop = Crop(level_of(tmp_path / "em"), {"nuc": level_of(tmp_path / "c1" / "nuc")}, windows((4, 4, 4)), Budget(1e9))
    image = crop.cut(crop.random_place(np.random.default_rng(1)))["image"] * 255
    assert torch.allclose(image, image.round(), atol=1e-3)


def test_an_annotation_that_reaches_out_of_its_image_is_cut_to_it(tmp_path, noise):
    write_volume(tmp_path / "em", [(noise, EIGHT, (0, 0, 0))])
    write_volume(tmp_path / "in" / "nuc", [(np.ones((8, 8, 8), np.uint8), EIGHT, (160, 0, 0))])  # 4 of its 8 planes
    write_volume(tmp_path / "out" / "nuc", [(np.ones((8, 8, 8), np.uint8), EIGHT, (8000, 0, 0))])
    asked = windows((4, 4, 4))
    crop = Crop(level_of(tmp_path / "em"), {"nuc": level_of(tmp_path / "in" / "nuc")}, asked, Budget(1e9))
    assert (crop.positions, crop.blocks) == (1 * 5 * 5, (1, 2, 2))
    with pytest.raises(DataError, match="lies outside of its image"):
        Crop(level_of(tmp_path / "em"), {"nuc": level_of(tmp_path / "out" / "nuc")}, asked, Budget(1e9))


def test_what_is_kept_in_memory_is_bounded_and_changes_nothing(tmp_path, crop_of, monkeypatch):
    asked = windows((4, 4, 4))
    kept, read = crop_of(asked), crop_of(asked)
    read._image._budget = read._labels["nuc"]._budget = Budget(0)
    for place in ((4, 5, 6), (9, 8, 7)):
        one, other = kept.cut(np.asarray(place)), read.cut(np.asarray(place))
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["label"], other["label"])
    assert kept._image._kept is not None
    assert read._image._kept is None
    budget = Budget(100)
    assert [budget.take(size) for size in (60, 60, 40, 1)] == [True, False, True, False]


# Draws


def test_e12_a_draw_is_a_function_of_seed_epoch_and_index(crop_of):
    crop = crop_of(windows((2, 4, 4)))

    def drawn(seed, key, transforms=TRANSFORMS):
        return RandomCrops([crop], 10, transforms, seed=seed)[key]["image"]

    assert torch.equal(drawn(1, (3, 7)), drawn(1, (3, 7)))
    for seed, key in ((2, (3, 7)), (1, (4, 7)), (1, (3, 8))):
        assert not torch.equal(drawn(seed, key), drawn(1, (3, 7)))


def test_e12_each_position_of_each_crop_is_as_likely(crop_of, tmp_path):
    small, large = crop_of(windows((10, 9, 7))), crop_of(windows((10, 9, 1)))
    data = RandomCrops([small, large], 1, {})
    assert (small.positions, large.positions) == (2, 8)
    for number, crop in enumerate((small, large)):
        crop.cut = lambda *_, number=number: number
    share = np.mean([data[0, index] for index in range(2000)])
    assert share == pytest.approx(0.8, abs=0.03)


# The data module


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("volumes")
    write_data(root, {"jrc_a": {"crop1": ["nuc", "er"], "crop2": ["nuc"]}, "jrc_b": {"crop3": ["nuc", "er"]}})
    return root


@pytest.fixture
def module(data, tmp_path):
    def made(**options):
        given = {
            "input_array_info": {"shape": [1, 16, 16], "scale": [8, 8, 8]},
            "batch_size": 4,
            "samples_per_epoch": 16,
            "root": str(data),
            "validation_prob": 0.4,
            "seed": 42,
        }
        built = CropDataModule(str(tmp_path / "datasplit.csv"), **(given | options))
        built.prepare_data()
        built.setup()
        return built

    return made


def test_e5_a_datasplit_that_is_not_there_is_written_and_one_that_is_left_alone(module, tmp_path, data):
    module()
    written = (tmp_path / "datasplit.csv").read_text()
    assert len(read_datasplit(tmp_path / "datasplit.csv")) == 3
    assert str(data) in written
    mine = "# mine\n" + written
    (tmp_path / "datasplit.csv").write_text(mine)
    module(validation_prob=1.0)
    assert (tmp_path / "datasplit.csv").read_text() == mine


def test_e6_the_chance_to_validate_counts_only_for_a_datasplit_that_is_written(module, tmp_path):
    module(validation_prob=0.0)
    rows = read_datasplit(tmp_path / "datasplit.csv")
    assert [row.usage for row in rows].count("validate") == 1, "of two crops or more, one is in each part"
    module(validation_prob=1.0)
    assert [row.usage for row in read_datasplit(tmp_path / "datasplit.csv")].count("validate") == 1


def test_e9_e10_batches_are_as_the_documents_say(module):
    batch = next(iter(module().train_dataloader()))
    assert batch["image"].shape == (4, 1, 16, 16)
    assert batch["label"].shape == (4, 2, 16, 16)
    assert batch["image"].dtype == batch["label"].dtype == torch.float32
    solid = next(iter(module(input_array_info={"shape": [8, 16, 16], "scale": [8, 8, 8]}).train_dataloader()))
    assert (solid["image"].shape, solid["label"].shape) == ((4, 1, 8, 16, 16), (4, 2, 8, 16, 16))


def test_e20_validation_is_not_turned(module):
    built = module()
    first, again = (next(iter(built.val_dataloader())) for _ in range(2))
    assert torch.equal(first["image"], again["image"])
    known = ~first["label"].isnan()
    assert ((first["image"] > 0.5).float() == first["label"][:, :1])[known[:, :1]].all()


def epoch_of(module, number):
    loader = module.train_dataloader()
    loader.sampler.set_epoch(number)
    return [batch["image"] for batch in loader]


def test_e12_an_epoch_has_its_length_and_is_drawn_anew(module):
    built = module()
    first, second = epoch_of(built, 0), epoch_of(built, 1)
    assert len(first) == len(second) == 4
    assert not any(torch.equal(a, b) for a, b in itertools.product(first, second))
    assert all(torch.equal(a, b) for a, b in zip(first, epoch_of(module(), 0), strict=True))


def test_e12_loader_processes_change_nothing(module):
    alone, two = epoch_of(module(), 0), epoch_of(module(num_workers=2), 0)
    assert all(torch.equal(a, b) for a, b in zip(alone, two, strict=True))


def test_e12_ranks_draw_different_crops_of_one_epoch(module):
    alone = torch.cat(epoch_of(module(), 0))
    ranks = [torch.cat(epoch_of(module(rank=rank, world_size=2), 0)) for rank in range(2)]
    assert [len(rank) for rank in ranks] == [8, 8]
    assert torch.equal(torch.stack(ranks, 1).flatten(0, 1), alone)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_validation_sees_each_block_on_one_rank_only(workers, module):
    seen = []
    for rank in range(workers):
        built = module(rank=rank, world_size=workers)
        seen += [index for _, index, *_ in built.val_dataloader().sampler]
    assert sorted(seen) == list(range(len(built.val_set)))


def test_e30_blocks_come_in_random_order_if_and_only_if_there_is_a_limit(module):
    def order(trainer=None, **options):
        built = module(**options)
        built.trainer = trainer
        return [index for _, index, *_ in built.val_dataloader().sampler]

    assert order() == sorted(order())
    assert order(quiet_trainer(limit_val_batches=2)) != order()
    assert sorted(order(quiet_trainer(limit_val_batches=2))) == order()
    assert order(validation_time_limit=60) != order()
    assert len(list(module(validation_time_limit=1e-9).val_dataloader())) == 1


def test_without_a_crop_to_validate_on_there_is_no_validation(module, tmp_path, caplog):
    module()
    file = tmp_path / "datasplit.csv"
    file.write_text(file.read_text().replace('"validate"', '"train"'))
    with caplog.at_level(logging.WARNING, logger="asparagus"):
        assert module().val_dataloader() == []
    assert "no row is for validation" in caplog.text


# What is wrong


def test_crops_that_are_too_coarse_are_left_out_and_said(module, tmp_path, data, caplog):
    module()
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    file = tmp_path / "datasplit.csv"
    file.write_text(file.read_text().replace(str(data), str(copy)))
    for label in ("nuc", "er"):
        place = copy / "jrc_b" / "jrc_b.zarr" / "recon-1" / "labels" / "groundtruth" / "crop3" / label
        write_volume(place, [(np.ones((16, 16, 16), np.uint8), (16,) * 3, (68,) * 3)])
    with caplog.at_level(logging.WARNING, logger="asparagus"), pytest.raises(DataError) as caught:
        module(input_array_info={"shape": [1, 16, 16], "scale": [4, 4, 4]})
    assert "no crop can serve" in str(caught.value)
    assert "datasplit.csv:" in str(caught.value)
    assert "asked for" in str(caught.value)
    with caplog.at_level(logging.WARNING, logger="asparagus"):
        module(classes=["nuc"])
    assert "its finest voxels are 16 x 16 x 16 nm, and 8 x 8 x 8 nm are asked for" in caplog.text


MISSING = {
    "no zarr": (lambda root: shutil.rmtree(root / "jrc_a"), "There is no such folder"),
    "no label": (
        lambda root: shutil.rmtree(root / "jrc_a/jrc_a.zarr/recon-1/labels/groundtruth/crop2/nuc"),
        "crop2/nuc: is no Zarr group",
    ),
    "no multiscales": (
        lambda root: zarr.open_group(str(root / "jrc_a/jrc_a.zarr/recon-1/em/fibsem-uint8"), mode="r+").attrs.clear(),
        "has no multiscales",
    ),
    "no level": (
        lambda root: shutil.rmtree(root / "jrc_a/jrc_a.zarr/recon-1/em/fibsem-uint8/s0"),
        "name the level 's0', and there is none",
    ),
    "no axes": (
        lambda root: zarr.open_group(str(root / "jrc_a/jrc_a.zarr/recon-1/em/fibsem-uint8"), mode="r+").attrs.update(
            multiscales=[{"datasets": []}]
        ),
        "its multiscales are not as OME-NGFF 0.4 and 0.5 have them",
    ),
}


@pytest.mark.parametrize(("breaks", "named"), MISSING.values(), ids=MISSING.keys())
def test_a_volume_that_cannot_be_read_is_named_with_its_row(breaks, named, module, data, tmp_path):
    module()
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    breaks(copy)
    file = tmp_path / "datasplit.csv"
    file.write_text(file.read_text().replace(str(data), str(copy)))
    with pytest.raises(DataError) as caught:
        module()
    assert named in str(caught.value)
    assert "datasplit.csv:" in str(caught.value)


def test_e40_an_image_in_the_n5_twin_is_trained_on(module, data, tmp_path):
    expected = epoch_of(module(), 0)
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    for dataset in ("jrc_a", "jrc_b"):
        image = copy / dataset / f"{dataset}.zarr" / "recon-1" / "em" / "fibsem-uint8"
        transform = {"axes": ["z", "y", "x"], "units": ["nm"] * 3, "scale": EIGHT, "translate": [0, 0, 0]}
        attributes = {"multiscales": [{"datasets": [{"path": "s0", "transform": transform}]}]}
        values = zarr.open_group(str(image), mode="r")["s0"][:]
        write_n5(copy / dataset / f"{dataset}.n5" / "recon-1" / "em" / "fibsem-uint8", values, attributes)
        shutil.rmtree(image)
    (tmp_path / "datasplit.csv").unlink()
    found = epoch_of(module(root=str(copy)), 0)
    assert (tmp_path / "datasplit.csv").read_text().count('.n5","recon-1/em') == 3
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_class_that_is_nowhere_is_named(module):
    module()
    with pytest.raises(DataError, match=r"data.classes: 'mito' is annotated in no training crop"):
        module(classes=["nuc", "mito"])


def test_a_class_that_is_too_coarse_in_all_training_crops_is_named(module, tmp_path, data):
    module()
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    for place in copy.glob("*/*.zarr/recon-1/labels/groundtruth/*/er"):
        write_volume(place, [(np.ones((16, 16, 16), np.uint8), (16,) * 3, (68,) * 3)])
    file = tmp_path / "datasplit.csv"
    file.write_text(file.read_text().replace(str(data), str(copy)))
    with pytest.raises(DataError, match=r"'er' is annotated in no training crop .* at 8 x 8 x 8 nm .*There are: nuc"):
        module()


def test_a_row_that_names_no_classes_has_those_that_are_there(module, tmp_path):
    module()
    file = tmp_path / "datasplit.csv"
    file.write_text(file.read_text().replace("/[nuc,er]", "").replace("/[nuc]", ""))
    assert {crop.classes for crop in module(validation_prob=0.0).train_set._crops} >= {("nuc", "er")}
    with pytest.raises(DataError, match="'mito' is annotated in no training crop"):
        module(classes=["nuc", "er", "mito"])
    with pytest.raises(DataError, match="has none of the classes mito"):
        module(classes=["mito"])


def test_a_chunk_that_is_broken_is_named_with_its_volume(module, tmp_path, data):
    module()
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    for chunk in copy.glob("*/*.zarr/recon-1/em/fibsem-uint8/s0/*.*.*"):
        chunk.write_bytes(chunk.read_bytes()[:9])
    file = tmp_path / "datasplit.csv"
    file.write_text(file.read_text().replace(str(data), str(copy)))
    with pytest.raises(DataError, match=r"fibsem-uint8: voxels .* of 's0' cannot be read: "):
        list(module().train_dataloader())


def test_volumes_that_were_written_anew_are_read_anew(tmp_path, data):
    copy, info = tmp_path / "copy", {"shape": [1, 16, 16], "scale": [8, 8, 8]}
    shutil.copytree(data, copy)

    def images():
        built = CropDataModule(str(tmp_path / "d.csv"), root=str(copy), input_array_info=info, samples_per_epoch=4)
        built.prepare_data()
        built.setup()
        return next(iter(built.train_dataloader()))["image"]

    images()
    for place in copy.glob("*/*.zarr/recon-1/em/fibsem-uint8"):
        write_volume(place, [(np.full((48, 48, 48), 0.5, np.float32), EIGHT, (0, 0, 0))], version="0.5")
    assert (images()[:, :, 4:-4, 4:-4] == 0.5).any()


def test_axes_units_and_sizes_that_cannot_be_meant_are_named(tmp_path, noise):
    for number, (axes, levels, named) in enumerate(
        (
            ([{"name": name, "type": "space"} for name in "abc"], [(noise, EIGHT, (0, 0, 0))], "has the axes a, b, c"),
            ([{**axis, "unit": "parsec"} for axis in AXES], [(noise, EIGHT, (0, 0, 0))], "is in 'parsec'"),
            (AXES, [(noise, (8, 0, 8), (0, 0, 0))], "which are none"),
            (AXES, [(noise, (8, float("nan"), 8), (0, 0, 0))], "which are none"),
            (AXES, [(noise.astype("c8"), EIGHT, (0, 0, 0))], "holds complex64, and numbers are needed"),
            (
                [{"name": "c", "type": "channel"}, *AXES],
                [(noise[None].repeat(2, 0), (1, *EIGHT), (0,) * 4)],
                "one channel",
            ),
        )
    ):
        write_volume(tmp_path / str(number), levels, axes=axes)
        with pytest.raises(DataError, match=named):
            level_of(tmp_path / str(number))
