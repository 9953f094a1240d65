"""The ranks of a Ray Train worker group: devices from Ray, checkpoints reported to it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray.train
import torch
from pytorch_lightning import Callback
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from ray.train import Checkpoint, CheckpointUploadMode
from ray.train.collective import barrier, broadcast_from_rank_zero

from asparagus.errors import RunError

SIOCGIFADDR = 0x8915
"""Linux's question for an interface's address."""
DDP_OPTIONS: dict[str, dict[str, Any]] = {
    "auto": {},
    "ddp": {},
    "ddp_find_unused_parameters_true": {"find_unused_parameters": True},
    "ddp_find_unused_parameters_false": {"find_unused_parameters": False},
}
"""Lightning's names for data-parallel training, and what they mean."""


FSDP = "fsdp"
DEEPSPEED = ("deepspeed", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")
STRATEGIES = (*DDP_OPTIONS, FSDP, *DEEPSPEED)


class OnRay:
    """The ranks of a Ray Train worker group.

    Args:
        callbacks: What whoever started the group has to hear of the training.
    """

    alone = False

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        self._callbacks = callbacks
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()

    def trainer_arguments(self, strategy: str) -> dict[str, Any]:
        """Return arguments for this rank's device, as one of `world_size`."""
        device = worker_device()
        accelerator = "cpu" if device.type == "cpu" else "auto"
        if strategy not in STRATEGIES:
            raise RunError(
                f"trainer.strategy: {strategy!r} does not run on Ray workers. Known: {', '.join(STRATEGIES)}."
            )
        if self.world_size == 1:
            return {"accelerator": accelerator, "strategy": SingleDeviceStrategy(device)}
        meet_at_rank_zero()
        return {
            "accelerator": accelerator,
            "devices": "auto",
            **_strategy(strategy, device, self.world_size),
            "plugins": [RayEnvironment()],
        }

    def commit(self, checkpoint: Path, metrics: dict[str, float]) -> None:
        """Report to Ray Train, a barrier of all ranks. The files are where they belong: nothing is uploaded.

        Ray's controller may take note of it later, or never if a worker is lost before; a restarted worker looks for
        the newest whole checkpoint on disk, so this one counts from the moment that its folder has its name.
        """
        # A working copy on another machine than the driver's is none of Ray's storage; Ray need not know of it.
        of_rays = checkpoint.is_relative_to(ray.train.get_context().get_storage().experiment_fs_path)
        ray.train.report(
            metrics,
            checkpoint=Checkpoint.from_directory(checkpoint) if of_rays else None,
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )

    def once(self, action: Callable[[], object], *, per_node: bool) -> None:
        """Do it on one rank. Ray's barrier has no time limit, as torch's has, and ends when that rank fails."""
        if self.rank == 0 or (per_node and ray.train.get_context().get_local_rank() == 0):
            action()
        barrier()

    def callbacks(self) -> Sequence[Callback]:
        """Return those of whoever started the group."""
        return self._callbacks


class RayEnvironment(LightningEnvironment):
    """Ranks from Ray Train's context. Our own: Ray's binds to whichever Lightning namespace is installed first."""

    def world_size(self) -> int:
        """Return the number of workers."""
        return int(ray.train.get_context().get_world_size())

    def global_rank(self) -> int:
        """Return this worker's rank among all."""
        return int(ray.train.get_context().get_world_rank())

    def local_rank(self) -> int:
        """Return this worker's rank on its node."""
        return int(ray.train.get_context().get_local_rank())

    def node_rank(self) -> int:
        """Return the rank of its node."""
        return int(ray.train.get_context().get_node_rank())

    def set_world_size(self, size: int) -> None:
        """Do nothing: Ray knows."""

    def set_global_rank(self, rank: int) -> None:
        """Do nothing: Ray knows."""

    @property
    def creates_processes_externally(self) -> bool:
        """Ray started the processes."""
        return True

    def teardown(self) -> None:
        """Do nothing: the processes are Ray's."""


class RayDDPStrategy(DDPStrategy):
    """Data-parallel training on the device that Ray gave to this worker."""

    def __init__(self, device: torch.device, **options: Any) -> None:
        super().__init__(**options)
        self._device = device

    @property
    def root_device(self) -> torch.device:
        """Return this worker's device, whatever others the node has."""
        return self._device

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Validate without the DDP wrapper: it would wait for ranks whose share of the cases is a batch shorter."""
        assert self.lightning_module is not None
        with self.precision_plugin.val_step_context():
            return self.lightning_module.validation_step(*args, **kwargs)

    @property
    def distributed_sampler_kwargs(self) -> dict[str, int]:
        """Return how data is sharded: by worker."""
        return {"num_replicas": self.world_size, "rank": self.global_rank}


def _strategy(name: str, device: torch.device, world_size: int) -> dict[str, Any]:
    """Return the Trainer's arguments that a strategy means on a worker."""
    if name in DDP_OPTIONS:
        return {"strategy": RayDDPStrategy(device, **DDP_OPTIONS[name])}
    if name == FSDP:
        from asparagus.worker.sharded import RayFSDPStrategy

        # Weights that are gathered inside torch's inference mode could not be trained on afterwards.
        return {"strategy": RayFSDPStrategy(device, world_size), "inference_mode": False}
    from asparagus.worker.zero import zero_strategy

    return {"strategy": zero_strategy(name, device)}


def worker_device() -> torch.device:
    """Return the device that Ray assigned to this worker."""
    if not torch.cuda.is_available() or not ray.get_gpu_ids():
        return torch.device("cpu")
    from ray.train.torch import get_device

    device: torch.device = get_device()
    return device


def speak_through(address: str) -> None:
    """Have gloo use the interface with this node's address.

    It would ask for the address of the host's name, which on many machines is one that no other node can reach.
    """
    if "GLOO_SOCKET_IFNAME" not in os.environ and (name := interface_of(address)):
        os.environ["GLOO_SOCKET_IFNAME"] = name


def interface_of(address: str) -> str | None:
    """Return the name of the network interface with an IPv4 address; None where the system does not tell."""
    try:
        import fcntl
    except ImportError:  # only where there is no Linux
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            asked = struct.pack("256s", name.encode()[:15])
            with contextlib.suppress(OSError):  # an interface without an address
                if socket.inet_ntoa(fcntl.ioctl(probe.fileno(), SIOCGIFADDR, asked)[20:24]) == address:
                    return name
    return None


def meet_at_rank_zero() -> None:
    """Agree on where torch.distributed meets: a free port of rank 0's node. Lightning reads these variables."""
    mine = None
    if ray.train.get_context().get_world_rank() == 0:
        with socket.socket() as probe:
            probe.bind(("", 0))
            mine = (ray.util.get_node_ip_address(), probe.getsockname()[1])
    speak_through(ray.util.get_node_ip_address())
    address, port = broadcast_from_rank_zero(mine)
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address, str(port)
