"""A Ray of this machine that stays up between launches (`site=local-warm`): found, started, shared, ended.

What is known of it lies in a folder of this machine and user. Who is who is told by locks of the system, which a
process that dies lets go of: `alive` is held by the process that keeps the Ray up (warm_head.py), `users` is shared by
launches, and only who has `door` starts it, joins it or ends it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import asparagus
from asparagus.driver.address import answering
from asparagus.errors import PlanError
from asparagus.record.run_folder import write_json
from asparagus.spec import Site
from asparagus.storage.names import cache_folder

HEAD = "asparagus.driver.warm_head"
START_S, END_S = 180.0, 60.0
LOOK_S = 0.05
BASICS = ("HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TMPDIR", "USER")
OF_RAY = ("CUDA_VISIBLE_DEVICES", "LD_", "NVIDIA_", "RAY_")
"""Beginnings of environment variables that Ray's own processes act upon: another value needs another Ray."""
OURS = ("RAY_ADDRESS", "RAY_AUTH_", "RAY_JOB_", "RAY_TRAIN_", "RAY_USAGE_", "RAY_WARN_", "RAY_enable_", "RAY_prestart_")
"""Of these, what is set for each launch, or alike for all."""


@dataclass(frozen=True)
class Place:
    """The folder that all of it lies in."""

    path: Path

    @classmethod
    def of(cls, environment: Mapping[str, str] | None = None) -> Place:
        """Return this user's on this machine: the cache may be on a disk that several share."""
        return cls(cache_folder(environment) / f"local-warm-{socket.gethostname()}-{os.getuid()}")

    @property
    def head(self) -> Path:
        """What `Head` says, once the Ray is up."""
        return self.path / "head.json"

    @property
    def token(self) -> Path:
        """Without it nobody is let in, also none of this machine's other users."""
        return self.path / "token"

    @property
    def wanted(self) -> Path:
        """What worker processes the last launch had, to be made ready for the next."""
        return self.path / "wanted.json"

    @property
    def log(self) -> Path:
        """What the keeper says."""
        return self.path / "ray.log"

    def lock(self, name: str) -> TextIO:
        """Open `door`, `users` or `alive`; it is let go of when the file is closed."""
        return (self.path / f"{name}.lock").open("a", encoding="utf-8")

    def make(self) -> None:
        """Make the folder and its token, for this user alone."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)
        if not self.token.is_file():
            with tempfile.NamedTemporaryFile("w", dir=self.path, encoding="ascii") as file:  # for this user alone
                file.write(secrets.token_hex(32))
                file.flush()
                with contextlib.suppress(FileExistsError):  # another launch was first
                    self.token.hardlink_to(file.name)

    def authentication(self) -> dict[str, str]:
        """Return the environment variables that let a process in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}


@dataclass(frozen=True)
class Head:
    """A Ray that is up."""

    process: int
    address: str
    asked: dict[str, Any]
    """What it was started for, `wanted_of`."""
    since: float

    @property
    def idle_minutes(self) -> float:
        """How long it stays when nobody uses it."""
        return float(self.asked["idle_minutes"])


def standing(place: Place) -> Head | None:
    """Return the Ray that is up, as far as its keeper lives."""
    try:
        values = json.loads(place.head.read_text(encoding="utf-8"))
    except OSError:
        return None
    return None if _take(place, "alive") else Head(**values)


def in_use(place: Place) -> bool:
    """Tell whether a launch uses it."""
    return not _take(place, "users")


@contextmanager
def shared(site: Site) -> Iterator[Head | None]:
    """Use the Ray that stays up, which is started if there is none that fits.

    Yields:
        It; None where others use one that was started for something else.

    Raises:
        PlanError: It does not start.
    """
    place = Place.of()
    place.make()
    with place.lock("users") as users:
        with place.lock("door") as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            head = _fitting(place, site)
            if head is not None:
                fcntl.flock(users, fcntl.LOCK_SH)
        yield head


