"""One of two ranks that train with parts frozen, without Ray: `python -m tests.two_ranks_frozen FOLDER`.

Each rank writes what it saw into `rank<N>.json`: of a whole training, and of one that was resumed half way.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import TorchElasticEnvironment
from torch.utils.data import DataLoader, TensorDataset

from asparagus.callbacks.freezing import FreezeUpdates
from asparagus.optim.build import build_optimizer
from asparagus.optim.schedules import lightning_schedules
from asparagus.worker.ray_ranks import RayDDPStrategy

RANGES = {"encoder": [2, 4], "stem": -1}
CASES, BATCH, ACCUMULATE, EPOCHS = 25, 3, 2, 2
"""13 cases on each rank (one twice), 5 batches, 3 steps per epoch."""


class Net(pl.LightningModule):
    """Three parts; notes at each optimizer step what was frozen, what had gradients, and the rate."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.encoder, self.head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)
        self.seen: list[dict[str, object]] = []

    def training_step(self, batch, index):
        return torch.nn.functional.cross_entropy(self.head(self.encoder(self.stem(batch[0])).relu()), batch[1])

    def on_before_optimizer_step(self, optimizer):
        parts = dict(self.named_children())
        self.seen.append(
            {
                "rate": optimizer.param_groups[0]["lr"],
                "without_gradients": [
                    name for name, part in parts.items() if all(weight.grad is None for weight in part.parameters())
                ],
                "weights": {
                    name: [weight.flatten().tolist() for weight in part.parameters()] for name, part in parts.items()
                },
            }
        )

    def configure_optimizers(self):
        optimizer = build_optimizer({"name": "adamw", "lr": 0.1, "weight_decay": 0.1}, self.parameters())
        return [optimizer], lightning_schedules(optimizer, {"name": "linear"}, self.trainer)


def fit(rank: int, epochs: int, folder: Path, start: Path | None = None) -> list[dict[str, object]]:
    """Train on this rank's half, from a checkpoint or from nothing; `epochs` may be fewer than the schedule's."""
    module, generator = Net(), torch.Generator().manual_seed(1)
    x, y = torch.randn(CASES + 1, 4, generator=generator), torch.arange(CASES + 1) % 2
    trainer = pl.Trainer(
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
        accelerator="cpu",
        strategy=RayDDPStrategy(torch.device("cpu"), find_unused_parameters=True),
        plugins=[TorchElasticEnvironment()],
        callbacks=[FreezeUpdates(RANGES)],
        max_epochs=EPOCHS,
        accumulate_grad_batches=ACCUMULATE,
        use_distributed_sampler=False,
        devices=1,
        num_nodes=2,
    )

    def leave() -> None:
        trainer.should_stop = trainer.current_epoch + 1 == epochs

    module.on_train_epoch_end = leave  # type: ignore[method-assign]
    trainer.fit(module, DataLoader(TensorDataset(x[rank::2], y[rank::2]), BATCH), ckpt_path=start, weights_only=True)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return module.seen


def main(folder: Path) -> None:
    """Train as a whole, and in two halves."""
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    seen = {"whole": fit(rank, EPOCHS, folder)}
    first = fit(rank, 1, folder)
    seen["halves"] = first + fit(rank, EPOCHS, folder, folder / "1.ckpt")
    (folder / f"rank{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
