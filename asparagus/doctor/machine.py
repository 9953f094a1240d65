"""What the machine brings: Python and the packages, shared memory, GPUs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from asparagus.doctor.findings import Finding, Surroundings, bad, ok, warn
from asparagus.doctor.places import GB, text_of

PACKAGES = ("ray", "torch", "pytorch-lightning", "mlflow", "hydra-core", "omegaconf", "optuna", "monai")
"""Always listed; the other requirements only when something is wrong with them."""
TESTED = "In a clone of asparagus: pip install -c constraints.txt ."
SHM = "/dev/shm"  # nosec B108  # noqa: S108 - the file system itself is looked at
SHARED_MEMORY_GB = 1.0
RAY_SHARE, RAY_WANTS_GB = 0.3, 10.0
"""Ray's object store: this share of the memory, and at most so much that has to fit into /dev/shm."""


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
    version = text_of(Path(spec.origin).parent / "version.py")
    built = re.search(r"^cuda\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", version, re.MULTILINE)
    return built.group(1) if built else None


def _memory_gb() -> float:
    """Return this machine's memory, or the part of it that a container may use."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = text_of(Path("/sys/fs/cgroup/memory.max"))
    return min(machine, int(limit) if limit.isdigit() else machine) / GB


def _nvidia_smi() -> list[str]:
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []
