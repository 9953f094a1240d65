"""Fully sharded training (FSDP2) on Ray workers, whose checkpoints are the same single file as anybody else's.

On Lightning's `ModelParallelStrategy`, because it knows FSDP2 (`fully_shard`), which also runs on a CPU with gloo; its
`FSDPStrategy` is for FSDP1, which torch deprecates. What it leaves to each module's `configure_model` is done here, so
that any module can be trained so; a module that shards itself there is left as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from asparagus.errors import RunError

STEPS = ("training_step", "validation_step", "test_step", "predict_step")
"""What Lightning calls of a module, in place of `forward`."""
BLOCK = 20_000_000
"""Weights from which on a part of a network is gathered and let go by itself; what is smaller is not worth a trip."""


class RayFSDPStrategy(ModelParallelStrategy):
    """FSDP2 on the device that Ray gave to this worker.

    Args:
        device: This worker's.
        world_size: How many share the weights.
    """

    def __init__(self, device: torch.device, world_size: int) -> None:
        super().__init__(data_parallel_size=world_size, tensor_parallel_size=1, save_distributed_checkpoint=False)
        self._device = device

    @property
    def root_device(self) -> torch.device:
        """Return this worker's device, whatever others the node has."""
        return self._device

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Return true: states are in the file, as for any strategy."""
        return True

    def setup(self, trainer: pl.Trainer) -> None:
        """Shard the module over all workers, unless it did so itself."""
        module = self.lightning_module
        assert module is not None
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(module)
        if not any(isinstance(part, FSDPModule) for part in module.modules()):
            self.model_to_device()
            shard(module, self.device_mesh["data_parallel"])
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def on_validation_start(self) -> None:
        """Gather all weights, and keep them: ranks whose share of the cases is a batch shorter would be waited for."""
        self._look(gathered=True)

    def on_validation_end(self) -> None:
        """Let go of what is another rank's."""
        self._look(gathered=False)

    def on_test_start(self) -> None:
        """Gather all weights, and keep them."""
        self._look(gathered=True)

    def on_test_end(self) -> None:
        """Let go of what is another rank's."""
        self._look(gathered=False)

    def _look(self, *, gathered: bool) -> None:
        assert self.lightning_module is not None
        if gathered:
            for buffer in self.lightning_module.buffers():  # running statistics: rank 0's are the ones that are saved
                dist.broadcast(buffer, src=0)
        for part in _sharded(self.lightning_module):
            part.set_reshard_after_forward(not gathered, recurse=False)
            if gathered:
                part.unshard()
            else:
                part.reshard()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return whole weights; ranks but the first have helped to gather them and get none."""
        assert self.lightning_module is not None
        return {name: self._whole(value) for name, value in self.lightning_module.state_dict().items()}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:  # noqa: FBT001, FBT002 - Lightning's
        """Take from whole weights what is this rank's."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        given = {name: _share(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(given, strict=strict)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Return a whole state, numbered as torch does: any strategy can go on from it."""
        plain = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer  # noqa: SLF001
        state: dict[str, Any] = plain.state_dict()
        whole = {
            index: {key: self._whole(value) for key, value in values.items()}
            for index, values in sorted(state["state"].items())
        }
        return {**state, "state": whole}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take from whole states what is this rank's."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = dict(enumerate(weight for group in optimizer.param_groups for weight in group["params"]))
            mine = {
                index: {key: _share(value, weights[index]) for key, value in values.items()}
                for index, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": mine})

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:  # noqa: FBT001 - Lightning's
        """Read the whole file, as strategies do that shard nothing."""
        loaded: dict[str, Any] = super(ModelParallelStrategy, self).load_checkpoint(checkpoint_path, weights_only)
        return loaded

    def _whole(self, value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        whole = value.full_tensor()  # on all ranks, in the same order
        return whole.cpu() if self.is_global_zero else None


def shard(module: pl.LightningModule, mesh: Any) -> None:
    """Let each rank hold its share of every weight: large parts of the network by themselves, the rest together.

    Raises:
        RunError: A weight has no dimension to share it along.
    """
    if flat := [name for name, weight in module.named_parameters() if not weight.ndim]:
        raise RunError(
            f"trainer.strategy: fsdp cannot share {', '.join(flat)} of {type(module).__name__}: it is a single number. "
            "Make it torch.ones(1), or use ddp."
        )
    steps = [name for name in STEPS if is_overridden(name, module)]
    uses = Counter(id(weight) for _, weight in module.named_parameters(remove_duplicate=False))
    tied = {weight for weight, count in uses.items() if count > 1}
    for part in _blocks(module, tied):
        fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for name in steps:
        register_fsdp_forward_method(module, name)


def _blocks(module: nn.Module, tied: set[int]) -> Iterator[nn.Module]:
    """Yield parts of a network that are worth being gathered by themselves, inner ones first."""
    for child in module.children():
        inner = [*_blocks(child, tied)]
        yield from inner
        theirs = {id(weight) for part in inner for weight in part.parameters()}
        rest = sum(weight.numel() for weight in child.parameters() if id(weight) not in theirs)
        is_called = type(child).forward is not nn.Module.forward and not isinstance(child, nn.ModuleList)
        if is_called and rest >= BLOCK and tied.isdisjoint(id(weight) for weight in child.parameters()):
            yield child


def _sharded(module: nn.Module) -> Iterator[FSDPModule]:
    return (part for part in module.modules() if isinstance(part, FSDPModule))


def _share(value: Any, like: Any) -> Any:
    """Return a rank's share of a whole tensor, if what it belongs to is shared; each rank has read the whole."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
