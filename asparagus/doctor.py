"""What a training would meet on this machine: each check looks at one thing and says ok, or what to do.

Nothing here imports torch, Ray or MLflow: a broken one is what these checks are there to find.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import socket
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Literal

from asparagus.data.layout import known_tasks
from asparagus.paths import (
    FAMILIES,
    FOLDERS,
    SQLITE,
    family_folders,
    get_paths,
    get_tracking_uri,
    load_environment,
)
from asparagus.spec import Paths

PACKAGES = ("ray", "torch", "pytorch-lightning", "mlflow", "hydra-core", "omegaconf", "optuna", "monai")
"""Always listed; the other requirements only when something is wrong with them."""
WRITTEN = ("models", "results")
"""Folders that every training writes into; the others may be read only."""
TIMEOUT_S = 3.0
GB = 1e9
ROOM_GB = 10.0
SHM = "/dev/shm"  # noqa: S108 - the file system itself is looked at
SHARED_MEMORY_GB = 1.0
RAY_SHARE, RAY_WANTS_GB = 0.3, 10.0
"""Ray's object store: this share of the memory, and at most so much that has to fit into /dev/shm."""
SHOWN = 5
NO_CLUSTER = ("", "local", "auto")
"""Values of RAY_ADDRESS and site.address that name no cluster by themselves."""
OK_STATUS, UNKNOWN_USER, FORBIDDEN = 200, 401, 403
CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN")
TESTED = "In a clone of asparagus: pip install -c constraints.txt ."


@dataclass(frozen=True)
class Finding:
    """What one look found."""

    what: str
    state: Literal["ok", "warn", "bad"]
    found: str
    do: str = ""
    """The next step; empty when all is well."""


@dataclass(frozen=True)
class Surroundings:
    """What the checks look at, read once."""

    env: Mapping[str, str]
    """The environment, with what `.env` adds to it."""
    typed: frozenset[str]
    """The variables that were set before `.env` was read."""
    dotenv: Path | None
    dotenv_problem: str
    paths: Paths


Check = Callable[[Surroundings], Iterable[Finding]]


def ok(what: str, found: str) -> Finding:
    """Return that all is well."""
    return Finding(what, "ok", found)


def warn(what: str, found: str, do: str) -> Finding:
    """Return something that may bite."""
    return Finding(what, "warn", found, do)


def bad(what: str, found: str, do: str) -> Finding:
    """Return something that a training would fail on."""
    return Finding(what, "bad", found, do)


def look_around() -> Surroundings:
    """Read `.env` as every command does, and say what is set and where the folders are."""
    here, problem, typed = Path.cwd(), "", frozenset(os.environ)
    dotenv = next((folder / ".env" for folder in (here, *here.parents) if (folder / ".env").is_file()), None)
    try:
        load_environment()
    except (OSError, ValueError) as error:  # not ours to read, or no text
        problem = str(error)
    env = dict(os.environ)
    filled = {name: value for name, value in env.items() if value}  # an empty one is a finding, not the end
    return Surroundings(env, typed, dotenv, problem, get_paths(filled))


def examine(around: Surroundings) -> Iterator[Finding]:
    """Yield each finding as soon as it is known, the fast ones first."""
    for check in CHECKS:
        yield from check(around)


def versions(_: Surroundings) -> Iterator[Finding]:
    """Compare Python and the installed packages with asparagus's own requirements."""
    try:
        own = importlib.metadata.distribution("asparagus")
    except importlib.metadata.PackageNotFoundError:
        yield warn("asparagus", "not installed, so its requirements are not known here", TESTED)
        return
    yield judge_python(own.metadata["Requires-Python"], platform.python_version())
    for requirement in own.requires or []:
        yield from judge_package(requirement, importlib.metadata.version)


def judge_python(wanted: str, version: str) -> Finding:
    """Compare the interpreter with what is wanted."""
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(wanted).contains(version, prereleases=True):
        return ok("python", f"{version} ({wanted})")
    return bad("python", f"{version}, but asparagus needs {wanted}", "Make an environment with a newer Python.")


def judge_package(requirement: str, version_of: Callable[[str], str]) -> Iterator[Finding]:
    """Compare one requirement with the version that is installed."""
    from packaging.requirements import Requirement

    needed = Requirement(requirement)
    if needed.marker and not needed.marker.evaluate({"extra": ""}):
        return
    try:
        version = version_of(needed.name)
    except importlib.metadata.PackageNotFoundError:
        yield bad(needed.name, f"is not installed, and asparagus needs {needed.specifier}", TESTED)
        return
    if not needed.specifier.contains(version, prereleases=True):
        yield bad(needed.name, f"{version}, but asparagus needs {needed.specifier}", TESTED)
    elif needed.name in PACKAGES:
        yield ok(needed.name, f"{version} ({needed.specifier})")


