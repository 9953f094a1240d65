"""Volumes in an object store: read by anybody, kept on this machine, and asked for again where a request fails."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import numpy as np
import pytest
import torch
import zarr

from asparagus.cli.main import run
from asparagus.data.zarr import places
from asparagus.data.zarr.datasplit import read_datasplit
from asparagus.data.zarr.make import LABELS_BUCKET, RAW_BUCKET, make_s3_datasplit_csv
from asparagus.data.zarr.module import CropDataModule
from asparagus.data.zarr.places import open_group
from asparagus.data.zarr.volumes import open_anew
from asparagus.errors import DataError, StoreError
from asparagus.storage.store import Store
from tests.volumes import write_data

METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
INSIDE = "recon-1/labels/groundtruth"


@contextmanager
def failing_now_and_then(upstream: str, every: int) -> Iterator[tuple[str, list[str]]]:  # noqa: C901
    """Stand before a store and answer every n-th request with 503; yields where, and what was asked for so far."""
    asked: list[str] = []
    lock = threading.Lock()

    class Door(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with lock:
                asked.append(self.path)
                fails = every and len(asked) % every == 0
            if fails:
                self._answer(503, b"", {})
                return
            kept = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            request = urllib.request.Request(f"{upstream}{self.path}", headers=kept, method=self.command)
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    self._answer(answer.status, answer.read(), dict(answer.headers))
            except urllib.error.HTTPError as error:
                self._answer(error.code, error.read(), dict(error.headers))

        do_HEAD = do_GET  # noqa: N815

        def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return write_data(
        tmp_path_factory.mktemp("volumes"),
        {"jrc_a": {"crop1": ["nuc", "er"], "crop2": ["nuc"]}, "jrc_b": {"crop3": ["nuc", "er"]}},
    )


@pytest.fixture(scope="module")
def uploaded(local, s3_endpoint):
    """The challenge's two buckets, on loopback."""
    client = boto3.client(
        "s3", endpoint_url=s3_endpoint, aws_access_key_id="me", aws_secret_access_key="mine", region_name="us-east-1"
    )
    for name, part in ((RAW_BUCKET, "em"), (LABELS_BUCKET, "labels")):
        client.create_bucket(Bucket=name, ACL="public-read")
        for file in local.rglob("*"):
            key = file.relative_to(local).as_posix()
            if file.is_file() and f"/{part}/" in key:
                key = key.replace("/labels/groundtruth/", "/groundtruth/")
                client.put_object(Bucket=name, Key=key, Body=file.read_bytes(), ACL="public-read")
    return s3_endpoint


