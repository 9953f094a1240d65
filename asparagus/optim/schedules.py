"""From the section `optim.sched` to a scheduler that Lightning steps; the formulas are in `formulas`."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from asparagus.errors import ConfigError, did_you_mean, one_of
from asparagus.optim import BY_EPOCH, DERIVED, ENDLESS, SCHEDULER_CLASSES, SCHEDULES, STEPPING, canonical
from asparagus.optim.formulas import Shape
from asparagus.targets import instantiate, locate, parameters_of, target_of

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

NO_LIMIT = -1
"""`trainer.max_steps` where epochs or time end the training."""
KEYS = ("name", "warmup_steps", "warmup_ratio", "warmup_epochs", "min_lr", "max_steps")
NOT_THEIRS = ("name", *STEPPING, *DERIVED)
"""Keys that no scheduler class takes."""
RATIO, STEPS, EPOCHS = "_ratio", "_steps", "_epochs"
DECODER, REST = "decoder", "rest"
"""The roles of parameter groups in a finetuning: what is new, and what is not."""
MONITOR = "val/loss"
"""What ReduceLROnPlateau watches unless told otherwise."""

Schedule = Callable[[int, Shape], float]


def lightning_schedules(
    optimizer: Optimizer, sched_config: Mapping[str, Any] | None, trainer: Trainer
) -> list[dict[str, Any]]:
    """Return the section's schedules as `configure_optimizers` of any LightningModule may return them.

    Args:
        optimizer: Each of its groups follows the schedule from its own learning rate.
        sched_config: The section `optim.sched`.
        trainer: Knows how many optimizer steps there will be: with its loaders, their limits, the accumulation and the
            real number of workers. Where `trainer.max_steps` says when training ends, the section's does not count
            (SEEDS B20).

    Raises:
        ConfigError: Something in the section does not fit; its key is named.
    """
    if not all("lr" in group for group in optimizer.param_groups):
        return []  # an optimizer of one's own that finds its steps by itself
    ends_by_steps = trainer.max_steps != NO_LIMIT
    sections = [{**one, "max_steps": None} if one and ends_by_steps else one for one in split(sched_config)]
    lengths = (trainer.estimated_stepping_batches, _epoch_steps(trainer))
    return [{"scheduler": build_schedule(optimizer, one, *lengths), **stepping_of(one)} for one in sections]


def _epoch_steps(trainer: Trainer) -> float:
    """Return the optimizer steps of an epoch; infinite for a stream that does not tell."""
    trainer.fit_loop.setup_data()  # Lightning has not yet where the number of steps was given
    batches = trainer.num_training_batches / trainer.accumulate_grad_batches
    return math.ceil(batches) if math.isfinite(batches) else math.inf


def build_schedule(
    optimizer: Optimizer, sched_config: Mapping[str, Any] | None, max_steps: float, epoch_steps: float = math.inf
) -> LRScheduler:
    """Return the schedule that `optim.sched` describes.

    A `_target_`, or a name of `SCHEDULER_CLASSES`, is a class of torch's kind: it is called with the optimizer and the
    section's other keys, and with `max_steps` if it takes one and the section names none. Every other name is a
    formula, to be stepped after every optimizer step.

    Args:
        optimizer: Each of its groups follows the schedule from its own learning rate.
        sched_config: `name`, `warmup_steps` or `warmup_ratio`, `min_lr`, `max_steps` (-1 or absent: as computed), and
            what the formula takes besides; of a number of steps, the share of all (`hold_ratio`) does as well, and so
            do epochs (`warmup_epochs`).
            None or empty: a constant learning rate.
        max_steps: Optimizer steps of the whole training, computed from trainer and data; -1 or inf when endless.
        epoch_steps: Optimizer steps of an epoch; inf where that is not known.

    Raises:
        ConfigError: an unknown key or name, both kinds of warm-up, no known end, or `min_lr` above the lr.
    """
    config = {key: value for key, value in (sched_config or {}).items() if key not in DERIVED}
    if path := config.get("_target_") or SCHEDULER_CLASSES.get(canonical(config.get("name"))):
        return _of_class(optimizer, {**config, "_target_": path}, max_steps)
    config = {"name": "constant", **{key: value for key, value in config.items() if key not in STEPPING}}
    function = _function(config["name"])
    end = _end(config, max_steps)
    units = {RATIO: end, EPOCHS: epoch_steps}
    further = _further(function, config, units)
    warmup = _steps(config, "warmup", units)
    shapes = [
        _shape(group.get("initial_lr", group["lr"]), end, warmup, config, is_decoder=group.get("role") != REST)
        for group in optimizer.param_groups
    ]
    try:
        return LambdaLR(optimizer, [_factor(partial(function, **further), shape) for shape in shapes])
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"optim.sched: {config['name']}: {error}.") from error


def split(sched_config: Mapping[str, Any] | None) -> list[Mapping[str, Any] | None]:
    """Return the sections of a section whose values are lists: several schedules at once, stepped in turn (SEEDS B21).

    A null in a list is a key that this one does not have.

    Raises:
        ConfigError: The lists are of several lengths.
    """
    names = (sched_config or {}).get("name")
    if not isinstance(names, (list, tuple)) or sched_config is None:
        return [sched_config]
    lists = {key: list(value) for key, value in sched_config.items() if isinstance(value, (list, tuple))}
    if wrong := {key: len(value) for key, value in lists.items() if len(value) != len(names)}:
        raise ConfigError(f"optim.sched: {len(names)} names, and other numbers of {wrong}. Give one value, or as many.")
    rest = {key: value for key, value in sched_config.items() if key not in lists}
    each = ({key: value[n] for key, value in lists.items() if value[n] is not None} for n in range(len(names)))
    return [{**rest, **own} for own in each]


def stepping_of(sched_config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return how Lightning steps the schedule: every `step`, unless the section or the class says otherwise."""
    config = sched_config or {}
    asked = {key: value for key, value in config.items() if key in STEPPING and value is not None}
    path, name = str(config.get("_target_", "")), canonical(config.get("name"))
    if name and name not in SCHEDULES:
        asked["name"] = config["name"]
    by_epoch = name in BY_EPOCH or path.rpartition(".")[2] in BY_EPOCH
    if (name or path).rpartition(".")[2] == "ReduceLROnPlateau":
        asked.setdefault("monitor", MONITOR)
    return {"interval": "epoch" if by_epoch else "step", "frequency": 1, **asked}


