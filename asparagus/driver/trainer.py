"""Ray Train's data-parallel trainer, less what a run on a Ray of its own only waits for.

Measured on two cores (DECISIONS 4). `TorchTrainer` imports torch in driver and controller, for a backend that starts
the process group which Lightning starts itself. The controller is an actor, so that it can be asked for committed
checkpoints; ours are found on disk, by digest. Three more actors (autoscaling, preemption, placement groups) serve
clusters that others share or that outlive the run. Each is a Python process on the way to the first step.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.train import Result
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import PlacementGroupHandle
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import ControllerError
from ray.util.placement_group import PlacementGroup

from asparagus.driver.watch import ACTIVE, Watch


class OurTrainer(DataParallelTrainer):
    """A `DataParallelTrainer` that knows whether its Ray ends with the run.

    Args:
        watch: Watches over the workers.
        folder: Of the run.
        ray_ends_with_run: The machine is ours and does not grow or go away: nothing has to be asked for or cleaned up,
            and the controller runs in this process.
        placement_group: Where the workers have their places, reserved by somebody who will give them back (a trial's
            are Tune's); None reserves them.
    """

    def __init__(
        self, *args: Any, watch: Watch, folder: str, ray_ends_with_run: bool, placement_group: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._watch, self._folder = watch, folder
        self._ray_ends_with_run = ray_ends_with_run or placement_group is not None
        self._placement_group = placement_group

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = [*super()._create_default_callbacks(), self._watch]
        if not self._ray_ends_with_run:
            return callbacks
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Result:
        assert self.run_config.failure_config is not None
        arguments["failure_policy"] = ByKind(self.run_config.failure_config, self._folder)
        if not self._ray_ends_with_run:
            return super()._initialize_and_run_controller(**arguments)
        arguments["scaling_policy"] = OwnMachine(self.scaling_config)
        controller = (
            OwnController(**arguments)
            if self._placement_group is None
            else _controller_in(self._placement_group)(**arguments)
        )
        asyncio.run(controller.run())
        return controller.get_result()


class ByKind(DefaultFailurePolicy):
    """Decide by what has happened to the workers; what happens to the controller itself is Ray's to judge.

    Args:
        failure_config: Ray's, for the controller.
        folder: Of the run; by it, the watch over its workers is found in this process.
    """

    def __init__(self, failure_config: Any, folder: str) -> None:
        super().__init__(failure_config)
        self._folder = folder

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        """Try again, or end it."""
        watch = ACTIVE.get(self._folder)
        if watch is None or isinstance(training_failed_error, ControllerError):
            return super().make_decision(training_failed_error)
        return FailureDecision.RETRY if watch.conclude(training_failed_error) else FailureDecision.RAISE


class OwnMachine(FixedScalingPolicy):
    """As many workers as were asked for, from resources that are there: no autoscaler is told."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Ask nobody."""

    def _maybe_send_resource_request(self) -> None:
        """Ask nobody."""


class OwnWorkerGroup(WorkerGroup):
    """Workers of a controller that is no actor: they cannot call it, and nothing of ours does."""

    def _init_train_context_on_workers(self, workers: Any, sync_actor: Any, train_context_args: dict[str, Any]) -> None:
        started = [
            worker.actor.init_train_context.remote(
                train_run_context=self._train_run_context,
                distributed_context=worker.distributed_context,
                synchronization_actor=sync_actor,
                storage_context=self._storage_context,
                worker_callbacks=self._worker_callbacks_to_propagate,
                controller_actor=None,
                **{name: values[index] for name, values in train_context_args.items()},
            )
            for index, worker in enumerate(workers)
        ]
        ray.get(started)
        self._decorate_worker_log_file_paths(workers)


class OwnController(TrainController):
    """A controller in the driver's own process."""

    worker_group_cls = OwnWorkerGroup


class Places(PlacementGroupHandle):
    """Places that somebody else has reserved, and gives back."""

    def __init__(self, group: PlacementGroup) -> None:
        self._group = group

    @property
    def placement_group(self) -> PlacementGroup:
        """Return the places."""
        return self._group

    def ready(self) -> Any:
        """Return what resolves when they are there."""
        return self._group.ready()

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Wait for them; they are there."""
        return bool(self._group.wait(timeout_seconds))

    def shutdown(self) -> None:
        """Leave them: they are not ours to give back."""


def _controller_in(group: PlacementGroup) -> type[OwnController]:
    """Return a controller whose workers go into places that are reserved already."""

    class Group(OwnWorkerGroup):
        def _create_placement_group(self, *_: Any, **__: Any) -> PlacementGroupHandle:
            return Places(group)

    class Controller(OwnController):
        worker_group_cls = Group

    return Controller
