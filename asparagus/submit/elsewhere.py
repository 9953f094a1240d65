"""A request that is meant for a cluster: its site joins the Ray that it runs on, its training leaves the head node."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from asparagus.compose import Request, compose
from asparagus.compose.overrides import key_of
from asparagus.compose.pipeline import StageRequest, stages_of
from asparagus.errors import ConfigError

LOCAL = "local"
CLUSTER = (
    "site.name=cluster",
    "site.address=auto",
    "site.nodes=null",
    "site.cpus_per_node=null",
    "site.gpus_per_node=null",
    "site.idle_minutes=null",
    "site.poll_interval_s=0.5",
    "site.start_timeout_s=600",
)
"""What stands in `launch/site/cluster.yaml`, as values: what is typed wins over it."""
WORKERS = "resources.workers"
ONE_WORKER = f"{WORKERS}=1"


def for_cluster(request: Request) -> Request:
    """Return the request of runs as a cluster carries them out.

    A site that is this machine becomes the cluster that the job is on. What would train in the process of the command
    trains on one worker: that process is on the head node, which has other things to do.
    """
    return _before(request, _words(stages_of(request)))


def sweep_for_cluster(request: Request) -> Request:
    """Return the request of a sweep as a cluster carries it out."""
    from asparagus.compose.eval_box import eval_box_of
    from asparagus.compose.space import compose_sweep

    box = eval_box_of(request)
    return _before(request, _words(box.rows if box else stages_of(compose_sweep(request).base)))


def _words(stages: Iterable[StageRequest]) -> list[str]:
    words: list[str] = []
    for stage in stages:
        try:
            spec = compose(stage.request)
        except ConfigError:  # told when it is planned, with where it came from; or what is missing is searched
            return [*CLUSTER]
        words += CLUSTER if spec.site.address == LOCAL else ()
        words += [ONE_WORKER] if spec.resources.workers == 0 else []
    return words


def _before(request: Request, words: Iterable[str]) -> Request:
    """Put words before those that were typed, which win."""
    typed = {key_of(word) for word in request.overrides}
    new = tuple(word for word in dict.fromkeys(words) if key_of(word) not in typed)
    return dataclasses.replace(request, overrides=(*new, *request.overrides))
