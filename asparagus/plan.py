"""Spec -> Plan: workers, batch arithmetic, placement, run folder. Pure: no Ray, no files, no clock."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

from asparagus.errors import PlanError
from asparagus.spec import Checkpointing, Parent, Site, Spec
from asparagus.stages import STAGES

IN_PROCESS = "in this process"


@dataclass(frozen=True)
class Plan:
    """What will be done, to the last number that can be known before it is done."""

    spec: Spec
    workers: int
    """Ray workers; 0 trains in the process of the driver."""
    cpus_per_worker: float
    gpus_per_worker: float
    global_batch: int
    """Samples per optimizer step: batch per worker x workers x accumulation."""
    run_root: str
    """The run's folder is `<run_root>/run_id=<N>`."""
    cases: dict[str, int] | None = None
    parent: Parent | None = None

    @property
    def world_size(self) -> int:
        """Processes that train together."""
        return max(1, self.workers)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as nested plain values."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Return the plan as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Plan:
        """Rebuild a plan from `to_dict`'s result."""
        parent = Parent(**values["parent"]) if values.get("parent") else None
        return cls(**{**values, "spec": Spec.from_dict(values["spec"]), "parent": parent})

    def describe(self) -> str:
        """Return the plan as a person reads it, one line per fact."""
        rows = [row for row in self._rows() if row[1]]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def _rows(self) -> list[tuple[str, str]]:
        spec, trainer, kept = self.spec, self.spec.trainer, self.spec.checkpoint
        split, fold = spec.data.get("split"), spec.data.get("fold")
        cases = ", ".join(f"{count} {part}" for part, count in (self.cases or {}).items())
        length = ", ".join(
            f"{key}={trainer[key]}" for key in ("max_epochs", "max_steps", "max_time") if trainer.get(key) is not None
        )
        return [
            ("stage", spec.stage),
            ("task", spec.task),
            (
                "data",
                f"{split}, fold {fold}" + (f": {cases}" if cases else " (not visible from here)") if split else "",
            ),
            ("weights", _weights(self.parent)),
            ("model", _model(spec)),
            ("optimizer", _optimizer(spec)),
            ("length", f"{length}, {trainer.get('precision', '32-true')}"),
            ("batch", _batch(self)),
            ("workers", _workers(self)),
            ("best by", f"{kept.monitor} ({kept.mode}); the last checkpoint and the best {kept.keep_best} are kept"),
            ("run folder", f"{self.run_root}/run_id=..."),
            ("tracking", spec.site.tracking_uri or ""),
        ]


def make_plan(
    spec: Spec,
    *,
    cases: dict[str, int] | None = None,
    parent: Parent | None = None,
) -> Plan:
    """Work out how a spec will run.

    Args:
        spec: What was asked.
        cases: Cases per part of the split, if known.
        parent: Where the first weights come from.

    Raises:
        PlanError: The site can never hold what is asked.
    """
    resources = spec.resources
    _must_fit(spec, spec.site)
    accumulate = int(spec.trainer.get("accumulate_grad_batches") or 1)
    batch = int(spec.data.get("batch_size") or 1)
    return Plan(
        spec=dataclasses.replace(spec, checkpoint=_checkpointing(spec)),
        workers=resources.workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        global_batch=batch * max(1, resources.workers) * accumulate,
        run_root=f"{spec.paths.models}/{spec.task}/{spec.stage}",
        cases=cases,
        parent=parent,
    )


def _checkpointing(spec: Spec) -> Checkpointing:
    """Fill in what makes a checkpoint the best: the stage's own measure, unless the experiment names another."""
    asked, stage = spec.checkpoint, STAGES[spec.stage]
    if asked.monitor is None:
        return dataclasses.replace(asked, monitor=stage.monitor, mode=asked.mode or stage.mode)
    return dataclasses.replace(asked, mode=asked.mode or ("min" if "loss" in asked.monitor else "max"))


def _must_fit(spec: Spec, site: Site) -> None:
    resources = spec.resources
    for kind, each, per_node in (
        ("cpus", resources.cpus_per_worker, site.cpus_per_node),
        ("gpus", resources.gpus_per_worker, site.gpus_per_node),
    ):
        if not resources.workers or not each or per_node is None or site.nodes is None:
            continue
        fit = site.nodes * math.floor(per_node / each)
        if resources.workers > fit:
            fewer = f"Ask for at most {fit} (resources.workers={fit}), lower" if fit else "Lower"
            raise PlanError(
                f"resources.workers: {resources.workers} workers with {each:g} {kind} each never fit on site "
                f"{site.name!r}: {site.nodes} node(s) with {per_node} {kind} hold {fit}. {fewer} "
                f"resources.{kind}_per_worker, or take a site that holds more (site=cluster)."
            )


def _weights(parent: Parent | None) -> str:
    if parent is None:
        return "from scratch"
    origin = f"run {parent.run_id}, step {parent.step}: " if parent.run_id else ""
    return f"from {origin}{parent.checkpoint}"


def _model(spec: Spec) -> str:
    network = spec.model.get("net") or spec.model[STAGES[spec.stage].network]
    return f"{network['_target_']}, {spec.model.get('dimensions')}"


def _optimizer(spec: Spec) -> str:
    sched = (spec.optim.get("sched") or {}).get("name", "constant")
    return f"{spec.optim.get('name')}, lr {spec.optim.get('lr')}, {sched}"


def _batch(plan: Plan) -> str:
    accumulate = int(plan.spec.trainer.get("accumulate_grad_batches") or 1)
    batch = plan.spec.data.get("batch_size") or 1
    return f"{batch} per worker x {plan.world_size} x {accumulate} accumulated = {plan.global_batch} per step"


def _workers(plan: Plan) -> str:
    if not plan.workers:
        return IN_PROCESS
    gpus = f", {plan.gpus_per_worker:g} GPUs" if plan.gpus_per_worker else ""
    site = plan.spec.site
    return f"{plan.workers} on Ray ({site.name}: {site.address}), each {plan.cpus_per_worker:g} CPUs{gpus}"
