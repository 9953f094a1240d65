"""A tracking server that asks who one is: let in by user or token, and no secret is left anywhere."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import ASP
from tests.helpers import mlflow_server

pytestmark = pytest.mark.e2e
USER, PASSWORD, TOKEN = "ada", "swordfish-of-the-server-41", "bearer-of-the-proxy-97"
DIGITS = ("experiment/digits", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1")
AUTH = """[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/users.db
admin_username = {user}
admin_password = {password}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""
LOOPBACK = re.compile(r"[0-9A-F]{6}7F:|0{24}01000000:|0{16}FFFF0000[0-9A-F]{6}7F:")
"""127.x.x.x, ::1, and the former as the latter kind, in /proc/net."""
Asp = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server with users; its own folder holds the password, and is not looked into."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "auth.ini").write_text(AUTH.format(folder=folder, user=USER, password=PASSWORD))
    env = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-the-test"}
    with mlflow_server(folder, "--app-name", "basic-auth", env=env) as uri:
        yield uri


@pytest.fixture(scope="module")
def proxy(server: str) -> Iterator[str]:
    """What companies put before MLflow: it takes a token, and is let in by the server itself."""
    basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    class Door(BaseHTTPRequestHandler):
        def answer(self) -> None:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.reply(401, b"who are you?")
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
            asked = urllib.request.Request(server + self.path, data=body, method=self.command)
            asked.add_header("Authorization", basic)
            asked.add_header("Content-Type", self.headers.get("Content-Type") or "application/json")
            try:
                with urllib.request.urlopen(asked) as told:
                    self.reply(told.status, told.read())
            except urllib.error.HTTPError as error:
                self.reply(error.code, error.read())

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815 - as http.server calls them

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    door = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    threading.Thread(target=door.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{door.server_port}"
    door.shutdown()
    door.server_close()


@pytest.fixture
def process_list() -> Iterator[set[str]]:
    """Every command line that there was meanwhile."""
    seen: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                except OSError:
                    continue

    looking = threading.Thread(target=look)
    looking.start()
    yield seen
    ended.set()
    looking.join()


def holding(folder: Path, secret: str) -> list[str]:
    """Return the files, and the names of files, that hold a secret as it is or as it travels."""
    shapes = [secret.encode(), base64.b64encode(f"{USER}:{secret}".encode())]
    return [
        str(file)
        for file in folder.rglob("*")
        if secret in file.name or (file.is_file() and any(shape in file.read_bytes() for shape in shapes))
    ]


def recorded(uri: str, authorization: str) -> str:
    """Return all that a server says of its runs, with their artifacts' names."""
    body = json.dumps({"experiment_ids": ["0", "1", "2"], "max_results": 100}).encode()
    asked = urllib.request.Request(f"{uri}/api/2.0/mlflow/runs/search", data=body)
    asked.add_header("Authorization", authorization)
    asked.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(asked) as told:
        return told.read().decode()


@pytest.fixture(params=["user and password", "token"])
def secret(request: pytest.FixtureRequest, server, proxy, monkeypatch) -> str:
    """What lets us in, in the environment."""
    if request.param == "token":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
        return TOKEN
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    return PASSWORD


def test_a_server_with_users_records_the_run_and_the_secret_is_nowhere(secret, server, home, asp: Asp, process_list):
    done = asp("asp-launch", *DIGITS, "--json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    listed = asp("asp", "runs", "--json")
    assert outcome["mlflow_run_id"] in {run["mlflow_run_id"] for run in json.loads(listed.stdout)}
    assert any("asp-launch" in line for line in process_list)
    assert [line for line in process_list if secret in line] == []
    assert secret not in done.stdout + done.stderr + listed.stdout + listed.stderr
    assert holding(home, secret) == []
    basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    told = recorded(server, basic)
    assert outcome["mlflow_run_id"] in told
    assert secret not in told


def descendants(root: int) -> set[int]:
    """Return a process and all that it started."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
    found = {root}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listening(pids: set[int]) -> set[tuple[str, str]]:
    """Return who of these processes listens beyond loopback, and on which address, as the kernel writes it."""
    sockets = {}
    for file in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in file.read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and not LOOPBACK.match(words[1]):
                sockets[f"socket:[{words[9]}]"] = words[1]
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0].rpartition("/")[2]
            targets = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
            found |= {(name, sockets[target]) for target in targets if target in sockets}
    return found


@pytest.mark.ray
def test_a_ray_of_our_own_listens_on_loopback_alone(home):
    command = [str(ASP / "asp-launch"), *DIGITS, "resources.workers=1"]
    process = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen, names = set(), set()
    while process.poll() is None:
        pids = descendants(process.pid)
        seen |= listening(pids)
        for pid in pids:
            with contextlib.suppress(OSError):
                names.add(Path(f"/proc/{pid}/comm").read_text().strip())
        time.sleep(0.2)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert {"gcs_server", "raylet"} <= names
    assert seen == set()


@pytest.mark.parametrize("password", ["", "of-yesterday-15"])
def test_without_the_right_credentials_nothing_starts_and_one_line_says_why(
    password, server, home, asp: Asp, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    if password:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    done = asp("asp-launch", *DIGITS)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "MLFLOW_TRACKING_USERNAME" in line
    assert "401" in line
    assert "of-yesterday" not in done.stdout + done.stderr
    assert not list(home.glob("models/*/*/run_id=*/checkpoints/*"))
