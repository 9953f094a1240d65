"""What is kept of stores on disk: bounded, shared by processes, and never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asparagus.data.zarr import chunks
from asparagus.data.zarr.chunks import ChunkCache

WHERE = "s3://bucket/a.zarr"
MB = 10**6


def held(root: Path) -> int:
    return sum(file.stat().st_size for file in root.rglob("*") if file.is_file() and file.name != ".total")


def test_what_is_kept_is_found_again_by_volume_and_name(tmp_path):
    cache = ChunkCache(tmp_path / "volumes", MB)
    assert cache.get(WHERE, "s0/0/0/0") is None
    for where, name, content in (
        (WHERE, "s0/0/0/0", b"one"),
        (WHERE, "s0/0/0/0@-4:None", b"two"),
        ("s3://b", "s0", b""),
    ):
        cache.put(where, name, content)
        assert ChunkCache(tmp_path / "volumes", MB).get(where, name) == content
    assert cache.get("s3://bucket/b.zarr", "s0/0/0/0") is None
    assert cache.folder(WHERE).name.startswith("a.zarr-")


def test_names_cannot_leave_the_folder(tmp_path):
    cache = ChunkCache(tmp_path / "volumes", MB)
    cache.put(WHERE, "../../../outside", b"x")
    cache.put(WHERE, "n" * 1000, b"x")
    cache.put("s3://bucket/..", "a", b"x")
    assert [file.name for file in tmp_path.iterdir()] == ["volumes"]
    assert cache.get(WHERE, "n" * 1000) == b"x"


def test_the_longest_unused_gives_way_and_what_is_used_stays(tmp_path):
    cache = ChunkCache(tmp_path, 100_000)
    for number in range(9):
        cache.put(WHERE, str(number), bytes(10_000))
        os.utime(cache._file(WHERE, str(number)), (1000 + number,) * 2)
    assert cache.get(WHERE, "0"), "is used now"
    cache.put(WHERE, "9", bytes(10_000))
    cache.put(WHERE, "10", bytes(10_000))
    there = [number for number in range(11) if cache.get(WHERE, str(number)) is not None]
    assert there == [0, 3, 4, 5, 6, 7, 8, 9, 10]
    assert held(tmp_path) <= 100_000


WRITER = """
import sys
from pathlib import Path
from asparagus.data.zarr.chunks import ChunkCache
cache = ChunkCache(Path(sys.argv[1]), 300_000)
for number in range(60):
    cache.put(f"s3://bucket/{sys.argv[2]}.zarr", str(number), bytes(7_000 + number))
    assert cache.get(f"s3://bucket/{sys.argv[2]}.zarr", str(number)) in (None, bytes(7_000 + number))
"""


def test_processes_share_one_limit(tmp_path):
    """Three times half a megabyte want to be kept where one half has room."""
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(number)]) for number in range(3)]
    most = 0
    while any(writer.poll() is None for writer in writers):
        with ChunkCache(tmp_path, MB)._total():
            most = max(most, held(tmp_path))
        time.sleep(0.01)
    assert [writer.returncode for writer in writers] == [0] * 3
    assert 200_000 < most <= 300_000
    assert not list(tmp_path.rglob(".writing-*"))


def test_what_a_killed_process_left_counts_and_goes_first(tmp_path):
    cache = ChunkCache(tmp_path, 100_000)
    cache.put(WHERE, "0", bytes(10_000))
    half = cache._file(WHERE, "0").with_name(".writing-x")
    half.write_bytes(bytes(80_000))
    os.utime(half, (1000, 1000))
    (tmp_path / ".total").write_text("")  # the disk was full when it was written
    cache.put(WHERE, "1", bytes(10_000))
    cache.put(WHERE, "2", bytes(10_000))
    assert not half.exists()
    assert all(cache.get(WHERE, name) for name in "012")


def test_room_on_the_disk_is_left_to_others(tmp_path, monkeypatch, caplog):
    cache = ChunkCache(tmp_path, MB)
    cache.put(WHERE, "0", b"x")
    monkeypatch.setattr(chunks, "SPARE", 10**18)
    cache.put(WHERE, "1", b"x")
    assert cache.get(WHERE, "0") is None, "gives way, too"
    cache.put(WHERE, "2", b"x")
    assert held(tmp_path) == 0
    assert caplog.text.count("nothing more of stores is kept on this machine") == 1
    assert "of its disk are free" in caplog.text


@pytest.mark.parametrize("limit", [0, MB])
def test_a_folder_that_cannot_be_written_to_is_said_once_unless_nothing_is_to_be_kept(limit, tmp_path, caplog):
    (tmp_path / "file").touch()
    cache = ChunkCache(tmp_path / "file" / "volumes", limit)
    for number in range(3):
        cache.put(WHERE, str(number), b"x")
        assert cache.get(WHERE, str(number)) is None
    assert caplog.text.count("ASPARAGUS_CACHE") == int(limit > 0)


@pytest.mark.parametrize("damage", [b"", bytes(5), b"half"])
def test_what_a_power_cut_left_is_not_taken_for_a_chunk(damage, tmp_path):
    cache = ChunkCache(tmp_path, MB)
    for content in (b"x" * 100, b""):
        cache.put(WHERE, "0", content)
        cache._file(WHERE, "0").write_bytes(damage)
        assert cache.get(WHERE, "0") is None
        cache.put(WHERE, "0", content)
        assert cache.get(WHERE, "0") == content


def test_somebody_may_delete_the_folder_at_any_time(tmp_path):
    cache = ChunkCache(tmp_path / "volumes", MB)
    cache.put(WHERE, "0", b"x")
    subprocess.run(["rm", "-r", str(tmp_path / "volumes")], check=True)
    assert cache.get(WHERE, "0") is None
    cache.put(WHERE, "0", b"y")
    assert cache.get(WHERE, "0") == b"y"
