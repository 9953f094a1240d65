"""As many workers as there are nodes for: fewer at once when nodes go, more at the next checkpoint when they return.

Ray's own policy takes the head's word for which nodes live, which is 15 seconds old or more, and the coordinator's for
what is free. Here each node is asked itself, by knocking at its raylet's door, and those that are silent are left out.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import Any

import ray
from ray._private.state import state as gcs
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision, ScalingDecision
from ray.train.v2._internal.execution.scaling_policy.elastic import ElasticScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus, WorkerGroupState

from asparagus.driver.cluster import Node, here, placed
from asparagus.errors import RunError
from asparagus.spec import Resources

NODE_ID = "ray.io/node-id"
KNOCK_S = 1.0
"""How often the nodes of the workers are asked, and how long one may take to answer."""
SILENT_S = 4.0
"""A node that has not answered for so long is left behind: restarting costs about as much."""
LOOK_S = 2.0
"""How often it is looked whether there is room for more."""
DOORS = 32
"""Knocked at at the same time."""

log = logging.getLogger("ray.train.asparagus")


class Elastic(ElasticScalingPolicy):
    """Between the fewest and all workers, on nodes that answer.

    Args:
        scaling_config: Ray Train's.
        asked: What is asked for.
        patience_s: How long it waits for the fewest.
        own_machine: Nobody starts nodes for us, so nobody is asked to.
    """

    def __init__(self, scaling_config: Any, asked: Resources, patience_s: float, *, own_machine: bool = False) -> None:
        super().__init__(scaling_config)
        self._asked = asked
        self._patience_s = patience_s
        self._own_machine = own_machine
        self._mine: Counter[str] = Counter()
        """Workers of the last group, by node."""
        self._answered: dict[str, float] = {}
        self._silent: set[str] = set()
        self._knocked = self._looked = float("-inf")
        self._waiting_since: float | None = None
        self._grows = False

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Start with as many as fit on nodes that answer; wait where those are too few.

        Raises:
            RunError: They were too few for too long.
        """
        self._maybe_send_resource_request()
        fit = self._room()
        if fit >= self._asked.fewest:
            self._waiting_since, self._grows = None, False
            log.info("starting %d of %d workers", fit, self._asked.workers)
            return self._get_resize_decision(fit)
        now = time.monotonic()
        if self._waiting_since is None:
            log.info("room for %d workers, resources.min_workers=%d: waiting", fit, self._asked.fewest)
            self._waiting_since = now
        if now - self._waiting_since > self._patience_s:
            raise RunError(
                f"resources.min_workers: {self._asked.fewest} workers are needed, and for {self._patience_s:g} s there "
                f"was room for {fit}. Bring nodes back and give the same command, or lower resources.min_workers."
            )
        return NoopDecision()

    def make_decision_for_running_worker_group(
        self, worker_group_state: WorkerGroupState, worker_group_status: WorkerGroupPollStatus
    ) -> ScalingDecision:
        """Leave nodes behind that fell silent; at a checkpoint, take in those that there is room on."""
        self._maybe_send_resource_request()
        workers = worker_group_state.workers
        now = time.monotonic()
        if now - self._knocked >= KNOCK_S:
            self._knocked = now
            if gone := self._fell_silent(now):
                return self._without(gone, workers)
        if len(workers) < self._asked.workers and now - self._looked >= LOOK_S:
            self._looked = now
            self._grows = self._room() > len(workers)
        reported = worker_group_status.worker_statuses[0].training_report  # rank 0's: its checkpoint is whole
        if self._grows and reported is not None and (fit := self._room()) > len(workers):
            log.info("room for %d workers in place of %d: going on with them from this checkpoint", fit, len(workers))
            self._grows = False
            return self._get_resize_decision(fit)
        return NoopDecision()

    def holds(self, workers: Iterable[Any]) -> None:
        """Hear which workers the run has now: their places are not free, and can be had again."""
        self._mine = Counter(worker.metadata.node_id for worker in workers)

    def on_controller_start_worker_group(self, **_: Any) -> dict[str, str] | None:
        """Keep workers off nodes that the head takes for alive and that do not answer."""
        if not self._silent:
            return None
        return {**self._asked.labels, NODE_ID: f"!in({','.join(sorted(self._silent))})"}

    def after_controller_start(self, train_run_context: Any) -> None:
        """Ask for nodes, where somebody starts them."""
        if not self._own_machine:
            super().after_controller_start(train_run_context)

    def _maybe_send_resource_request(self) -> None:
        if not self._own_machine:
            super()._maybe_send_resource_request()

    def _room(self) -> int:
        """Count the workers that fit on nodes that answer: in what is free, and where this run has some now."""
        free = gcs.available_resources_per_node()
        nodes = here(ray.nodes()).nodes
        silent = {node.name for node in nodes} - answering(nodes)
        self._silent = silent
        each = [
            Node(free.get(node.name, {}), node.labels).holds(self._asked) + self._mine[node.name]
            for node in nodes
            if node.name not in silent
        ]
        return min(self._asked.workers, placed(self._asked.placement, each))

    def _fell_silent(self, now: float) -> set[str]:
        """Return the nodes of this run that have not answered for too long."""
        nodes = [node for node in here(ray.nodes()).nodes if node.name in self._mine]
        answers = knocked(nodes)
        answered = {name for name, answer in answers.items() if answer is Answer.YES}
        self._answered |= dict.fromkeys(answered, now)
        silent = {node.name for node in nodes if now - self._answered.setdefault(node.name, now) > SILENT_S}
        return (silent - answered) | {name for name, answer in answers.items() if answer is Answer.REFUSED}

    def _without(self, gone: set[str], workers: Iterable[Any]) -> ScalingDecision:
        """Go on without nodes; their workers are given up, or ending the group would wait for them."""
        fit = self._room()
        log.warning(
            "%d node(s) are gone, or have been silent for %g s: room for %d elsewhere", len(gone), SILENT_S, fit
        )
        if fit < self._asked.fewest:
            return NoopDecision()  # Ray will say when it has given them up; then the run waits for nodes
        for worker in workers:
            if worker.metadata.node_id in gone:
                ray.kill(worker.actor)
        return ResizeDecision(
            num_workers=fit,
            resources_per_worker=self.scaling_config._resources_per_worker_not_none,  # noqa: SLF001
        )


class Answer(Enum):
    """What a knock at a raylet's door comes to."""

    YES = "it takes the connection"
    REFUSED = "its machine is there and it is not"
    NONE = "nobody can tell"


def answering(nodes: Iterable[Node]) -> set[str]:
    """Return the ids of nodes whose raylet takes a connection."""
    return {name for name, answer in knocked(nodes).items() if answer is Answer.YES}


def knocked(nodes: Iterable[Node]) -> dict[str, Answer]:
    """Return what each node answers, by id."""
    asked = [node for node in nodes if node.address is not None]
    if not asked:
        return {}
    with ThreadPoolExecutor(min(DOORS, len(asked))) as pool:
        return {node.name: answer for node, answer in zip(asked, pool.map(_knock, asked), strict=True)}


def _knock(node: Node) -> Answer:
    assert node.address is not None
    try:
        socket.create_connection(node.address, timeout=KNOCK_S).close()
    except ConnectionRefusedError:
        return Answer.REFUSED
    except OSError:
        return Answer.NONE
    return Answer.YES
