"""Many cases at once, as Ray tasks: a conversion on a cluster. The folders of data must be the same on every node."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from asparagus.data.pool import AHEAD, Ended, Job, Pool, Work
from asparagus.driver.on_ray import connect, worker_environment
from asparagus.errors import PlanError
from asparagus.spec import Site


@contextmanager
def on_ray(address: str) -> Iterator[Pool[Any]]:
    """Connect to a Ray (`local` starts one here, `auto` finds it) and yield a pool of its CPUs.

    Raises:
        PlanError: Nobody answers at that address.
    """
    site = Site(address=address)
    environment = worker_environment(site)
    os.environ.update(environment)
    try:
        connect(site, environment)
    except PlanError as error:
        raise PlanError(
            f"--ray: no Ray cluster answers at {address!r}. Start one (ray start --head), give its address "
            "(--ray host:port), or leave --ray out: --num_workers processes of this machine."
        ) from error
    import ray

    try:
        yield _pool
    finally:
        ray.shutdown()


def _pool(work: Work[Job], jobs: Sequence[Job]) -> Iterator[Ended[Job]]:
    """Hand out a few jobs per CPU at a time, and yield each as it ends."""
    import ray

    task = ray.remote(num_cpus=1)(_quietly)
    todo = list(reversed(jobs))
    running: dict[Any, Job] = {}
    window = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    while todo or running:
        while todo and len(running) < window:
            job = todo.pop()
            running[task.remote(work, job)] = job
        for ended in ray.wait(list(running))[0]:
            yield running.pop(ended), _error(ended)


def _quietly(work: Work[Job], job: Job) -> None:
    """Be one of many on a node: one thread of computation."""
    import torch

    torch.set_num_threads(1)
    work(job)


def _error(ended: object) -> BaseException | None:
    import ray

    try:
        ray.get(ended)
    except ray.exceptions.RayTaskError as error:
        cause: BaseException = error.cause
        return cause
    except ray.exceptions.RayError as error:  # a node was lost, a worker killed for its memory
        lost: BaseException = error
        return lost
    return None
