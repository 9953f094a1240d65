"""The section `optim`: names, arguments, and the numbers that torch and the schedules would refuse in training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeGuard

from asparagus.check.target import call, is_open, nameless, target
from asparagus.errors import one_of
from asparagus.optim import OPTIMIZERS, REGISTERED_OPTIMIZERS, REGISTERED_SCHEDULERS, SCHEDULES, STEPPING
from asparagus.spec import ENDLESS, Spec
from asparagus.targets import SPECIAL

GIVEN = frozenset({"params"})
SCHEDULE_GIVEN = frozenset({"optimizer", "max_steps"})
"""Arguments that the module fills in."""
NOT_NEGATIVE = ("weight_decay", "eps", "momentum", "lr_decay", "initial_accumulator_value")
SPANS: dict[str, tuple[float, float]] = {
    "warmup_steps": (0, math.inf),
    "warmup_ratio": (0, 1),
    "min_lr": (0, math.inf),
    "max_steps": (ENDLESS, math.inf),
}
"""Numbers of a schedule, each from and to."""
SCHEDULE_KEYS = frozenset({"name", *SPANS})
STEPS = ("warmup_steps", "max_steps")


def optimizer(spec: Spec) -> Iterator[str]:
    """Yield what is wrong with the optimizer and its schedule."""
    optim = spec.optim
    name, path = optim.get("name"), optim.get("_target_")
    known = isinstance(name, str) and name.lower() in OPTIMIZERS
    if path is None and name is None:
        yield from nameless("optim", optim, [*OPTIMIZERS, *REGISTERED_OPTIMIZERS])
    elif path is None and not known:
        yield one_of("optim.name", name, [*OPTIMIZERS, *REGISTERED_OPTIMIZERS])
    else:
        path = str(path or OPTIMIZERS[str(name).lower()])
        arguments = {key: value for key, value in optim.items() if key not in ("name", "sched", *SPECIAL)}
        yield from call("optim", path, arguments, GIVEN)
    if "params" in optim:
        yield "optim.params: is filled in by the module: all of its weights that need gradients. Leave it out."
    yield from _lr(optim.get("lr"))
    if known and "_target_" not in optim:
        yield from _numbers(optim)
    if isinstance(sched := optim.get("sched"), dict) and sched:
        yield from _own_schedule(sched) if "_target_" in sched else _schedule(spec, sched)
    elif sched:
        yield f"optim.sched: {sched!r} given, but it is a section, e.g. {{name: cosine, warmup_ratio: 0.05}}."


def _lr(lr: Any) -> Iterator[str]:
    if lr is None:
        yield "optim.lr: is missing. Every optimizer needs it, e.g. optim.lr=1e-3."
    elif not _number(lr) or not 0 < lr < math.inf:
        yield f"optim.lr: {lr!r} is no positive number."


def _numbers(optim: dict[str, Any]) -> Iterator[str]:
    for key in NOT_NEGATIVE:
        if _number(value := optim.get(key)) and not value >= 0:
            yield f"optim.{key}: {value} is too small. The least is 0."
    betas = optim.get("betas")
    if isinstance(betas, list) and not all(_number(beta) and 0 <= beta < 1 for beta in betas):
        yield f"optim.betas: {betas} has to be numbers from 0 to below 1."
    if optim.get("nesterov") is True and (not optim.get("momentum") or optim.get("dampening")):
        yield "optim.nesterov: needs optim.momentum above 0, and no optim.dampening."


def _own_schedule(sched: dict[str, Any]) -> Iterator[str]:
    """Check a scheduler by its `_target_`, and how Lightning is told to step it."""
    if sched.get("interval") not in (None, "step", "epoch"):
        yield one_of("optim.sched.interval", sched["interval"], ("step", "epoch"))
    arguments = {key: value for key, value in sched.items() if key not in ("name", *STEPPING)}
    yield from target("optim.sched", arguments, SCHEDULE_GIVEN)


def _schedule(spec: Spec, sched: dict[str, Any]) -> Iterator[str]:
    if not isinstance(name := sched.get("name"), str) or name not in SCHEDULES:
        yield one_of("optim.sched.name", name, [*SCHEDULES, *REGISTERED_SCHEDULERS])
    for key in sched.keys() - SCHEDULE_KEYS:
        yield one_of(f"optim.sched.{key}", key, SCHEDULE_KEYS)
    if sched.get("warmup_steps") is not None and sched.get("warmup_ratio") is not None:
        yield "optim.sched: warmup_steps and warmup_ratio exclude each other. Give one of them."
    yield from _schedule_numbers(sched)
    lr, lowest = spec.optim.get("lr"), sched.get("min_lr")
    if _number(lr) and _number(lowest) and lowest > lr:
        yield f"optim.sched.min_lr: {lowest:g} is above optim.lr: {lr:g}. Lower it, or raise optim.lr."
    yield from _end(spec, sched)


def _schedule_numbers(sched: dict[str, Any]) -> Iterator[str]:
    for key, (low, high) in SPANS.items():
        value = sched.get(key)
        if value is None or is_open(value):
            continue
        if not _number(value) or not low <= value <= high:
            span = f"from {low:g}" + (f" to {high:g}" if high < math.inf else "")
            yield f"optim.sched.{key}: {value!r} is no number {span}."
        elif key in STEPS and isinstance(value, float) and not value.is_integer():
            yield f"optim.sched.{key}: {value} is no whole number of steps."


def _end(spec: Spec, sched: dict[str, Any]) -> Iterator[str]:
    """Check that a schedule which spans the training knows where that ends."""
    needs_end = sched.get("name") not in (None, "constant") or sched.get("warmup_ratio")
    asked = (spec.trainer.get("max_epochs"), spec.trainer.get("max_steps"), sched.get("max_steps"))
    if spec.run.mode == "fit" and needs_end and all(end in (None, ENDLESS) for end in asked):
        yield (
            f"optim.sched.name: {sched.get('name')} needs to know where training ends. Give trainer.max_epochs, "
            "trainer.max_steps or optim.sched.max_steps."
        )


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
