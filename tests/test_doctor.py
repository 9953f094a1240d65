"""`asp doctor`: what it finds in good and in bad surroundings, and that it says what to do."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from asparagus.cli.doctor import doctor
from asparagus.doctor import (
    CHECKS,
    Finding,
    examine,
    judge_answers,
    judge_gpus,
    judge_package,
    judge_python,
    judge_room,
    judge_shared_memory,
    look_around,
)

DIGITS = "experiment/digits"
HEAVY = ["torch", "ray", "mlflow", "pytorch_lightning", "monai", "sklearn"]

# Runs the command in a process of its own, and says on the last line which of HEAVY it has imported.
WATCHED = f"""
import json, sys, time
started = time.perf_counter()
from asparagus.cli.doctor import doctor
status = doctor(sys.argv[1:])
loaded = {{name.partition(".")[0] for name in sys.modules}}
heavy = sorted(loaded & set({HEAVY!r}))
print(json.dumps({{"status": status, "heavy": heavy, "seconds": time.perf_counter() - started}}))
"""
COMMAND = "import sys; from asparagus.cli.doctor import doctor; sys.exit(doctor(sys.argv[1:]))"


@pytest.fixture(autouse=True)
def _nobody_elses(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster, token or store of whoever runs the tests."""
    alone = tmp_path_factory.mktemp("alone")
    monkeypatch.setenv("HOME", str(alone))
    monkeypatch.setenv("RAY_TMPDIR", str(alone))
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def found() -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(look_around())}


def ray_notes(address: str) -> Path:
    """Write down a cluster as `ray start` does."""
    file = Path(os.environ["RAY_TMPDIR"]) / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    file.write_text(address + "\n")
    return file


def store_with(runs: int, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as store, store:
        store.execute("CREATE TABLE runs (run_uuid TEXT)")
        store.executemany("INSERT INTO runs VALUES (?)", [(str(number),) for number in range(runs)])
    return file


@pytest.fixture
def listening() -> Iterator[str]:
    """An address that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def nowhere() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Start a web server that gives /health one status, and everything else another."""
    servers: list[ThreadingHTTPServer] = []

    def start(health: int, door: int) -> str:
        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.headers.get("Authorization") == "Bearer mine"
                self.send_response(health if self.path == "/health" or known else door)
                self.end_headers()
                self.wfile.write(b"{}" if known else b"")

            def log_message(self, *words: object) -> None:
                """Say nothing."""

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Answers))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_nothing_is_bad_where_the_tests_run(home, capsys):
    assert doctor([]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "\x1b" not in printed.out, "no colours into a pipe"
    assert printed.out.splitlines()[-1].startswith("0 bad, ")


def test_the_findings_stand_under_each_other(home, capsys):
    doctor([])
    lines = [line for line in capsys.readouterr().out.splitlines()[:-1] if "→" not in line]
    assert {line[:6] for line in lines} <= {"ok    ", "warn  ", "bad   "}
    assert {line[24:26] for line in lines} == {"  "}


def test_looking_leaves_nothing_behind(home):
    before = set(home.rglob("*"))
    found()
    assert set(home.rglob("*")) == before


def test_json_is_one_list_on_the_last_line(home, capsys):
    assert doctor(["--json"]) == 0
    printed = capsys.readouterr()
    findings = json.loads(printed.out.splitlines()[-1])
    assert all(list(finding) == ["what", "state", "found", "do"] for finding in findings)
    assert len(findings) == sum("→" not in line for line in printed.err.splitlines()) - 1


def test_it_takes_less_than_a_second_and_loads_nothing_heavy(home):
    command = [sys.executable, "-c", WATCHED]
    ends = [subprocess.run(command, cwd=home, capture_output=True, text=True, check=True) for _ in range(3)]
    reports = [json.loads(end.stdout.splitlines()[-1]) for end in ends]
    assert [(report["status"], report["heavy"]) for report in reports] == [(0, [])] * 3
    assert min(report["seconds"] for report in reports) < 1


def test_a_config_loads_nothing_heavy_either(home):
    end = subprocess.run([sys.executable, "-c", WATCHED, DIGITS], cwd=home, capture_output=True, text=True, check=True)
    report = json.loads(end.stdout.splitlines()[-1])
    assert (report["status"], report["heavy"]) == (0, [])


def test_a_server_that_hangs_is_given_up_and_holds_nothing_up(home, listening):
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"http://{listening}"}
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, text=True, env=environment, cwd=home
    ) as process:
        came = {
            line.split()[1]: time.monotonic() - started for line in process.stdout if line.startswith(("ok", "bad"))
        }
    assert process.returncode == 2
    assert came["tracking"] - came["GPUs"] > 2
    assert came["tracking"] - came["GPUs"] < 10


