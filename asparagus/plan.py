"""Spec -> Plan: workers, batch arithmetic, placement, run folder. Pure: no Ray, no files, no clock."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from asparagus import lengths as lengths_of
from asparagus.attributes import lengths, substituted
from asparagus.checkpoint.retention import bytes_of
from asparagus.data import CASE_DATA, CROP_DATA
from asparagus.errors import PlanError
from asparagus.identity import identity
from asparagus.secrets import without_passwords
from asparagus.spec import ENDLESS, OF_STAGE, Checkpointing, Parent, Resources, Spec, TrialOf
from asparagus.stages import STAGES

IN_PROCESS = "in this process"
IDENTITY_SHOWN = 12
"""So many digits tell two identities apart on a screen."""
OF_ITS_TYPE = 0.001
"""Each node with an accelerator has one of `accelerator_type:<its type>`; this much of it names the type."""
SUBSTITUTED = ("model", "data", "optim", "loss", "trainer", "callbacks", "plugins", "logger", "script")
"""The open sections: where attributes of the run may stand."""


@dataclass(frozen=True)
class Plan:
    """What will be done, to the last number that can be known before it is done."""

    spec: Spec
    workers: int
    """Ray workers; 0 trains in the process of the driver."""
    cpus_per_worker: float
    gpus_per_worker: float
    global_batch: int | None
    """Samples per optimizer step: batch per worker x workers x accumulation; None where only the data module knows."""
    run_root: str
    """The run's folder is `<run_root>/run_id=<N>`."""
    cases: dict[str, int] | None = None
    parent: Parent | None = None
    notes: tuple[str, ...] = ()
    """What was asked for and is done otherwise, or not at all."""
    identity: str = ""
    """The hash of all that decides the weights; equal ones are the same run (see `asparagus.identity`)."""
    fingerprint: str | None = None
    """Of the data and their split; None where they are not visible or not ours."""
    trial: TrialOf | None = None
    """Whose run this is in a sweep."""

    @property
    def world_size(self) -> int:
        """Processes that train together."""
        return max(1, self.workers)

    @property
    def bundle(self) -> dict[str, float]:
        """What one worker takes of a node, as Ray counts it."""
        return bundle_of(self.spec.resources)

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
        trial = TrialOf(**values["trial"]) if values.get("trial") else None
        known = {"spec": Spec.from_dict(values["spec"]), "parent": parent, "trial": trial}
        given: dict[str, Any] = {**known, "notes": tuple(values.get("notes", ()))}
        return cls(**{**values, **given})

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
            f"{key}={trainer[key]}"
            for key in ("max_epochs", "max_steps", "max_time")
            if trainer.get(key) not in (None, ENDLESS)
        )
        return [
            ("stage", spec.stage if spec.run.mode == "fit" else f"{spec.stage}, {spec.run.mode} only"),
            ("task", spec.task),
            (
                "data",
                f"{split}, fold {fold}" + (f": {cases}" if cases else " (not visible from here)") if split else "",
            ),
            ("weights", _weights(self.parent, spec.init_from)),
            ("model", _model(spec)),
            ("optimizer", _optimizer(spec)),
            ("length", f"{_length(length)}, {trainer.get('precision', '32-true')}"),
            ("batch", _batch(self)),
            ("workers", _workers(self)),
            ("best by", f"{kept.monitor} ({kept.mode}); {_kept(kept)}"),
            ("beside it", ", ".join([*spec.callbacks, *spec.plugins, *spec.logger])),
            ("script", str(spec.script.get("_target_", ""))),
            ("run folder", f"{self.run_root}/run_id=..."),
            ("tracking", without_passwords(spec.site.tracking_uri or "")),
            ("time", f"{spec.site.max_hours:g} h per job, then it goes on in the next" if spec.site.max_hours else ""),
            ("identity", self.identity[:IDENTITY_SHOWN]),
            *(("note", note) for note in self.notes),
        ]


