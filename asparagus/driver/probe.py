"""What one machine says of itself: sent to every node of a cluster as it stands, so the standard library alone."""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import os
import platform
import shutil
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.parse
from pathlib import Path
from typing import Any

PACKAGES = (
    "asparagus",
    "ray",
    "torch",
    "pytorch-lightning",
    "torchmetrics",
    "monai",
    "mlflow",
    "optuna",
    "numpy",
    "scikit-learn",
    "nibabel",
)
"""Those whose version changes what a training does, or whether two machines understand each other."""
SHM = "/dev/shm"  # nosec B108  # noqa: S108 - the file system itself is looked at
SPILL = "/tmp"  # nosec B108  # noqa: S108 - where Ray keeps its sessions and what no longer fits into memory
NONCE = ".asparagus-doctor-"
READ_WITHIN_S = 8.0
"""A network file system may show a new file some seconds later on other nodes."""
TIMEOUT_S = 4.0


class Probe:
    """Looks at the machine that it is on."""

    def look(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return what this machine is, and leave a mark in each folder that is to be shared.

        Args:
            question: `written` and `read`: folders by name; `tracking`: URI or null; `nonce`: what the mark says.
        """
        written, read = question["written"], question["read"]
        return {
            "host": socket.gethostname(),
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in PACKAGES},
            "cpus": len(os.sched_getaffinity(0)),
            "memory": _memory(),
            "gpus": _gpus(),
            "shm": _usage(SHM),
            "spill": _usage(SPILL),
            "marks": {name: self.mark(Path(folder), question["nonce"]) for name, folder in written.items()},
            "folders": {name: _folder(Path(folder)) for name, folder in {**written, **read}.items()},
            "tracking": _tracking(question["tracking"]),
        }

    def mark(self, folder: Path, nonce: str) -> str:
        """Write a file into a folder; returns why it cannot be, or nothing."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{NONCE}{nonce}").write_text(nonce)
        except OSError as error:
            return error.strerror or str(error)
        return ""

    def unseen(self, folders: dict[str, str], nonces: list[str]) -> dict[str, list[str]]:
        """Return, for each folder, whose marks are not seen from here."""
        end = time.monotonic() + READ_WITHIN_S
        while True:
            missing = {name: [one for one in nonces if not _reads(folder, one)] for name, folder in folders.items()}
            if not any(missing.values()) or time.monotonic() > end:
                return missing
            time.sleep(0.5)

    def clean(self, folders: dict[str, str], nonce: str) -> None:
        """Take the marks away."""
        for folder in folders.values():
            with contextlib.suppress(OSError):
                (Path(folder) / f"{NONCE}{nonce}").unlink(missing_ok=True)

    def clock(self) -> float:
        """Return what time it is here."""
        return time.time()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _reads(folder: str, nonce: str) -> bool:
    with contextlib.suppress(OSError):
        os.listdir(folder)  # noqa: PTH208 - has NFS look again
        return (Path(folder) / f"{NONCE}{nonce}").read_text() == nonce
    return False


def _folder(folder: Path) -> dict[str, Any]:
    """Return whether a folder is there, what is in it that all should see, and the room that is left."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        return {"problem": error.strerror or str(error), "names": [], "free": None}
    return {"problem": "", "names": names, "free": shutil.disk_usage(folder).free}


def _usage(place: str) -> dict[str, int] | None:
    if not Path(place).is_dir():
        return None
    used = shutil.disk_usage(place)
    return {"total": used.total, "free": used.free}


def _memory() -> int:
    """Return this machine's memory, or the part of it that a container may use."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return machine


def _gpus() -> list[str]:
    """Return the GPUs that the driver names, else the device files that are there."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.splitlines()
    return [str(device) for device in sorted(Path("/dev").glob("nvidia[0-9]*"))]


def _tracking(uri: str | None) -> dict[str, str]:
    """Return how a tracking store is reached from here: `problem`, or `answer`."""
    if uri is None:
        return {"problem": "", "answer": "not looked at"}
    scheme, _, rest = uri.partition("://")
    if scheme == "sqlite":
        return _sqlite(Path(rest.removeprefix("/")))
    if scheme not in ("http", "https"):
        return {"problem": "", "answer": f"{scheme}: a kind that is not looked into"}
    parts = urllib.parse.urlsplit(uri)
    made = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[scheme]
    connection = made(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1")
        return {"problem": "", "answer": str(connection.getresponse().status)}
    except (OSError, http.client.HTTPException) as error:
        return {"problem": getattr(error, "strerror", None) or str(error) or type(error).__name__, "answer": ""}
    finally:
        connection.close()


def _sqlite(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {"problem": "", "answer": "will be made"}
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=TIMEOUT_S)) as store:
            store.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        return {"problem": str(error), "answer": ""}
    return {"problem": "", "answer": "a file, which can be read"}
