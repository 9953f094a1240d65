"""One of two ranks that train a network with a strategy of ours, without Ray: `python -m tests.two_ranks FOLDER`.

Prints nothing; rank 0 writes checkpoints `<strategy>-<epochs>.ckpt`, and `seen.json`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import TorchElasticEnvironment
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader, TensorDataset

from asparagus.worker import sharded
from asparagus.worker.ray_ranks import RayDDPStrategy
from asparagus.worker.sharded import RayFSDPStrategy

CPU = torch.device("cpu")
SEEN: dict[str, Any] = {}


class Net(pl.LightningModule):
    """A network with an odd number of weights per layer, running statistics, and a weight of the module's own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(torch.nn.Linear(7, 33, bias=False), torch.nn.BatchNorm1d(33), torch.nn.ReLU())
        self.head = torch.nn.Linear(33, 3)
        self.scale = torch.nn.Parameter(torch.ones(1))

    def _loss(self, batch):
        x, y = batch
        return torch.nn.functional.cross_entropy(self.head(self.body(x)) * self.scale, y)

    def training_step(self, batch, index):
        weights = sum(
            getattr(weight, "_local_tensor", weight).numel() for weight in self.optimizers().param_groups[0]["params"]
        )
        SEEN["trained_by_this_rank"] = weights
        return self._loss(batch)

    def validation_step(self, batch, index):
        self.log("val/loss", self._loss(batch), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def loaders(rank: int) -> tuple[Any, Any]:
    """Return this rank's data; of those to validate on, rank 0 has a batch more."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(64, 7, generator=generator), torch.randint(0, 3, (64,), generator=generator)
    mine = TensorDataset(x[rank::2], y[rank::2])
    return DataLoader(mine, batch_size=8), DataLoader(mine, batch_size=8 if rank == 0 else 16)


def fit(name: str, rank: int, epochs: int, folder: Path, start: Path | None = None) -> None:
    """Train with a strategy, from a checkpoint or from nothing, and save one."""
    strategy = RayDDPStrategy(CPU) if name == "ddp" else RayFSDPStrategy(CPU, 2)
    trainer = pl.Trainer(
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
        accelerator="cpu",
        strategy=strategy,
        plugins=[TorchElasticEnvironment()],
        max_epochs=epochs,
        use_distributed_sampler=False,
        gradient_clip_val=0.5,
        devices=1,
        num_nodes=2,
    )
    module, (train, val) = Net(), loaders(rank)
    trainer.fit(module, train, val, ckpt_path=start, weights_only=True)
    saved = folder / f"{name}-{epochs}-{'resumed' if start else 'fresh'}.ckpt"
    trainer.save_checkpoint(saved)
    SEEN[saved.name] = {"parts": sum(isinstance(part, FSDPModule) for part in module.modules())}
    SEEN[saved.name]["trained_by_this_rank"] = SEEN.pop("trained_by_this_rank")
    SEEN[saved.name]["val/loss"] = float(trainer.callback_metrics["val/loss"])
    SEEN[saved.name]["tested"] = trainer.validate(module, val, ckpt_path=saved, verbose=False, weights_only=True)


def main(folder: Path) -> None:
    """Train with each, and go on with each from what the other one left."""
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    sharded.BLOCK = 200  # the body is a part of its own
    fit("ddp", rank, 2, folder)
    fit("ddp", rank, 4, folder)
    fit("fsdp", rank, 2, folder)
    fit("fsdp", rank, 4, folder, folder / "ddp-2-fresh.ckpt")
    fit("ddp", rank, 4, folder, folder / "fsdp-2-fresh.ckpt")
    if rank == 0:
        (folder / "seen.json").write_text(json.dumps(SEEN))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
