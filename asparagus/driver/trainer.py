"""Ray Train's data-parallel trainer, less what a run on a Ray of its own only waits for.

Measured on two cores (DECISIONS 4). `TorchTrainer` imports torch in driver and controller, for a backend that starts
the process group which Lightning starts itself. The controller is an actor, so that it can be asked for committed
checkpoints; ours are found on disk, by digest. Three more actors (autoscaling, preemption, placement groups) serve
clusters that others share or that outlive the run. One more hands out Ray Data's datasets, which we do not use. Each is
a Python process on the way to the first step.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import Result
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import PlacementGroupHandle
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import ControllerError
from ray.util.placement_group import PlacementGroup

from asparagus.driver.elastic import Elastic
from asparagus.driver.watch import ACTIVE, Watch
from asparagus.spec import Resources
from asparagus.worker.eager import EagerWorker

ELASTIC_START_S = 15.0
"""How long an elastic group waits for its places, before it is looked anew how many there are."""
BREATH_S = 0.2
LOST = (WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError, RayError)
"""What a dead or silent worker is reported as."""
ABORT_S = 60.0
"""How long the workers may take to go."""


class OurTrainer(DataParallelTrainer):
    """A `DataParallelTrainer` that knows whether its Ray ends with the run, and may do with fewer workers.

    Args:
        watch: Watches over the workers.
        folder: Of the run.
        resources: What is asked for.
        patience_s: How long to wait for the fewest workers.
        ray_ends_with_run: The machine is ours and does not grow or go away: nothing has to be asked for or cleaned up,
            and the controller runs in this process.
        placement_group: Where the workers have their places, reserved by somebody who will give them back (a trial's
            are Tune's); None reserves them.
    """

    def __init__(
        self,
        *args: Any,
        watch: Watch,
        folder: str,
        resources: Resources,
        patience_s: float,
        ray_ends_with_run: bool,
        placement_group: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._watch, self._folder = watch, folder
        self._resources, self._patience_s = resources, patience_s
        self._ray_ends_with_run = ray_ends_with_run or placement_group is not None
        self._placement_group = placement_group

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = [*super()._create_default_callbacks(), self._watch]
        needless = (DatasetsCallback, *([PlacementGroupCleanerCallback] if self._ray_ends_with_run else []))
        return [callback for callback in callbacks if not isinstance(callback, needless)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Result:
        assert self.run_config.failure_config is not None
        arguments["failure_policy"] = ByKind(self.run_config.failure_config, self._folder)
        own = self._ray_ends_with_run
        if self._resources.is_elastic:
            elastic = Elastic(self.scaling_config, self._resources, self._patience_s, own_machine=own)
            arguments["scaling_policy"] = elastic
        elif own:
            arguments["scaling_policy"] = OwnMachine(self.scaling_config)
        if not own:
            with _interrupts_as_before():
                return self._run_as_actor(arguments)
        controller = (
            OwnController(**arguments)
            if self._placement_group is None
            else _controller_in(self._placement_group)(**arguments)
        )
        asyncio.run(controller.run())
        return controller.get_result()

    def _run_as_actor(self, arguments: dict[str, Any]) -> Result:
        """Run the controller as Ray does, on the driver's node; only that it is ours."""
        environment = {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0", **get_env_vars_to_propagate()}
        here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}  # noqa: SLF001 - as Ray does
        actor = ray.remote(num_cpus=0, label_selector=here, runtime_env={"env_vars": environment})(PatientController)
        controller = actor.remote(**arguments)
        if threading.current_thread() is threading.main_thread():
            self._register_sigint_handler(controller)
        ray.get(controller.run.remote())
        result: Result = ray.get(controller.get_result.remote())
        return result

    def _register_sigint_handler(self, controller: Any) -> None:
        """Let Ctrl-C be Ctrl-C once the workers are gone; Ray's own handler ends the process, as if all were well."""

        def interrupted(_number: int, _frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            with contextlib.suppress(RayError):  # that the controller is gone then is what was asked for
                ray.get(controller.abort.remote(), timeout=ABORT_S)
            raise KeyboardInterrupt

        signal.signal(signal.SIGINT, interrupted)


@contextlib.contextmanager
def _interrupts_as_before() -> Iterator[None]:
    """Put back what Ctrl-C did: the controller that it would end is gone after the body."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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


class QuickWorkerGroup(WorkerGroup):
    """Workers that are not waited for where they are lost."""

    _worker_cls = EagerWorker

    def __init__(self, train_run_context: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(train_run_context, *args, **kwargs)
        if train_run_context.scaling_config.elasticity_enabled:  # rather with fewer than late
            self._worker_group_start_timeout_s: float = ELASTIC_START_S

    def _create_workers(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Create them, those on this node first: rank 0 writes, and without this node there is no run anyway."""
        here = ray.get_runtime_context().get_node_id()
        workers = super()._create_workers(*args, **kwargs)
        first = sorted(workers, key=lambda worker: worker.metadata.node_id != here)
        ordered: list[Any] = WorkerGroup._assign_worker_ranks(first)  # noqa: SLF001 - keeps nodes in this order
        return ordered

    def shutdown(self) -> None:
        """Shut down; Ray would give each lost worker five seconds to say goodbye."""
        status = self.get_latest_poll_status()
        workers = self.get_workers()
        for rank, error in status.errors.items() if status is not None else ():
            if isinstance(error, LOST):
                ray.kill(workers[rank].actor)
        super().shutdown()


class OwnWorkerGroup(QuickWorkerGroup):
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


class PatientController(TrainController):
    """A controller that draws breath while it waits for nodes: Ray's would be deaf to Ctrl-C."""

    worker_group_cls = QuickWorkerGroup

    async def _run_control_loop_iteration(self) -> None:
        before = self.get_state()
        await super()._run_control_loop_iteration()
        if self.get_state() is before:
            await asyncio.sleep(BREATH_S)

    def _start_worker_group(self, *args: Any, **kwargs: Any) -> None:
        policy = self._scaling_policy
        if not isinstance(policy, Elastic):
            super()._start_worker_group(*args, **kwargs)
            return
        policy.holds(())
        super()._start_worker_group(*args, **kwargs)
        group = self.get_worker_group()
        assert group is not None
        policy.holds(group.get_workers())


class OwnController(PatientController):
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