def dashboard(_: Surroundings) -> Iterator[Finding]:
    """Look for what `ray[default]` brings: without its state API nested trials are never given back."""
    if importlib.util.find_spec("aiohttp_cors"):
        yield ok("ray[default]", "installed: state API, jobs and dashboard")
    else:
        yield bad("ray[default]", "is not installed: no jobs, no dashboard, sweeps lose CPUs", TESTED)


def dotenv(around: Surroundings) -> Iterator[Finding]:
    """Say which `.env` counts."""
    if around.dotenv is None:
        yield ok(".env", "none here or above; the environment alone counts")
    elif around.dotenv_problem:
        yield bad(".env", f"{around.dotenv} cannot be read: {around.dotenv_problem}", "Make it a text file of yours.")
    else:
        yield ok(".env", str(around.dotenv))


def folders(around: Surroundings) -> Iterator[Finding]:
    """Say where each folder is, because of what, and whether it can be used."""
    for name in FOLDERS:
        yield _folder(name, around)
    for family, variable in FAMILIES.items():
        for folder in family_folders(family, around.env):
            yield _further_configs(variable, folder)


def room(around: Surroundings) -> Iterator[Finding]:
    """Look at the disk space where checkpoints and the record go."""
    for name in WRITTEN:
        if "://" not in (folder := getattr(around.paths, name)) and not _unwritable(Path(folder)):
            yield judge_room(name, shutil.disk_usage(_existing(Path(folder))).free / GB)


def judge_room(name: str, free: float) -> Finding:
    """Compare the free space of a folder, in GB, with what checkpoints soon take."""
    if free >= ROOM_GB:
        return ok(f"{name}: space", f"{free:.0f} GB free")
    do = f"Make room there, or set ASPARAGUS_{name.upper()} to a folder with more."
    return warn(f"{name}: space", f"{free:.1f} GB free: checkpoints soon fill it", do)


def shared_memory(_: Surroundings) -> Iterator[Finding]:
    """Look at what data workers and Ray's object store live in."""
    if Path(SHM).is_dir():
        yield judge_shared_memory(shutil.disk_usage(SHM).free / GB, _memory_gb())


def judge_shared_memory(free: float, memory: float) -> Finding:
    """Compare the free part of /dev/shm with what data workers and Ray ask for; all in GB."""
    wanted = min(RAY_SHARE * memory, RAY_WANTS_GB)
    do = f"In a container: docker run --shm-size={max(wanted, SHARED_MEMORY_GB):.0f}g; else free or enlarge it."
    if free < SHARED_MEMORY_GB:
        return warn(SHM, f"{free:.2f} GB free: data.num_workers and Ray may run out of it", do)
    if free < wanted:
        return warn(SHM, f"{free:.1f} GB free: Ray wants {wanted:.1f} and takes the slower /tmp", do)
    return ok(SHM, f"{free:.0f} GB free")


def tasks(around: Surroundings) -> Iterator[Finding]:
    """Say which tasks there are to train on."""
    root = around.paths.data
    if "://" in root:
        return
    found = known_tasks(root)
    if not found:
        yield warn("tasks", f"none in {root}", "Make one to try things on: asp data make Task001_Digits")
        return
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    yield ok("tasks", f"{', '.join(found[:SHOWN])}{more}")


def gpus(_: Surroundings) -> Iterator[Finding]:
    """Say which GPUs there are, and whether the installed torch can use them."""
    devices = sorted(Path("/dev").glob("nvidia[0-9]*"))
    yield judge_gpus(_nvidia_smi(), [str(device) for device in devices], cuda_of_torch())


def judge_gpus(names: Sequence[str], devices: Sequence[str], cuda: str | None) -> Finding:
    """Put together what the driver says, which device files there are, and which CUDA torch was built for."""
    if not names and devices:
        return warn(
            "GPUs",
            f"{', '.join(devices)} there, but nvidia-smi does not answer",
            "Mend the NVIDIA driver; in a container: docker run --gpus all.",
        )
    if not names:
        return ok("GPUs", "none: trains on the CPU")
    listed = f"{len(names)}: {'; '.join(names)}"
    if cuda is None:
        return bad(
            "GPUs",
            f"{listed}; the installed torch is built without CUDA and cannot use them",
            "Install the CUDA build of the same version of torch: https://pytorch.org/get-started/locally/",
        )
    return ok("GPUs", f"{listed}; torch is built for CUDA {cuda}")


