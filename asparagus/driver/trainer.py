"""Ray Train's data-parallel trainer, without what this launcher does not use: torch in driver and controller.

`TorchTrainer` would import torch in both to hand it to a backend that starts the process group. Lightning starts it
itself, so the plain trainer does: measured on two cores, a run starts about a second and a half earlier (DECISIONS).
"""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


class OurTrainer(DataParallelTrainer):
    """A `DataParallelTrainer` that knows whether its Ray ends with the run.

    Args:
        ray_ends_with_run: The placement groups then end with it too, and no actor has to be started to clean them up.
    """

    def __init__(self, *args: Any, ray_ends_with_run: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ray_ends_with_run = ray_ends_with_run

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()
        if not self._ray_ends_with_run:
            return callbacks
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]
