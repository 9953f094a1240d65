"""What a Ray cluster has, node by node, and how many workers fit: counted here, since Ray would wait for ever."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asparagus.errors import PlanError
from asparagus.plan import bundle_of
from asparagus.spec import Resources

SHOWN = ("CPU", "GPU", "memory")
LISTED = 8
"""So many sorts of nodes are told."""
GIB = 2**30
ALIKE = 1e-9
"""Shares of a GPU add up to a little more or less than one."""
TYPE = "accelerator_type:"
SELECTOR = re.compile(r"(?P<no>!?)(?:in\((?P<several>.*)\)|(?P<one>.*))")
UNLIMITED = -1


@dataclass(frozen=True)
class Node:
    """One node, or one of a sort that the cluster can start."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    """Its node id; empty for one that is not there yet."""
    address: tuple[str, int] | None = None
    """Where its raylet answers."""

    def holds(self, asked: Resources) -> int:
        """Return how many workers fit, however many are asked for."""
        if not all(selects(value, self.labels.get(key)) for key, value in asked.labels.items()):
            return 0
        return fitting(bundle_of(asked), self.resources)


@dataclass(frozen=True)
class Cluster:
    """The nodes that are there, and those that it can start."""

    nodes: tuple[Node, ...]
    can_start: tuple[tuple[Node, int], ...] | None = None
    """Sorts of nodes and how many of each, -1 for any number; None where nobody starts any."""

    def holds(self, asked: Resources) -> int:
        """Return how many workers fit, at most as many as are asked for."""
        each = [node.holds(asked) for node in self.nodes]
        for node, count in self.can_start or ():
            each += [node.holds(asked)] * (asked.workers if count == UNLIMITED else count)
        return min(asked.workers, placed(asked.placement, each))

    def describe(self) -> str:
        """Return what it has, node by node; those that are alike as one."""
        rows = [_row(_sort(node), count) for node, count in _alike(self.nodes)]
        rows += [_row(f"{_sort(node)} (not started yet)", count) for node, count in self.can_start or () if count]
        more = [f"and {len(rows) - LISTED} more sorts"] if len(rows) > LISTED else []
        return "\n".join(f"  {row}" for row in [*rows[:LISTED], *more]) or "  no nodes"


def must_hold(cluster: Cluster, asked: Resources) -> None:
    """Refuse workers that the cluster can never hold.

    Raises:
        PlanError: With what it has, per node.
    """
    fit = cluster.holds(asked)
    if fit >= asked.fewest:
        return
    key = "min_workers" if asked.is_elastic else "workers"
    advice = f"Ask for {fit} (resources.{key}={fit})" if fit else f"No node holds a single one. {_smaller(asked)}"
    raise PlanError(
        f"resources.{key}: {asked.fewest} workers with {_each(asked)} each do not fit: this cluster holds {fit}. "
        f"It has:\n{cluster.describe()}\n{advice}, or take a larger site."
    )


def placed(placement: str, each: Sequence[int]) -> int:
    """Return how many workers nodes hold together that hold so many each."""
    if placement == "strict_pack":
        return max(each, default=0)
    return sum(min(1, count) for count in each) if placement == "strict_spread" else sum(each)


def fitting(bundle: Mapping[str, float], have: Mapping[str, float]) -> int:
    """Return how often a bundle of resources fits into what is there."""
    return min(math.floor(have.get(kind, 0) / need + ALIKE) for kind, need in bundle.items() if need)


def selects(selector: str, value: str | None) -> bool:
    """Tell whether a label has a value that is looked for, as Ray would: `a`, `!a`, `in(a,b)`, `!in(a,b)`."""
    found = SELECTOR.fullmatch(selector)
    assert found is not None
    wanted = {word.strip() for word in (found["several"] or found["one"]).split(",")}
    return (value in wanted) != bool(found["no"])


def here(alive: Iterable[Mapping[str, Any]], config: Any = None) -> Cluster:
    """Return the cluster that Ray describes.

    Args:
        alive: Rows of `ray.nodes()`.
        config: What the autoscaler says that it can start, `ray._private.state.state.get_cluster_config()`.
    """
    nodes = tuple(
        Node(
            row["Resources"],
            row.get("Labels") or {},
            row["NodeID"],
            (row["NodeManagerAddress"], row["NodeManagerPort"]),
        )
        for row in alive
        if row["Alive"]
    )
    groups = getattr(config, "node_group_configs", None)
    if not groups:
        return Cluster(nodes)
    return Cluster(nodes, tuple((Node(dict(group.resources), dict(group.labels)), group.max_count) for group in groups))


def _each(asked: Resources) -> str:
    parts = [f"{amount:g} {kind}" for kind, amount in bundle_of(asked).items() if kind in ("CPU", "GPU")]
    parts += [f"{bundle_of(asked)['memory'] / GIB:.1f} GiB of memory"] if asked.memory_per_worker is not None else []
    parts += [f"a GPU of type {asked.accelerator_type}"] if asked.accelerator_type else []
    parts += [f"the label {key}={value}" for key, value in asked.labels.items()]
    parts += [f"placement {asked.placement}"] if asked.placement.startswith("strict") else []
    return ", ".join(parts)


def _smaller(asked: Resources) -> str:
    each = ("cpus_per_worker", "gpus_per_worker", "memory_per_worker", "accelerator_type", "labels")
    given = [f"resources.{key}" for key in each if getattr(asked, key)]
    return f"Change {' or '.join(given)}"


def _sort(node: Node) -> str:
    have = node.resources
    parts = [f"{have.get('CPU', 0):g} CPU", f"{have.get('GPU', 0):g} GPU"]
    parts += [f"{have['memory'] / GIB:.1f} GiB of memory"] if "memory" in have else []
    parts += [kind.removeprefix(TYPE) for kind in have if kind.startswith(TYPE)]
    parts += [f"{key}={value}" for key, value in node.labels.items() if not key.startswith("ray.io/")]
    return ", ".join(parts)


def _alike(nodes: Iterable[Node]) -> list[tuple[Node, int]]:
    sorts: dict[str, tuple[Node, int]] = {}
    for node in nodes:
        first, count = sorts.get(_sort(node), (node, 0))
        sorts[_sort(node)] = (first, count + 1)
    return list(sorts.values())


def _row(sort: str, count: int) -> str:
    return f"{'any number of' if count == UNLIMITED else count} node{'' if count == 1 else 's'} with {sort}"