def cuda_of_torch() -> str | None:
    """Return the CUDA version that torch was built for, read from its files; `None` for a CPU build, or no torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version = _text(Path(spec.origin).parent / "version.py")
    built = re.search(r"^cuda\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", version, re.MULTILINE)
    return built.group(1) if built else None


def tracking(around: Surroundings) -> Iterator[Finding]:
    """Say where runs are recorded, and whether they can be."""
    uri = get_tracking_uri(around.paths, around.env)
    if not around.env.get("MLFLOW_TRACKING_URI") and "://" in around.paths.results:
        yield bad("tracking", "no store: ASPARAGUS_RESULTS is a URI", _elsewhere("results"))
    elif uri.startswith(SQLITE):
        yield _sqlite(Path(uri.removeprefix(SQLITE)))
    elif uri.startswith(("http://", "https://")):
        yield _server(uri, around.env)
    else:
        yield warn("tracking", f"{uri.partition('://')[0]}: a kind that is not looked into here", "Try it: asp runs")


def ray(around: Surroundings) -> Iterator[Finding]:
    """Say which Ray a launch would meet: the one of RAY_ADDRESS, or the one that was last started here."""
    address, known = around.env.get("RAY_ADDRESS", ""), _current_cluster(around.env)
    current = _text(known)
    if address not in NO_CLUSTER:
        yield from cluster("RAY_ADDRESS", address, around.env)
    elif not current:
        yield ok("ray cluster", "none; a launch on workers starts a Ray of its own")
    if not current:
        return
    if problem := _unreachable(current):
        stale = f"{known} names {current}, which is gone ({problem}); site.address=auto would wait for it"
        yield warn("ray cluster", stale, f"ray stop, or remove {known}")
        return
    yield ok("ray cluster", f"up at {current} (site=cluster joins it)")
    if address in NO_CLUSTER:
        yield from _token(current, around.env)


def cluster(where: str, address: str, env: Mapping[str, str]) -> Iterator[Finding]:
    """Look whether a Ray answers at an address, and whether it would understand us.

    Args:
        where: The setting that names it.
        address: As `host:port`, or a URI.
        env: The environment.
    """
    if problem := _unreachable(address):
        yield bad(where, f"nothing answers at {address}: {problem}", f"Start it (ray start --head) or change {where}.")
    else:
        yield ok(where, f"{address} answers")
    yield from _token(address, env)


CHECKS: tuple[Check, ...] = (
    versions,
    dashboard,
    dotenv,
    folders,
    room,
    shared_memory,
    tasks,
    gpus,
    tracking,
    ray,
)
"""All that is looked at, in this order: what may have to wait for an answer comes last."""


def _folder(name: str, around: Surroundings) -> Finding:
    variable, folder = f"ASPARAGUS_{name.upper()}", getattr(around.paths, name)
    if around.env.get(variable) == "":
        return bad(variable, "is set, but empty", f"Set it to a folder ({FOLDERS[name]}), or unset it for {folder}.")
    where = f"{folder} ({_because(variable, around)})"
    if "://" in folder:
        return warn(variable, f"{where}: URIs are not supported yet", _elsewhere(name))
    problem = _unwritable(Path(folder))
    if problem and name in WRITTEN:
        return bad(variable, f"{where} cannot be written: {problem}", _elsewhere(name))
    if problem:
        return warn(
            variable,
            f"{where} cannot be written: {problem}",
            "Nothing if it is only read; else set it to a folder of yours.",
        )
    return ok(variable, where if Path(folder).is_dir() else f"{where} will be created")


def _further_configs(variable: str, folder: Path) -> Finding:
    if folder.is_dir():
        return ok(variable, str(folder))
    return warn(variable, f"{folder} is no folder", f"Make it, or take it out of {variable}.")


def _because(variable: str, around: Surroundings) -> str:
    """Return what decided where a folder is."""
    for name in (variable, "ASPARAGUS_HOME"):
        if around.env.get(name):
            return name if name in around.typed else f"{name} in {around.dotenv}"
    return "default"


def _elsewhere(name: str) -> str:
    return f"Set ASPARAGUS_{name.upper()} to a folder of yours."


def _existing(path: Path) -> Path:
    """Return the folder itself, or the nearest one above that is there."""
    return next(place for place in [path, *path.parents] if place.exists())


def _unwritable(folder: Path) -> str:
    """Write where the folder is, or would come to be; nothing stays behind. Returns why not, or nothing."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder), buffering=0) as file:
            file.write(b"asparagus")
    except OSError as error:
        return _why(error)
    return ""


