"""What a launch takes that can be counted on any machine, with its limits: processes, calls, files, bytes, modules."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.e2e.test_exactly_once import processes


@dataclass(frozen=True)
class Limit:
    """What something may take, on any machine."""

    measured: float
    """When this line was written."""
    most: float
    look_at: str
    """Where what has grown will be found."""


LIMITS = {
    "modules imported by asp-launch --help": Limit(112, 125, "the imports at the top of asparagus/cli/"),
    "modules imported by asp-launch --dry-run": Limit(
        456, 500, "the imports at the top of asparagus/{cli,compose,check}/"
    ),
    "requests to MLflow per epoch of 0.3 s": Limit(0.375, 0.63, "asparagus/record/book.py: catch_up"),
    "requests to MLflow per run, beside its epochs": Limit(
        31, 34, "asparagus/record/book.py: what opens and closes it"
    ),
    "bytes of a submitted job, beside the user's files": Limit(2800, 4000, "asparagus/submit/cargo.py: files_of"),
    "files of a submitted job, beside the user's": Limit(3, 3, "asparagus/submit/cargo.py: files_of"),
    "files per checkpoint": Limit(2, 2, "asparagus/checkpoint/folder.py"),
    "processes of a launch without Ray": Limit(2, 2, "asparagus/record/recorder.py, asparagus/worker/here.py"),
    "processes of a local Ray itself": Limit(7, 7, "asparagus/driver/own_ray.py: what ray.init is asked for"),
    "Ray workers of a launch with two": Limit(
        4, 4, "asparagus/driver/on_ray.py: two ranks, and two actors of Ray Train"
    ),
    "processes of a sweep's trials, two at a time": Limit(2, 2, "asparagus/sweep/search.py: reuse of a warm process"),
}
"""What is counted: its limit. One that is outgrown for a reason is raised, with what was measured then."""


def within(what: str, count: float, details: str = "") -> None:
    """Hold a count to its limit.

    Args:
        what: One of LIMITS.
        count: What was counted.
        details: What it is made of, if that is known.
    """
    limit = LIMITS[what]
    assert count <= limit.most, (
        f"{what}: {count:g}, it was {limit.measured:g} and may be {limit.most:g}. Look at {limit.look_at}\n{details}"
    )


LOOK_S = 0.5
"""What lives for less is not counted: a look costs some ten milliseconds."""
KINDS = {
    "of Ray's own": r"gcs_server|raylet/raylet|dashboard|log_monitor|autoscaler|runtime_env/agent",
    "trials": r"ray::(_Inner|Trial)",
    "Ray workers": r"ray::(?!IDLE)",
    "launch": r"bin/asp",
    "recorder": r"asparagus\.record\.writer",
}
"""What is counted: kind -> what its command line has, or had, in it. Workers that Ray starts ahead and never uses are
not, for how many there are is Ray's guess."""


@dataclass
class Processes:
    """Those that were started while somebody watched."""

    commands: dict[int, list[str]] = field(default_factory=dict)
    """pid -> the command lines that it had, one after the other: a worker of Ray's takes the name of what it does."""

    def counted(self) -> Counter[str]:
        """Return how many there were of each kind."""
        return Counter(filter(None, map(_kind, self.commands.values())))

    def told(self, kind: str) -> str:
        """Return what those of a kind did."""
        return "\n".join(
            " -> ".join(name[-120:] for name in names) for names in self.commands.values() if _kind(names) == kind
        )


def _kind(names: list[str]) -> str:
    return next((kind for kind, pattern in KINDS.items() if any(re.search(pattern, name) for name in names)), "")


@contextmanager
def watched() -> Iterator[Processes]:
    """Watch what this process starts from now on, and all that is started by that."""
    seen, over, me = Processes(), threading.Event(), os.getpid()
    before = {pid for pid, (parent, _) in processes().items() if parent == me}  # servers that other tests share

    def watch() -> None:
        while not over.wait(LOOK_S):
            _look(me, before, seen)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _look(root: int, without: set[int], seen: Processes) -> None:
    every, children = processes(), defaultdict[int, list[int]](list)
    for pid, (parent, _) in every.items():
        children[parent].append(pid)
    found = [pid for pid in children[root] if pid not in without]
    for pid in found:
        found += children[pid]
        names, name = seen.commands.setdefault(pid, []), every[pid][1].strip()
        if name and name not in names:
            names.append(name)
