"""What several tests need: a port, a real MLflow server, a Trainer that writes nothing and says nothing."""

from __future__ import annotations

import logging
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

START_S = 90

ROOT = Path(__file__).parent.parent
PLAIN_HYDRA = f"""
from hydra import compose, initialize_config_dir
with initialize_config_dir(version_base="1.3", config_dir={str(ROOT / "configs")!r}):
    print(compose("experiment/digits", overrides=["hydra.searchpath=['file://{ROOT / "launch"}']"]))
"""
"""Hydra composing an experiment of ours, and nothing else: what a speed is compared with."""


def seconds(command: list[str], cwd: Path) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=cwd, capture_output=True, check=True)
    return time.perf_counter() - started


def side_by_side(ours: list[str], other: list[str], cwd: Path) -> tuple[float, float]:
    """Return the median of three of each, taken in turns, so that a busy machine slows both."""
    pairs = [(seconds(ours, cwd), seconds(other, cwd)) for _ in range(3)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def wait_for_port(port: int, timeout: float) -> None:
    """Wait until somebody listens."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        with socket.socket() as door:
            door.settimeout(1)
            if door.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(port)


def start_mlflow(folder: Path, port: int, *more: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start an MLflow server that keeps all it has in a folder; unless told otherwise, it asks nobody who they are."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/db"]
    command += ["--workers", "1", "--artifacts-destination", str(folder / "artifacts"), "--port", str(port)]
    command += more
    environment = {
        **os.environ,
        **(env or {}),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }  # six more processes, for nothing here
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    wait_for_port(port, START_S)
    return process


@contextmanager
def mlflow_server(folder: Path, *more: str, env: dict[str, str] | None = None) -> Iterator[str]:
    """Have an MLflow server for a while; yields its URI."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    process = start_mlflow(folder, port, *more, env=env)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


@contextmanager
def living_in(home: Path, data_root: Path) -> Iterator[None]:
    """Be at home somewhere, as the fixture `home` is, for what lives as long as a module's tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASPARAGUS_HOME", str(home))
        patch.setenv("ASPARAGUS_DATA", str(data_root))
        patch.chdir(home)
        yield


def two_ranks(module: str, folder: Path) -> None:
    """Run a module with a folder as two ranks that find each other, without Ray; both have to end well."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    shared |= {"GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "x", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, str(folder)]
    ranks = [
        subprocess.Popen(command, env={**os.environ, **shared, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    errors = [rank.communicate(timeout=240)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors[0][-3000:]


def quiet_trainer(**options: Any) -> Any:
    """Return a Trainer on the CPU that logs, saves and shows nothing unless told to."""
    import pytorch_lightning as pl

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler")
    quiet = {**dict.fromkeys(off, False), "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    return pl.Trainer(**{"accelerator": "cpu", "devices": 1, **quiet, **options})


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Have a server that speaks S3 on loopback for a while; yields its endpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with (folder / "log").open("ab") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    wait_for_port(port, START_S)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(timeout=30)


def make_bucket(endpoint: str, name: str) -> None:
    """Make a bucket."""
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT")).close()
