"""`asp ui`: the MLflow UI on the store of runs, from its start to Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO

from asparagus.errors import RecordError
from asparagus.reach import unreachable

LOOPBACK = "127.0.0.1"
LOOK_S = 0.2
ENDS_S = 10
"""So long it may take to end, before it is killed."""


def ui(arguments: Sequence[str]) -> int:
    """Run `asp ui`: the MLflow UI on the store, until Ctrl-C."""
    parser = argparse.ArgumentParser("asp ui", description="Start the MLflow UI on the store of your runs.")
    parser.add_argument("--port", type=int, default=5000, help="on this port of this machine (default 5000)")
    options = parser.parse_args(arguments)
    from asparagus.cli.runs import tracking_uri
    from asparagus.record.reader import open_reader
    from asparagus.secrets import without_passwords

    uri = tracking_uri()
    if "://" in uri and not uri.startswith("sqlite"):
        print(f"The store is a server, and has its UI itself: {without_passwords(uri)}")
        return 0
    open_reader(uri)  # refuses a store that nothing was recorded in: MLflow would make an empty one
    if not unreachable(f"{LOOPBACK}:{options.port}"):
        raise RecordError(
            f"--port: something listens on {options.port} already, maybe another asp ui. Open "
            f"http://{LOOPBACK}:{options.port}, or take another port: asp ui --port {options.port + 1}"
        )
    print(f"MLflow on {uri}", flush=True)
    return _serve(uri, options.port)


def _serve(uri: str, port: int) -> int:
    """Run the server in a process group of its own: Ctrl-C is ours to answer, it would print where it stood."""
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--port", str(port)]
    command += ["--workers", "1"]  # each one imports MLflow; one person looks
    for number in (signal.SIGTERM, signal.SIGHUP):  # a terminal that is closed ends it too
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryFile() as said:
        server = subprocess.Popen(command, env=environment, process_group=0, stdout=said, stderr=said)
        try:
            _wait_for(server, port, said)
            print(f"Open http://{LOOPBACK}:{port} (Ctrl-C ends it)", flush=True)
            return server.wait()
        finally:
            _end(server)


def _wait_for(server: subprocess.Popen[bytes], port: int, said: IO[bytes]) -> None:
    """Wait until the server answers, with something that moves on a terminal."""
    from asparagus.cli.screen import waiting

    with waiting("starting, some seconds"):
        while unreachable(f"{LOOPBACK}:{port}"):
            if server.poll() is not None:
                said.seek(0)
                told = said.read().decode(errors="replace").strip()
                raise RecordError(f"MLflow ended by itself (status {server.returncode}), and said:\n{told}")
            time.sleep(LOOK_S)


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and the workers that it has."""
    if server.poll() is not None:
        return
    os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(ENDS_S)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
