"""The code and the machine behind a run: commit, uncommitted changes, package versions, host."""

from __future__ import annotations

import getpass
import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

SUBMITTED = Path(".asparagus-job") / "code.json"
"""In the working directory of a job, which is no repository: the code that it was submitted with."""
BUNDLED = "thirdparty_files"
"""Where Ray keeps packages for itself, which come into sight once it is imported."""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def _packages() -> dict[str, str]:
    found = [dist for dist in importlib.metadata.distributions() if BUNDLED not in str(dist.locate_file(""))]
    installed = {dist.metadata["Name"]: dist.version for dist in found}
    return dict(sorted(installed.items(), key=lambda item: str(item[0]).lower()))


def _said(*command: str) -> str:
    """Return what a tool prints; nothing where it is not installed, fails, or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _git(folder: Path, *arguments: str) -> str:
    return _said("git", "-C", str(folder), *arguments)


def _gpus() -> list[str]:
    return _said("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader").splitlines()


@dataclass(frozen=True)
class Code:
    """The state of the git repository that the run was started in; empty outside one."""

    commit: str = ""
    branch: str = ""
    diff: str = ""
    """What differs from the commit, tracked files only."""

    def to_dict(self) -> dict[str, str]:
        """Return plain values; the diff, which may be long, as its digest."""
        digest = hashlib.sha256(self.diff.encode()).hexdigest() if self.diff else ""
        return {"commit": self.commit, "branch": self.branch, "diff_digest": digest}


@dataclass(frozen=True)
class Machine:
    """Where the driver ran, and with which packages."""

    host: str = field(default_factory=socket.gethostname)
    user: str = field(default_factory=_user)
    system: str = field(default_factory=platform.platform)
    python: str = field(default_factory=platform.python_version)
    cpus: int = field(default_factory=lambda: os.cpu_count() or 0)
    gpus: list[str] = field(default_factory=_gpus)
    packages: dict[str, str] = field(default_factory=_packages)


def read_code(folder: Path) -> Code:
    """Read the git state of the repository around `folder`, or what a submitted job says of where it came from."""
    if (folder / SUBMITTED).is_file():
        return Code(**json.loads((folder / SUBMITTED).read_text(encoding="utf-8")))
    commit = _git(folder, "rev-parse", "HEAD").strip()
    if not commit:
        return Code()
    return Code(commit, _git(folder, "rev-parse", "--abbrev-ref", "HEAD").strip(), _git(folder, "diff", "HEAD"))
