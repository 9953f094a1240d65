"""Asparagus: experiment files in, recorded and traceable Lightning trainings on Ray out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asparagus.lazy import names_from

if TYPE_CHECKING:
    from asparagus.api import launch, load_config, load_from_config, plan_of
    from asparagus.api.recorded import lineage, load_run, load_study, metric_history, runs
    from asparagus.api.tasks import make_task
    from asparagus.cli.notebook import print_progress
    from asparagus.data.own import BaseDataModule
    from asparagus.errors import AsparagusError, ConfigError, RunError
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
    from asparagus.sweeps import launch_sweep

__version__ = "0.1.0"

_HOMES = {
    "api": ("launch", "load_config", "load_from_config", "plan_of"),
    "api.recorded": ("lineage", "load_run", "load_study", "metric_history", "runs"),
    "api.tasks": ("make_task",),
    "cli.notebook": ("print_progress",),
    "data.own": ("BaseDataModule",),
    "errors": ("AsparagusError", "ConfigError", "RunError"),
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
    "sweeps": ("launch_sweep",),
}

__all__ = [
    "AsparagusError",
    "BaseDataModule",
    "BaseModule",
    "ConfigError",
    "RunError",
    "available_optimizers",
    "available_schedulers",
    "launch",
    "launch_sweep",
    "lineage",
    "load_config",
    "load_from_config",
    "load_run",
    "load_study",
    "make_task",
    "metric_history",
    "plan_of",
    "print_progress",
    "register_callback",
    "register_datamodule",
    "register_dataset",
    "register_module",
    "register_network",
    "register_optimizer",
    "register_scheduler",
    "register_script",
    "runs",
]

__getattr__ = names_from(__name__, _HOMES)
