"""What this process is to the run that it trains: which try, which rank, how far it is, and whether it is to leave.

Light: Ray calls these functions on workers that have not imported torch yet.
"""

from __future__ import annotations

import faulthandler
import io
import logging
import os
import signal
import socket
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from asparagus.attempts import log_of
from asparagus.secrets import hide, is_secret_name

STACKS = signal.SIGUSR2
"""Sent to a process that does not answer: its stacks go to its log."""
CGROUP = Path("/sys/fs/cgroup/memory.events")


@dataclass
class Here:
    """One per process: a process trains one run at a time."""

    folder: str = ""
    """Of the run; empty where nobody has said."""
    attempt: int = 0
    rank: int = 0
    node: int | None = None
    """Its number, where there are several."""
    first_on_node: bool = True
    halvings: int = 0
    """How often the batch was halved, because memory ran out."""
    news: str = ""
    """Why the try before ended, and what is otherwise in this one."""
    placed: float = 0.0
    """When somebody began to place this try's workers, in seconds since the epoch; 0 where nobody had to."""
    beats: int = 0
    doing: str = "starting"
    step: int = -1
    leave: str = ""
    """Why it is to leave; empty while it may stay."""
    secrets: set[str] = field(default_factory=set)

    def beat(self, doing: str, step: int) -> None:
        """Be alive: something was done."""
        self.doing, self.step = doing, step
        self.beats += 1


HERE = Here()


def begin(folder: str, attempt: int, rank: int, *, node: int | None = None, first_on_node: bool = True) -> None:
    """Be a rank of a try, in a process that is there for nothing else: all that it says goes to the rank's log."""
    HERE.folder, HERE.attempt, HERE.rank, HERE.node, HERE.first_on_node = folder, attempt, rank, node, first_on_node
    _speak_to(log_of(Path(folder), attempt, rank))
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _on_sigterm)


def look() -> tuple[int, str, int]:
    """Return how often this process was alive, what it did last, and its step."""
    return HERE.beats, HERE.doing, HERE.step


def ask_to_leave(why: str) -> None:
    """Have this rank write a checkpoint and end, together with the others."""
    HERE.leave = HERE.leave or why


def dump_stacks(path: str) -> None:
    """Write the stacks of all threads of this process into a file."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("w", encoding="utf-8") as file:
        file.write(f"{socket.gethostname()}, process {os.getpid()}: {HERE.doing}, step {HERE.step}\n\n")
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)


def facts() -> dict[str, object]:
    """Return what there is to know of this process: where it runs and with what environment."""
    telling = ("CUDA", "NCCL", "GLOO", "RAY", "OMP", "MKL", "TORCH", "PYTORCH", "SLURM", "MASTER", "ASPARAGUS", "LD_")
    shown = {key: value for key, value in os.environ.items() if key.startswith(telling) and not is_secret_name(key)}
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": sys.version.split()[0],
        "kills": out_of_memory_kills(),
        "environment": dict(sorted(shown.items())),
    }


def out_of_memory_kills() -> int:
    """Return how many processes the kernel has killed here for want of memory; 0 where it does not tell."""
    try:
        events = dict(line.split() for line in CGROUP.read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return 0
    return int(events.get("oom_kill", 0))


def _on_sigterm(_number: int, _frame: FrameType | None) -> None:
    """Leave in time, in place of Ray's own answer, which is to end at once."""
    ask_to_leave(f"a SIGTERM to rank {HERE.rank} on {socket.gethostname()}")


def _speak_to(log: Path) -> None:
    """Send what this process says, in Python or below it, to a file that outlives it and its node."""
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
    for standard in (1, 2):
        os.dup2(handle, standard)
    os.close(handle)
    sys.stdout, sys.stderr = _Hiding(1), _Hiding(2)
    root = logging.getLogger()  # Ray's own handler would say everything twice: it speaks to this log now
    root.handlers = [
        one
        for one in root.handlers
        if isinstance(one, logging.FileHandler) or not isinstance(one, logging.StreamHandler)
    ]
    faulthandler.enable(file=2, all_threads=True)
    faulthandler.register(STACKS, file=2, all_threads=True)


class _Hiding(io.TextIOBase):
    """A text stream without the values of the run's secrets; what is said below Python is not seen here."""

    encoding = "utf-8"

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def write(self, text: str) -> int:
        os.write(self._handle, hide(text, HERE.secrets).encode(errors="replace"))
        return len(text)

    def fileno(self) -> int:
        return self._handle

    def writable(self) -> bool:
        return True
