"""The numbers of the section `optim`: what torch's optimizers and the schedules would refuse when training starts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeGuard

from asparagus.optim import OPTIMIZERS
from asparagus.spec import Spec

NOT_NEGATIVE = ("weight_decay", "eps", "momentum", "lr_decay", "initial_accumulator_value")
STEPS = ("warmup_steps", "max_steps")
ENDLESS = -1


def numbers(spec: Spec) -> Iterator[str]:
    """Yield what is wrong with the values of an optimizer and a schedule that asparagus brings."""
    optim = spec.optim
    if "params" in optim:
        yield "optim.params: is filled in by the module: all of its weights that need gradients. Leave it out."
    if str(optim.get("name")).lower() not in OPTIMIZERS or "_target_" in optim:
        return
    for key in NOT_NEGATIVE:
        if _number(value := optim.get(key)) and not value >= 0:
            yield f"optim.{key}: {value} is too small. The least is 0."
    if _number(lr := optim.get("lr")) and not math.isfinite(lr):
        yield f"optim.lr: {lr} is no number to train with."
    betas = optim.get("betas")
    if isinstance(betas, list) and not all(_number(beta) and 0 <= beta < 1 for beta in betas):
        yield f"optim.betas: {betas} has to be numbers from 0 to below 1."
    yield from _nesterov(optim)
    if isinstance(sched := optim.get("sched"), dict) and "_target_" not in sched:
        yield from _schedule(spec, sched)


def _nesterov(optim: dict[str, Any]) -> Iterator[str]:
    if optim.get("nesterov") is True and (not optim.get("momentum") or optim.get("dampening")):
        yield "optim.nesterov: needs optim.momentum above 0, and no optim.dampening."


def _schedule(spec: Spec, sched: dict[str, Any]) -> Iterator[str]:
    for key in STEPS:
        if isinstance(steps := sched.get(key), float) and not steps.is_integer():
            yield f"optim.sched.{key}: {steps} is no whole number of steps."
    lr, lowest = spec.optim.get("lr"), sched.get("min_lr")
    if _number(lr) and _number(lowest) and lowest > lr:
        yield f"optim.sched.min_lr: {lowest:g} is above optim.lr: {lr:g}. Lower it, or raise optim.lr."
    needs_end = sched.get("name") not in (None, "constant") or sched.get("warmup_ratio")
    asked = (spec.trainer.get("max_epochs"), spec.trainer.get("max_steps"), sched.get("max_steps"))
    if spec.run.mode == "fit" and needs_end and all(end in (None, ENDLESS) for end in asked):
        yield (
            f"optim.sched.name: {sched.get('name')} needs to know where training ends. Give trainer.max_epochs, "
            "trainer.max_steps or optim.sched.max_steps."
        )


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