def test_every_warning_and_every_bad_finding_says_what_to_do(home, monkeypatch, nowhere):
    (home / "file").write_text("")
    monkeypatch.setenv("ASPARAGUS_DATA", "s3://bucket/data")
    monkeypatch.setenv("ASPARAGUS_SOURCE", "")
    monkeypatch.setenv("ASPARAGUS_MODELS", str(home / "file" / "models"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{nowhere}")
    monkeypatch.setenv("RAY_ADDRESS", nowhere)
    ray_notes(nowhere)
    states = {finding.state for finding in found().values()}
    assert states == {"ok", "warn", "bad"}
    assert all(bool(finding.do) == (finding.state != "ok") for finding in found().values())


def test_warnings_do_not_count(home, monkeypatch, capsys):
    monkeypatch.setenv("ASPARAGUS_DATA", str(home / "empty"))
    assert doctor([]) == 0
    assert "warn  tasks" in capsys.readouterr().out


def test_each_check_says_what_it_does():
    assert all(check.__doc__ for check in CHECKS)


# --- folders


def test_a_folder_is_said_with_what_decided_it(home, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_RESULTS", str(home / "elsewhere"))
    (home / "models").mkdir()
    seen = found()
    assert seen["ASPARAGUS_RESULTS"].found == f"{home}/elsewhere (ASPARAGUS_RESULTS) will be created"
    assert seen["ASPARAGUS_MODELS"].found == f"{home}/models (ASPARAGUS_HOME)"
    monkeypatch.delenv("ASPARAGUS_HOME")
    assert found()["ASPARAGUS_MODELS"].found == f"{Path.home()}/asparagus/models (default) will be created"


def test_a_folder_of_a_dotenv_is_said_to_be_its(home, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_MODELS", "to be forgotten again")
    monkeypatch.delenv("ASPARAGUS_MODELS")
    (home / ".env").write_text(f"ASPARAGUS_MODELS={home}/of_dotenv\n")
    (home / "below").mkdir()
    monkeypatch.chdir(home / "below")
    seen = found()
    assert seen[".env"] == Finding(".env", "ok", str(home / ".env"))
    assert seen["ASPARAGUS_MODELS"].found == (f"{home}/of_dotenv (ASPARAGUS_MODELS in {home}/.env) will be created")


def test_a_dotenv_that_is_no_text_is_bad(home):
    (home / ".env").write_bytes(b"\xff\xfe\xff")
    assert found()[".env"].state == "bad"


def test_no_dotenv_is_no_trouble(home):
    assert found()[".env"].state == "ok"


@pytest.mark.parametrize(("variable", "state"), [("ASPARAGUS_MODELS", "bad"), ("ASPARAGUS_DATA", "warn")])
def test_a_folder_that_cannot_be_written_is_bad_where_training_writes(variable, state, home, monkeypatch):
    (home / "file").write_text("")
    monkeypatch.setenv(variable, str(home / "file" / "folder"))
    finding = found()[variable]
    assert (finding.state, "Not a directory" in finding.found) == (state, True)
    assert "to a folder of yours" in finding.do


def test_an_empty_variable_is_bad_and_the_other_checks_go_on(home, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_MODELS", "")
    seen = found()
    assert seen["ASPARAGUS_MODELS"].state == "bad"
    assert f"{home}/models" in seen["ASPARAGUS_MODELS"].do
    assert seen["tracking"].state == "ok"


def test_a_store_is_looked_at(home, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_MODELS", f"file://{home}/shared")
    assert found()["ASPARAGUS_MODELS"].state == "ok"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ASPARAGUS_MODELS", "s3://bucket/models")
    assert found()["ASPARAGUS_MODELS"].state == "bad"


def test_results_at_a_uri_leave_no_place_for_the_store(home, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_RESULTS", "s3://bucket/results")
    assert found()["tracking"].state == "bad"


def test_further_config_folders_have_to_be_there(home, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_TRAIN_CONFIGS", str(home))
    assert found()["ASPARAGUS_TRAIN_CONFIGS"].state == "ok"
    monkeypatch.setenv("ASPARAGUS_TRAIN_CONFIGS", f"{home}:{home}/gone")
    assert found()["ASPARAGUS_TRAIN_CONFIGS"].state == "warn"


def test_tasks_are_named_and_none_says_how_to_make_one(home, monkeypatch):
    assert found()["tasks"].found == "Task001_Digits"
    monkeypatch.setenv("ASPARAGUS_DATA", str(home / "nothing"))
    finding = found()["tasks"]
    assert finding.state == "warn"
    assert finding.do.endswith("asp data make Task001_Digits")


# --- versions, memory, GPUs


def installed(version: str) -> Callable[[str], str]:
    def version_of(name: str) -> str:
        return version

    return version_of


def missing(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


@pytest.mark.parametrize(
    ("requirement", "version", "states"),
    [
        ("omegaconf>=2.3,<2.4", "2.3.1", ["ok"]),
        ("omegaconf>=2.3,<2.4", "2.4.0", ["bad"]),
        ("omegaconf>=2.3,<2.4", "2.2", ["bad"]),
        ("torch>=2.6", "2.13.0+cpu", ["ok"]),
        ("ray[default,train,tune]<2.61,>=2.60", "2.61.0", ["bad"]),
        ("filelock>=3.15", "3.20", []),
        ("filelock>=3.15", "3.0", ["bad"]),
        ("pytest>=8.3; extra == 'dev'", "1.0", []),
    ],
)
def test_a_version_outside_of_the_requirements_is_bad(requirement, version, states):
    assert [finding.state for finding in judge_package(requirement, installed(version))] == states


def test_a_package_that_is_missing_is_bad():
    (finding,) = judge_package("optuna>=4.5", missing)
    assert finding.state == "bad"
    assert "-c constraints.txt" in finding.do


def test_an_old_python_is_bad():
    assert judge_python(">=3.11", "3.11.0").state == "ok"
    assert judge_python(">=3.11", "3.10.14").state == "bad"


@pytest.mark.parametrize(("free", "state"), [(9.9, "warn"), (10.1, "ok")])
def test_little_space_for_checkpoints_is_a_warning(free, state):
    assert judge_room("models", free).state == state


@pytest.mark.parametrize(
    ("free", "memory", "state"), [(0.064, 4, "warn"), (2, 4, "ok"), (2, 64, "warn"), (12, 512, "ok")]
)
def test_shared_memory_is_enough_for_data_workers_and_for_ray(free, memory, state):
    assert judge_shared_memory(free, memory).state == state


H100 = "NVIDIA H100 80GB HBM3, 81559 MiB, 570.86.15"


@pytest.mark.parametrize(
    ("names", "devices", "cuda", "state"),
    [
        ([], [], None, "ok"),
        ([], [], "12.8", "ok"),
        ([H100], ["/dev/nvidia0"], "12.8", "ok"),
        ([H100], ["/dev/nvidia0"], None, "bad"),
        ([H100], [], "12.8", "ok"),
        ([], ["/dev/nvidia0"], "12.8", "warn"),
    ],
)
def test_a_gpu_needs_a_driver_and_a_torch_that_was_built_for_it(names, devices, cuda, state):
    assert judge_gpus(names, devices, cuda).state == state


def test_no_gpu_trains_on_the_cpu():
    assert judge_gpus([], [], None).found == "none: trains on the CPU"


@pytest.mark.parametrize(
    ("line", "state", "said"),
    [("cuda: Optional[str] = None", "bad", "without CUDA"), ("cuda: Optional[str] = '12.8'", "ok", "CUDA 12.8")],
)
def test_the_build_of_torch_is_read_from_its_files(line, state, said, tmp_path, home):
    """A `nvidia-smi` and a torch that can be read here, in place of a machine with a GPU."""
    tool, package = tmp_path / "nvidia-smi", tmp_path / "torch"
    tool.write_text(f"#!/bin/sh\necho '{H100}'\n")
    tool.chmod(0o755)
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('it is not to be imported')\n")
    (package / "version.py").write_text(f"__version__ = '2.9.0'\n{line}\nhip: Optional[str] = None\n")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "--json"],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    (gpus,) = [each for each in json.loads(done.stdout.splitlines()[-1]) if each["what"] == "GPUs"]
    assert gpus["state"] == state
    assert H100 in gpus["found"]
    assert said in gpus["found"]


# --- MLflow


def test_a_store_that_is_not_there_yet_will_be_created(home):
    assert found()["tracking"] == Finding("tracking", "ok", f"sqlite:///{home}/results/mlflow.db will be created")


@pytest.mark.parametrize(("runs", "said"), [(0, "0 runs"), (1, "1 run"), (3, "3 runs")])
def test_the_runs_of_a_store_are_counted(runs, said, home):
    file = store_with(runs, home / "results" / "mlflow.db")
    assert found()["tracking"] == Finding("tracking", "ok", f"sqlite:///{file}, {said}")


def test_an_empty_file_is_a_store_without_runs(home):
    (home / "results").mkdir()
    (home / "results" / "mlflow.db").write_bytes(b"")
    assert found()["tracking"].found.endswith(", 0 runs")


def test_a_file_that_is_no_store_is_bad(home, monkeypatch):
    (home / "notes.txt").write_text("these are not the runs that you are looking for " * 9)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/notes.txt")
    finding = found()["tracking"]
    assert (finding.state, "not a database" in finding.found) == ("bad", True)


def test_a_store_in_a_place_that_cannot_be_written_is_bad(home, monkeypatch):
    (home / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/file/mlflow.db")
    assert found()["tracking"].state == "bad"


def test_a_server_that_is_well_is_ok(home, serve, monkeypatch):
    uri = serve(200, 200)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert found()["tracking"] == Finding("tracking", "ok", f"{uri} answers")


def test_a_server_that_is_away_is_bad_and_its_password_is_not_shown(home, nowhere, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@{nowhere}")
    finding = found()["tracking"]
    assert (finding.state, "Connection refused" in finding.found) == ("bad", True)
    assert "secret" not in str(finding)
    assert f"mlflow server --port {nowhere.partition(':')[2]}" in finding.do
    assert "unset MLFLOW_TRACKING_URI" in finding.do


def test_a_server_that_asks_who_you_are_is_bad_until_it_is_told(home, serve, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", serve(200, 401))
    assert found()["tracking"].state == "bad"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "mine")
    assert (found()["tracking"].state, "knows these" in found()["tracking"].found) == ("ok", True)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "mine-until-yesterday")
    expired = found()["tracking"]
    assert expired.state == "bad"
    assert "(401)" in expired.found
    assert "expired" in expired.do
    assert "yesterday" not in expired.found


@pytest.mark.parametrize(
    ("health", "door", "state", "do"),
    [(200, 403, "bad", "--allowed-hosts"), (404, 404, "warn", "asp runs"), (200, 404, "ok", "")],
)
def test_the_answers_of_a_server_are_understood(health, door, state, do):
    finding = judge_answers("http://here:5000", health, door)
    assert finding.state == state
    assert do in finding.do


def test_a_kind_of_store_that_is_not_known_here_is_a_warning_without_its_password(home, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@host/runs")
    finding = found()["tracking"]
    assert (finding.state, "secret" in finding.found) == ("warn", False)


# --- Ray


def test_no_cluster_is_no_trouble(home):
    assert found()["ray cluster"].state == "ok"


@pytest.mark.parametrize("scheme", ["", "ray://", "http://"])
def test_a_cluster_that_answers_is_ok(scheme, home, listening, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", scheme + listening)
    seen = found()
    assert seen["RAY_ADDRESS"].state == "ok"
    assert "RAY_AUTH_MODE" not in seen


@pytest.mark.parametrize("address", ["somewhere", "host:port", ":6379", "host:99999"])
def test_an_address_that_is_none_is_bad(address, home, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    finding = found()["RAY_ADDRESS"]
    assert (finding.state, address in finding.found) == ("bad", True)


def test_a_cluster_that_is_away_is_bad(home, nowhere, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", nowhere)
    assert found()["RAY_ADDRESS"].state == "bad"


def test_a_cluster_that_was_left_behind_is_a_warning(home, nowhere):
    file = ray_notes(nowhere)
    finding = found()["ray cluster"]
    assert finding.state == "warn"
    assert nowhere in finding.found
    assert finding.do == f"ray stop, or remove {file}"


def test_a_cluster_that_is_up_here_is_said(home, listening):
    ray_notes(listening)
    assert listening in found()["ray cluster"].found


@pytest.mark.parametrize("kept", ["file", "variable"])
def test_a_token_is_a_warning_when_it_would_be_sent(kept, home, listening, monkeypatch):
    if kept == "file":
        (Path.home() / ".ray").mkdir()
        (Path.home() / ".ray" / "auth_token").write_text("token")
    else:
        monkeypatch.setenv("RAY_AUTH_TOKEN", "token")
    assert "RAY_AUTH_MODE" not in found(), "no cluster, nobody to send it to"
    file = ray_notes(listening)
    assert found()["RAY_AUTH_MODE"].state == "warn"
    file.unlink()
    monkeypatch.setenv("RAY_ADDRESS", listening)
    assert found()["RAY_AUTH_MODE"].state == "warn"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert "RAY_AUTH_MODE" not in found()


# --- a config


def test_a_config_that_is_well_is_one_line(home, capsys):
    assert doctor([DIGITS, "trainer.max_epochs=1"]) == 0
    assert "train_cls of Task001_Digits" in capsys.readouterr().out.splitlines()[-2]


def test_each_problem_of_a_config_is_a_finding(home, capsys):
    assert doctor([DIGITS, "optim.lrr=3", "trainer.max_epoch=3", "--json"]) == 2
    findings = [Finding(**each) for each in json.loads(capsys.readouterr().out)]
    problems = [finding.found for finding in findings if finding.what == "config"]
    assert [sum(name in problem for problem in problems) for name in ("optim.lrr", "trainer.max_epoch:")] == [1, 1]
    assert [finding.what for finding in findings if finding.state == "bad"] == ["config", "config"]


def test_a_config_that_is_not_there_is_bad(home, capsys):
    assert doctor(["experiment/digitz"]) == 2
    assert "bad   config" in capsys.readouterr().out


def test_the_cluster_that_a_config_asks_for_is_looked_at(home, nowhere, capsys):
    assert doctor([DIGITS, "resources=one_worker", "site=cluster", f"site.address={nowhere}"]) == 2
    assert f"nothing answers at {nowhere}" in capsys.readouterr().out
