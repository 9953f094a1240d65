"""What travels to a cluster, what stays, and what is said when it cannot go: all that needs no cluster."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray

from asparagus.check import check, check_from_afar
from asparagus.cli.jobs import worker_log
from asparagus.cli.main import run
from asparagus.cli.submit import _runs, _send, runtime_env
from asparagus.compose import Request, compose
from asparagus.errors import ConfigError, RecordError, SubmitError
from asparagus.record.environment import SUBMITTED, Code, read_code
from asparagus.secrets import CARRIED
from asparagus.spec import Site
from asparagus.submit import address as addresses
from asparagus.submit import cargo
from asparagus.submit.address import address_of
from asparagus.submit.elsewhere import for_cluster, sweep_for_cluster
from asparagus.submit.jobs import LOG_BEGINS, Cluster, _Lines, print_worker_log
from asparagus.submit.package import LIMIT, must_be_small, package_of, write_zip
from tests.counts import within
from tests.helpers import free_port

SECRET = "correct-horse-battery-staple"


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@y", *words], check=True)


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A working directory with all that is better left at home."""
    folder = tmp_path / "lab"
    for name in ("code.py", "data.csv", "big.bin", "notes/a.md", ".env", ".env.local", ".venv/lib.py", "runs/1/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / ".gitignore").write_text("*.csv\n")
    (folder / ".asparagusignore").write_text("*.bin\nnotes/\n")
    return folder


@pytest.mark.parametrize("kind", ["tracked", "untracked", "no_repository"])
def test_what_is_ignored_or_secret_or_a_run_does_not_travel(lab, kind):
    if kind != "no_repository":
        git(lab, "init", "-q")
    if kind == "tracked":  # also what git keeps, and no job needs
        git(lab, "add", "-f", "code.py", "big.bin", "notes/a.md", ".gitignore", ".asparagusignore", ".env")
    found = package_of(lab, without=[lab / "runs"])
    assert list(found.sizes) == [".asparagusignore", ".gitignore", "code.py"]
    assert found.sizes["code.py"] == len("code.py")


def test_a_repository_in_the_repository_travels_by_its_own_rules(lab):
    git(lab, "init", "-q")
    inner = lab / "inner"
    inner.mkdir()
    git(inner, "init", "-q")
    for name in ("kept.py", "dropped.tmp"):
        (inner / name).write_text(name)
    (inner / ".gitignore").write_text("*.tmp\n")
    assert {"inner/kept.py", "inner/.gitignore"} <= set(package_of(lab).sizes)
    assert "inner/dropped.tmp" not in package_of(lab).sizes


def test_links_to_nowhere_and_to_folders_do_not_travel(lab):
    (lab / "gone").symlink_to(lab / "nothing")
    (lab / "everything").symlink_to("/")
    assert not {"gone", "everything"} & set(package_of(lab).sizes)


def test_a_package_that_is_too_large_is_refused_with_the_largest_files(lab):
    for name, size in (("model.pt", LIMIT), ("volume.nii", 2_000_000)):
        with (lab / name).open("wb") as file:
            file.truncate(size)
    with pytest.raises(SubmitError, match=r"a job may bring 105 MB(?s:.*)104\.9 MB  model\.pt\n +2\.0 MB  volume\.nii"):
        must_be_small(package_of(lab))
    (lab / ".asparagusignore").write_text("*.pt\n")
    must_be_small(package_of(lab))


def test_the_same_files_are_the_same_package_and_ours_win(lab, tmp_path):
    (lab / "tool.sh").write_text("#!/bin/sh\n")
    (lab / "tool.sh").chmod(0o755)
    first, second = tmp_path / "1.zip", tmp_path / "2.zip"
    write_zip(package_of(lab), {"code.py": b"ours"}, first)
    (lab / "code.py").touch()
    write_zip(package_of(lab), {"code.py": b"ours"}, second)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert archive.read("code.py") == b"ours"
        assert archive.namelist().count("code.py") == 1
        assert archive.getinfo("tool.sh").external_attr >> 16 & 0o111


class Parcel:
    """A cluster that keeps what it is sent."""

    address = "http://nowhere"

    def send(self, package, entrypoint, *, job_id, environment, metadata):
        with zipfile.ZipFile(package) as archive:
            self.files = archive.namelist()
        self.bytes = package.stat().st_size + len(json.dumps([entrypoint, job_id, environment, dict(metadata)]))


def test_a_job_brings_little_beside_the_users_files(home, data_root):
    cluster, load = Parcel(), _runs(Request("experiment/digits"))
    _send(cluster, load, package_of(home, without=[data_root]), {})
    within("bytes of a submitted job, beside the user's files", cluster.bytes, "\n".join(cluster.files))
    within("files of a submitted job, beside the user's", len(cluster.files), "\n".join(cluster.files))


# ---- whom we ask ----


class Dashboard(BaseHTTPRequestHandler):
    """Answers as it is told, and keeps what it is asked."""

    answers: tuple[int, bytes] = (200, b"{}")
    asked: list[str]

    def do_GET(self):
        self.asked.append(f"{self.command} {self.path}")
        status, body = self.answers
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def dashboard(status: int, body: bytes) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (Dashboard,), {"answers": (status, body), "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def test_an_address_that_nobody_answers_at_is_named_at_once():
    address, start = f"http://127.0.0.1:{free_port()}", time.monotonic()
    with pytest.raises(SubmitError, match=f"no Ray cluster answers at {address} .*{address}/api/version, .*refused"):
        Cluster(address)
    assert time.monotonic() - start < 5


def test_an_address_that_swallows_what_is_sent_is_named_within_ten_seconds(monkeypatch):
    assert addresses.ANSWER_S < 10
    monkeypatch.setattr(addresses, "ANSWER_S", 0.5)
    nobody = pytest.raises(SubmitError, match=r"no Ray cluster answers at .*timed out")
    with socket.create_server(("127.0.0.1", 0)) as door, nobody:
        Cluster(f"http://127.0.0.1:{door.getsockname()[1]}")


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[1]"])
def test_somebody_else_who_answers_is_told_from_a_dashboard(body):
    with dashboard(200, body) as (address, _), pytest.raises(SubmitError, match="it is no Ray dashboard"):
        Cluster(address)


@pytest.mark.parametrize(
    ("status", "token", "said"),
    [
        (401, None, "lets nobody in without its token.*RAY_AUTH_TOKEN"),
        (403, "old", "does not take the token.*expired"),
        (401, "unused", "asks for a token, and RAY_AUTH_MODE='disabled' keeps it here"),
    ],
)
def test_a_missing_an_expired_and_an_unused_token_are_told_apart(monkeypatch, tmp_path, status, token, said):
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray looks for one
    if token:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    if token == "old":
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with dashboard(status, b"no") as (address, _), pytest.raises(SubmitError, match=f"(?s){said}"):
        Cluster(address)


def test_a_cluster_with_another_ray_is_refused_and_nothing_is_sent(home, capsys):
    about = {"version": "4", "ray_version": "2.9.0", "ray_commit": "x", "session_name": "x"}
    with dashboard(200, json.dumps(about).encode()) as (address, asked):
        assert run("launch", ["experiment/digits", "--submit", address]) == 2
    error = capsys.readouterr().err
    assert f"runs Ray 2.9.0, and here is Ray {ray.__version__}" in error
    assert "Nothing was sent" in error
    assert {line.partition(" ")[0] for line in asked} == {"GET"}


def test_the_address_is_the_one_given_then_the_sites_then_the_environments(monkeypatch):
    assert address_of(None) == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # no dashboard's
    assert address_of(None) == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://environment:8265")
    assert address_of(None) == "http://environment:8265"
    site = Site(jobs_address="http://tunnel:8265")
    assert address_of(None, site) == "http://tunnel:8265"
    site = dataclasses.replace(site, env={"RAY_API_SERVER_ADDRESS": "http://site:8265"})
    assert address_of(None, site) == "http://site:8265"
    assert address_of("head:8265", site) == "http://head:8265"
    assert address_of("https://host/ray/") == "https://host/ray"
    with pytest.raises(SubmitError, match=r"'auto' is no address of a Ray dashboard\. Give http://host:8265"):
        address_of("auto")


# ---- what is sent ----


def test_dry_run_shows_what_would_be_sent_and_asks_nobody(home, capsys):
    (home / "mine.py").write_text("x = 1\n")
    assert run("launch", ["--submit", "experiment/digits", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "1 on Ray (cluster: auto)" in shown
    assert "http://127.0.0.1:8265" in shown
    assert "1 files" in shown  # neither the models nor the results of this home


def test_mistakes_are_found_here_before_anybody_is_asked(home, capsys):
    assert run("launch", ["experiment/digits", "optim.lrr=1", "--submit", f"http://127.0.0.1:{free_port()}"]) == 2
    assert "optim.lrr" in capsys.readouterr().err


def test_the_site_becomes_the_cluster_and_what_is_typed_stays(home):
    sent = compose(for_cluster(Request("experiment/digits", ("site.start_timeout_s=5",))))
    assert (sent.site.address, sent.site.nodes, sent.site.start_timeout_s) == ("auto", None, 5)
    assert sent.resources.workers == 1  # not the process on the head node
    swept = sweep_for_cluster(Request("experiment/digits", ("site.name=mine", "optim.lr=1,2"))).overrides
    assert {"site.address=auto", "resources.workers=1", "site.name=mine"} <= set(swept)
    assert "site.name=cluster" not in swept
    two = compose(for_cluster(Request("experiment/digits", ("resources=two_workers",))))
    assert two.resources.workers == 2


def test_what_lies_on_the_cluster_is_not_looked_for_here_and_what_is_wrong_anywhere_is_found(home):
    afar = compose(for_cluster(Request("finetune_cls", ("task=Task999_Elsewhere", "init_from=run:77/best"))))
    assert any("before anything is trained" in note for note in check_from_afar(afar).notes)
    with pytest.raises(ConfigError, match="init_from: 'run:x' is neither run:<id>/last"):
        check_from_afar(dataclasses.replace(afar, init_from="run:x"))
    with pytest.raises(ConfigError, match="init_from: finetune_cls starts from a pretrained run"):
        check_from_afar(dataclasses.replace(afar, init_from=None))
    with pytest.raises(ConfigError, match="run 77"):
        check(afar)


@pytest.fixture
def _environment_as_it_was() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    CARRIED.clear()


@pytest.mark.usefixtures("_environment_as_it_was")
@pytest.mark.parametrize(
    ("site", "cluster", "laptop", "models"),
    [
        ({}, {}, {}, "~/asparagus/models"),
        ({}, {}, {"ASPARAGUS_MODELS": "/laptop"}, "/laptop"),
        ({}, {"ASPARAGUS_HOME": "/cluster"}, {"ASPARAGUS_MODELS": "/laptop"}, "/cluster/models"),
        ({"ASPARAGUS_MODELS": "/site"}, {"ASPARAGUS_HOME": "/cluster"}, {"ASPARAGUS_MODELS": "/laptop"}, "/site"),
    ],
)
def test_folders_are_the_sites_then_the_clusters_then_the_laptops(home, monkeypatch, site, cluster, laptop, models):
    spec = compose(Request("experiment/digits", ("paths.data=/named/in/the/experiment",)))
    sent = cargo.for_elsewhere(spec)
    assert (sent.paths.models, sent.site.tracking_uri, sent.site.address) == ("", None, "auto")
    for name in ("ASPARAGUS_HOME", "ASPARAGUS_DATA"):
        monkeypatch.delenv(name)
    os.environ.update(cluster)
    cargo.settle(cargo.Errand(command=(), places=laptop, site_env=cargo.of_site(Site(env=site))))
    arrived = cargo.settled(sent, "")
    assert arrived.paths.models == str(Path(models).expanduser())
    assert arrived.paths.data == "/named/in/the/experiment"
    assert arrived.site.tracking_uri == f"sqlite:///{arrived.paths.results}/mlflow.db"


@pytest.mark.usefixtures("_environment_as_it_was")
def test_a_server_that_the_laptop_records_in_is_recorded_in_unless_the_cluster_names_one(home):
    os.environ["MLFLOW_TRACKING_URI"] = "http://ours:5000"
    sent, places = cargo.for_elsewhere(compose(Request("experiment/digits"))), cargo.places()
    del os.environ["MLFLOW_TRACKING_URI"]
    cargo.settle(cargo.Errand(command=(), places=places))
    assert cargo.settled(sent, "").site.tracking_uri == "http://ours:5000"
    os.environ["MLFLOW_TRACKING_URI"] = "http://theirs:5000"
    cargo.settle(cargo.Errand(command=(), places=places))
    assert cargo.settled(sent, "").site.tracking_uri == "http://theirs:5000"


def test_files_of_the_working_directory_are_found_in_the_jobs(home):
    (home / "own.py").write_text("")
    named = ("+data.a=/laptop/lab/own.py", "+data.b=/laptop/lab/stayed", "+data.c=/laptop/labour/own.py")
    data = cargo.settled(compose(Request("experiment/digits", named)), "/laptop/lab").data
    assert [data[name] for name in "abc"] == [f"{Path.cwd()}/own.py", "/laptop/lab/stayed", "/laptop/labour/own.py"]


def test_values_travel_by_name_and_what_is_this_machines_stays(home, monkeypatch):
    lines = (
        "PLAIN=1",
        f"LAB_KEY={SECRET}",
        "RAY_AUTH_TOKEN=t",
        "ASPARAGUS_MODELS=/m",
        "PATH=/bin",
        "CUDA_DEVICE_ORDER=x",
    )
    (home / ".env").write_text("\n".join(lines))
    for line in lines:
        monkeypatch.setenv(*line.split("=", 1))
    monkeypatch.setenv("OTHER_KEY", "not asked for")
    monkeypatch.setenv("DB_PASSWORD", SECRET)
    monkeypatch.setenv("SWEPT", "yes")
    spec = compose(Request("experiment/digits", ("+site.env.DB='${secret:DB_PASSWORD}'",)))
    values = cargo.values_for([spec], ["lr: ${oc.env:SWEPT,no}"], home)
    assert values == {"PLAIN": "1", "LAB_KEY": SECRET, "DB_PASSWORD": SECRET, "SWEPT": "yes"}
    errand = cargo.Errand(command=("asp-launch",), stages=(cargo.Stage("", None, cargo.for_elsewhere(spec)),))
    assert SECRET not in errand.to_json()
    assert cargo.Errand.read(_written(home, errand)) == errand


def _written(home: Path, errand: cargo.Errand) -> Path:
    (home / "job.json").write_text(errand.to_json())
    return home


def test_a_store_with_a_password_in_its_address_travels_with_the_values(home, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@ours:5000")
    sent = cargo.for_elsewhere(compose(Request("experiment/digits")))
    assert "MLFLOW_TRACKING_URI" not in cargo.places()
    assert cargo.values_for([sent], [], home)["MLFLOW_TRACKING_URI"] == f"http://me:{SECRET}@ours:5000"
    assert (
        SECRET not in cargo.Errand(command=(), stages=(cargo.Stage("", None, sent),), places=cargo.places()).to_json()
    )


def test_the_code_that_a_job_was_submitted_with_is_what_its_record_says(home):
    code = Code("abc", "main", "a diff")
    for name, content in cargo.files_of(cargo.Errand(command=()), code).items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_bytes(content)
    assert (home / SUBMITTED).is_file()
    assert read_code(home) == code


# ---- what is said there ----


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"asparagus": "9.9.9"}, "asparagus .* there, 9.9.9 here"),
        ({"python": "3.99", "ray": "1.0"}, r"python 3\.\d+ there, 3\.99 here; ray .* there, 1\.0 here"),
    ],
)
def test_a_job_on_another_cluster_than_it_was_checked_with_says_so_and_ends(tmp_path, wanted, said):
    ours = tmp_path / ".asparagus-job"
    for name, content in cargo.files_of(cargo.Errand(command=(), versions=wanted), Code()).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, str(ours / "start.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert re.search(said, done.stderr), done.stderr


def test_a_log_that_is_read_again_after_a_break_is_shown_once():
    shown: list[str] = []
    lines = _Lines(shown.append)
    text = "one\ntwo\nthree\nfour"
    lines.take(text[:6])
    lines.again()
    lines.take(text[:3])
    lines.take(text[3:12])
    lines.again()
    lines.take(text)
    lines.close()
    assert shown == ["one", "two", "three", "four"]


# ---- what it may bring ----


def test_a_list_of_requirements_is_an_environment(tmp_path):
    file = tmp_path / "constraints.txt"
    file.write_text("# pins\nray==2.60.0\ntorch==2.9.0  # cpu\n\n-c other.txt\nmonai>=1.5\n")
    assert runtime_env(file) == {"pip": ["torch==2.9.0", "monai>=1.5"]}
    assert runtime_env(None) == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("pips: [x]", "'pips' is not known. Did you mean 'pip'"),
        ("env_vars: {WANDB_API_KEY: x}", "env_vars.WANDB_API_KEY: Ray shows these to everybody"),
        ("[a, b]", "is no mapping"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_environment_is_refused(tmp_path, content, said):
    file = tmp_path / "env.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SubmitError, match=said):
        runtime_env(file)


def test_asparagus_itself_travels_whole_to_a_cluster_without_it(tmp_path):
    for name, content in cargo.files_of_code().items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    code = tmp_path / cargo.FOLDER / cargo.CODE
    program = "import asparagus; from asparagus.paths import packaged; "
    program += "print(asparagus.__file__, packaged('configs'), packaged('launch').is_dir())"
    environment = {**os.environ, "PYTHONPATH": str(code)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"{code}/asparagus/__init__.py", f"{code}/asparagus/configs", "True"]


# ---- runs that are here ----


@pytest.mark.parametrize(("attempt", "rank", "said"), [(2, 3, "2 3"), (None, 1, "10 1"), (3, 0, None)])
def test_the_command_that_a_cluster_prints_a_workers_log_with_finds_it(tmp_path, attempt, rank, said):
    for number, other in ((2, 3), (9, 1), (10, 1)):
        file = tmp_path / f"a run's/logs/attempt={number}/rank={other}.log"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{number} {other}")
    command = print_worker_log(f"{tmp_path}/a run's", rank, attempt, follow=False)
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode == 0, done.stdout) == (said is not None, f"{LOG_BEGINS}\n{said or ''}")


def test_the_log_of_one_worker_of_one_attempt_is_found_and_others_are_named(tmp_path):
    for attempt, rank in ((1, 0), (2, 0), (2, 3), (10, 1)):
        file = tmp_path / f"logs/attempt={attempt}/rank={rank}.log"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{attempt} {rank}")
    assert worker_log(tmp_path, 3, 2).read_text() == "2 3"
    assert worker_log(tmp_path, 1, None).read_text() == "10 1"
    with pytest.raises(RecordError, match=r"rank=7\.log: there is no such log. There are: attempt=1/rank=0\.log"):
        worker_log(tmp_path, 7, 2)