def make_plan(
    spec: Spec,
    *,
    cases: dict[str, int] | None = None,
    parent: Parent | None = None,
    notes: tuple[str, ...] = (),
    fingerprint: str | None = None,
) -> Plan:
    """Work out how a spec will run.

    Args:
        spec: What was asked.
        cases: Cases per part of the split, if known.
        parent: Where the first weights come from.
        notes: What the reader should know besides.
        fingerprint: Of the data and their split, if known.

    Raises:
        PlanError: The site can never hold what is asked.
    """
    resources = spec.resources
    if too_much := "\n".join(misfits(spec)):
        raise PlanError(too_much)
    accumulate = int(spec.trainer.get("accumulate_grad_batches") or 1)
    batch = spec.data.get("batch_size")
    known = dataclasses.replace(lengths_of.counted(spec), checkpoint=_checkpointing(spec))
    told = lengths_of.told(spec)
    return Plan(
        spec=_with_attributes(_with_loaders(known), cases),
        workers=resources.workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        global_batch=int(batch) * max(1, resources.workers) * accumulate if batch else None,
        run_root=f"{spec.paths.models}/{spec.task}/{spec.stage}",
        cases=cases,
        parent=parent,
        notes=(*notes, told) if told else notes,
        identity=identity(spec, parent_digest=parent.digest if parent else None, fingerprint=fingerprint),
        fingerprint=fingerprint,
    )


