"""Learning-rate schedules: pure functions of the step, after ATOMMIC's and NeMo's annealing family (SEEDS B16).

s: 0-based step, W: warm-up steps, M: max_steps, L: base learning rate, m: min_lr, s' = s - W, M' = M - W.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from asparagus.errors import ConfigError, did_you_mean, one_of
from asparagus.optim import SCHEDULES, STEPPING
from asparagus.targets import instantiate, locate, parameters_of, target_of

KEYS = ("name", "warmup_steps", "warmup_ratio", "min_lr", "max_steps")


@dataclass(frozen=True)
class Shape:
    """The numbers that a schedule depends on."""

    lr: float
    max_steps: float
    """`inf` for a training without an end."""
    warmup_steps: int = 0
    min_lr: float = 0.0


Schedule = Callable[[int, Shape], float]


def constant(step: int, shape: Shape) -> float:
    """Warm up to L, then stay there."""
    return _warmup(step, shape) or shape.lr


def cosine(step: int, shape: Shape) -> float:
    """Warm up, then m + (L - m) * (1 + cos(pi * s'/M')) / 2, and m after M (NeMo's CosineAnnealing)."""
    return _warmup(step, shape) or _decay(step, shape, lambda done: 0.5 * (1 + math.cos(math.pi * done)))


def linear(step: int, shape: Shape) -> float:
    """Warm up, then m + (L - m) * (1 - s'/M'), and m after M (NeMo's WarmupAnnealing, polynomial with power 1)."""
    return _warmup(step, shape) or _decay(step, shape, lambda done: 1 - done)


def build_schedule(optimizer: Optimizer, sched_config: Mapping[str, Any] | None, max_steps: float) -> LRScheduler:
    """Return the schedule that `optim.sched` describes, to be stepped after every optimizer step.

    A `_target_` names a class of torch's kind instead: it is called with the optimizer and the section's other keys,
    and with `max_steps` if it takes one and the section names none.

    Args:
        optimizer: Each of its groups follows the schedule from its own learning rate.
        sched_config: `name`, `warmup_steps` or `warmup_ratio`, `min_lr`, `max_steps` (-1 or absent: as computed).
            None or empty: a constant learning rate.
        max_steps: Optimizer steps of the whole training, computed from trainer and data; -1 or inf when endless.

    Raises:
        ConfigError: an unknown key or name, both kinds of warm-up, no known end, or `min_lr` above the lr.
    """
    if sched_config and "_target_" in sched_config:
        return _of_class(optimizer, sched_config, max_steps)
    config = {"name": "constant", **(sched_config or {})}
    schedule = _schedule(config)
    end = _end(config, max_steps)
    warmup = _warmup_steps(config, end)
    shapes = [_shape(group["lr"], end, warmup, config) for group in optimizer.param_groups]
    return LambdaLR(optimizer, [_factor(schedule, shape) for shape in shapes])


def stepping_of(sched_config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return how Lightning steps the schedule: every `step`, unless the section says otherwise (SEEDS D5, D24)."""
    asked = {key: value for key, value in (sched_config or {}).items() if key in STEPPING and value is not None}
    if sched_config and sched_config.get("name") and sched_config["name"] not in SCHEDULES:
        asked["name"] = sched_config["name"]
    return {"interval": "step", "frequency": 1, **asked}


def _of_class(optimizer: Optimizer, config: Mapping[str, Any], max_steps: float) -> LRScheduler:
    takes = parameters_of(locate(target_of(config, "optim.sched"), key="optim.sched"))
    extra: dict[str, Any] = {"optimizer": optimizer}
    if "max_steps" in takes and config.get("max_steps") in (None, -1):
        extra["max_steps"] = int(max_steps)
    arguments = {key: value for key, value in config.items() if key not in ("name", *STEPPING, *extra)}
    schedule: LRScheduler = instantiate(arguments, key="optim.sched", extra=extra)
    return schedule


def _warmup(step: int, shape: Shape) -> float | None:
    """Return L * (s+1)/(W+1) while W > 0 and s <= W, then None."""
    if shape.warmup_steps > 0 and step <= shape.warmup_steps:
        return shape.lr * (step + 1) / (shape.warmup_steps + 1)
    return None


def _decay(step: int, shape: Shape, curve: Callable[[float], float]) -> float:
    """Return m + (L - m) * curve(s'/M'), or m when s > M."""
    length = shape.max_steps - shape.warmup_steps
    if step > shape.max_steps or length <= 0:
        return shape.min_lr
    return shape.min_lr + (shape.lr - shape.min_lr) * curve((step - shape.warmup_steps) / length)


def _factor(schedule: Schedule, shape: Shape) -> Callable[[int], float]:
    """Return the schedule as LambdaLR wants it: relative to the base learning rate."""
    return lambda step: schedule(step, shape) / shape.lr if shape.lr else 1.0


def _schedule(config: Mapping[str, Any]) -> Schedule:
    for key in config:
        if key not in KEYS:
            raise ConfigError(f"optim.sched.{key}: not known. {did_you_mean(key, KEYS)} Known: {', '.join(KEYS)}.")
    name = str(config["name"]).lower()
    if name not in SCHEDULES:
        raise ConfigError(one_of("optim.sched.name", config["name"], SCHEDULES))
    module, _, function = SCHEDULES[name].rpartition(".")
    found: Schedule = getattr(importlib.import_module(module), function)
    return found


def _end(config: Mapping[str, Any], computed: float) -> float:
    """Return M: what the config says, else what was computed; -1 means computed in both."""
    given = config.get("max_steps")
    end = computed if given is None or given < 0 else given
    if 0 <= end < math.inf:
        return float(end)
    if config["name"] != "constant" or config.get("warmup_ratio"):
        raise ConfigError(
            f"optim.sched: {config['name']} needs to know where training ends. "
            "Set trainer.max_epochs, trainer.max_steps or optim.sched.max_steps."
        )
    return math.inf


def _warmup_steps(config: Mapping[str, Any], end: float) -> int:
    steps, ratio = config.get("warmup_steps"), config.get("warmup_ratio")
    if steps is not None and ratio is not None:
        raise ConfigError(
            f"optim.sched: warmup_steps={steps} and warmup_ratio={ratio} are two answers to one question; keep one."
        )
    if ratio is not None and not 0 <= ratio <= 1:
        raise ConfigError(f"optim.sched.warmup_ratio: {ratio} is not within 0 to 1.")
    return int(steps or 0) if ratio is None else int(ratio * end)


def _shape(lr: float, end: float, warmup: int, config: Mapping[str, Any]) -> Shape:
    lowest = float(config.get("min_lr") or 0.0)
    if lowest > lr:
        raise ConfigError(
            f"optim.sched.min_lr: {lowest:g} is above the learning rate {lr:g}. Lower it, or raise optim.lr."
        )
    return Shape(lr=float(lr), max_steps=end, warmup_steps=warmup, min_lr=lowest)
