"""What a training would meet on this machine: each check looks at one thing and says ok, or what to do.

Nothing here imports torch, Ray or MLflow: a broken one is what these checks are there to find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from asparagus.doctor.books import runs, schema
from asparagus.doctor.findings import Finding, Surroundings, bad, look_around, ok
from asparagus.doctor.machine import (
    dashboard,
    gpus,
    judge_gpus,
    judge_package,
    judge_python,
    judge_shared_memory,
    shared_memory,
    versions,
)
from asparagus.doctor.places import dotenv, folders, judge_room, room, tasks
from asparagus.doctor.services import NO_CLUSTER, cluster, judge_answers, ray, tracking

__all__ = [
    "CHECKS",
    "NO_CLUSTER",
    "Finding",
    "Surroundings",
    "bad",
    "cluster",
    "examine",
    "judge_answers",
    "judge_gpus",
    "judge_package",
    "judge_python",
    "judge_room",
    "judge_shared_memory",
    "look_around",
    "ok",
]

Check = Callable[[Surroundings], Iterable[Finding]]

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
    schema,
    runs,
    ray,
)
"""All that is looked at, in this order: what may have to wait for an answer comes last."""


def examine(around: Surroundings) -> Iterator[Finding]:
    """Yield each finding as soon as it is known, the fast ones first."""
    for check in CHECKS:
        yield from check(around)