def bundle_of(resources: Resources) -> dict[str, float]:
    """Return what one worker takes of a node, as Ray counts it."""
    memory, kind = resources.memory_per_worker, resources.accelerator_type
    return {
        "CPU": resources.cpus_per_worker,
        **({"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}),
        **({"memory": float(bytes_of(memory))} if memory is not None else {}),
        **({f"accelerator_type:{kind}": OF_ITS_TYPE} if kind is not None else {}),
    }


def _with_loaders(spec: Spec) -> Spec:
    """Fill in how many processes load data for each worker, where that is left open: one CPU is the worker's own."""
    if "num_workers" not in spec.data or spec.data["num_workers"] is not None:
        return spec
    spare = math.floor(spec.resources.cpus_per_worker) - 1 if spec.resources.workers else 0
    return dataclasses.replace(spec, data={**spec.data, "num_workers": max(0, spare)})


def _with_attributes(spec: Spec, cases: dict[str, int] | None) -> Spec:
    """Fill in the attributes of the run that are known by now; the worker knows the rest."""
    workers, per_worker = spec.resources.workers, spec.resources.gpus_per_worker
    on_gpu = spec.trainer.get("accelerator") in (None, "auto", "gpu", "cuda")
    gpus = math.ceil(workers * per_worker) if workers else int(on_gpu) * (spec.site.gpus_per_node or 0)
    known: dict[str, Any] = {
        "num_gpus": gpus if workers else min(1, gpus),
        "num_devices": max(1, workers),
        "world_size": max(1, workers),
        "num_nodes": _nodes(spec),
    }
    batches = batches_of(spec, cases)
    if batches is not None:
        known |= lengths(spec.trainer, batches)
    return dataclasses.replace(spec, **{name: substituted(getattr(spec, name), known) for name in SUBSTITUTED})


def _nodes(spec: Spec) -> int:
    """Return the fewest nodes of the site that hold the workers."""
    resources, site = spec.resources, spec.site
    each = [
        math.floor(have / need)
        for need, have in (
            (resources.cpus_per_worker, site.cpus_per_node),
            (resources.gpus_per_worker, site.gpus_per_node),
        )
        if need and have
    ]
    per_node = min(each, default=0)
    return math.ceil(resources.workers / per_node) if per_node and resources.workers else 1


def batches_of(spec: Spec, cases: dict[str, int] | None) -> int | None:
    """Return the training batches per epoch and worker, where the data are cases that can be counted from here."""
    ours, items = spec.data.get("_target_"), lengths_of.counted(spec).data.get("samples_per_epoch")
    if ours == CASE_DATA and cases is not None and "train" in cases:
        items = items or cases["train"]
    elif ours != CROP_DATA or items is None:
        return None
    return math.ceil(math.ceil(items / max(1, spec.resources.workers)) / int(spec.data.get("batch_size") or 1))


def _checkpointing(spec: Spec) -> Checkpointing:
    """Fill in what makes a checkpoint the best: the stage's own measure, unless the experiment names another."""
    asked, stage = spec.checkpoint, STAGES[spec.stage]
    if asked.monitor is None:
        return dataclasses.replace(asked, monitor=stage.monitor, mode=asked.mode or stage.mode)
    return dataclasses.replace(asked, mode=asked.mode or ("min" if "loss" in asked.monitor else "max"))


def misfits(spec: Spec) -> Iterator[str]:
    """Yield what the site can never hold."""
    resources, site = spec.resources, spec.site
    if site.max_workers is not None and resources.workers > site.max_workers:
        yield (
            f"resources.workers: {resources.workers}, and site {site.name!r} lets a run have {site.max_workers} "
            f"(site.max_workers). Ask for at most {site.max_workers}, or take another site."
        )
    for kind, each, per_node in (
        ("cpus", resources.cpus_per_worker, site.cpus_per_node),
        ("gpus", resources.gpus_per_worker, site.gpus_per_node),
    ):
        if resources.fewest <= 0 or each <= 0 or per_node is None or site.nodes is None:
            continue
        fit = _on_nodes(resources.placement, site.nodes, math.floor(per_node / each))
        if resources.fewest > fit:
            key = "min_workers" if resources.is_elastic else "workers"
            fewer = f"Ask for at most {fit} (resources.{key}={fit}), lower" if fit else "Lower"
            yield (
                f"resources.{key}: {resources.fewest} workers with {each:g} {kind} each never fit on site "
                f"{site.name!r}: {site.nodes} node(s) with {per_node} {kind} hold {fit}"
                f"{_strictly(resources.placement)}. {fewer} "
                f"resources.{kind}_per_worker, or take a site that holds more (site=cluster)."
            )


def _on_nodes(placement: str, nodes: int, per_node: int) -> int:
    """Return how many workers nodes hold that hold so many each."""
    if placement == "strict_pack":
        return per_node
    return nodes * min(1, per_node) if placement == "strict_spread" else nodes * per_node


def _strictly(placement: str) -> str:
    return f" (resources.placement={placement})" if placement.startswith("strict") else ""


def _weights(parent: Parent | None, asked: str | None) -> str:
    if asked is not None and asked.startswith(OF_STAGE):
        return f"from the best checkpoint of stage {asked.removeprefix(OF_STAGE)}"
    if parent is None:
        return "from scratch"
    origin = f"run {parent.run_id}, step {parent.step}: " if parent.run_id else ""
    return f"from {origin}{parent.checkpoint}"


def _kept(rule: Checkpointing) -> str:
    every = f", every {rule.keep_every_n_epochs} epochs'" if rule.keep_every_n_epochs else ""
    quota = f", in at most {rule.quota}" if rule.quota else ""
    best = f" and the best {rule.keep_best}" if rule.keep_best else ""
    return f"the last checkpoint{best}{every} {'are' if best or every else 'is'} kept{quota}"


def _length(text: str) -> str:
    return f"{text}, whichever ends first" if text.count("=") > 1 else text


def _model(spec: Spec) -> str:
    network = spec.model.get("net") or spec.model.get(STAGES[spec.stage].network if spec.stage in STAGES else "") or {}
    parts = [spec.own_module, network.get("_target_"), spec.model.get("dimensions")]
    return ", ".join(str(part) for part in parts if part)


def _optimizer(spec: Spec) -> str:
    if not spec.optim:
        return ""
    section = spec.optim.get("sched") or {}
    sched = section.get("name") or section.get("_target_") or "constant"
    return f"{spec.optim.get('_target_') or spec.optim.get('name')}, lr {spec.optim.get('lr')}, {sched}"


def _batch(plan: Plan) -> str:
    accumulate = int(plan.spec.trainer.get("accumulate_grad_batches") or 1)
    batch = plan.spec.data.get("batch_size")
    if not batch:
        return f"the data module's x {plan.world_size} workers x {accumulate} accumulated"
    return f"{batch} per worker x {plan.world_size} x {accumulate} accumulated = {plan.global_batch} per step"


def _workers(plan: Plan) -> str:
    if not plan.workers:
        return IN_PROCESS
    site, asked = plan.spec.site, plan.spec.resources
    number = f"{asked.fewest} to {plan.workers}" if asked.is_elastic else f"{plan.workers}"
    each = [f"{plan.cpus_per_worker:g} CPUs"]
    each += [f"{plan.gpus_per_worker:g} GPUs"] if plan.gpus_per_worker else []
    each += [f"{asked.memory_per_worker} of memory"] if asked.memory_per_worker is not None else []
    where = [asked.placement] if asked.placement != "pack" else []
    where += [f"on {asked.accelerator_type}"] if asked.accelerator_type else []
    where += [f"where {key}={value}" for key, value in asked.labels.items()]
    return f"{number} on Ray ({site.name}: {site.address}), each {', '.join(each)}" + "".join(f"; {w}" for w in where)