def end() -> Head | None:
    """End it; returns what was up, if anything was.

    Raises:
        PlanError: A launch uses it.
    """
    place = Place.of()
    if not place.path.is_dir():
        return None
    with place.lock("door") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        head = standing(place)
        if head is not None and in_use(place):
            raise PlanError(
                "the Ray of site=local-warm is in use by a launch. End that first: Ctrl-C there, or asp stop RUN "
                "(asp runs lists them)."
            )
        if head is not None:
            _end(place, head)
    return head


def _fitting(place: Place, site: Site) -> Head | None:
    """Return what is up and fits, else what is started now; None where what does not fit is in use."""
    head, wanted = standing(place), wanted_of(site)
    if head is not None:
        problem = _silence(head)
        if not problem and head.asked == wanted:
            return head
        if not problem and in_use(place):
            return None
        _end(place, head)
    return _start(place, wanted)


def _silence(head: Head) -> str:
    """Return why nothing can be had from a Ray that should be up."""
    try:
        answering(Site(address=head.address))
    except PlanError as error:
        return str(error)
    return ""


def _start(place: Place, wanted: dict[str, Any]) -> Head:
    place.head.unlink(missing_ok=True)
    place.wanted.unlink(missing_ok=True)
    with place.log.open("w", encoding="utf-8") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", HEAD, str(place.path), json.dumps(wanted)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=place.path,
            env=_environment(place, wanted),
            start_new_session=True,  # Ctrl-C in the terminal is for the launch
        )
    deadline = time.monotonic() + START_S
    while keeper.poll() is None and time.monotonic() < deadline:
        head = standing(place)
        if head is not None and head.process == keeper.pid:
            return head
        time.sleep(LOOK_S)
    keeper.kill()
    keeper.wait()
    said = place.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise PlanError(
        f"site=local-warm: its Ray did not start: {said[-1] if said else 'it said nothing'}. The whole story: "
        f"{place.log}. Train without it meanwhile: site=local."
    )


def _end(place: Place, head: Head) -> None:
    """End what keeps it up; its processes go with it, also where it has no time to say goodbye."""
    for number, seconds in ((signal.SIGTERM, END_S), (signal.SIGKILL, END_S)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(head.process, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if _take(place, "alive"):
                place.head.unlink(missing_ok=True)
                return
            time.sleep(LOOK_S)
    raise PlanError(f"site=local-warm: process {head.process}, which keeps its Ray up, does not end. Use site=local.")


def _take(place: Place, name: str) -> bool:
    """Tell whether a lock is free, by taking it for a moment."""
    with place.lock(name) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def wanted_of(site: Site) -> dict[str, Any]:
    """Return all that a Ray has to have in common with a launch that uses it."""
    package = Path(asparagus.__file__).parent
    return {
        "ray": metadata.version("ray"),
        "python": f"{sys.version} of {sys.prefix}",
        # Processes that are ready hold what they have imported: what was installed or edited since is another Ray's.
        "installed": max((Path(place).stat().st_mtime for place in sys.path if place.endswith("-packages")), default=0),
        "asparagus": [str(package), max(file.stat().st_mtime for file in package.rglob("*.py"))],
        "cpus": site.cpus_per_node,
        "gpus": site.gpus_per_node,
        "idle_minutes": site.idle_minutes,
        "environment": {name: value for name, value in sorted(os.environ.items()) if _is_of_ray(name)},
    }


def _is_of_ray(name: str) -> bool:
    return name.startswith(OF_RAY) and not name.startswith(OURS)


def _environment(place: Place, wanted: dict[str, Any]) -> dict[str, str]:
    """Return the environment of Ray's processes: nothing of this launch alone, which the next would inherit."""
    basics = {name: value for name, value in os.environ.items() if name in BASICS or name.startswith("LC_")}
    return {
        **basics,
        **wanted["environment"],
        **place.authentication(),
        "PYTHONPATH": str(Path(wanted["asparagus"][0]).parent),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def make_ready(variables: dict[str, str], workers: int) -> None:
    """Have worker processes made ready for the next launch, as this one had them: with these variables."""
    write_json(Place.of().wanted, {"variables": variables, "workers": workers})


def write_head(place: Place, head: Head) -> None:
    """Let launches know of it."""
    write_json(place.head, dataclasses.asdict(head))
