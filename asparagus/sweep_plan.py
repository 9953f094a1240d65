"""Space and options -> SweepPlan: trials, rungs, resources of a trial, how many at a time. Pure: no Ray, no files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.filesize import decimal

from asparagus.errors import PlanError
from asparagus.plan import Plan
from asparagus.record.sweeps import SWEEP
from asparagus.space import Choice, Dimension, Space, SweepOptions, named, one_or_more
from asparagus.spec import RunOptions

PRUNING = {"asha": 4, "hyperband": 3}
"""Schedulers that work in rungs, and by what factor trials are halved if nothing is said."""
NOT_IN_SWEEPS: dict[str, Any] = {"min_workers": None, "labels": {}, "placement": "pack"}
"""Settings of `resources` that are not a trial's to make, and what they are where nothing is said."""
EVAL_BOX = "eval_box"
"""What an evaluation box has for a task: its rows have several."""
MODES = {"min": "smaller is better", "max": "larger is better"}


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep will do, to the last number that can be known before."""

    stages: tuple[Plan, ...]
    """The plan of each stage at one point of the space: what all trials share."""
    names: tuple[str, ...]
    """Of the stages; one that is no pipeline's has its stage's."""
    space: Space
    options: SweepOptions
    words: tuple[str, ...] = ()
    """What was typed: the config and the overrides."""
    is_box: bool = False
    """A trial is one of the stages, and not all of them in turn: an evaluation box."""
    checkpoint_bytes: tuple[int | None, ...] = ()
    """Of a checkpoint of each stage; None where no earlier run tells."""

    @property
    def runs_per_trial(self) -> int:
        """Runs that one trial consists of."""
        return 1 if self.is_box else len(self.stages)

    @property
    def last(self) -> Plan:
        """The stage whose metric is compared."""
        return self.stages[-1]

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is compared."""
        return one_or_more(self.options.metric) or (str(self.last.spec.checkpoint.monitor),)

    @property
    def modes(self) -> tuple[str, ...]:
        """Which is better, for each metric."""
        return one_or_more(self.options.mode) or (str(self.last.spec.checkpoint.mode or "min"),)

    def monitor_at(self, values: Mapping[str, Any]) -> str:
        """Return what a trial of an evaluation box is measured by."""
        known = dict(zip(self.names, self.stages, strict=True))
        return str(known[cell_name(values["row"], values["init_from"])].spec.checkpoint.monitor)

    @property
    def trials(self) -> int:
        """How many are trained."""
        assert self.options.trials is not None
        return self.options.trials

    @property
    def bundles(self) -> list[dict[str, float]]:
        """Resources of one trial: its process, or an empty place and one for each worker."""
        most = max(self.stages, key=lambda stage: (stage.workers, stage.cpus_per_worker))
        gpus = max(stage.gpus_per_worker for stage in self.stages)
        each = {**most.bundle, **({"GPU": gpus} if gpus else {})}
        return [{}, *([each] * most.workers)] if self.nested else [each]

    @property
    def nested(self) -> bool:
        """Whether a trial has workers of its own."""
        return any(stage.workers > 1 for stage in self.stages)

    @property
    def identity(self) -> str:
        """The hash of all that decides what is tried; how much of it is not in it: a sweep can be extended."""
        options = self.options
        content = {
            "stages": [stage.identity for stage in self.stages],
            "names": self.names,
            "space": self.space.to_dict(),
            "sampler": options.sampler,
            "scheduler": options.scheduler,
            "metrics": self.metrics,
            "modes": self.modes,
            "seed": options.seed,
            "from": options.warm_start,
            **({"box": True} if self.is_box else {}),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def parent(self) -> Plan:
        """The plan of the sweep's own run, which holds what its trials have in common."""
        last, resume = self.last, self.options.resume
        run = RunOptions(
            id=resume if isinstance(resume, int) and not isinstance(resume, bool) else None,
            name=last.spec.run.name,
            label=last.spec.run.label,
            resume=resume is not False,
            max_failures=last.spec.run.max_failures,
        )
        task = EVAL_BOX if self.is_box else last.spec.task
        return dataclasses.replace(
            last,
            spec=dataclasses.replace(last.spec, stage=SWEEP, task=task, run=run, init_from=None),
            run_root=f"{last.spec.paths.models}/{task}/{SWEEP}",
            parent=None,
            identity=self.identity,
            trial=None,
        )

    def capacity(self) -> int | None:
        """Return how many trials the site holds at a time; None where it may still grow."""
        site = self.last.spec.site
        if site.nodes is None:
            return None
        have = {"CPU": site.cpus_per_node, "GPU": site.gpus_per_node}
        known = {kind: float(amount) for kind, amount in have.items() if amount is not None}
        return self.held_by([known] * site.nodes) if known else None

    def held_by(self, nodes: Sequence[Mapping[str, float]]) -> int | None:
        """Return how many trials these nodes hold at a time; None where they say nothing of what a trial needs.

        Args:
            nodes: What each one has, as Ray calls it: `{"CPU": 8, "GPU": 1}`.
        """
        workers = [bundle for bundle in self.bundles if bundle]
        asked = {kind: amount for kind, amount in workers[0].items() if amount and any(kind in node for node in nodes)}
        if not asked:
            return None
        places = (min(int(node.get(kind, 0) / amount + 1e-9) for kind, amount in asked.items()) for node in nodes)
        return sum(places) // len(workers)

    @property
    def concurrency(self) -> int | None:
        """How many trials are trained at a time; None where the cluster decides."""
        limits = [limit for limit in (self.options.concurrency, self.capacity(), self.trials) if limit is not None]
        return min(limits) if self.options.concurrency or self.capacity() else None

    def describe(self) -> str:
        """Return the plan as a person reads it."""
        rows = [row for row in self._rows() if row[1]]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def _rows(self) -> Iterator[tuple[str, str]]:
        options = self.options
        yield ("evaluation box", ", ".join(self.names)) if self.is_box else ("sweep", self.told)
        yield (
            "compared",
            ""
            if self.is_box
            else ", ".join(
                f"{metric} ({MODES.get(mode, mode)})" for metric, mode in zip(self.metrics, self.modes, strict=True)
            ),
        )
        for place, dimension in enumerate(self.space.dimensions):
            yield "space" if not place else "", told(dimension)
        for place, constraint in enumerate(self.space.constraints):
            yield "where" if not place else "", constraint
        yield (
            "trials",
            f"{self.trials}, by {_named(options.sampler)}"
            + (f", learning from sweep {options.warm_start}" if options.warm_start else ""),
        )
        yield "rungs", self._rungs()
        yield "each trial", _resources(self.bundles)
        at_once = self.concurrency
        yield "at a time", f"{at_once}" if at_once else "as many as the cluster holds"
        yield "at most", ", ".join(_caps(options))
        yield "checkpoints", self._kept()
        yield "study", options.storage or "study.db in the sweep's folder"
        yield "run folder", f"{self.parent.run_root}/run_id=..."
        yield "identity", self.identity[:12]
        for stage, name in zip(self.stages, self.names, strict=True):
            if self.is_box:
                kept = stage.spec.checkpoint
                yield name, f"{stage.spec.stage} of {stage.spec.task}, by {kept.monitor} ({kept.mode})"
                continue
            yield "", f"--- {name} ---" if len(self.stages) > 1 else "--- one of its trials ---"
            for line in stage.describe().splitlines():
                yield "", line

    @property
    def told(self) -> str:
        """What is trained, in a few words."""
        return "an evaluation box" if self.is_box else " -> ".join(self.names) + f" of {self.last.spec.task}"

    def _rungs(self) -> str:
        """Say how many trials get how far, for schedulers that work in rungs."""
        name, arguments = named(self.options.scheduler)
        epochs = self.last.spec.trainer.get("max_epochs")
        if name not in PRUNING or not isinstance(epochs, int) or epochs < 1:
            return "" if name in (None, "none") else name
        factor = arguments.get("reduction_factor", PRUNING[name])
        left, at, told_rungs = float(self.trials), int(arguments.get("grace_period", 1)), []
        while at < epochs:
            told_rungs.append(f"{max(1, round(left))} x {at}")
            left, at = left / factor, math.ceil(at * factor)
        told_rungs.append(f"{max(1, round(left))} x {epochs}")
        return f"{name}: {', '.join(told_rungs)} epochs, about"

    def _kept(self) -> str:
        """Say how many checkpoints the rule of retention leaves, and how much room they take."""
        rule, epochs = self.last.spec.checkpoint, self.last.spec.trainer.get("max_epochs")
        each = 1 + rule.keep_best
        if rule.keep_every_n_epochs and isinstance(epochs, int) and epochs > 0:
            each += epochs // rule.keep_every_n_epochs
        trials = min(self.trials, self.options.keep_best or self.trials)
        number = f"at most {each} of each run, of {trials} trials: {each * trials * self.runs_per_trial} in all"
        known = [size for size in self.checkpoint_bytes if size is not None]
        if not known or len(known) < len(self.stages):
            return f"{number}; how large is known from the first run of this network on"
        of_trial = max(known) if self.is_box else sum(known)
        return f"{number}, {decimal(each * trials * of_trial)} if they are as large as those of an earlier run"

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as nested plain values."""
        return {
            "stages": [stage.to_dict() for stage in self.stages],
            "names": list(self.names),
            "space": self.space.to_dict(),
            "options": self.options.to_dict(),
            "words": list(self.words),
            "metrics": list(self.metrics),
            "modes": list(self.modes),
            "trials": self.trials,
            "concurrency": self.concurrency,
            "identity": self.identity,
            "is_box": self.is_box,
            "checkpoint_bytes": list(self.checkpoint_bytes),
        }


def cell_name(row: str, init_from: str) -> str:
    """Return what one cell of an evaluation box is called."""
    return f"{row} from {init_from}"


def must_fit(plan: SweepPlan) -> None:
    """Refuse a trial that the site can never hold, or whose workers would not stay in the places that Tune reserved.

    Raises:
        PlanError: With the numbers.
    """
    for key, usual in NOT_IN_SWEEPS.items():
        if any(getattr(stage.spec.resources, key) != usual for stage in plan.stages):
            raise PlanError(
                f"resources.{key}: the workers of a sweep's trial have places that are reserved before it starts. "
                f"Leave resources.{key} out; sweep.concurrency says how many trials are trained at a time."
            )
    if plan.capacity() != 0:
        return
    site = plan.last.spec.site
    nodes = site.nodes or 1
    have = f"{(site.cpus_per_node or 0) * nodes:g} CPUs and {(site.gpus_per_node or 0) * nodes:g} GPUs"
    raise PlanError(
        f"resources: each trial needs {_resources(plan.bundles)}; the cluster has {have}. "
        "Ask for less (resources.workers, cpus_per_worker, gpus_per_worker), or take a larger site."
    )


def told(dimension: Dimension) -> str:
    """Return a dimension in one line."""
    domain = dimension.domain
    if isinstance(domain, Choice):
        what = "one of " + ", ".join(str(value) for value in domain.values)
    else:
        what = f"{domain.low:g} to {domain.high:g}" + (", by order of magnitude" if domain.log else "")
        what += f", in steps of {domain.step:g}" if domain.step else ""
        what += ", whole numbers" if domain.integer else ""
    when = " and ".join(f"{key} is {' or '.join(map(str, allowed))}" for key, allowed in dimension.when.items())
    return f"{dimension.key}: {what}" + (f" (where {when})" if when else "")


def _resources(bundles: list[dict[str, float]]) -> str:
    workers = [bundle for bundle in bundles if bundle]
    each = " and ".join(f"{amount:g} {kind}{'s' if amount != 1 else ''}" for kind, amount in workers[0].items())
    return f"{len(workers)} x {each}" if len(workers) > 1 else each


def _named(setting: Any) -> str:
    name, arguments = named(setting)
    return str(name) + (f" ({', '.join(f'{key}={value}' for key, value in arguments.items())})" if arguments else "")


def _caps(options: SweepOptions) -> Iterator[str]:
    if options.time is not None:
        yield f"{options.time} of running" if isinstance(options.time, str) else f"{options.time:g} h of running"
    if options.gpu_hours is not None:
        yield f"{options.gpu_hours:g} GPU hours"
    if options.disk is not None:
        yield f"{options.disk} on disk"
    if options.patience is not None:
        yield f"{options.patience} trials without a better one"
    yield f"{options.max_failures} failures"