def _of_class(optimizer: Optimizer, config: Mapping[str, Any], max_steps: float) -> LRScheduler:
    takes = parameters_of(locate(target_of(config, "optim.sched"), key="optim.sched"))
    extra: dict[str, Any] = {"optimizer": optimizer}
    if "max_steps" in takes and config.get("max_steps") in (None, -1):
        extra["max_steps"] = int(max_steps)
    dropped = (*NOT_THEIRS, *extra, *(() if "max_steps" in takes else ("max_steps",)))
    arguments = {key: value for key, value in config.items() if key not in dropped}
    schedule: LRScheduler = instantiate(arguments, key="optim.sched", extra=extra)
    return schedule


def _factor(schedule: Schedule, shape: Shape) -> Callable[[int], float]:
    """Return the schedule as LambdaLR wants it: relative to the base learning rate."""
    return lambda step: schedule(step, shape) / shape.lr if shape.lr else 1.0


def _function(name: object) -> Callable[..., float]:
    path = SCHEDULES.get(canonical(name))
    if path is None:
        raise ConfigError(one_of("optim.sched.name", name, [*SCHEDULES, *SCHEDULER_CLASSES]))
    module, _, function = path.rpartition(".")
    found: Callable[..., float] = getattr(importlib.import_module(module), function)
    return found


def _further(function: Callable[..., float], config: Mapping[str, Any], units: Mapping[str, float]) -> dict[str, Any]:
    """Return what a formula takes besides the common numbers, shares of all steps and epochs made steps."""
    takes = [name for name in parameters_of(function) if name not in ("step", "shape")]
    others = [name.removesuffix(STEPS) + unit for name in takes if name.endswith(STEPS) for unit in units]
    known = (*KEYS, *takes, *others)
    for key in config:
        if key not in known:
            raise ConfigError(f"optim.sched.{key}: not known. {did_you_mean(key, known)} Known: {', '.join(known)}.")
    stepped = {name: _steps(config, name.removesuffix(STEPS), units) for name in takes if name.endswith(STEPS)}
    return stepped | {name: config[name] for name in takes if name in config and not name.endswith(STEPS)}


def _end(config: Mapping[str, Any], computed: float) -> float:
    """Return M: what the config says, else what was computed; -1 means computed in both."""
    given = config.get("max_steps")
    end = computed if given is None or given < 0 else given
    if 0 <= end < math.inf:
        return float(end)
    if canonical(config["name"]) not in ENDLESS or any(key.endswith(RATIO) and value for key, value in config.items()):
        raise ConfigError(
            f"optim.sched: {config['name']} needs to know where training ends. "
            "Set trainer.max_epochs, trainer.max_steps or optim.sched.max_steps."
        )
    return math.inf


def _steps(config: Mapping[str, Any], what: str, units: Mapping[str, float]) -> int:
    """Return a number of steps that is given as such, as a share of all, or in epochs."""
    given = {what + unit: config[what + unit] for unit in (STEPS, *units) if config.get(what + unit) is not None}
    if len(given) > 1:
        told = " and ".join(f"{key}={value}" for key, value in given.items())
        raise ConfigError(f"optim.sched: {told} are two answers to one question; keep one.")
    if not 0 <= (ratio := given.get(what + RATIO, 0)) <= 1:
        raise ConfigError(f"optim.sched.{what}_ratio: {ratio} is not within 0 to 1.")
    steps = sum(number * units.get(key.removeprefix(what), 1) for key, number in given.items() if number)
    if not math.isfinite(steps):
        raise ConfigError(
            f"optim.sched.{what}_epochs: {given[what + EPOCHS]} epochs, and nobody knows how many steps an epoch has. "
            f"Give {what}_steps."
        )
    return int(steps)


def _shape(lr: float, end: float, warmup: int, config: Mapping[str, Any], *, is_decoder: bool) -> Shape:
    lowest = float(config.get("min_lr") or 0.0)
    if lowest > lr:
        raise ConfigError(
            f"optim.sched.min_lr: {lowest:g} is above the learning rate {lr:g}. Lower it, or raise optim.lr."
        )
    return Shape(lr=float(lr), max_steps=end, warmup_steps=warmup, min_lr=lowest, is_decoder=is_decoder)
