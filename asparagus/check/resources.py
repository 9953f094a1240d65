"""The section `resources`: workers and their fewest, memory, and which nodes may hold them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator

from asparagus.checkpoint.retention import bytes_of
from asparagus.errors import ConfigError, one_of
from asparagus.spec import PLACEMENTS, Resources, Spec

WORD = r"[A-Za-z0-9]([\w.\-]{0,61}[A-Za-z0-9])?"
LABEL = re.compile(rf"([A-Za-z0-9.\-]+/)?{WORD}")
SELECTOR = re.compile(rf"!?in\({WORD}(, ?{WORD})*\)|!?{WORD}")
"""What Ray takes as the value of a label to look for."""
OF_WORKERS = ("min_workers", "memory_per_worker", "accelerator_type", "labels")
"""Settings that mean nothing for a training in this process."""
ACCUMULATES = "GradientAccumulationScheduler"
DEEPSPEED, FSDP = "deepspeed", "fsdp"
NOT_SHARDED = ("16-mixed", "16")
"""Precisions whose scaler of gradients knows nothing of shards."""


def resources(spec: Spec) -> Iterator[str]:
    """Yield what is wrong with the section `resources`, and with what a strategy needs of it."""
    asked = spec.resources
    if not asked.workers:
        for key in OF_WORKERS:
            if getattr(asked, key):
                yield (
                    f"resources.{key}: {getattr(asked, key)!r} and resources.workers=0 exclude each other: there are "
                    "no workers to place. Give resources.workers=1 or more."
                )
        return
    yield from _elastic(spec)
    yield from _memory(asked)
    yield from _places(asked)
    yield from _strategy(spec)


def _elastic(spec: Spec) -> Iterator[str]:
    fewest, workers = spec.resources.min_workers, spec.resources.workers
    if fewest is not None and not 1 <= fewest <= workers:
        yield f"resources.min_workers: {fewest} is not between 1 and resources.workers={workers}."
    for part in ("callbacks", "plugins"):
        for key, section in getattr(spec, part).items():
            if spec.resources.is_elastic and str((section or {}).get("_target_")).endswith(ACCUMULATES):
                yield (
                    f"{part}.{key}: {ACCUMULATES} and resources.min_workers exclude each other: on fewer workers each "
                    "accumulates more. Give trainer.accumulate_grad_batches, or leave resources.min_workers out."
                )


def _memory(asked: Resources) -> Iterator[str]:
    if asked.memory_per_worker is None:
        return
    try:
        bytes_of(asked.memory_per_worker)
    except ConfigError:
        yield f"resources.memory_per_worker: {asked.memory_per_worker!r} is no size of memory. Give 8GiB or bytes."


def _places(asked: Resources) -> Iterator[str]:
    if asked.placement not in PLACEMENTS:
        yield one_of("resources.placement", asked.placement, PLACEMENTS)
    kind = asked.accelerator_type
    if kind is not None and not re.fullmatch(WORD, kind):
        yield f"resources.accelerator_type: {kind!r} is no type of GPU. Give one as Ray calls it: A100, H100, T4."
    for key, value in asked.labels.items():
        if not LABEL.fullmatch(str(key)):
            yield f"resources.labels: {key!r} is no name of a label. Give letters, digits, dots and dashes: zone."
        elif not SELECTOR.fullmatch(str(value)):
            yield f"resources.labels.{key}: {value!r} selects nothing. Give a, !a, in(a,b) or !in(a,b)."


def _strategy(spec: Spec) -> Iterator[str]:
    """Check what sharded strategies need."""
    strategy, asked = str(spec.trainer.get("strategy")), spec.resources
    if strategy == FSDP and str(spec.trainer.get("precision")) in NOT_SHARDED:
        yield "trainer.precision: 16-mixed cannot be trained with trainer.strategy=fsdp. Use bf16-mixed or 32-true."
    if not strategy.startswith(DEEPSPEED):
        return
    if not asked.gpus_per_worker:
        yield f"trainer.strategy: {strategy} needs GPUs. Give resources.gpus_per_worker=1, or use fsdp, which does not."
    if asked.is_elastic:
        yield (
            f"trainer.strategy: {strategy} and resources.min_workers exclude each other: the state of its optimizer is "
            "of one number of workers. Use fsdp or ddp."
        )
    if spec.site.address == "local" and importlib.util.find_spec(DEEPSPEED) is None:
        yield f"trainer.strategy: {strategy} needs deepspeed, which is not installed here. Install it, or use fsdp."
