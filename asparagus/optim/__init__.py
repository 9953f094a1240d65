"""Optimizers and learning-rate schedules by name; the tables are strings, so that listing them imports nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asparagus.registry import Registry

OPTIMIZERS: dict[str, str] = {
    "adadelta": "torch.optim.Adadelta",
    "adafactor": "torch.optim.Adafactor",
    "adagrad": "torch.optim.Adagrad",
    "adam": "torch.optim.Adam",
    "adamax": "torch.optim.Adamax",
    "adamw": "torch.optim.AdamW",
    "asgd": "torch.optim.ASGD",
    "lion": "pytorch_optimizer.Lion",
    "nadam": "torch.optim.NAdam",
    "novograd": "monai.optimizers.Novograd",
    "radam": "torch.optim.RAdam",
    "rmsprop": "torch.optim.RMSprop",
    "rprop": "torch.optim.Rprop",
    "sgd": "torch.optim.SGD",
}
"""`optim.name` -> dotted path of the class."""

OPTIMIZER_DEFAULTS: dict[str, dict[str, Any]] = {"novograd": {"betas": [0.95, 0.98]}}
"""Arguments whose values in the paper are others than the class's."""

_FORMULAS = "asparagus.optim.formulas."
SCHEDULES: dict[str, str] = {
    "constant": _FORMULAS + "constant",
    "cosine": _FORMULAS + "cosine",
    "inverse_square_root": _FORMULAS + "inverse_square_root",
    "linear": _FORMULAS + "linear",
    "noam": _FORMULAS + "noam",
    "noam_hold": _FORMULAS + "noam_hold",
    "polynomial": _FORMULAS + "polynomial",
    "polynomial_hold": _FORMULAS + "polynomial_hold",
    "sawtooth": _FORMULAS + "sawtooth",
    "square": _FORMULAS + "square",
    "square_root": _FORMULAS + "square_root",
    "t5_inverse_square_root": _FORMULAS + "t5_inverse_square_root",
    "warmup": _FORMULAS + "warmup",
    "warmup_cosine": _FORMULAS + "warmup_cosine",
    # ATOMMIC's names of the same (SEEDS B16)
    "CosineAnnealing": _FORMULAS + "cosine",
    "InverseSquareRootAnnealing": _FORMULAS + "inverse_square_root",
    "NoamAnnealing": _FORMULAS + "noam",
    "NoamHoldAnnealing": _FORMULAS + "noam_hold",
    "PolynomialDecayAnnealing": _FORMULAS + "polynomial",
    "PolynomialHoldDecayAnnealing": _FORMULAS + "polynomial_hold",
    "SquareAnnealing": _FORMULAS + "square",
    "SquareRootAnnealing": _FORMULAS + "square_root",
    "T5InverseSquareRootAnnealing": _FORMULAS + "t5_inverse_square_root",
    "WarmupAnnealing": _FORMULAS + "linear",
    "WarmupHoldPolicy": _FORMULAS + "warmup_hold",
    "WarmupPolicy": _FORMULAS + "warmup",
}
"""`optim.sched.name` -> dotted path of a function `(step, Shape, ...) -> learning rate`."""

_TORCHS = "torch.optim.lr_scheduler."
SCHEDULER_CLASSES: dict[str, str] = {
    "CyclicLR": _TORCHS + "CyclicLR",
    "ExponentialLR": _TORCHS + "ExponentialLR",
    "PolynomialLR": "asparagus.optim.polynomial.PolynomialLR",
    "ReduceLROnPlateau": _TORCHS + "ReduceLROnPlateau",
    "StepLR": _TORCHS + "StepLR",
}
"""`optim.sched.name` -> dotted path of a class of torch's kind."""
BY_EPOCH = ("ExponentialLR", "ReduceLROnPlateau")
"""Those that are stepped after each epoch unless told otherwise (SEEDS B18)."""
DERIVED = ("last_epoch", "reduce_on_plateau")
"""Keys of `optim.sched` that other systems write and that follow from the rest."""

STEPPING = ("interval", "frequency", "monitor", "strict")
"""Keys of `optim.sched` that are Lightning's: how often a scheduler of torch's kind is stepped, and on what."""

_WITHOUT_END = (
    *("constant", "warmup", "warmup_hold", "inverse_square_root", "t5_inverse_square_root", "noam", "noam_hold"),
)
ENDLESS = tuple(name for name, path in SCHEDULES.items() if path.rpartition(".")[2] in _WITHOUT_END)
"""Schedules that need not know where training ends."""

REGISTERED_OPTIMIZERS = Registry("optimizers", OPTIMIZERS)
REGISTERED_SCHEDULERS = Registry("schedulers", {**SCHEDULES, **SCHEDULER_CLASSES})


def available_optimizers() -> dict[str, str]:
    """Return every `optim.name`, those that were registered too, and the dotted path of its class (SEEDS B8)."""
    return OPTIMIZERS | REGISTERED_OPTIMIZERS.paths()


def available_schedulers() -> dict[str, str]:
    """Return every `optim.sched.name`, those that were registered too, and the dotted path of what it stands for."""
    return SCHEDULES | SCHEDULER_CLASSES | REGISTERED_SCHEDULERS.paths()


def canonical(name: object) -> str:
    """Return the name of a schedule as the tables spell it, whatever its case; another one as it is."""
    known = {one.lower(): one for one in (*SCHEDULES, *SCHEDULER_CLASSES)}
    return known.get(str(name).lower(), str(name)) if name is not None else ""


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
