"""N5 volumes: the same voxels at the same places as in Zarr, in each of the ways in which their scale is written."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from asparagus.data.zarr import places
from asparagus.data.zarr.volumes import Budget, Source, read_level
from asparagus.errors import ConfigError, DataError
from tests.volumes import write_n5

VALUES = np.random.default_rng(3).integers(0, 60_000, (20, 24, 17), dtype=np.uint16)
SIZE, ORIGIN = (6.0, 5.0, 4.0), (30.0, 20.0, 10.0)
TRANSFORM = {"axes": ["z", "y", "x"], "units": ["nm"] * 3, "scale": SIZE, "translate": ORIGIN}
OME = [{"type": "scale", "scale": SIZE}, {"type": "translation", "translation": ORIGIN}]
WAYS = {
    "cosem": {"multiscales": [{"datasets": [{"path": "s0", "transform": TRANSFORM}]}]},
    "cosem, N5's order": {
        "multiscales": [
            {
                "datasets": [
                    {"path": "s0", "transform": {"order": "F", **{key: part[::-1] for key, part in TRANSFORM.items()}}}
                ]
            }
        ]
    },
    "ome": {
        "multiscales": [
            {
                "axes": [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"],
                "datasets": [{"path": "s0", "coordinateTransformations": OME}],
            }
        ]
    },
    "viewer": {"pixelResolution": {"dimensions": SIZE[::-1], "unit": "nm"}, "axes": ["x", "y", "z"]},
    "viewer, in micrometres": {
        "pixelResolution": {"dimensions": [size / 1000 for size in SIZE[::-1]], "unit": "um"},
        "scales": [[1, 1, 1], [2, 2, 1]],
    },
    "viewer, a list": {"resolution": SIZE[::-1], "downsamplingFactors": [[1, 1, 1]]},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("compression", ["gzip", "raw"])
def test_the_voxels_are_where_they_are_written_to_be(way, compression, tmp_path):
    write_n5(tmp_path / "v.n5" / "em", VALUES, WAYS[way], compression)
    level = read_level(str(tmp_path / "v.n5" / "em"), np.asarray(SIZE))
    assert level.grid.shape == VALUES.shape
    assert level.grid.scale == pytest.approx(SIZE)
    assert level.grid.origin == pytest.approx((0, 0, 0) if "viewer" in way else ORIGIN)
    source = Source(level, np.zeros(3, dtype=int), np.asarray(VALUES.shape), Budget(0))
    assert (source.read(np.array([3, 15, 1]), np.array([19, 24, 17])) == VALUES[3:19, 15:24, 1:17]).all()


def test_a_coarser_level_of_the_viewers_is_in_the_middle_of_its_voxels(tmp_path):
    write_n5(tmp_path / "v.n5" / "em", VALUES, WAYS["viewer, in micrometres"])
    (tmp_path / "v.n5" / "em" / "s0").rename(tmp_path / "v.n5" / "em" / "s1")
    grid = read_level(str(tmp_path / "v.n5" / "em"), np.array([6.0, 10.0, 8.0])).grid
    assert grid.scale == pytest.approx((6, 10, 8))
    assert grid.origin == pytest.approx((0, 2.5, 2))


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({}, "has no multiscales"),
        ({"pixelResolution": {"unit": "nm"}}, "do not say where voxels are: KeyError"),
        ({"pixelResolution": {"dimensions": [1, 1, 1], "unit": "px"}}, "axis x is in 'px'"),
        ({"multiscales": [{"datasets": [{"path": "s0", "transform": {}}]}]}, "do not say where voxels are"),
    ],
)
def test_attributes_that_say_no_scale_are_named(attributes, named, tmp_path):
    write_n5(tmp_path / "v.n5" / "em", VALUES[:4, :4, :4], attributes)
    with pytest.raises(DataError, match=named):
        read_level(str(tmp_path / "v.n5" / "em"), np.asarray(SIZE))


def test_a_compression_that_is_not_read_is_named_with_those_that_are(tmp_path):
    write_n5(tmp_path / "v.n5" / "em", VALUES[:4, :4, :4], WAYS["cosem"])
    file = tmp_path / "v.n5" / "em" / "s0" / "attributes.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"compression": {"type": "lz4"}}))
    with pytest.raises(
        DataError, match=r"the level 's0' cannot be opened: .*lz4.*Of N5, raw, gzip, zstd, blosc are read"
    ):
        read_level(str(tmp_path / "v.n5" / "em"), np.asarray(SIZE))


def test_without_zarr_n5_it_is_said_what_to_install(tmp_path, monkeypatch):
    write_n5(tmp_path / "v.n5" / "em", VALUES[:4, :4, :4], WAYS["cosem"])
    monkeypatch.setitem(sys.modules, "zarr_n5", None)
    places._store.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'asparagus\[bio\]'"):
        read_level(str(tmp_path / "v.n5" / "em"), np.asarray(SIZE))
