"""Asparagus: experiment files in, recorded and traceable Lightning trainings on Ray out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asparagus.lazy import names_from

if TYPE_CHECKING:
    from asparagus.api import launch, load_config, load_from_config, plan_of
    from asparagus.data.own import BaseDataModule
    from asparagus.optim import available_optimizers, available_schedulers, register_optimizer, register_scheduler
    from asparagus.registry import (
        register_callback,
        register_datamodule,
        register_dataset,
        register_module,
        register_network,
        register_script,
    )
    from asparagus.stages.own import BaseModule

__version__ = "0.1.0"

_HOMES = {
    "api": ("launch", "load_config", "load_from_config", "plan_of"),
    "data.own": ("BaseDataModule",),
    "optim": (
        "available_optimizers",
        "available_schedulers",
        "register_optimizer",
        "register_scheduler",
    ),
    "registry": (
        "register_callback",
        "register_datamodule",
        "register_dataset",
        "register_module",
        "register_network",
        "register_script",
    ),
    "stages.own": ("BaseModule",),
}

__all__ = [
    "BaseDataModule",
    "BaseModule",
    "available_optimizers",
    "available_schedulers",
    "launch",
    "load_config",
    "load_from_config",
    "plan_of",
    "register_callback",
    "register_datamodule",
    "register_dataset",
    "register_module",
    "register_network",
    "register_optimizer",
    "register_scheduler",
    "register_script",
]

__getattr__ = names_from(__name__, _HOMES)
