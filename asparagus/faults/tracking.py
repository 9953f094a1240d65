"""An MLflow server of a rehearsal's own, which can be killed and comes back."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asparagus.errors import RunError
from asparagus.faults.nodes import LOOPBACK, free_port

AWAY_S = 10.0
"""So long it is away."""
START_S = 120.0
POLL_S = 0.05


class TrackingServer:
    """An MLflow server that can be killed, and comes back.

    Args:
        folder: For all that it keeps.
    """

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.uri = f"http://{LOOPBACK}:{port}"
        self._log = folder / "mlflow.log"
        self._command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
        self._command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow-server.db"]
        self._command += ["--artifacts-destination", str(folder / "artifacts")]
        self._returns: threading.Timer | None = None
        self._start()
        self._wait(port)

    def kill(self) -> None:
        """Kill it, and have it come back after a while."""
        self._end()
        self._returns = threading.Timer(AWAY_S, self._start)
        self._returns.start()

    def end(self) -> None:
        """End it for good."""
        if self._returns is not None:
            self._returns.cancel()
            self._returns.join()
        self._end()

    def _start(self) -> None:
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
            )

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _wait(self, port: int) -> None:
        end = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
                return
            time.sleep(POLL_S)
        raise RunError(f"the MLflow server of the rehearsal does not start. What it said: {self._log}")


@contextmanager
def tracking_server(folder: Path) -> Iterator[TrackingServer]:
    """Have one for a while."""
    server = TrackingServer(folder)
    try:
        yield server
    finally:
        server.end()
