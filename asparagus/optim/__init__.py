"""Optimizers and learning-rate schedules by name; the tables are strings, so that listing them imports nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asparagus.registry import Registry

OPTIMIZERS: dict[str, str] = {
    "adadelta": "torch.optim.Adadelta",
    "adagrad": "torch.optim.Adagrad",
    "adam": "torch.optim.Adam",
    "adamax": "torch.optim.Adamax",
    "adamw": "torch.optim.AdamW",
    "asgd": "torch.optim.ASGD",
    "nadam": "torch.optim.NAdam",
    "novograd": "monai.optimizers.Novograd",
    "radam": "torch.optim.RAdam",
    "rmsprop": "torch.optim.RMSprop",
    "rprop": "torch.optim.Rprop",
    "sgd": "torch.optim.SGD",
}
"""`optim.name` -> dotted path of the class."""

SCHEDULES: dict[str, str] = {
    "constant": "asparagus.optim.schedules.constant",
    "cosine": "asparagus.optim.schedules.cosine",
    "linear": "asparagus.optim.schedules.linear",
}
"""`optim.sched.name` -> dotted path of a function `(step, Shape) -> learning rate`."""

STEPPING = ("interval", "frequency", "monitor", "strict")
"""Keys of `optim.sched` that are Lightning's: how often a scheduler of torch's kind is stepped, and on what."""

REGISTERED_OPTIMIZERS = Registry("optimizers", OPTIMIZERS)
REGISTERED_SCHEDULERS = Registry("schedulers", SCHEDULES)


def register_optimizer(name: str, optimizer: Callable[..., Any], optimizer_params: type | None = None) -> None:
    """Make an optimizer of your own an `optim.name` (SEEDS B12).

    Args:
        name: What experiments call it.
        optimizer: A `torch.optim.Optimizer` class, at the top of a module.
        optimizer_params: A dataclass of its arguments: their defaults, and which there are.

    Raises:
        ValueError: The name is taken.
    """
    REGISTERED_OPTIMIZERS.add(name, optimizer, optimizer_params)


def register_scheduler(name: str, scheduler: Callable[..., Any], scheduler_params: type | None = None) -> None:
    """Make a learning-rate scheduler of your own an `optim.sched.name` (SEEDS B17).

    Args:
        name: What experiments call it.
        scheduler: A `torch.optim.lr_scheduler.LRScheduler` class, at the top of a module. `max_steps`, if it takes it,
            is filled in with the length of the training.
        scheduler_params: A dataclass of its arguments: their defaults, and which there are.

    Raises:
        ValueError: The name is taken.
    """
    REGISTERED_SCHEDULERS.add(name, scheduler, scheduler_params)