@pytest.fixture
def buckets(uploaded, monkeypatch, tmp_path):
    """Somebody without credentials, who can reach them."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", uploaded)
    monkeypatch.setenv("ASPARAGUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for variable in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(variable, str(tmp_path / "none"))
    open_anew()
    return uploaded


def module(file, **options):
    info = {"shape": [1, 16, 16], "scale": [8, 8, 8]}
    given = {"input_array_info": info, "samples_per_epoch": 16, "validation_prob": 0.4, "use_s3": True, "seed": 42}
    built = CropDataModule(str(file), **(given | options))
    built.prepare_data()
    built.setup()
    return built


def images(built):
    return torch.cat([batch["image"] for batch in built.train_dataloader()])


def test_e43_the_buckets_of_the_challenge_are_listed_by_anybody(buckets, tmp_path):
    file = tmp_path / "s3.csv"
    found = make_s3_datasplit_csv(["nuc", "er"], search_path="ignored", raw_name="ignored", csv_path=file)
    assert list(found.values()) == [["nuc", "er"], ["nuc"], ["nuc", "er"]]
    raw, labels = f"s3://{RAW_BUCKET}/jrc_a/jrc_a.zarr", f"s3://{LABELS_BUCKET}/jrc_a/jrc_a.zarr"
    first = file.read_text().splitlines()[0].partition(",")[2]
    assert first == f'"{raw}","recon-1/em/fibsem-uint8","{labels}","recon-1/groundtruth/crop1/[nuc,er]"'
    assert make_s3_datasplit_csv(["nuc"], datasets=["jrc_b"], dry_run=True) == {
        "jrc_b/jrc_b.zarr/recon-1/groundtruth/crop3": ["nuc"]
    }
    with pytest.raises(DataError, match="No datasets found"):
        make_s3_datasplit_csv(["nuc"], crops=["crop9"], dry_run=True)


def test_e43_the_command_takes_use_s3(buckets, tmp_path, capsys, home):
    assert run("data", ["datasplit", "-c", "nuc,er", "-s3", "-cp", str(tmp_path / "s3.csv")]) == 0
    assert "Number of datasets: 3" in capsys.readouterr().out
    assert all(row.raw.startswith("s3://") for row in read_datasplit(tmp_path / "s3.csv"))


def test_e22_what_is_streamed_is_what_lies_in_a_folder(buckets, tmp_path, local):
    streamed = module(tmp_path / "s3.csv")
    text = (tmp_path / "s3.csv").read_text().replace(f"s3://{RAW_BUCKET}", str(local))
    text = text.replace(f"s3://{LABELS_BUCKET}", str(local)).replace("recon-1/groundtruth", INSIDE)
    (tmp_path / "local.csv").write_text(text)
    assert torch.equal(images(streamed), images(module(tmp_path / "local.csv")))


def test_e22_rows_of_a_datasplit_stream_whatever_use_s3_says(buckets, tmp_path):
    module(tmp_path / "s3.csv")
    assert images(module(tmp_path / "s3.csv", use_s3=False)).shape == (16, 1, 16, 16)


def test_loader_processes_stream_too(buckets, tmp_path):
    alone = images(module(tmp_path / "s3.csv"))
    assert torch.equal(images(module(tmp_path / "s3.csv", num_workers=2)), alone)


def test_one_request_in_ten_may_fail_and_nothing_is_asked_for_twice(buckets, tmp_path, monkeypatch):
    expected = images(module(tmp_path / "s3.csv"))
    monkeypatch.setenv("ASPARAGUS_CACHE", str(tmp_path / "another"))
    with failing_now_and_then(buckets, every=10) as (endpoint, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        open_anew()
        assert torch.equal(images(module(tmp_path / "s3.csv")), expected)
        assert len(asked) > 20
        before = len([path for path in asked if "/s0/" in path])
        open_anew()
        assert torch.equal(images(module(tmp_path / "s3.csv")), expected)
        chunks = [path for path in asked if "/s0/" in path][before:]
        assert not [path for path in chunks if not path.endswith(METADATA)], "what is kept is not fetched again"


def test_parts_of_objects_and_chunks_that_hold_nothing_are_kept_too(buckets, tmp_path, monkeypatch):
    """Shards are read in parts, and chunks of the fill value are not there: each would be asked for at every draw."""
    group = zarr.open_group(str(tmp_path / "v.zarr"), mode="w")
    values = np.zeros((32, 32, 32), np.uint8)
    values[:8, :8, :8] = 7
    group.create_array("s0", data=values, shards=(16, 16, 16), chunks=(8, 8, 8))
    client = boto3.client("s3", endpoint_url=buckets, aws_access_key_id="me", aws_secret_access_key="mine")
    for file in (tmp_path / "v.zarr").rglob("*"):
        if file.is_file():
            key = file.relative_to(tmp_path).as_posix()
            client.put_object(Bucket=RAW_BUCKET, Key=key, Body=file.read_bytes(), ACL="public-read")
    with failing_now_and_then(buckets, every=0) as (endpoint, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        for _ in range(2):
            open_anew()
            array = open_group(f"s3://{RAW_BUCKET}/v.zarr")["s0"]
            assert (array[:] == values).all()
            assert len([path for path in asked if "/c/" in path]) > 8
            seen, count = list(asked), len([path for path in asked if "/c/" in path])
        assert count == len([path for path in seen if "/c/" in path])


@pytest.mark.parametrize("gigabytes", [0, 50])
def test_a_cache_that_cannot_be_written_to_costs_time_and_nothing_else(
    gigabytes, buckets, tmp_path, monkeypatch, caplog
):
    expected = images(module(tmp_path / "s3.csv"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("ASPARAGUS_CACHE", str(tmp_path / "file" / "cache"))
    open_anew()
    assert torch.equal(images(module(tmp_path / "s3.csv", disk_gb=gigabytes)), expected)
    assert ("is kept on this machine" in caplog.text) == bool(gigabytes)


def test_a_store_that_nobody_answers_for_is_named(buckets, tmp_path, monkeypatch):
    module(tmp_path / "s3.csv")
    open_anew()
    monkeypatch.setenv("ASPARAGUS_CACHE", str(tmp_path / "another"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(places, "TRIES", 1)
    with pytest.raises(StoreError, match="nobody answers there"):
        module(tmp_path / "s3.csv")


def test_credentials_are_used_where_there_are_some(buckets, tmp_path, monkeypatch):
    assert Store("s3://x", anonymous=None)._anonymous
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert not Store("s3://x", anonymous=None)._anonymous
    assert Store("s3://x", anonymous=True)._anonymous
    assert "AWS_ACCESS_KEY_ID" in os.environ
    assert images(module(tmp_path / "s3.csv", anonymous=False)).shape == (16, 1, 16, 16)
    assert "secret" not in "".join(
        file.read_text(errors="replace") for file in Path(tmp_path).rglob("*") if file.is_file()
    )
