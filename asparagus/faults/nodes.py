"""A Ray cluster of several nodes on this machine: its nodes can be killed, and come back."""

from __future__ import annotations

import contextlib
import math
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil

from asparagus.errors import RunError
from asparagus.paths import variables_set
from asparagus.plan import Plan

LOOPBACK = "127.0.0.1"
NOTICE_S = 120
"""Between a notice and the end of its node, as a cloud gives it."""


class Nodes:
    """A head, and nodes beside it.

    Args:
        head: What the head has, as `ray.init` is told.
        others: What each other node has.
    """

    def __init__(self, head: dict[str, Any], others: Sequence[dict[str, Any]]) -> None:
        from ray.cluster_utils import Cluster

        quiet = {"include_dashboard": False, "gcs_server_port": free_port()}
        self._cluster = Cluster(initialize_head=True, head_node_args={**quiet, **head})
        self.others = [self.add(**has) for has in others]
        self.address: str = self._cluster.address

    def add(self, **has: Any) -> Any:
        """Start a node and wait until the head knows it."""
        return self._cluster.add_node(wait=True, **has)

    def kill(self, node: Any) -> float:
        """Kill a node's raylet and the workers that it started, as a machine goes; returns when."""
        raylet = psutil.Process(_raylet(node))
        workers = raylet.children()
        for process in (raylet, *workers):  # the raylet first, or it would still tell of the workers' end
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return time.time()

    def give_notice(self, node: Any) -> None:
        """Tell the cluster that a node will be taken away.

        Raises:
            RunError: Ray does not take the notice.
        """
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", f"--address={self.address}"]
        command += [f"--node-id={node.node_id}", "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=rehearsal"]
        command += [f"--deadline-remaining-seconds={NOTICE_S}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RunError(f"ray drain-node ended with {done.returncode}: {done.stderr.strip()[-500:]}")

    def of(self, worker: int) -> Any:
        """Return the node of a worker, by its process: raylets start their own."""
        parent = psutil.Process(worker).ppid()
        return next(node for node in self.others if _raylet(node) == parent)

    def end(self) -> None:
        """End all of it."""
        self._cluster.shutdown()


@contextmanager
def ray_nodes(head: dict[str, Any], *others: dict[str, Any]) -> Iterator[Nodes]:
    """Have a cluster for a while."""
    nodes = Nodes(head, others)
    try:
        yield nodes
    finally:
        with contextlib.suppress(Exception):  # some of its processes are dead, and that was the point
            nodes.end()


@contextmanager
def simulated(plan: Plan, spare: int) -> Iterator[Nodes]:
    """Have a head, a node for each worker, and some to spare; other clusters of this machine are not touched by it."""
    places = max(1, plan.workers)
    together = places if plan.spec.resources.placement == "strict_pack" else 1
    node = {"num_cpus": max(1, math.ceil(plan.cpus_per_worker * together))}
    # It listens beyond loopback, since Ray takes no address there: nobody else has the token of this one.
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"
    # Ray notes its newest cluster in this folder, where `address: auto` finds it; the user's own note is elsewhere.
    with (
        tempfile.TemporaryDirectory(prefix="asp-", ignore_cleanup_errors=True) as folder,
        variables_set({**variables, "RAY_TMPDIR": folder}),
        ray_nodes({"num_cpus": 0}, *[node] * (places // together + spare)) as nodes,
    ):
        yield nodes


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as door:
        door.bind((LOOPBACK, 0))
        return int(door.getsockname()[1])


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)
