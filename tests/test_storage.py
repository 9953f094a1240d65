"""A store of run folders and data, against a real server that speaks S3 on loopback."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import boto3
import pytest

from asparagus.checkpoint.folder import STATE, Manifest, is_whole, manifests, newest_whole, seal
from asparagus.checkpoint.holds import child, hold
from asparagus.checkpoint.removal import remove
from asparagus.data.digits import make_digits
from asparagus.data.layout import fingerprint, read_split, read_task
from asparagus.data.split import make_split
from asparagus.errors import ConfigError, DataError, RecordError, StoreError
from asparagus.journal import JournalReader
from asparagus.paths import get_paths
from asparagus.record import run_folder
from asparagus.record.numbers import claim, enter, find_folder, with_identity
from asparagus.record.run_folder import RunFolder
from asparagus.storage import holder, kept, pusher, tasks
from asparagus.storage.mirror import Mirror, mirror_of
from asparagus.storage.names import IN_STORE, working_copy
from asparagus.storage.pusher import Pusher
from asparagus.storage.store import Store

SPAWN = multiprocessing.get_context("spawn")
RUN = "Task001_Digits/train_cls/run_id=1"


def a_machine(uri: str, home: Path) -> Path:
    """The working copy of a machine whose home this is."""
    return working_copy(uri, {"ASPARAGUS_HOME": str(home)})


def a_checkpoint(folder: Path, step: int, content: bytes) -> Path:
    writing = folder / "checkpoints" / f".writing-{step}"
    writing.mkdir(parents=True)
    (writing / STATE).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return seal(writing, Manifest(f"epoch={step}-step={step}", step, step, {}, digest, len(content)))


def a_run(models: Path, *, attempt: int = 1) -> Path:
    folder = models / RUN
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"run_id": 1, "state": "running", "attempt": attempt}))
    return folder


def pushed(folder: Path, attempt: int = 1) -> Pusher:
    mirror = mirror_of(folder)
    assert mirror is not None
    made = Pusher(mirror, folder, attempt, lambda _: True)
    made.push(last=True)
    return made


def register(models: Path) -> None:
    assert claim(models, about={"stage": "train_cls", "task": "Task001_Digits"}) == 1


@pytest.fixture
def models(bucket: str, tmp_path: Path) -> Path:
    return a_machine(f"{bucket}/models", tmp_path / "a")


@pytest.fixture
def elsewhere(bucket: str, tmp_path: Path) -> Path:
    """The same store, on another machine."""
    return a_machine(f"{bucket}/models", tmp_path / "b")


def objects(models: Path) -> set[str]:
    return {key.removeprefix(f"{RUN}/") for key in Store(store_uri(models)).list(RUN)}


def store_uri(models: Path) -> str:
    return str(json.loads((models / ".asparagus/store.json").read_text())["uri"])


def test_a_store_and_a_folder_like_any_other_give_the_same_paths_to_everybody(bucket, tmp_path):
    env = {"ASPARAGUS_HOME": str(tmp_path), "ASPARAGUS_MODELS": f"{bucket}/models/"}
    paths = get_paths(env)
    assert paths.stores == {"models": f"{bucket}/models"}
    assert Path(paths.models).parent == tmp_path / "cache"
    assert mirror_of(Path(paths.models) / "a" / "b").store.uri == f"{bucket}/models"
    assert get_paths({"ASPARAGUS_HOME": str(tmp_path)}).stores == {}
    assert mirror_of(tmp_path) is None
    with pytest.raises(ConfigError, match=r"ftp://x/y: is no store. Give s3://BUCKET/PREFIX"):
        get_paths({**env, "ASPARAGUS_MODELS": "ftp://x/y"})


def test_what_was_put_comes_back_byte_by_byte(bucket, tmp_path):
    store, large = Store(f"{bucket}/deep/prefix"), tmp_path / "large"
    large.write_bytes(os.urandom(12 << 20))  # several parts
    store.put("a/large", large)
    store.write("a/small", b"12")
    store.write("a/nothing", b"")
    store.get("a/large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large.read_bytes()
    assert {key: entry.size for key, entry in store.list("a").items()} == {
        "a/large": 12 << 20,
        "a/small": 2,
        "a/nothing": 0,
    }
    assert store.read("a/other") is None
    store.delete("a/small")
    store.delete("a/small")
    assert set(store.list("")) == {"a/large", "a/nothing"}


def test_a_file_that_goes_away_while_it_is_put_leaves_no_object(bucket, tmp_path, monkeypatch):
    store, file = Store(bucket), tmp_path / "file"
    file.write_bytes(b"x" * 100)

    class Rots:
        def read(self, _: int) -> bytes:
            raise OSError(5, "Input/output error")

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(Path, "open", lambda *_: Rots())
    with pytest.raises(StoreError, match="Input/output error"):
        store.put("file", file)
    assert store.list("") == {}


def test_a_run_is_found_and_read_on_another_machine_and_its_state_comes_when_it_is_needed(models, elsewhere):
    register(models)
    enter(models, 1, {"identity": "abc"})
    folder = a_run(models)
    (folder / "journal.jsonl").write_bytes(b'{"kind": "epoch", "time": 1, "epoch": 0}\n')
    a_checkpoint(folder, 5, b"PK-weights")
    pushed(folder)

    kept.see_register(elsewhere)
    assert with_identity(elsewhere, "abc") == [1]
    there = find_folder(elsewhere, 1)
    assert [event["kind"] for event in JournalReader(there / "journal.jsonl").read()] == ["epoch"]
    [manifest] = manifests(there / "checkpoints")
    checkpoint = there / "checkpoints" / manifest.name
    assert not (checkpoint / STATE).exists()
    assert newest_whole(there / "checkpoints") == checkpoint
    assert (checkpoint / STATE).read_bytes() == b"PK-weights"
    assert not (checkpoint / IN_STORE).exists()


def test_a_state_that_rotted_in_the_store_is_not_taken(models, elsewhere):
    folder = a_run(models)
    a_checkpoint(folder, 5, b"PK-weights")
    a_checkpoint(folder, 6, b"PK-more")
    pushed(folder)
    Store(store_uri(models)).write(f"{RUN}/checkpoints/epoch=6-step=6/{STATE}", b"PK-mute")
    kept.see_run(elsewhere / RUN)
    assert newest_whole(elsewhere / RUN / "checkpoints").name == "epoch=5-step=5"
    assert not (elsewhere / RUN / "checkpoints/epoch=6-step=6" / STATE).exists()


def _push_for_ever(folder: str) -> None:
    pushed(Path(folder))


def test_a_push_that_is_killed_at_any_moment_leaves_no_half_of_a_checkpoint(models, elsewhere, tmp_path):
    content = os.urandom(16 << 20)
    folder = a_run(models)
    name = a_checkpoint(folder, 5, content).name
    store, killed_in_between = Store(store_uri(models)), 0
    for delay in (0.0, 0.1, 0.3):
        process = SPAWN.Process(target=_push_for_ever, args=(str(folder),))
        process.start()
        while not store.list(RUN):  # it has begun
            time.sleep(0.01)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        there = store.list(RUN)
        if f"{RUN}/checkpoints/{name}/checkpoint.json" not in there:
            killed_in_between += 1
            fresh = a_machine(store_uri(models), tmp_path / f"machine-{delay}")
            kept.see_run(fresh / RUN)
            assert manifests(fresh / RUN / "checkpoints") == []
            assert newest_whole(fresh / RUN / "checkpoints") is None
    assert killed_in_between, "the server was too fast for the claim to be tried"
    pushed(folder)
    kept.see_run(elsewhere / RUN)
    assert newest_whole(elsewhere / RUN / "checkpoints").name == name
    assert (elsewhere / RUN / "checkpoints" / name / STATE).read_bytes() == content


def test_a_state_without_a_manifest_is_no_checkpoint_and_is_cleared_by_who_goes_on(models, elsewhere):
    folder = a_run(models)
    store = Store(store_uri(models))
    store.write(f"{RUN}/checkpoints/epoch=9-step=9/{STATE}", b"PK-half")  # killed before its manifest
    kept.see_run(elsewhere / RUN)
    assert manifests(elsewhere / RUN / "checkpoints") == []
    pushed(folder)
    assert not any("epoch=9" in key for key in objects(models))


def test_what_retention_removes_here_leaves_the_store_unless_another_machine_holds_it(models, elsewhere):
    folder = a_run(models)
    first, second = (a_checkpoint(folder, step, b"PK" + bytes([step])) for step in (1, 2))
    made = pushed(folder)
    kept.see_run(elsewhere / RUN)
    hold(elsewhere / RUN / "checkpoints" / first.name, child(7))  # a finetune over there starts from it
    assert remove(first)
    assert remove(second)
    made.push(last=True)
    assert f"checkpoints/{first.name}/checkpoint.json" in objects(models)
    assert not any(second.name in key for key in objects(models))
    assert is_whole(elsewhere / RUN / "checkpoints" / first.name, manifests(elsewhere / RUN / "checkpoints")[0])


def test_a_checkpoint_that_is_trained_again_replaces_the_one_of_the_same_step(models, elsewhere):
    folder = a_run(models)
    a_checkpoint(folder, 5, b"PK-first")
    made = pushed(folder)
    kept.see_run(elsewhere / RUN)
    a_checkpoint(folder, 5, b"PK-again")
    made.push(last=True)
    kept.see_run(elsewhere / RUN, at_least=0)
    chosen = newest_whole(elsewhere / RUN / "checkpoints")
    assert (chosen / STATE).read_bytes() == b"PK-again"


def test_a_journal_grows_in_parts_and_arrives_whole(models, elsewhere, monkeypatch):
    monkeypatch.setattr(pusher, "PART", 100)
    folder, whole = a_run(models), b""
    made = pushed(folder)
    for number in range(40):
        whole += json.dumps({"kind": "metrics", "time": number}).encode() + b"\n"
        (folder / "journal.jsonl").write_bytes(whole)
        if number % 3 == 0:
            made.push()
        if number % 7 == 0:
            kept.see_run(elsewhere / RUN, at_least=0)
    pushed(folder)  # a process that goes on
    kept.see_run(elsewhere / RUN, at_least=0)
    assert (elsewhere / RUN / "journal.jsonl").read_bytes() == whole
    assert len([key for key in objects(models) if ".parts/" in key]) == len(whole) // 100 + 1


def test_a_machine_that_was_overtaken_keeps_its_own_aside_and_goes_on_with_the_others(models, elsewhere):
    folder = a_run(models)
    (folder / "journal.jsonl").write_text('{"kind": "a", "time": 1}\n')
    pushed(folder)
    with (folder / "journal.jsonl").open("a") as file:
        file.write('{"kind": "never stored", "time": 2}\n')
    kept.see_run(elsewhere / RUN)
    there = a_run(elsewhere, attempt=2)
    with (there / "journal.jsonl").open("a") as file:
        file.write('{"kind": "b", "time": 3}\n')
    pushed(there, attempt=2)

    a_checkpoint(folder, 9, b"PK")
    with pytest.raises(StoreError, match=r"another machine has gone on with this run \(attempt 2, this one is 1\)"):
        Pusher(mirror_of(folder), folder, 1, lambda path: path.name != "run.json").push()
    assert not any("epoch=9" in key for key in objects(models))
    kept.see_run(folder, at_least=0)
    assert [event["kind"] for event in JournalReader(folder / "journal.jsonl").read()] == ["a", "b"]
    [aside] = (models / ".asparagus/behind").iterdir()
    assert "never stored" in (aside / "journal.jsonl").read_text()


def test_two_machines_that_draw_at_once_draw_different_numbers(bucket, tmp_path):
    machines = [a_machine(f"{bucket}/models", tmp_path / str(number)) for number in range(6)]
    drawn: list[int] = []
    about = {"stage": "train_cls", "task": "Task001_Digits"}
    threads = [
        threading.Thread(target=lambda here=here: drawn.extend(claim(here, about=about) for _ in range(3)))
        for here in machines
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drawn) == 18
    assert len(set(drawn)) == 18
    assert not [key for key in Store(f"{bucket}/models").list(".asparagus") if "claims" in key]


def test_a_run_is_one_machines_at_a_time(models, elsewhere, monkeypatch):
    monkeypatch.setattr(holder, "BEAT_S", 0.3)
    a_run(models)
    a_run(elsewhere)
    held = run_folder.hold(RunFolder(models / RUN, "train_cls"))
    assert run_folder.is_running(RunFolder(elsewhere / RUN, "train_cls"))
    with pytest.raises(RecordError, match=rf"is being trained already, by process {os.getpid()} on "):
        run_folder.hold(RunFolder(elsewhere / RUN, "train_cls"))
    held.release()
    assert not run_folder.is_running(RunFolder(elsewhere / RUN, "train_cls"))
    run_folder.hold(RunFolder(elsewhere / RUN, "train_cls")).release()


def test_who_speaks_again_on_another_machine_has_the_run(models):
    key, ended = f"{RUN}/.holders/of-another-machine", threading.Event()
    told = json.dumps({"pid": 1, "host": "far-away", "where": "another kernel"}).encode()
    a_run(models)

    def speak() -> None:
        while not ended.wait(0.3):
            Store(store_uri(models)).write(key, told)

    thread = threading.Thread(target=speak)
    thread.start()
    try:
        while not Store(store_uri(models)).list(RUN):
            time.sleep(0.05)
        with pytest.raises(RecordError, match="is being trained already, by process 1 on far-away"):
            run_folder.hold(RunFolder(models / RUN, "train_cls"))
    finally:
        ended.set()
        thread.join()


def test_who_was_silent_for_long_has_lost_the_run_and_who_was_killed_here_at_once(models, elsewhere, monkeypatch):
    monkeypatch.setattr(holder, "LEASE_S", 3.0)
    monkeypatch.setattr(holder, "BEAT_S", 60.0)
    a_run(models)
    a_run(elsewhere)
    key = f"{RUN}/.holders/of-another-machine"
    Store(store_uri(models)).write(key, json.dumps({"pid": 1, "host": "gone", "where": "another kernel"}).encode())
    started = time.monotonic()
    run_folder.hold(RunFolder(models / RUN, "train_cls")).release()
    assert 1.5 < time.monotonic() - started < 10

    monkeypatch.setattr(holder, "LEASE_S", 30.0)  # far more than a busy machine takes for what is done at once
    process = SPAWN.Process(target=_hold, args=(str(models / RUN),))
    process.start()
    while not (models / RUN / ".driver").is_file() or not run_folder.is_running(RunFolder(elsewhere / RUN, "")):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    started = time.monotonic()
    run_folder.hold(RunFolder(elsewhere / RUN, "train_cls")).release()
    assert time.monotonic() - started < 10


def _hold(folder: str) -> None:
    run_folder.hold(RunFolder(Path(folder), "train_cls"))
    time.sleep(600)


def test_a_store_that_is_away_delays_nothing_and_what_it_lacks_is_put_by_the_next_launch(models, caplog, monkeypatch):
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    folder = a_run(models)
    held = kept.hold(folder)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    mirror_of(folder).store.__dict__.pop("_fs", None)  # as in a process that starts now
    a_checkpoint(folder, 5, b"PK")
    started = time.monotonic()
    kept.push_all(folder, patience_s=8)
    assert time.monotonic() - started < 20
    assert "not all of it is in s3://" in caplog.text
    assert "nobody answers there" in caplog.text
    assert "checkpoints/epoch=5-step=5" in caplog.text
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    mirror_of(folder).store.__dict__.pop("_fs", None)
    held.release()
    kept.catch_up(models)
    assert "checkpoints/epoch=5-step=5/checkpoint.json" in objects(models)
    assert not list((models / ".asparagus/unstored").iterdir())


def test_a_run_that_one_machine_threw_away_is_thrown_away_on_the_others(models, elsewhere):
    folder = a_run(models)
    register(models)
    pushed(folder)
    assert find_folder(elsewhere, 1).is_dir()
    thrown = models / ".asparagus/trash/run_id=1"
    thrown.parent.mkdir()
    kept.moved(folder, thrown)
    folder.rename(thrown)
    time.sleep(0.01)
    mirror_of(elsewhere)._seen.clear()
    with pytest.raises(RecordError, match="is in the trash"):
        find_folder(elsewhere, 1)
    kept.gone(thrown)
    assert not Store(store_uri(models)).list(".asparagus/trash")


# What is wrong with a store is said in one line, before anything starts.


def problem(uri: str) -> str:
    kept._problem.cache_clear()
    [told] = kept.problems({"models": uri})
    assert "\n" not in told
    return told


def test_a_bucket_that_is_not_there(bucket):
    assert not list(kept.problems({"models": bucket}))
    assert "s3://no-such-bucket/models" in problem("s3://no-such-bucket/models")
    assert "there is no such bucket" in problem("s3://no-such-bucket/models")


def test_an_endpoint_that_refuses_and_one_that_never_answers(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "nobody answers there. Look at AWS_ENDPOINT_URL" in problem(bucket)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert "nobody answers there" in problem(bucket)
        assert time.monotonic() - started < 10


def test_no_credentials(bucket, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "there are no credentials. Set AWS_ACCESS_KEY_ID" in problem(bucket)


def test_credentials_that_are_unknown_and_ones_that_may_only_read(bucket, monkeypatch):
    endpoint, name = os.environ["AWS_ENDPOINT_URL"], bucket.removeprefix("s3://")
    iam = boto3.client("iam", endpoint_url=endpoint, region_name="us-east-1")
    iam.create_user(UserName=name)
    rights = {"Effect": "Allow", "Action": ["s3:Get*", "s3:List*", "s3:Head*"], "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [rights]})
    iam.put_user_policy(UserName=name, PolicyName="read", PolicyDocument=document)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    _ask_who_it_is(endpoint, "0")
    try:
        assert "the credentials are not accepted" in problem(bucket)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        assert "cannot be written to: the credentials may not do that there" in problem(bucket)
        assert key["SecretAccessKey"] not in problem(bucket)
        kept._problem.cache_clear()
        assert not list(kept.problems({"data": bucket})), "data are only read"
    finally:
        _ask_who_it_is(endpoint, "inf")


def _ask_who_it_is(endpoint: str, after: str) -> None:
    request = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", data=after.encode(), method="POST")
    request.add_header("Content-Type", "text/plain")
    urllib.request.urlopen(request).close()


class _Expired(BaseHTTPRequestHandler):
    """What S3 answers to a session token of yesterday."""

    def _answer(self) -> None:
        body = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/xml")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = _answer  # noqa: N815

    def log_message(self, *_: object) -> None: ...


def test_credentials_that_have_expired(bucket, monkeypatch):
    with HTTPServer(("127.0.0.1", 0), _Expired) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        assert "the credentials have expired. Get new ones" in problem(bucket)
        server.shutdown()


# Data.


@pytest.fixture
def data(bucket: str, tmp_path: Path) -> Path:
    """A machine with some digits in the store, made there."""
    root = a_machine(f"{bucket}/data", tmp_path / "a")
    make_digits(root, cases=20)
    make_split(root, "Task001_Digits", "split_80_20")
    tasks.put_task(root, "Task001_Digits")
    return root


def test_a_task_is_known_without_its_cases_and_fetched_where_it_is_trained_on(data, bucket, tmp_path):
    there = a_machine(f"{bucket}/data", tmp_path / "b")
    tasks.see_task(there, "Task001_Digits")
    task = read_task(there, "Task001_Digits")
    cases = read_split(task, "split_80_20", 0)["train"]
    assert not cases[0].exists()
    assert fingerprint(task, "split_80_20") == fingerprint(read_task(data, "Task001_Digits"), "split_80_20")
    tasks.fetch_task(there, "Task001_Digits")
    assert cases[0].read_bytes() == (data / cases[0].relative_to(there)).read_bytes()
    with pytest.raises(DataError, match=r"no task 'Task00' in s3://.*Known there: Task001_Digits"):
        tasks.see_task(there, "Task00")


def test_a_case_that_changed_is_fetched_anew_and_the_others_are_not(data, bucket, tmp_path):
    there = a_machine(f"{bucket}/data", tmp_path / "b")
    tasks.fetch_task(there, "Task001_Digits")
    task = read_task(there, "Task001_Digits")
    changed, same, gone, damaged = read_split(task, "split_80_20", 0)["train"][:4]
    before = same.stat().st_ino
    time.sleep(1.1)  # the server counts in seconds
    store = Store(f"{bucket}/data")
    store.write(changed.relative_to(there).as_posix(), b"x" * changed.stat().st_size)
    store.delete(gone.relative_to(there).as_posix())
    damaged.write_bytes(b"cut")
    tasks.fetch_task(there, "Task001_Digits")
    assert set(changed.read_bytes()) == set(b"x")
    assert same.stat().st_ino == before
    assert damaged.stat().st_size > 3
    assert not gone.exists()


def test_a_folder_as_a_store_works_the_same(tmp_path):
    uri = f"file://{tmp_path}/store"
    models, elsewhere = a_machine(uri, tmp_path / "a"), a_machine(uri, tmp_path / "b")
    register(models)
    folder = a_run(models)
    a_checkpoint(folder, 5, b"PK-weights")
    pushed(folder)
    there = find_folder(elsewhere, 1)
    assert (newest_whole(there / "checkpoints") / STATE).read_bytes() == b"PK-weights"
    assert not list(kept.problems({"models": uri}))
    shutil.rmtree(tmp_path / "store")


def test_a_mirror_is_the_same_object_for_all_of_a_process(models):
    assert isinstance(mirror_of(models), Mirror)
    assert mirror_of(models) is mirror_of(models / RUN)
