"""A launch on a Ray that stays up: it joins, is told apart from the launches before, and leaves processes ready."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from asparagus.driver import warm
from asparagus.driver.forking import THREADS
from asparagus.driver.on_ray import connected, must_fit, worker_environment
from asparagus.driver.own_ray import QUIET, on_loopback
from asparagus.driver.wall_time import leaving_in_time
from asparagus.paths import variables_set
from asparagus.plan import Plan
from asparagus.spec import Site

READY = "asparagus.worker.eager.be_ready"
HOOK = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
"""What Ray's `worker_process_setup_hook` comes down to, which it lets one set for all processes of a launch alone."""
READ_AT_IMPORT = (
    *("GOMP_", "KMP_", "MKL_", "NUMEXPR_", "OMP_", "OPENBLAS_"),
    *("GLOO_", "HF_", "MALLOC_", "MPL", "NCCL_", "PYTORCH_", "TORCH_", "TRANSFORMERS_"),
)
"""Beginnings of environment variables that libraries read when they are imported: processes differ in them."""

log = logging.getLogger("asparagus")


@contextmanager
def connected_to_warm(plan: Plan, ahead: threading.Thread) -> Iterator[None]:
    """Connect to the Ray that stays up, or to one of this run's own where that one is in use for something else.

    Args:
        plan: What is to fit on it.
        ahead: Imports Ray Train meanwhile; it may begin as soon as Ray will find the token.

    Raises:
        PlanError: It does not start, or can never hold the plan.
    """
    site, place = plan.spec.site, warm.Place.of()
    place.make()
    with variables_set(place.authentication()):
        ahead.start()
        with warm.shared(site) as head:
            if head is not None:
                with _joined(plan, head):
                    yield
                return
    log.warning("site=local-warm: its Ray was started for something else and is in use: this run starts its own")
    with connected(plan):
        yield


@contextmanager
def _joined(plan: Plan, head: warm.Head) -> Iterator[None]:
    site = plan.spec.site
    os.environ.update(worker_environment(site))
    import ray

    with on_loopback():
        ray.init(address=head.address, runtime_env={"env_vars": _of_processes(plan)}, **QUIET)
    try:
        must_fit(plan)
        _say_if_it_waits(plan)
        with leaving_in_time(site.max_hours):
            yield
        warm.make_ready({**_of_processes(plan), **of_workers(site)}, plan.workers)
    finally:
        ray.shutdown()


def _of_processes(plan: Plan) -> dict[str, str]:
    """Return the variables that Ray's processes of this launch start with; the others are carried to them."""
    threads = {THREADS: str(max(1, int(plan.cpus_per_worker)))}  # as Ray sets it, too late for what is imported by then
    ours = {name: value for name, value in worker_environment(plan.spec.site).items() if name.startswith("RAY_")}
    told = {name: value for name, value in os.environ.items() if name.startswith(READ_AT_IMPORT)}
    return {**threads, **ours, **told}


def of_workers(site: Site) -> dict[str, str]:
    """Return what a worker starts with besides: it imports at once what it will need, before there is work for it."""
    return {HOOK: READY} if site.stays_up else {}


def carried() -> dict[str, str]:
    """Return the rest of the environment, which a process can take over when it is given its work."""
    not_ours = (*READ_AT_IMPORT, *warm.OF_RAY)
    return {name: value for name, value in os.environ.items() if not name.startswith(not_ours)}


def _say_if_it_waits(plan: Plan) -> None:
    """Say so where other launches have what this one needs; they take turns."""
    import ray

    free = ray.available_resources()
    lacking = [kind for kind, each in plan.bundle.items() if free.get(kind, 0) < each * plan.spec.resources.fewest]
    if lacking:
        log.warning("site=local-warm: other launches use its %s; this one waits for them", " and ".join(lacking))
