"""How a server is asked, against a small one that answers as it is told: credentials, refusals, stumbling, TLS."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from asparagus.errors import RecordError
from asparagus.record.mlflow_server import MlflowServer, RefusedError, authorization

JSON = "application/json"


class Told(HTTPServer):
    """Gives the answers that it was told to give, one after the other, and remembers what it was asked."""

    def __init__(self, *answers: tuple[int, str, dict[str, str]]) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.answers = list(answers)
        self.asked: list[tuple[str, str, dict[str, str]]] = []


class Answering(BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(
            (self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        )
        status, body, headers = self.server.answers.pop(0)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    do_POST = do_GET  # noqa: N815 - the name that http.server looks for

    def log_message(self, *arguments):
        pass


def answer(status, body="{}", **headers):
    return status, body if isinstance(body, str) else json.dumps(body), headers


@contextmanager
def serving(*answers) -> Iterator[tuple[str, Told]]:
    server = Told(*answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", server
    finally:
        server.shutdown()
        server.server_close()


def test_get_and_post_go_to_mlflows_api_below_the_address():
    with serving(answer(200, {"x": 1}), answer(200)) as (address, server):
        asked = MlflowServer(f"http://{address}/prefix/", {"MLFLOW_WORKSPACE": "ours"})
        assert asked.get("runs/get", run_id="a b") == {"x": 1}
        asked.post("runs/search", max_results=1)
    assert [(method, path) for method, path, _ in server.asked] == [
        ("GET", "/prefix/api/2.0/mlflow/runs/get?run_id=a+b"),
        ("POST", "/prefix/api/2.0/mlflow/runs/search"),
    ]
    headers = server.asked[1][2]
    assert (headers["content-type"], headers["x-mlflow-workspace"]) == (JSON, "ours")
    assert "authorization" not in headers


def basic(text):
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("uri", "environment", "expected"),
    [
        ("http://host", {}, ""),
        ("http://me:p%40ss@host", {"MLFLOW_TRACKING_TOKEN": "t"}, basic("me:p@ss")),
        ("http://host", {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "x"}, basic("me:x")),
        ("http://host", {"MLFLOW_TRACKING_TOKEN": "t"}, "Bearer t"),
        ("http://host", {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_TOKEN": "t"}, "Bearer t"),
    ],
    ids=["none", "address", "variables", "token", "user_without_password"],
)
def test_credentials_come_from_where_mlflow_takes_them(uri, environment, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert authorization(urllib.parse.urlsplit(uri), environment) == expected


def test_credentials_that_mlflow_login_kept_are_used_unless_others_are_set(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".mlflow").mkdir()
    kept = "[mlflow]\nmlflow_tracking_username = kept\nmlflow_tracking_password = 100%\n"
    (tmp_path / ".mlflow" / "credentials").write_text(kept)
    parts = urllib.parse.urlsplit("http://host")
    assert authorization(parts, {}) == basic("kept:100%")
    assert authorization(parts, {"MLFLOW_TRACKING_PASSWORD": "new"}) == basic("kept:new")


def test_credentials_go_to_the_server_and_to_none_that_it_sends_us_to():
    with (
        serving(answer(200)) as (other, elsewhere),
        serving(answer(302, Location=f"http://{other}/")) as (address, server),
    ):
        MlflowServer(f"http://me:sesame@{address}").get("runs/get")
    assert server.asked[0][2]["authorization"] == basic("me:sesame")
    assert "authorization" not in elsewhere.asked[0][2]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (answer(401, "who?"), r"does not know these credentials \(401\).*MLFLOW_TRACKING_USERNAME"),
        (answer(403, "Invalid Host header"), r"\(403\): Invalid Host header.*--allowed-hosts"),
        (
            answer(403, {"error_code": "PERMISSION_DENIED", "message": "not yours"}),
            r"\(403\): not yours.*has to be allowed to read",
        ),
        (answer(404, "<html>"), "answers, but not as an MLflow server"),
        (answer(200, "<html>"), "answers, but not as an MLflow server"),
        (answer(418, "teapot"), "cannot be used: 418 .*teapot"),
    ],
    ids=["401", "403_host", "403_user", "404", "html", "418"],
)
def test_a_refusal_says_what_to_do_and_no_password(given, told):
    with serving(given) as (address, _), pytest.raises(RecordError, match=told) as caught:
        MlflowServer(f"http://me:sesame@{address}").post("runs/search")
    assert "sesame" not in str(caught.value)
    assert address in str(caught.value)


def test_what_is_not_there_is_told_with_mlflows_own_code():
    body = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}
    with serving(answer(404, body)) as (address, _), pytest.raises(RefusedError, match="no such run") as caught:
        MlflowServer(f"http://{address}").get("runs/get", run_id="x")
    assert caught.value.code == "RESOURCE_DOES_NOT_EXIST"


def test_a_server_that_stumbles_is_asked_again():
    with serving(answer(500, "race"), answer(503), answer(200, {"runs": []})) as (address, server):
        assert MlflowServer(f"http://{address}").post("runs/search") == {"runs": []}
    assert len(server.asked) == 3


def test_a_server_that_keeps_stumbling_is_said_so():
    with serving(*[answer(500, "broken")] * 9) as (address, server), pytest.raises(RecordError, match=r"500 .*broken"):
        MlflowServer(f"http://{address}").post("runs/search")
    assert len(server.asked) == 5


def test_a_server_that_never_answers_is_given_up():
    with serving(answer(200, "{}", **{"Content-Length": "99"})) as (address, _):
        asked = MlflowServer(f"http://{address}", {"MLFLOW_HTTP_REQUEST_TIMEOUT": "0.2"})
        with pytest.raises(RecordError, match=r"cannot be used: .*Is the server up"):
            asked.get("runs/get")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


@pytest.mark.parametrize(
    ("variable", "works"),
    [("", False), ("MLFLOW_TRACKING_INSECURE_TLS", True), ("MLFLOW_TRACKING_SERVER_CERT_PATH", True)],
)
def test_a_certificate_is_checked_unless_told_not_to_or_told_which(certificate, variable, works):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    value = "true" if variable.endswith("TLS") else str(certificate[0])
    with serving(answer(200, {"x": 1})) as (address, server):
        server.socket = context.wrap_socket(server.socket, server_side=True)
        asked = MlflowServer(f"https://{address}", {variable: value} if variable else {})
        if works:
            assert asked.get("runs/get") == {"x": 1}
        else:
            with pytest.raises(RecordError, match="CERTIFICATE_VERIFY_FAILED"):
                asked.get("runs/get")
