"""A Ray cluster with a dashboard and folders of its own, as a laptop finds one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ASP
from tests.helpers import free_port

START_S = 240


@dataclass(frozen=True)
class Head:
    """The head node of a cluster."""

    home: Path
    """Its ASPARAGUS_HOME."""
    port: int
    """Of its dashboard."""

    @property
    def url(self) -> str:
        """Where its dashboard is."""
        return f"http://127.0.0.1:{self.port}"

    def asked(self, path: str) -> object:
        """Return what the dashboard answers anybody."""
        with urllib.request.urlopen(f"{self.url}{path}") as answer:
            return json.load(answer)


@contextmanager
def head(home: Path, *, cpus: int = 2, environment: Mapping[str, str] | None = None) -> Iterator[Head]:
    """Have a cluster for a while.

    Args:
        home: Becomes its ASPARAGUS_HOME.
        cpus: Of its one node.
        environment: What else it is started with.
    """
    dashboard, named = free_port(), {"ASPARAGUS_HOME": str(home), **(environment or {})}
    command = [str(ASP / "ray"), "start", "--head", "--block", f"--port={free_port()}", f"--num-cpus={cpus}"]
    command += [f"--dashboard-port={dashboard}", "--dashboard-agent-listen-port=0", "--disable-usage-stats"]
    own = {name: value for name, value in os.environ.items() if not name.startswith(("ASPARAGUS_", "RAY_ADDRESS"))}
    path = f"{ASP}{os.pathsep}{os.environ['PATH']}"  # what a job's `python` is
    started = {**own, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0", "PATH": path, **named}
    home.mkdir(parents=True, exist_ok=True)
    with (home / "ray.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=started, cwd=home, start_new_session=True)
    try:
        _wait(dashboard, process)
        yield Head(home, dashboard)
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=30)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/version", timeout=5).close()
        except urllib.error.HTTPError:  # it answers, and lets nobody in
            return
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(port)
