"""DeepSpeed on Ray workers, where it is installed: its own folder for going on, and beside it the one file for all.

The file holds whole weights in 32 bits and no state of optimizers, which DeepSpeed keeps in shards: a run that goes on
with another strategy, or another number of workers, begins with fresh ones.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import DeepSpeedStrategy
from pytorch_lightning.utilities.deepspeed import convert_zero_checkpoint_to_fp32_state_dict

from asparagus.errors import RunError

STAGES = {"deepspeed": 2, "deepspeed_stage_1": 1, "deepspeed_stage_2": 2, "deepspeed_stage_3": 3}
FOLDER = "deepspeed"
"""Beside `checkpoint.ckpt`: what DeepSpeed itself goes on from."""
SIZE = "world_size"

log = logging.getLogger("asparagus")


def zero_strategy(name: str, device: torch.device) -> DeepSpeedStrategy:
    """Return the strategy of that name.

    Raises:
        RunError: DeepSpeed is not installed on this node, or there is no GPU.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise RunError(
            f"trainer.strategy: {name} needs deepspeed, which is not installed on this node. Install it on all nodes "
            "(pip install deepspeed), or use trainer.strategy=fsdp."
        )
    if device.type != "cuda":
        raise RunError(f"trainer.strategy: {name} needs GPUs. Give resources.gpus_per_worker=1, or use fsdp.")
    return RayDeepSpeedStrategy(device, STAGES[name])


class RayDeepSpeedStrategy(DeepSpeedStrategy):
    """ZeRO on the device that Ray gave to this worker."""

    def __init__(self, device: torch.device, stage: int) -> None:
        super().__init__(stage=stage)
        self._device = device

    @property
    def root_device(self) -> torch.device:
        """Return this worker's device, whatever others the node has."""
        return self._device

    @property
    def distributed_sampler_kwargs(self) -> dict[str, int]:
        """Return how data is sharded: by worker."""
        return {"num_replicas": self.world_size, "rank": self.global_rank}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:  # noqa: ARG002 - Lightning's
        """Write DeepSpeed's folder, on all ranks, and out of it the one file."""
        file = Path(self.broadcast(str(filepath)))
        super().save_checkpoint({**checkpoint, SIZE: self.world_size}, file.with_name(FOLDER))
        self.barrier()
        if self.is_global_zero:
            weights = convert_zero_checkpoint_to_fp32_state_dict(file.with_name(FOLDER), file)["state_dict"]
            self.checkpoint_io.save_checkpoint({**checkpoint, "state_dict": weights, "optimizer_states": []}, file)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:  # noqa: FBT001 - Lightning's
        """Read DeepSpeed's folder where it is of as many workers, else the one file."""
        file = Path(self.broadcast(str(checkpoint_path)))
        whole: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        if file.with_name(FOLDER).is_dir() and whole.get(SIZE, self.world_size) == self.world_size:
            own: dict[str, Any] = super().load_checkpoint(file.with_name(FOLDER), weights_only)
            return own
        log.warning("%s was not written by as many DeepSpeed workers: its optimizers begin afresh", file)
        self._restore_zero_state(whole, strict=True)
        return whole

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:  # noqa: FBT001, FBT002 - Lightning's
        """Do nothing: they are loaded with the checkpoint."""
