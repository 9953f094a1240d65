"""Tests of asparagus.data.convert and what it stands on: readers, preprocessing by value, kills, broken files."""

from __future__ import annotations

import dataclasses
import gzip
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import psutil
import pydicom
import pytest
import torch
from filelock import FileLock
from monai.transforms import NormalizeIntensity, ScaleIntensityRangePercentiles
from nibabel.processing import resample_from_to
from PIL import Image

from asparagus.cli.main import run
from asparagus.data import MAKERS
from asparagus.data.conversion import Conversion, Definition, Preprocessing, RawCase, read_conversion
from asparagus.data.convert import convert
from asparagus.data.datasets import CaseDataset
from asparagus.data.diffusion import shells
from asparagus.data.inspect import problems_of
from asparagus.data.layout import known_splits, read_paths, read_task
from asparagus.data.normalise import OPERATIONS, intensities_of
from asparagus.data.pool import in_processes
from asparagus.data.preprocessing import prepare, resize
from asparagus.data.reading import Volume, read_volume
from asparagus.data.split import make_split
from asparagus.data.synthetic import SEED, make_synthetic
from asparagus.errors import ConfigError, DataError
from tests.converting import NAME, convert_here, split_here
from tests.dying import die_of_two

REPOSITORY = Path(__file__).parents[1]
PLAIN = Preprocessing(crop_to_nonzero=False, min_slices=5)
HERE = in_processes(1)


def image(shape=(16, 18, 20), seed=0, *, affine=None, dtype=np.float32):
    values = np.random.default_rng(seed).uniform(1, 100, shape).astype(dtype)
    return nib.Nifti1Image(values, np.eye(4) if affine is None else affine)


def saved(file, *arguments, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image(*arguments, **options), file)
    return file


def oblique(axcodes="ASL", zooms=(2.0, 3.0, 1.5)):
    """An affine whose axes go in these directions, shifted and a little turned."""
    start = nib.orientations.axcodes2ornt(axcodes)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (target, sign) in enumerate(start):
        affine[int(target), axis] = sign * zooms[axis]
    c, s = np.cos(0.1), np.sin(0.1)
    turn = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    affine[:3, 3] = 7, -11, 13
    return turn @ affine


def definition(**settings):
    conversion = Conversion(**{"kind": "pretrain", "source": "raw", "preprocessing": PLAIN, **settings})
    return Definition("Task500_Mine", Path("Task500_Mine.py"), conversion, None, None)


def converted(tmp_path, *, label=None, cases=None, as_nifti=False, pool=HERE, **settings):
    found = dataclasses.replace(definition(**settings), label=label, cases=cases)
    return convert(found, tmp_path / "data", tmp_path, pool, as_nifti=as_nifti)