def _memory_gb() -> float:
    """Return this machine's memory, or the part of it that a container may use."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _text(Path("/sys/fs/cgroup/memory.max"))
    return min(machine, int(limit) if limit.isdigit() else machine) / GB


def _why(error: Exception) -> str:
    """Return an error's own words, without its number."""
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason)


def _text(file: Path) -> str:
    """Return what a small file says; nothing where it is not there, or not ours to read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _nvidia_smi() -> list[str]:
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def _sqlite(file: Path) -> Finding:
    """Look at the file that is the store, or will be."""
    if problem := _unwritable(file.parent):
        elsewhere = "Set MLFLOW_TRACKING_URI, or ASPARAGUS_RESULTS to a folder of yours."
        return bad("tracking", f"{file}: its folder cannot be written: {problem}", elsewhere)
    if not file.exists():
        return ok("tracking", f"{SQLITE}{file} will be created")
    try:
        runs = _count_runs(file)
    except sqlite3.Error as error:
        do = "Is another program holding it? If it is no MLflow store, move it away or set MLFLOW_TRACKING_URI."
        return bad("tracking", f"{file} cannot be read: {error}", do)
    return ok("tracking", f"{SQLITE}{file}, {runs} run{'' if runs == 1 else 's'}")


def _count_runs(file: Path) -> int:
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=1)) as store:
        if not store.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'runs'").fetchone():
            return 0
        return int(store.execute("SELECT COUNT(*) FROM runs").fetchone()[0])


def _server(given: str, env: Mapping[str, str]) -> Finding:
    """Ask a tracking server whether it is well, and whether it lets us in."""
    scheme, _, rest = given.rstrip("/").partition("://")
    password, _, place = rest.rpartition("@")
    uri = f"{scheme}://{place}"  # a password is not for the screen
    try:
        health, door = _status(f"{uri}/health"), _status(f"{uri}/api/2.0/mlflow/experiments/search?max_results=1")
    except (OSError, ValueError, HTTPException) as error:
        do = f"Start it (mlflow server --port {place.rpartition(':')[2]}), or unset MLFLOW_TRACKING_URI to use a file."
        return bad("tracking", f"{uri} does not answer: {_why(error)}", do)
    if door == UNKNOWN_USER and (password or any(name in env for name in CREDENTIALS)):
        door = OK_STATUS  # we knocked without them; MLflow will not
    return judge_answers(uri, health, door)


def judge_answers(uri: str, health: int, door: int) -> Finding:
    """Read the status that a tracking server gives to /health, and the one that it gives to a question."""
    if door == FORBIDDEN:  # /health answers whatever name it is called by
        do = "Start the server with --allowed-hosts, or reach it by an address that it allows."
        return bad("tracking", f"{uri} answers, but refuses to be used ({door})", do)
    if door == UNKNOWN_USER:
        do = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        return bad("tracking", f"{uri} answers, but asks who you are ({door})", do)
    if health != OK_STATUS:
        return warn("tracking", f"{uri} answers {health} to /health", "Is it an MLflow server? Try it: asp runs")
    return ok("tracking", f"{uri} answers")


def _status(url: str) -> int:
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - http and https alone come here
            return int(answer.status)
    except HTTPError as error:
        error.close()
        return error.code


def _current_cluster(env: Mapping[str, str]) -> Path:
    """Return the file in which `ray start` notes its address, found as Ray finds it."""
    return Path(env.get("RAY_TMPDIR") or env.get("TMPDIR") or "/tmp") / "ray" / "ray_current_cluster"  # noqa: S108


def _unreachable(address: str) -> str:
    """Return why nothing answers at an address, or nothing."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError as error:
        return str(error)
    if not parts.hostname or port is None:
        return "it is not host:port"
    try:
        socket.create_connection((parts.hostname, port), TIMEOUT_S).close()
    except OSError as error:
        return _why(error)
    return ""


def _token(address: str, env: Mapping[str, str]) -> Iterator[Finding]:
    """Find a token that would be sent to a cluster which may not want one: every actor would die at once."""
    if "RAY_AUTH_MODE" in env:
        return
    kept = Path.home() / ".ray" / "auth_token"
    named = [name for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if name in env]
    if source := named[0] if named else str(kept) if kept.is_file() else "":
        found = f"the token of {source} is sent to {address}, which kills every actor if it was started without one"
        yield warn("RAY_AUTH_MODE", found, "Set RAY_AUTH_MODE=token or disabled, as the cluster was started.")
