"""Why a training ended: kinds of failure, told from exceptions and from what Ray says of lost workers. No Ray here."""

from __future__ import annotations

import errno
import json
import re
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from asparagus.errors import AsparagusError, HungError, LeftError, NanLossError


class Kind(StrEnum):
    """What ended a worker."""

    OUT_OF_MEMORY = "out of memory"
    NAN_LOSS = "nan loss"
    REQUEST = "wrong request"
    PREEMPTION = "preemption"
    HARDWARE = "hardware"
    HUNG = "hung"
    LOST = "lost worker"
    COLLATERAL = "follows another rank"
    UNKNOWN = "unknown"
    BUG = "bug"


LOST_BY_RAY = ("WorkerHealthCheckFailedError", "WorkerHealthCheckTimeoutError", "RayActorError", "RayError")
"""Names of Ray's classes for a dead or silent worker."""
COLLATERAL = re.compile(r"gloo|nccl|connection|peer|socket|timed? ?out|TCPStore|TCP client", re.IGNORECASE)
"""What collectives say when another rank is gone."""
MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|running low on memory|OutOfMemoryError|bad_alloc",
    re.IGNORECASE,
)
BROKEN = re.compile(
    r"uncorrectable|ECC error|\bXid\b|NVLink|fallen off the bus|unspecified launch failure|device unavailable|"
    r"hardware (error|stack error)|CUDNN_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)|CUBLAS_STATUS_(EXECUTION_FAILED|"
    r"NOT_INITIALIZED)|no CUDA GPUs are available|CUDA driver initialization failed|misaligned address|bus error",
    re.IGNORECASE,
)
"""What a broken GPU, or its memory, is reported as."""
LOADER_KILLED = re.compile(r"DataLoader worker .*(killed by signal|exited unexpectedly)", re.IGNORECASE)
OURS: dict[type | tuple[type, ...], Kind] = {
    LeftError: Kind.PREEMPTION,
    HungError: Kind.HUNG,
    NanLossError: Kind.NAN_LOSS,
    (AsparagusError, ImportError, SyntaxError): Kind.REQUEST,
}
"""Kinds that a class tells; the first that fits."""
NOT_PASSING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
"""Errors of files that are the same the next time."""
NUMBERS = re.compile(r"0x[0-9a-f]+|\bpid \d+|:\d{4,5}\b|\d+\.\d+ ?s\b", re.IGNORECASE)
"""What differs between two accounts of the same error."""


@dataclass(frozen=True)
class Death:
    """How one rank ended."""

    rank: int
    kind: Kind
    told: str
    """In one line."""
    story: str = ""
    """With its traceback; empty where nobody is left to tell."""
    when: float = 0.0
    step: int = -1
    host: str = ""
    node: str = ""
    killed: bool = False
    """It said nothing: its process was gone."""
    followed: bool = False
    """It left because another rank was told to."""

    @property
    def fingerprint(self) -> tuple[str, int]:
        """Return what is the same if the same thing happens again: the traceback, and the step."""
        return NUMBERS.sub("", self.story or self.told), self.step

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Death:
        """Rebuild one from `to_dict`'s result."""
        return cls(**{**values, "kind": Kind(values["kind"])})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def kind_of(error: BaseException) -> Kind:
    """Tell what kind of failure an exception is."""
    ours = next((kind for types, kind in OURS.items() if isinstance(error, types)), None)
    if ours is not None:
        return ours
    if is_lost(error):
        return _kind_of_loss(error)
    text = " ".join(str(one) for one in chain(error))
    if is_out_of_memory(error):
        return Kind.OUT_OF_MEMORY
    if BROKEN.search(text) or getattr(error, "errno", None) == errno.EIO:
        return Kind.HARDWARE
    if COLLATERAL.search(str(error)):
        return Kind.COLLATERAL
    passing = isinstance(error, OSError) and not isinstance(error, NOT_PASSING)
    return Kind.UNKNOWN if passing or LOADER_KILLED.search(text) else Kind.BUG


def is_lost(error: BaseException) -> bool:
    """Tell whether an exception is Ray's word for a worker that is gone, and not the worker's own."""
    return any(base.__module__.startswith("ray.") and base.__name__ in LOST_BY_RAY for base in type(error).__mro__)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell memory that ran out, of a GPU or of the machine, from any other failure."""
    return any(
        isinstance(one, MemoryError) or type(one).__name__.startswith("OutOfMemoryError") or MEMORY.search(str(one))
        for one in chain(error)
    )


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it came from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _kind_of_loss(error: BaseException) -> Kind:
    inside = getattr(error, "health_check_failure", error)
    if getattr(inside, "preempted", False):
        return Kind.PREEMPTION
    return Kind.OUT_OF_MEMORY if is_out_of_memory(error) else Kind.LOST


def death_of(
    error: BaseException, *, rank: int, step: int = -1, host: str = "", node: str = "", when: float | None = None
) -> Death:
    """Return how a rank ended that raised, or was lost."""
    lost = is_lost(error)
    text = str(error) if isinstance(error, AsparagusError) else f"{type(error).__name__}: {error}"
    story = "" if lost else "".join(traceback.format_exception(error))
    told = "its process is gone: killed, or lost with its node" if lost and kind_of(error) is Kind.LOST else text
    when = time.time() if when is None else when
    followed = isinstance(error, LeftError) and error.followed
    return Death(rank, kind_of(error), told, story, when, step, host, node, killed=lost, followed=followed)


def first_of(deaths: Mapping[int, Death]) -> Death:
    """Return the rank that ended first: not one that only followed, and of the others the earliest."""
    return min(
        deaths.values(), key=lambda death: (death.kind is Kind.COLLATERAL, death.followed, death.when, death.rank)
    )


def write_death(path: Path, death: Death) -> None:
    """Write down how a rank ended; a disk that is full must not hide it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(death.to_dict(), indent=2) + "\n", encoding="utf-8")
    except OSError:
        return


def read_death(path: Path) -> Death | None:
    """Return what a rank wrote, if it did."""
    try:
        return Death.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