def content(folder):
    """Every file of a task but the lock, by its bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


# preprocessing, by value


@pytest.mark.parametrize("axcodes", ["ASL", "LPS", "RAS", "IPR", "PIL"])
def test_a8_reorienting_gives_what_nibabel_gives(tmp_path, axcodes):
    stored = image(affine=oblique(axcodes))
    nib.save(stored, tmp_path / "a.nii.gz")
    prepared = prepare([read_volume(tmp_path / "a.nii.gz")], None, PLAIN)
    canonical = nib.as_closest_canonical(stored)
    assert np.array_equal(prepared.image[0], canonical.get_fdata(dtype=np.float32))
    assert np.allclose(prepared.affine, canonical.affine, atol=1e-4)
    assert np.allclose(prepared.properties["spacing"], canonical.header.get_zooms(), atol=1e-5)
    assert (prepared.properties["original_orientation"], prepared.properties["orientation"]) == (axcodes, "RAS")


def test_a8_a_header_that_says_no_direction_is_not_turned(tmp_path):
    stored = nib.Nifti1Image(np.random.default_rng(0).random((16, 17, 18)).astype(np.float32), None)
    stored.header.set_zooms((2, 3, 4))
    stored.set_qform(None, code=0)
    stored.set_sform(None, code=0)
    nib.save(stored, tmp_path / "a.nii")
    prepared = prepare([read_volume(tmp_path / "a.nii")], None, PLAIN)
    assert np.array_equal(prepared.image[0], stored.get_fdata(dtype=np.float32))
    assert prepared.properties["spacing"] == [2, 3, 4]
    assert prepared.properties["orientation"] is None


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.9, 1.3, 0.8)])
def test_a8_resampling_to_a_spacing_gives_what_nibabel_gives(tmp_path, spacing):
    """Upstream's size; nibabel's own spline resampling at the same places is the witness."""
    saved(tmp_path / "a.nii.gz", affine=np.diag([2.0, 2.4, 1.6, 1]))
    settings = Preprocessing(crop_to_nonzero=False, target_spacing=spacing)
    prepared = prepare([read_volume(tmp_path / "a.nii.gz")], None, settings)
    shape = np.round(np.array([2.0, 2.4, 1.6]) / spacing * [16, 18, 20]).astype(int)
    assert list(prepared.image.shape[1:]) == shape.tolist()
    witness = resample_from_to(nib.load(tmp_path / "a.nii.gz"), (shape, prepared.affine), order=3, mode="mirror")
    values = np.clip(witness.get_fdata(), *(f(nib.load(tmp_path / "a.nii.gz").get_fdata()) for f in (np.min, np.max)))
    assert np.allclose(prepared.image[0], values, atol=1e-3)


def test_a8_shrinking_keeps_faces_in_place_and_smooths_before():
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32)[:, None, None], (1, 40, 20, 20)).copy()
    small = resize(ramp, (10, 20, 20), 3)
    assert np.allclose(small[0, 3:7, 0, 0], [13.5, 17.5, 21.5, 25.5], atol=0.05)  # voxel i covers 4i to 4i + 3
    noise = np.random.default_rng(0).standard_normal((1, 40, 40, 40)).astype(np.float32)
    assert resize(noise, (10, 10, 10), 3).std() < 0.25 * noise.std()


def test_a8_labels_are_the_nearest_voxel():
    label = np.zeros((1, 10, 10, 10), np.float32)
    label[:, 2:5] = 3
    large = resize(label, (20, 20, 20), 0)
    assert set(np.unique(large)) == {0, 3}
    assert np.array_equal(large, label.repeat(2, 1).repeat(2, 2).repeat(2, 3))


def test_a8_an_aspect_ratio_is_kept_by_padding_with_zeros():
    settings = Preprocessing(crop_to_nonzero=False, target_size=(32, 32, 32), keep_aspect_ratio=True)
    volume = Volume(np.ones((1, 20, 40, 20), np.float32), (1, 1, 1), None, "a")
    prepared = prepare([volume], None, settings)
    assert prepared.image.shape == (1, 32, 32, 32)
    assert prepared.properties["pad"] == [[8, 8], [0, 0], [8, 8]]
    assert prepared.image[0, 8:24, :, 8:24].min() == 1
    assert prepared.image.sum() == 16 * 32 * 16
    assert prepared.properties["spacing"] == [1.25, 1.25, 1.25]


def test_a8_a_target_size_is_reached_and_excludes_a_spacing():
    volume = Volume(np.ones((1, 20, 40, 20), np.float32), (1, 1, 1), None, "a")
    assert prepare([volume], None, Preprocessing(target_size=(30, 20, 25))).image.shape == (1, 30, 20, 25)
    both = Preprocessing(target_size=(3, 3, 3), target_spacing=(1.0, 1.0, 1.0))
    assert "excludes target_size" in next(both.problems(1, 3))


def test_a8_the_crop_follows_the_first_channel_and_takes_the_label_along():
    array = np.zeros((1, 30, 30, 30), np.float32)
    array[0, 4:24, 6:26, 8:29] = 5
    label = np.random.default_rng(0).integers(0, 3, (1, 30, 30, 30)).astype(np.float32)
    volumes = [Volume(part, (1, 1, 1), None, "a") for part in (array, label)]
    prepared = prepare([volumes[0]], volumes[1], Preprocessing())
    assert prepared.properties["crop_box"] == [[4, 24], [6, 26], [8, 29]]
    assert np.array_equal(prepared.label, label[0, 4:24, 6:26, 8:29])


def test_a8_where_a_case_lies_is_known_after_all_of_it(tmp_path):
    """The affine maps a voxel of the result to the millimetres at which the original has that value."""
    grid = np.stack(np.meshgrid(*map(np.arange, (24, 20, 22)), indexing="ij"), -1)
    affine = oblique("LPS")
    where = grid @ affine[:3, :3].T + affine[:3, 3]
    values = (where[..., 0] - where[..., 0].min() + 1).astype(np.float32)
    values[:3], values[:, -4:] = 0, 0
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "a.nii.gz")
    settings = Preprocessing(target_size=(40, 40, 40), keep_aspect_ratio=True)
    prepared = prepare([read_volume(tmp_path / "a.nii.gz")], None, settings)
    inside = np.array([20, 20, 20, 1])
    expected = (prepared.affine @ inside)[0] - where[..., 0].min() + 1
    assert abs(prepared.image[0, 20, 20, 20] - expected) < 0.1


def test_a8_the_order_is_reorient_refuse_crop_resample_normalise():
    """Normalising comes after resampling: what is written has the range that it promises."""
    array = np.random.default_rng(0).random((1, 20, 20, 20)).astype(np.float32) ** 8
    settings = Preprocessing("volume_wise_znorm", target_size=(31, 31, 31))
    done = prepare([Volume(array, (1, 1, 1), None, "a")], None, settings).image
    assert (done.min(), done.max()) == (0, 1)


OF_DATASET = {"min": -10.0, "max": 110.0, "mean": 40.0, "std": 20.0, "percentile_00_5": 5.0, "percentile_99_5": 90.0}


def test_a8_normalisations_by_value():
    x = np.random.default_rng(1).uniform(0, 100, (12, 13, 14)).astype(np.float32)
    x[:4] = 0
    tensor = torch.from_numpy(x)
    done = {name: operation(x.copy(), OF_DATASET) for name, operation in OPERATIONS.items()}
    assert np.array_equal(done["no_norm"], x)
    assert np.allclose(done["255to1"], x / 255)
    assert np.allclose(done["minmax"], (x + 10) / 120, atol=1e-6)
    assert np.allclose(done["standardize"], NormalizeIntensity(40, 20)(tensor), atol=1e-5)
    monai = ScaleIntensityRangePercentiles(0.01, 99.99, 0, 1, clip=True)(tensor)
    assert np.allclose(done["clipping"], monai, atol=1e-4)
    assert np.allclose(done["ct"], (np.clip(x, 5, 90) - 40) / 20, atol=1e-5)
    # upstream's steps, one by one
    mask = x != x.min()
    y = np.clip(x, None, np.quantile(x[mask], 0.99))
    y = (y - y[mask].mean()) / y[mask].std()
    assert np.allclose(done["volume_wise_znorm"], (y - y.min()) / (y.max() - y.min()), atol=1e-5)


def test_a8_an_operation_that_lacks_numbers_of_the_dataset_says_which():
    problems = list(Preprocessing(("no_norm", "ct")).problems(2, 3))
    assert problems == [p for p in problems if "ct needs mean, std, percentile_00_5, percentile_99_5 of channel 1" in p]
    assert "Did you mean 'minmax'" in next(Preprocessing("min_max").problems(1, 3))


REFUSED = {
    "four axes": (np.ones((16, 16, 16, 3)), r"is not 3-D: its shape is \[16, 16, 16, 3\]"),
    "two axes": (np.ones((16, 16)), r"is not 3-D: its shape is \[16, 16\]"),
    "thin": (np.ones((16, 16, 14)), r"\[16, 16, 14\] is below min_slices=15"),
    "zeros": (np.zeros((16, 16, 16)), "is all zeros"),
    "nan": (np.where(np.arange(4096) == 7, np.nan, 1).reshape(16, 16, 16), "holds NaN"),
    "infinite": (np.where(np.arange(4096) == 7, np.inf, 1).reshape(16, 16, 16), "holds infinite values"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a8_what_cannot_be_used_is_refused_with_its_reason(tmp_path, name):
    array, reason = REFUSED[name]
    nib.save(nib.Nifti1Image(array.astype(np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match=reason):
        prepare([read_volume(tmp_path / "a.nii.gz")], None, Preprocessing())


def test_a8_refusals_come_in_upstreams_order():
    with pytest.raises(DataError, match="min_slices"):
        prepare([Volume(np.full((1, 16, 16, 3), np.nan, np.float32), (1, 1, 1), None, "a")], None, Preprocessing())
    with pytest.raises(DataError, match="all zeros"):
        prepare([Volume(np.zeros((1, 16, 16, 16), np.float32), (1, 1, 1), None, "a")], None, Preprocessing())


def test_a_label_elsewhere_or_of_another_shape_is_refused():
    one = Volume(np.ones((1, 16, 16, 16), np.float32), (1, 1, 1), np.eye(4), "image")
    with pytest.raises(DataError, match=r"label: its shape \[16, 16, 15\] is not that of the image"):
        prepare([one], one._replace(array=one.array[..., :15], source="label"), PLAIN)
    moved = np.eye(4)
    moved[0, 3] = 9
    with pytest.raises(DataError, match="label: lies up to 9 mm from where the image lies"):
        prepare([one], one._replace(affine=moved, source="label"), PLAIN)


# readers


def test_nrrd_dicom_png_and_tiff_are_read(tmp_path):
    values = np.random.default_rng(0).integers(0, 1000, (16, 18, 20)).astype(np.int16)
    space = {"space": "left-posterior-superior", "space directions": np.diag([2, 3, 1.5]), "space origin": [1, 2, 3]}
    nrrd.write(str(tmp_path / "a.nrrd"), values, space)
    volume = read_volume(tmp_path / "a.nrrd")
    assert np.array_equal(volume.array[0], values)
    assert volume.spacing == (2, 3, 1.5)
    turned = prepare([volume], None, PLAIN)
    assert np.array_equal(turned.image[0], values[::-1, ::-1])  # L and P became R and A

    series(tmp_path / "scan", values)
    volume = read_volume(tmp_path / "scan")
    assert volume.array.shape == (1, 16, 18, 20)
    assert np.allclose(volume.spacing, (2, 3, 4))
    assert np.array_equal(prepare([volume], None, PLAIN).image[0], values[::-1, ::-1])

    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert np.array_equal(read_volume(tmp_path / "a.png").array, np.moveaxis(picture, -1, 0))
    pages = [Image.fromarray(np.full((8, 9), i, np.uint16)) for i in range(5)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    stack = read_volume(tmp_path / "a.tif").array
    assert stack.shape == (1, 8, 9, 5)
    assert stack[0, 0, 0].tolist() == [0, 1, 2, 3, 4]


def series(folder, values, uid="1.2.3"):
    """A DICOM series whose rows run along y: pixel_array is [row, column], MONAI swaps them."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(values.shape[-1]):
        one = pydicom.Dataset()
        one.file_meta = pydicom.dataset.FileMetaDataset()
        one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = pydicom.uid.CTImageStorage
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = f"{uid}.{i}"
        one.SeriesInstanceUID, one.InstanceNumber = uid, i + 1
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        one.ImagePositionPatient = [0, 0, 4 * i]
        one.PixelSpacing, one.SliceThickness = [3, 2], 4
        one.Rows, one.Columns = values.shape[1], values.shape[0]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
        one.PixelData = np.ascontiguousarray(values[..., i].T).tobytes()
        one.save_as(folder / f"{i:03d}.dcm", enforce_file_format=True)


def test_a_folder_with_two_series_is_refused(tmp_path):
    values = np.ones((8, 8, 3), np.int16)
    series(tmp_path / "scan", values)
    series(tmp_path / "other", values, uid="1.2.4")
    for file in (tmp_path / "other").iterdir():
        file.rename(tmp_path / "scan" / f"b{file.name}")
    with pytest.raises(DataError, match="holds 2 DICOM series"):
        read_volume(tmp_path / "scan")


def changed(folder, change):
    """Rewrite the slices of a series; what `change(number, dataset)` calls False is removed."""
    for number, file in enumerate(sorted(folder.iterdir())):
        one = pydicom.dcmread(file)
        if change(number, one) is False:
            file.unlink()
        else:
            one.save_as(file)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda i, _: i != 2, r"lie 4 to 8 mm apart: is one missing"),
        (lambda i, one: setattr(one, "PatientID", "AB"[i > 1]), r"holds 2 DICOM patients"),
        (lambda i, one: setattr(one, "ImagePositionPatient", [0, 0, i // 2]), r"2 of its 5 slices lie where another"),
        (lambda _, one: setattr(one, "ImagePositionPatient", [0, 0, 7]), r"4 of its 5 slices lie where another"),
        (lambda i, one: setattr(one, "ImageOrientationPatient", [1, 0, 0, 0, i > 2, i <= 2]), r"turned differently"),
        (lambda _, one: setattr(one, "NumberOfFrames", 3), r"has 3 frames in one file"),
        (lambda i, one: setattr(one, "PixelSpacing", [1 + i, 1]), r"different spacings"),
        (lambda *_: False, r"holds no DICOM slices"),
    ],
)
def test_slices_that_make_no_volume_are_refused(tmp_path, change, match):
    series(tmp_path / "scan", np.ones((8, 9, 5), np.int16))
    changed(tmp_path / "scan", change)
    with pytest.raises(DataError, match=match):
        read_volume(tmp_path / "scan")


def test_slices_are_put_in_order_by_where_they_lie(tmp_path):
    """Their numbers may run the other way, be mixed, or be missing; Hounsfield units come from the header."""
    values = np.random.default_rng(0).integers(0, 1000, (8, 9, 5)).astype(np.int16)
    for name, number in (("up", lambda i: i + 1), ("mixed", lambda i: (3 * i) % 5), ("none", lambda _: None)):
        series(tmp_path / name, values)
        (tmp_path / name / "DICOMDIR").write_bytes(b"a list of what is there")
        for i, file in enumerate(sorted((tmp_path / name).glob("*.dcm"))):
            one = pydicom.dcmread(file)
            one.InstanceNumber, one.RescaleSlope, one.RescaleIntercept = number(i), 2, -1024
            one.save_as(file)
        volume = read_volume(tmp_path / name)
        assert np.array_equal(volume.array[0], 2.0 * values - 1024)
        assert np.allclose(volume.affine, np.diag([-2, -3, 4, 1]))


@pytest.mark.parametrize(
    ("space", "signs"),
    [("left-posterior-superior", (-1, -1, 1)), ("LPS", (-1, -1, 1)), ("RAS", (1, 1, 1)), ("LAS", (-1, 1, 1))],
)
def test_a_nrrd_is_placed_by_its_space_however_that_is_written(tmp_path, space, signs):
    header = {"space": space, "space directions": np.diag([2.0, 3, 1.5]), "space origin": [1, 2, 3]}
    nrrd.write(str(tmp_path / "a.nrrd"), np.ones((6, 7, 8), np.float32), header)
    expected = np.diag([*signs, 1.0]) @ [[2, 0, 0, 1], [0, 3, 0, 2], [0, 0, 1.5, 3], [0, 0, 0, 1]]
    assert np.allclose(read_volume(tmp_path / "a.nrrd").affine, expected)


def test_a_nrrd_without_directions_and_one_with_colours_are_read(tmp_path):
    values = np.random.default_rng(0).random((6, 7, 8)).astype(np.float32)
    nrrd.write(str(tmp_path / "plain.nrrd"), values, {"spacings": [1, 2, 3]})
    volume = read_volume(tmp_path / "plain.nrrd")
    assert (volume.spacing, volume.affine) == ((1, 2, 3), None)
    header = {"space": "LPS", "space directions": np.array([[np.nan] * 3, *np.diag([1.0, 2, 3])])}
    nrrd.write(str(tmp_path / "list.nrrd"), np.stack([values, values + 1]), {**header, "space origin": [0, 0, 0]})
    volume = read_volume(tmp_path / "list.nrrd")
    assert np.array_equal(volume.array, np.stack([values, values + 1]))
    assert volume.spacing == (1, 2, 3)


def test_channels_that_itk_writes_as_a_fifth_axis_are_channels(tmp_path):
    values = np.random.default_rng(0).random((6, 7, 8, 1, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii")
    assert np.array_equal(read_volume(tmp_path / "a.nii").array, np.moveaxis(values[..., 0, :], -1, 0))


@pytest.mark.parametrize(
    ("at", "layout", "values", "match"),
    [
        (280, "<4f", (0, 0, 0, 0), r"voxels are \[0.0, 1.0, 1.0\] mm wide. Mend the header"),
        (40, "<4h", (3, 30000, 30000, 30000), r"cannot be read \("),
        (40, "<4h", (3, -6, 7, 8), r"cannot be read \("),
    ],
)
def test_a_header_that_lies_is_refused_by_name(tmp_path, at, layout, values, match):
    raw = bytearray(saved(tmp_path / "a.nii", (6, 7, 8)).read_bytes())
    struct.pack_into(layout, raw, at, *values)
    (tmp_path / "a.nii").write_bytes(raw)
    with pytest.raises(DataError, match=rf"a.nii: .*{match}"):
        read_volume(tmp_path / "a.nii")


def broken_files(folder):
    """Return files that cannot be read, by what is wrong with them."""
    whole = saved(folder / "whole.nii.gz", (32, 32, 32)).read_bytes()
    raw = gzip.decompress(whole)
    contents = {
        "cut_gzip.nii.gz": whole[: len(whole) // 2],
        "cut_inside.nii.gz": gzip.compress(raw[: len(raw) // 2]),
        "cut.nii": raw[: len(raw) // 2],
        "text.nii.gz": b"not a nifti",
        "empty.nii.gz": b"",
        "no_gzip.nii.gz": raw,
        "text.nrrd": b"NRRD0004\nnonsense",
        "text.png": b"\x89PNG\r\n\x1a\nnot really",
        "text.dcm": b"no dicom",
        "bad_crc.nii.gz": whole[:-8] + b"\0\0\0\0" + whole[-4:],
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    (folder / "whole.nii.gz").unlink()
    return sorted(contents)


def test_a9_broken_files_are_refused_by_name(tmp_path):
    for name in broken_files(tmp_path):
        with pytest.raises(DataError, match=rf"{name}: cannot be read \("):
            read_volume(tmp_path / name)
    with pytest.raises(DataError, match="is not there"):
        read_volume(tmp_path / "gone.nii.gz")
    (tmp_path / "a.xyz").touch()
    with pytest.raises(DataError, match=r"no reader for such files. Known: .nii.gz"):
        read_volume(tmp_path / "a.xyz")


# whole conversions


def sources(tmp_path, count=5, shape=(16, 18, 20)):
    for i in range(count):
        saved(tmp_path / f"raw/sub-{i:02d}/t1.nii.gz", shape, i, affine=np.diag([-2.0, 1, 1.5, 1]))


def test_a6_a7_a_conversion_writes_a_task(tmp_path):
    sources(tmp_path)
    saved(tmp_path / "raw/sub-00/func.nii.gz")
    done = converted(tmp_path, patterns_exclusion=("func",))
    folder = tmp_path / "data/Task500_Mine"
    assert (done.folder, done.made, done.kept, done.failures) == (folder, 5, 0, [])
    task = read_task(tmp_path / "data", "Task500_Mine")
    assert (task.n_classes, task.n_modalities, task.shape) == (1, 1, (16, 18, 20))
    assert read_paths(task) == [folder / f"sub-{i:02d}/t1.pt" for i in range(5)]
    case = torch.load(folder / "sub-01/t1.pt", weights_only=True)
    assert (case.dtype, case.shape) == (torch.float32, (1, 16, 18, 20))
    stored = nib.as_closest_canonical(nib.load(tmp_path / "raw/sub-01/t1.nii.gz"))
    assert np.array_equal(case[0], stored.get_fdata(dtype=np.float32))
    about = json.loads((folder / "sub-01/t1.json").read_text())
    assert about["original_orientation"] == "LAS"
    assert about["spacing"] == about["original_spacing"] == [2, 1, 1.5]
    assert about["intensities"] == [intensities_of(case.numpy())]
    text = (folder / "dataset.json").read_text()
    metadata = json.loads(text)["metadata"]
    assert text == json.dumps(json.loads(text), indent=4, sort_keys=True) + "\n"
    assert (metadata["files_source_directory_total"], metadata["files_source_directory_excluded"]) == (6, 1)
    assert (metadata["files_target_directory_total"], metadata["files_delta_after_processing"]) == (5, -1)
    assert metadata["patterns_exclusion"] == ["func"]


def test_a6_labels_of_each_kind(tmp_path):
    sources(tmp_path, 2)
    label = nib.Nifti1Image(
        np.random.default_rng(0).choice([0, 1, 4], (16, 18, 20)).astype(np.uint8), np.diag([-2.0, 1, 1.5, 1])
    )
    nib.save(label, tmp_path / "seg.nii.gz")
    converted(tmp_path, kind="seg", n_classes=4, label_map={4: 3}, label=lambda _: tmp_path / "seg.nii.gz")
    folder = tmp_path / "data/Task500_Mine"
    case = torch.load(folder / "sub-00/t1.pt", weights_only=True)
    assert case.shape == (2, 16, 18, 20)
    truth = nib.as_closest_canonical(label).get_fdata()
    assert np.array_equal(case[1], np.where(truth == 4, 3, truth))
    about = json.loads((folder / "sub-00/t1.json").read_text())
    assert set(about["foreground_locations"]) == {"1", "3"}
    assert all(case[1][tuple(voxel)] == 3 for voxel in about["foreground_locations"]["3"])
    for kind, number, stored in (("cls", 2, torch.tensor(2)), ("reg", 61.5, torch.tensor([61.5]))):
        converted(tmp_path / kind, kind=kind, n_classes=3, source=str(tmp_path / "raw"), label=lambda _, n=number: n)
        content_of = torch.load(tmp_path / kind / "data/Task500_Mine/sub-01/t1.pt", weights_only=True)
        assert content_of[0].shape == (1, 16, 18, 20)
        assert torch.equal(content_of[1], stored)


def test_several_files_are_one_case(tmp_path):
    sources(tmp_path, 2)

    def cases(source):
        for folder in sorted(source.glob("sub-*")):
            yield RawCase([folder / "t1.nii.gz", folder / "t1.nii.gz"], name=f"cases/{folder.name}")

    converted(tmp_path, cases=cases, n_modalities=2)
    case = torch.load(tmp_path / "data/Task500_Mine/cases/sub-01.pt", weights_only=True)
    assert case.shape == (2, 16, 18, 20)
    assert torch.equal(case[0], case[1])


def test_pictures_are_cases_of_two_dimensions(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    (tmp_path / "raw").mkdir()
    Image.fromarray(picture).save(tmp_path / "raw/a.png")
    settings = Preprocessing("255to1", crop_to_nonzero=False)
    converted(tmp_path, dimensions=2, n_modalities=3, extensions=(".png",), preprocessing=settings)
    case = torch.load(tmp_path / "data/Task500_Mine/cases/a.pt", weights_only=True)
    assert np.allclose(case, np.moveaxis(picture, -1, 0) / 255)


def test_a9_every_failed_case_is_listed_with_its_reason_and_the_others_are_made(tmp_path):
    sources(tmp_path, 4)
    for name, (array, _) in REFUSED.items():
        nib.save(
            nib.Nifti1Image(array.astype(np.float32), np.eye(4)), tmp_path / f"raw/{name.replace(' ', '_')}.nii.gz"
        )
    (tmp_path / "raw/broken").mkdir()
    broken = [name for name in broken_files(tmp_path / "raw/broken") if ".nii" in name]
    done = converted(tmp_path, preprocessing=Preprocessing())
    reasons = {Path(source).name.partition(".")[0].replace("_", " "): reason for source, reason in done.failures}
    assert done.made == 4
    assert len(done.failures) == len(REFUSED) + len(broken)
    assert all(re.search(reason, reasons[name]) for name, (_, reason) in REFUSED.items())
    assert all("cannot be read" in reasons[name.partition(".")[0].replace("_", " ")] for name in broken)
    metadata = json.loads((done.folder / "dataset.json").read_text())["metadata"]
    assert metadata["files_delta_after_processing"] == -len(done.failures)
    assert len(read_paths(read_task(tmp_path / "data", "Task500_Mine"))) == 4


def test_a9_what_is_there_is_not_made_again_and_what_is_new_joins(tmp_path):
    sources(tmp_path, 3)
    converted(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.pt")}
    sources(tmp_path, 4)
    (before_lost := tmp_path / "data/Task500_Mine/sub-01/t1.json").unlink()
    done = converted(tmp_path)
    assert (done.made, done.kept) == (2, 2)
    assert before_lost.is_file()
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.pt")}
    assert len(now) == 4
    assert {path.parent.name for path in before if now[path] == before[path]} == {"sub-00", "sub-02"}


def test_a9_the_first_case_is_tried_before_a_pool_starts(tmp_path):
    sources(tmp_path, 3)
    seen = []

    def pool(work, jobs):
        seen.extend(job.target for job in jobs)
        assert (tmp_path / "data/Task500_Mine/sub-00/t1.pt").is_file()
        return in_processes(1)(work, jobs)

    converted(tmp_path, pool=pool)
    assert seen == ["sub-01/t1", "sub-02/t1"]


def test_a9_the_other_format_or_other_settings_are_refused_and_nothing_changes(tmp_path):
    sources(tmp_path, 2)
    converted(tmp_path)
    before = content(tmp_path / "data")
    with pytest.raises(DataError, match=r"Task500_Mine: holds tensors, and NIfTI files were asked for"):
        converted(tmp_path, as_nifti=True)
    with pytest.raises(DataError, match=r"never a mix.*\n  preprocessing_config.min_slices: 5 there, 6 asked for\n"):
        converted(tmp_path, preprocessing=dataclasses.replace(PLAIN, min_slices=6))
    with pytest.raises(DataError, match=r"dataset_config.n_classes: 1 there, 2 asked for"):
        converted(tmp_path, n_classes=2)
    assert content(tmp_path / "data") == before
    (tmp_path / "other/data/Task500_Mine").mkdir(parents=True)
    (tmp_path / "other/data/Task500_Mine/notes.txt").touch()
    with pytest.raises(DataError, match=r"holds files but no dataset.json"):
        converted(tmp_path / "other", source=str(tmp_path / "raw"))


def test_a9_nifti_is_written_and_read_by_the_loaders(tmp_path):
    sources(tmp_path, 2)
    done = converted(tmp_path, as_nifti=True)
    file = done.folder / "sub-01/t1.nii.gz"
    stored = nib.as_closest_canonical(nib.load(tmp_path / "raw/sub-01/t1.nii.gz"))
    assert np.array_equal(nib.load(file).get_fdata(), stored.get_fdata())
    assert np.allclose(nib.load(file).affine, stored.affine)
    assert np.array_equal(CaseDataset([file], "pretrain")[0]["image"][0], stored.get_fdata(dtype=np.float32))


def test_a9_of_a_diffusion_series_each_shell_is_an_image(tmp_path):
    volumes = np.random.default_rng(0).uniform(1, 9, (16, 16, 16, 9)).astype(np.float32)
    (tmp_path / "raw").mkdir()
    nib.save(nib.Nifti1Image(volumes, np.eye(4)), tmp_path / "raw/a_dwi.nii.gz")
    bvals = [0, 995, 1000, 1005, 5, 2000, 2000, 2000, 3000]
    bvecs = np.zeros((3, 9))
    for column, direction in {1: 0, 2: 1, 3: 2, 5: 2, 6: 1, 7: 0, 8: 1}.items():
        bvecs[direction, column] = 1
    np.savetxt(tmp_path / "raw/a_dwi.bval", [bvals])
    np.savetxt(tmp_path / "raw/a_dwi.bvec", bvecs)
    saved(tmp_path / "raw/lonely_dwi.nii.gz", (16, 16, 16, 4))
    saved(tmp_path / "raw/single_dwi.nii.gz", (16, 16, 16, 1))
    done = converted(tmp_path, patterns_DWI=("_dwi",))
    cases = {path.stem: torch.load(path, weights_only=True)[0].numpy() for path in done.folder.rglob("*.pt")}
    assert set(cases) == {"a_dwi_bval_0", "a_dwi_bval_1000", "a_dwi_bval_2000", "single_dwi"}
    assert np.array_equal(cases["a_dwi_bval_0"], volumes[..., 0])
    assert np.allclose(cases["a_dwi_bval_1000"], volumes[..., 1:4].mean(-1), atol=1e-6)
    assert np.allclose(cases["a_dwi_bval_2000"], volumes[..., 5:8].mean(-1), atol=1e-6)
    assert [reason for _, reason in done.failures] == [
        f"{tmp_path}/raw/lonely_dwi.nii.gz: a diffusion series needs lonely_dwi.bval beside it."
    ]


def test_a9_of_many_directions_those_nearest_the_axes_are_averaged():
    directions = np.array([[0.9, 0.1, 0.1, 0.99], [0.3, 0.95, 0.2, 0.1], [0.3, 0.3, 0.97, 0.1]])
    assert shells(np.full(4, 1000.0), directions) == {"1000": (3, 1, 2)}
    assert shells(np.array([0.0, 700.0, 700.0]), np.eye(3)) == {"0": (0,)}


def test_a_case_that_went_into_another_nodes_folder_is_a_failure(tmp_path):
    """Of a disk that is not shared: the other node was content."""
    sources(tmp_path, 3)

    def away(_, jobs):
        yield from ((job, None) for job in jobs)

    done = converted(tmp_path, pool=away)
    assert done.made == 1
    assert len(done.failures) == 2
    assert all("is that the same folder on every node?" in failure.reason for failure in done.failures)


def test_a_millimetre_is_the_same_however_it_is_written(tmp_path):
    sources(tmp_path, 1)
    converted(tmp_path, preprocessing=dataclasses.replace(PLAIN, target_spacing=(1.0, 1.0, 1.0)))
    assert converted(tmp_path, preprocessing=dataclasses.replace(PLAIN, target_spacing=(1, 1, 1))).kept == 1
    (tmp_path / "data" / NAME / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset.json: not readable as JSON"):
        converted(tmp_path)


def test_a9_pet_is_averaged_over_time(tmp_path):
    frames = np.random.default_rng(0).uniform(1, 9, (16, 16, 16, 5)).astype(np.float32)
    (tmp_path / "raw").mkdir()
    nib.save(nib.Nifti1Image(frames, np.eye(4)), tmp_path / "raw/a_pet.nii.gz")
    done = converted(tmp_path, patterns_PET=("_pet",))
    assert np.allclose(torch.load(done.folder / "cases/a_pet.pt", weights_only=True)[0], frames.mean(-1), atol=1e-5)


def test_two_files_that_would_be_one_case_are_refused(tmp_path):
    sources(tmp_path, 1)
    saved(tmp_path / "raw/sub-00/t1.nii")
    with pytest.raises(DataError, match=r"t1.nii.gz would both become sub-00/t1|t1.nii would both"):
        converted(tmp_path)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"source": "gone"}, r"source: .*gone is no folder"),
        ({"extensions": (".mgz",)}, r"holds no .mgz to convert"),
        ({"patterns_exclusion": ("t1",)}, r"2 left out by patterns_exclusion"),
    ],
)
def test_a_source_without_anything_says_what_was_looked_for(tmp_path, settings, match):
    sources(tmp_path, 2)
    with pytest.raises(DataError, match=match):
        converted(tmp_path, **settings)
    assert not (tmp_path / "data").exists()


def test_cases_of_a_flat_folder_are_never_taken_for_splits_nor_written_over_them(tmp_path):
    """`paths.nii.gz` is a case like any other: what stands beside it may not be `paths.json`."""
    names = ["a", "with space", "\u00e7\u00e5_\u00fc", "dataset", "paths", "card", "split_60_20_20"]
    for seed, name in enumerate(names):
        saved(tmp_path / f"raw/{name}.nii.gz", seed=seed)
    done = converted(tmp_path)
    assert (done.made, done.failures) == (7, [])
    assert sorted(path.name for path in (done.folder / "cases").glob("*.pt")) == sorted(f"{name}.pt" for name in names)
    make_split(tmp_path / "data", "Task500_Mine", "split_60_20_20")
    task = read_task(tmp_path / "data", "Task500_Mine")
    assert known_splits(task) == ["TEST_60_20_20", "split_60_20_20"]
    assert problems_of(tmp_path / "data", "Task500_Mine") == []
    saved(tmp_path / "raw/b.nii.gz")
    assert converted(tmp_path).kept == 7


def test_a_link_that_leads_back_is_not_followed_and_one_elsewhere_is(tmp_path):
    saved(tmp_path / "raw/sub-00/t1.nii.gz")
    saved(tmp_path / "disk2/sub-01/T1.NII.GZ")  # some scanners write capitals
    (tmp_path / "raw/sub-00/up").symlink_to("..")
    (tmp_path / "raw/more").symlink_to(tmp_path / "disk2")
    done = converted(tmp_path)
    cases = {path.relative_to(done.folder).as_posix() for path in read_paths(read_task(tmp_path / "data", NAME))}
    assert cases == {"sub-00/t1.pt", "more/sub-01/T1.pt"}


def test_volumes_of_one_file_are_channels_where_as_many_are_asked_for(tmp_path):
    volumes = np.random.default_rng(0).uniform(1, 9, (16, 18, 20, 4)).astype(np.float32)
    (tmp_path / "raw").mkdir()
    nib.save(nib.Nifti1Image(volumes, np.diag([-1.0, 1, 1, 1])), tmp_path / "raw/brats.nii.gz")
    with pytest.raises(DataError, match=r"is not 3-D.*n_modalities=4 takes its volumes as channels"):
        converted(tmp_path)
    done = converted(tmp_path, n_modalities=4)  # the folder of before held nothing, and forbids nothing
    case = torch.load(done.folder / "cases/brats.pt", weights_only=True)
    assert np.array_equal(case, np.moveaxis(volumes[::-1], -1, 0))


def test_whatever_is_wrong_with_the_first_case_costs_it_alone(tmp_path, monkeypatch):
    sources(tmp_path, 3)

    def read(path):
        if path.parent.name == "sub-00":
            raise RuntimeError("a reader's own")
        return read_volume(path)

    monkeypatch.setattr("asparagus.data.case.read_volume", read)
    done = converted(tmp_path)
    assert (done.made, [failure.reason for failure in done.failures]) == (2, ["RuntimeError: a reader's own"])


def test_cases_of_a_moved_task_stay_in_it_when_their_sources_are_gone(tmp_path):
    sources(tmp_path, 3)
    converted(tmp_path)
    shutil.move(tmp_path / "data", tmp_path / "disk2")
    shutil.rmtree(tmp_path / "raw/sub-01")
    done = convert(definition(), tmp_path / "disk2", tmp_path, HERE)
    assert (done.made, done.kept) == (0, 2)
    assert len(read_paths(read_task(tmp_path / "disk2", NAME))) == 3


def test_a_task_is_converted_by_one_process_at_a_time(tmp_path):
    sources(tmp_path, 2)
    folder = tmp_path / "data/Task500_Mine"
    folder.mkdir(parents=True)
    with FileLock(folder / ".converting.lock"), pytest.raises(DataError, match="is being converted by another process"):
        converted(tmp_path)


def test_a10_the_synthetic_tasks_are_there_under_their_names(tmp_path):
    assert (SEED, MAKERS.keys() >= {"Task996_LauritSynCls", "Task997_LauritSynSeg", "Task998_LauritSyn"}) == (
        421890,
        True,
    )
    made = {name: make_synthetic(name, tmp_path, cases=2, size=16) for name in MAKERS if "Laurit" in name}
    assert made["Task997_LauritSynSeg"].n_classes == 5
    assert all(problems_of(tmp_path, name) == [] for name in made)


# processes


def test_a_process_that_dies_costs_the_case_that_it_died_of_alone():
    ended = dict(in_processes(2)(die_of_two, [1, 2, 3, 4, 5]))
    assert ended.keys() == {1, 2, 3, 4, 5}
    assert "its process died twice" in str(ended[2])
    assert str(ended[3]) == "three"
    assert [ended[job] for job in (1, 4, 5)] == [None] * 3


@pytest.fixture(scope="module")
def forks():
    """Processes that start with everything imported: a hundred of them cost little."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.converting", "monai.transforms", "monai.data.image_reader", "scipy.ndimage"])
    return context


def killed(context, target, *arguments, after):
    process = context.Process(target=target, args=arguments, kwargs={"after": after})
    process.start()
    process.join(90)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode == -signal.SIGKILL


def halves(folder):
    """Every file that a stranger would take for whole, and is not."""
    for file in folder.rglob("*"):
        if file.is_dir() or file.name.startswith("."):
            continue
        if file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix == ".pt":
            torch.load(file, weights_only=True)


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_a9_killed_conversions_leave_no_half_file_and_go_on_to_the_same_bytes(tmp_path, forks, kills):
    sources(tmp_path / "a", 6)
    shutil.copytree(tmp_path / "a/raw", tmp_path / "b/raw")
    begun = time.monotonic()
    convert_here(tmp_path / "a")
    takes = time.monotonic() - begun
    chance, struck = random.Random(0), 0
    for _ in range(kills):
        struck += killed(forks, convert_here, tmp_path / "b", after=chance.uniform(0.05, 0.7 * takes))
        halves(tmp_path / "b/data")
        if (tmp_path / "b/data/Task500_Mine/dataset.json").exists():
            assert len(read_paths(read_task(tmp_path / "b/data", "Task500_Mine"))) == 6
            shutil.rmtree(tmp_path / "b/data")
    assert struck > kills // 3
    convert_here(tmp_path / "b")
    found, expected = (content(tmp_path / name / "data") for name in ("b", "a"))
    assert found.keys() == expected.keys()
    paths = "Task500_Mine/paths.json"
    assert found.pop(paths) == expected.pop(paths).replace(str(tmp_path / "a").encode(), str(tmp_path / "b").encode())
    assert found == expected


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_a13_killed_splits_leave_no_half_file(tmp_path, forks, kills):
    sources(tmp_path, 6)
    convert_here(tmp_path)
    chance = random.Random(1)
    for _ in range(kills):
        assert killed(forks, split_here, tmp_path, after=chance.uniform(0.2, 0.6))
        halves(tmp_path / "data")
    for name in ("split_40_10_50", "TEST_40_10_50"):
        (tmp_path / f"data/Task500_Mine/{name}.json").unlink(missing_ok=True)
    make_split(tmp_path / "data", "Task500_Mine", "split_40_10_50")
    assert len(json.loads((tmp_path / "data/Task500_Mine/TEST_40_10_50.json").read_text())) == 3


@pytest.mark.slow
def test_processes_of_a_killed_conversion_end_with_it(tmp_path):
    sources(tmp_path, 40, shape=(64, 64, 64))
    call = f"convert_here(Path({str(tmp_path)!r}), 2)"
    head = "from pathlib import Path\nfrom tests.converting import convert_here\n"
    (tmp_path / "run.py").write_text(f"{head}if __name__ == '__main__':\n    {call}\n")
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen([sys.executable, str(tmp_path / "run.py")], env=environment) as run_:
        until = time.monotonic() + 120
        while len(list((tmp_path / "data").rglob("*.pt"))) < 3 and time.monotonic() < until:
            time.sleep(0.05)
        children = psutil.Process(run_.pid).children(recursive=True)
        run_.kill()
    assert len(children) >= 2
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    halves(tmp_path / "data")
    assert convert_here(tmp_path, 2).failures == []
    assert len(list((tmp_path / "data").rglob("*.pt"))) == 40


# the command


CONVERSION = """
from asparagus.data.conversion import Conversion, Preprocessing, RawCase
conversion = Conversion(kind="cls", source="raw", n_classes=2, preprocessing=Preprocessing(min_slices=5))
def label(image):
    return int(image.parent.name[-1]) % 2
"""


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_HOME", str(tmp_path))
    monkeypatch.setenv("ASPARAGUS_SOURCE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a5_the_template_is_a_conversion(at_home, capsys):
    sources(at_home, 2)
    (at_home / "Mine").symlink_to(at_home / "raw")
    assert run("data", ["new-conversion", "Task500_Mine"]) == 0
    assert "then asp data convert Task500_Mine" in capsys.readouterr().out
    assert run("data", ["new-conversion", "Task500_Mine"]) == 2
    assert run("data", ["convert", "Task500_Mine", "--num_workers", "1"]) == 0
    assert "2 cases converted, 0 were there already" in capsys.readouterr().out
    assert run("data", ["convert", "--dataset", "Task500", "--num_workers", "1", "--save_as_tensor"]) == 0
    assert "0 cases converted, 2 were there already" in capsys.readouterr().out


def test_the_command_lists_failures_and_its_status_says_so(at_home, capsys):
    sources(at_home, 3)
    (at_home / "raw/sub-01/t1.nii.gz").write_bytes(b"")
    file = at_home / "mine.py"
    file.write_text(CONVERSION)
    assert run("data", ["convert", str(file), "--num_workers", "1", "--json"]) == 3
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert (said["task"], said["made"], len(said["failures"])) == ("mine", 2, 1)
    assert "1 of 3 cases could not be converted" in err
    assert "sub-01/t1.nii.gz: cannot be read" in err
    assert run("data", ["card", "mine"]) == 0  # anew, it tells of the failures all the same
    card = json.loads((at_home / "data/mine/card.json").read_text())
    assert card["failed"][0][0].endswith("sub-01/t1.nii.gz")
    assert card["labels"] == {"0": 2}
    page = (at_home / "data/mine/card.html").read_text()
    assert "sub-01/t1.nii.gz" in page
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("x = 1", "needs conversion = Conversion"),
        ("raise ValueError('no')", r"mine.py:1: failed to execute: ValueError: no"),
        (CONVERSION.replace('"cls"', '"clz"'), r"kind: 'clz' is not known. Did you mean 'cls'"),
        (CONVERSION.replace("def label", "def tag"), r"label: kind 'cls' needs a function label\(image\)"),
        (
            CONVERSION.replace("min_slices=5", "normalization_operation='ct'"),
            r"preprocessing.intensities: ct needs mean",
        ),
        (CONVERSION.replace('"raw"', "None"), r"source: None is not the name of a folder"),
        (CONVERSION.replace('"cls", ', '"cls", patterns_exclusion="func", '), r"'func' is not a list of texts"),
        (CONVERSION.replace('"cls", ', '"cls", extensions=(".foo",), '), r"extensions: '.foo' is not known"),
        (CONVERSION.replace('"cls", ', '"cls", label_map={4: 7}, '), r"label_map: maps to \[7\], but n_classes=2"),
        (CONVERSION.replace("min_slices=5", "min_slices='5'"), r"preprocessing.min_slices: '5' is not a whole number"),
        (CONVERSION.replace("def label(image)", "def cases(image)"), r"cases\(\) gave .*has to yield RawCase"),
        (f"{CONVERSION}\ncases = lambda source: [RawCase([])]", r"has no images"),
        (CONVERSION.replace("% 2", "/ 0"), r"mine.py: label\(.*t1.nii.gz\) failed: ZeroDivisionError"),
    ],
)
def test_a_conversion_that_is_wrong_is_told_before_anything_is_written(at_home, capsys, text, match):
    sources(at_home, 2)
    (at_home / "mine.py").write_text(text)
    assert run("data", ["convert", "mine.py", "--num_workers", "1"]) == 2
    assert re.search(match, capsys.readouterr().err)
    assert not (at_home / "data").exists()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--bidsify"], r"--bidsify: cases are named by the conversion"),
        (["--save_dset_metadata"], r"--save_dset_metadata: what is known of all cases is always written, to card.json"),
        (["--num_workers", "0"], r"--num_workers: 0 is not at least 1"),
    ],
)
def test_options_that_mean_nothing_here_are_answered(at_home, capsys, words, match):
    assert run("data", ["convert", "mine.py", *words]) == 2
    assert re.search(match, capsys.readouterr().err)


def test_a_data_folder_that_is_a_file_is_named(at_home, capsys):
    sources(at_home, 1)
    (at_home / "mine.py").write_text(CONVERSION)
    (at_home / "data").write_text("no folder")
    assert run("data", ["convert", "mine.py", "--num_workers", "1"]) == 2
    assert re.search(r"data/mine: Not a directory. A part of that path is a file", capsys.readouterr().err)


@pytest.mark.slow
def test_an_interrupted_conversion_ends_at_once_and_goes_on_with_other_processes(at_home):
    for i in range(6):
        saved(at_home / f"raw/c{i}0.nii.gz", (60, 60, 60), i, affine=np.diag([2.0, 2, 2, 1]))
    settings = "min_slices=5, target_spacing=(1.0, 1.0, 1.0)"
    (at_home / "mine.py").write_text(CONVERSION.replace("min_slices=5", settings).replace("image.parent.name[-1]", "0"))
    command = [sys.executable, "-c", "import sys; from asparagus.cli.main import main; main('data', sys.argv[1:])"]
    options = {"cwd": at_home, "env": {**os.environ, "PYTHONPATH": str(REPOSITORY)}, "start_new_session": True}
    words = ["convert", "mine.py", "--num_workers"]
    with (at_home / "err").open("w") as err:
        going = subprocess.Popen([*command, *words, "2"], stderr=err, **options)
        until = time.monotonic() + 240
        while not list((at_home / "data").rglob("*.pt")) and time.monotonic() < until:
            time.sleep(0.05)
        children = psutil.Process(going.pid).children(recursive=True)
        os.killpg(going.pid, signal.SIGINT)  # as a terminal does: all of them
        assert going.wait(60) == 130
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    told = (at_home / "err").read_text()
    assert told == "interrupted: mine: the cases that were done are kept. The same command goes on from there.\n"
    done = len(list((at_home / "data/mine").rglob("*.pt")))
    assert 0 < done < 6
    assert run("data", [*words, "1"]) == 0
    assert problems_of(at_home / "data", "mine") == []
    assert not list((at_home / "data").rglob("*.tmp"))


def test_a_conversion_that_there_is_not_is_answered_with_the_nearest(at_home):
    run("data", ["new-conversion", "Task500_Mine"])
    with pytest.raises(ConfigError, match=r"Did you mean 'Task500_Mine'\?"):
        read_conversion("Task500_Mien", at_home / "configs")


@pytest.mark.ray
def test_a_conversion_runs_as_ray_tasks(at_home, capsys):
    sources(at_home, 4)
    (at_home / "raw/sub-02/t1.nii.gz").write_bytes(b"")
    (at_home / "mine.py").write_text(CONVERSION)
    assert run("data", ["convert", "mine.py", "--ray", "local"]) == 3
    out, err = capsys.readouterr()
    assert "3 cases converted" in out
    assert "sub-02/t1.nii.gz: cannot be read" in err
