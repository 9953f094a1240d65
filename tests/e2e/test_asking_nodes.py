"""`asp doctor site=NAME` on real nodes of a real Ray, one of which has other packages and does not see the storage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import ASP
from tests.helpers import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(600)]
TOKEN = "0f" * 32
UP_S = 120


@dataclass
class Cluster:
    """Ray nodes on this machine, with a token."""

    folder: Path
    port: int = field(default_factory=free_port)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def node(self, *words: str, inside: tuple[str, ...] = (), **env: str) -> None:
        """Start a node, inside of another command if need be, and wait until it is up."""
        log = self.folder / f"node{len(self.processes)}.log"
        command = [*inside, str(ASP / "ray"), "start", *words, "--block", "--num-cpus=1", "--disable-usage-stats"]
        ours = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
        with log.open("wb") as out:
            environment = {**os.environ, **ours, **env}
            self.processes.append(
                subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
            )
        end = time.monotonic() + UP_S
        while "Ray runtime started" not in log.read_text():
            assert self.processes[-1].poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)

    def head(self, *words: str) -> None:
        self.node("--head", f"--port={self.port}", *words)

    def end(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait(timeout=60)


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Iterator[Cluster]:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    made = Cluster(tmp_path)
    yield made
    made.end()


def found(done: subprocess.CompletedProcess[str]) -> dict[str, list[dict[str, str]]]:
    """Return the findings by what was looked at."""
    listed: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(done.stdout.splitlines()[-1]):
        listed.setdefault(finding["what"], []).append(finding)
    return listed


def other_packages(folder: Path) -> str:
    """Return a place for PYTHONPATH where monai is another one."""
    (folder / "monai-9.9.9.dist-info").mkdir(parents=True)
    (folder / "monai-9.9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: monai\nVersion: 9.9.9\n")
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def test_a_node_with_other_packages_that_does_not_see_the_storage_is_named(cluster, home, asp, tmp_path):
    hidden = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {home}/models && exec "$@"', "sh")
    (home / "models").mkdir()
    if subprocess.run([*hidden, "true"], capture_output=True, check=False).returncode:
        hidden = ()  # not allowed here: the packages are looked at all the same
    cluster.head("--include-dashboard=false")
    cluster.node(f"--address={cluster.address}", inside=hidden, PYTHONPATH=other_packages(tmp_path / "other"))
    done = asp("asp", "doctor", "site=cluster", f"site.address={cluster.address}", "--json")
    assert done.returncode == 2, done.stderr
    seen = found(done)
    assert seen["nodes"][0]["found"].startswith("2 answer")
    (versions,) = seen["versions"]
    assert versions["state"] == "bad"
    assert "has monai 9.9.9" in versions["found"]
    assert "constraints.txt" in versions["do"]
    assert [finding["state"] for finding in seen["site results"]] == ["ok"]
    assert [finding["state"] for finding in seen["site data"]] == ["ok"]
    assert [finding["state"] for finding in seen["clock"]] == ["ok"]
    if hidden:
        assert [finding["state"] for finding in seen["site models"]] == ["bad", "bad"]
        assert "does not see what" in seen["site models"][0]["found"]
    assert not [file for file in (home / "models").iterdir() if "doctor" in file.name]


def test_a_token_that_has_expired_is_one_clear_line(cluster, home, asp, monkeypatch):
    cluster.head("--include-dashboard=false")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "1e" * 32)
    done = asp("asp", "doctor", "site=cluster", f"site.address={cluster.address}", "--json")
    assert done.returncode == 2, done.stderr
    (nodes,) = found(done)["nodes"]
    assert "does not take this token" in nodes["found"]
    assert "RAY_AUTH_TOKEN" in nodes["do"]
    assert TOKEN not in done.stdout + done.stderr
    assert "1e1e" not in done.stdout + done.stderr


@pytest.mark.slow
def test_from_outside_a_job_asks_the_nodes_and_a_wrong_token_is_refused(cluster, home, asp, monkeypatch):
    door = free_port()
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    cluster.head("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={door}")
    words = ("asp", "doctor", "site=cluster", f"site.jobs_address=http://127.0.0.1:{door}", "--json")
    done = asp(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert found(done)["nodes"][0]["found"].startswith("1 answer")
    assert found(done)["site models"][0]["state"] == "ok"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "1e" * 32)
    refused = asp(*words)
    assert refused.returncode == 2
    assert "does not take this token" in found(refused)["nodes"][0]["found"]
