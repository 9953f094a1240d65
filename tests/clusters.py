"""A Ray cluster of several nodes on this machine, whose nodes can be killed and come back."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asparagus.journal import Event, JournalReader
from tests.helpers import free_port


class Nodes:
    """A head, and nodes beside it.

    Args:
        head: What the head has, as `ray start` is told.
        others: What each other node has.
    """

    def __init__(self, head: dict[str, Any], others: Sequence[dict[str, Any]]) -> None:
        from ray.cluster_utils import Cluster

        quiet = {"include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args={"gcs_server_port": free_port(), **quiet, **head})
        self.others = [self.add(**has) for has in others]
        self.address: str = self._cluster.address

    def add(self, **has: Any) -> Any:
        """Start a node and wait until the head knows it."""
        return self._cluster.add_node(wait=True, **has)

    def kill(self, node: Any) -> float:
        """Kill a node's raylet, as a machine goes; returns when."""
        pid = next(info.process.pid for info in node.all_processes["raylet"])
        os.kill(pid, signal.SIGKILL)
        return time.time()

    def of(self, worker: int) -> Any:
        """Return the node of a worker, by its process: raylets start their own."""
        parent = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
        return next(node for node in self.others if node.all_processes["raylet"][0].process.pid == parent)

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
        with contextlib.suppress(Exception):
            nodes.end()


def wait_for(what: Callable[[], Any], timeout: float) -> Any:
    """Wait until something is so, and return it."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.1)
    raise TimeoutError


def events_of(folder: Path, kind: str) -> list[Event]:
    """Return the events of one kind in a run's journal, as far as it is written."""
    journal = folder / "journal.jsonl"
    return [event for event in JournalReader(journal).read() if event["kind"] == kind] if journal.is_file() else []
