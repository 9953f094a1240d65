"""Asparagus: experiment files in, recorded and traceable Lightning trainings on Ray out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    "asparagus.api": ("launch", "load_config", "load_from_config", "plan_of"),
    "asparagus.data.own": ("BaseDataModule",),
    "asparagus.optim": (
        "available_optimizers",
        "available_schedulers",
        "register_optimizer",
        "register_scheduler",
    ),
    "asparagus.registry": (
        "register_callback",
        "register_datamodule",
        "register_dataset",
        "register_module",
        "register_network",
        "register_script",
    ),
    "asparagus.stages.own": ("BaseModule",),
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


def __getattr__(name: str) -> Any:
    """Import what is asked for: `import asparagus` costs nothing, and no room imports the ones above it."""
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'asparagus' has no attribute {name!r}")
