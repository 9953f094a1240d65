"""From numbers of samples and epochs to numbers of steps (SEEDS A27, A28). Pure arithmetic."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asparagus.data import CASE_DATA, samples_of
from asparagus.spec import ENDLESS, Spec


@dataclass(frozen=True)
class StepCounts:
    """How long a training is that sees a number of samples."""

    global_batch: int
    """Samples of a step of the optimizer."""
    steps: int
    warmup_epochs: int | None
    """None where nobody said how long an epoch is, or which share of them is warm-up."""


def step_counts(  # noqa: PLR0913 - as many as the formula has
    max_samples: int,
    *,
    batch_size: int,
    devices: int = 1,
    nodes: int = 1,
    accumulate: int = 1,
    steps_per_epoch: int | None = None,
    warmup_ratio: float | None = None,
) -> StepCounts:
    """Return global_batch = batch x devices x nodes x accumulated, and steps = max_samples // global_batch (SEEDS A28).

    Args:
        max_samples: Of the whole training, a case that comes again counted again.
        batch_size: Samples of a device at once.
        devices: Per node.
        nodes: How many.
        accumulate: Batches of a step.
        steps_per_epoch: Steps of the optimizer; with `warmup_ratio` it gives
            warmup_epochs = max(1, int((steps // steps_per_epoch) * warmup_ratio)).
        warmup_ratio: Share of the epochs.
    """
    global_batch = batch_size * devices * nodes * accumulate
    steps = max_samples // global_batch
    if steps_per_epoch is None or warmup_ratio is None:
        return StepCounts(global_batch, steps, None)
    return StepCounts(global_batch, steps, max(1, int((steps // steps_per_epoch) * warmup_ratio)))


def counted(spec: Spec) -> Spec:
    """Return a spec whose lengths are those that data module, Trainer and schedule count in.

    `data.iterations_per_epoch`, batches of each worker, becomes `data.samples_per_epoch`, so that fewer workers or
    smaller batches change nothing of an epoch. `trainer.max_samples` becomes `max_steps`; a `warmup_ratio` beside it is
    then one of epochs, as it is upstream, where the data section says how long these are.
    """
    return _with_steps(_with_samples(spec))


def told(spec: Spec) -> str:
    """Return in words what `trainer.max_samples` comes to; nothing where it is not asked for."""
    asked = spec.trainer.get("max_samples")
    if not asked:
        return ""
    found = _step_counts(_with_samples(spec), int(asked))
    warmup = f"; epochs of warm-up: {found.warmup_epochs}" if found.warmup_epochs else ""
    return f"trainer.max_samples={asked} is {found.steps} steps of {found.global_batch} samples{warmup}"


def _with_samples(spec: Spec) -> Spec:
    iterations = spec.data.get("iterations_per_epoch")
    if not iterations or spec.data.get("_target_") != CASE_DATA:
        return spec
    samples = samples_of(iterations, int(spec.data["batch_size"]), spec.resources.workers)
    data = {**spec.data, "iterations_per_epoch": None, "samples_per_epoch": samples}
    return dataclasses.replace(spec, data=data)


def _with_steps(spec: Spec) -> Spec:
    asked = spec.trainer.get("max_samples")
    if not asked:
        return spec
    found = _step_counts(spec, int(asked))
    most = spec.trainer.get("max_steps")
    ends = [found.steps, *([most] if most not in (None, ENDLESS) else [])]
    trainer = {**spec.trainer, "max_samples": None, "max_steps": min(ends)}
    return dataclasses.replace(spec, trainer=trainer, optim=_with_warmup(spec.optim, found.warmup_epochs))


def _with_warmup(optim: Mapping[str, Any], epochs: int | None) -> dict[str, Any]:
    if epochs is None:
        return dict(optim)
    sched = {key: value for key, value in optim["sched"].items() if key != "warmup_ratio"}
    return {**optim, "sched": {**sched, "warmup_epochs": epochs}}


def _step_counts(spec: Spec, max_samples: int) -> StepCounts:
    batch, workers = int(spec.data["batch_size"]), max(1, spec.resources.workers)
    accumulate = int(spec.trainer.get("accumulate_grad_batches") or 1)
    sched, samples = spec.optim.get("sched"), spec.data.get("samples_per_epoch")
    return step_counts(
        max_samples,
        batch_size=batch,
        devices=workers,
        accumulate=accumulate,
        steps_per_epoch=math.ceil(samples / (batch * workers * accumulate)) if samples else None,
        warmup_ratio=sched.get("warmup_ratio") if isinstance(sched, dict) else None,
    )
