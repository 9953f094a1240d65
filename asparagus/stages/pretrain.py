"""Pretraining: blocks of a volume are hidden and the network fills them in (SEEDS A27)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from asparagus.errors import ConfigError
from asparagus.stages.base import StageModule
from asparagus.stages.shown import Restored, middle, names_of

# Keeps the streams of training and validation masks apart.
TRAIN, VAL = 0, 1


class PretrainModule(StageModule):
    """Masked reconstruction; the masks of validation are the same in every epoch.

    A mask is a function of the seed and of the case's `draw` (epoch, index, turn), whatever rank and batch it is in:
    any number of workers learns the same. In batches without it, which data of one's own may give, it follows seed,
    rank and step.
    """

    default_loss: ClassVar[Mapping[str, Any]] = {"_target_": "torch.nn.MSELoss"}

    def __init__(
        self,
        net: nn.Module,
        optim: Mapping[str, Any],
        *,
        n_classes: int,
        patch_size: Sequence[int] | None = None,
        class_names: Sequence[str] | None = None,
        loss: Mapping[str, Any] | None = None,
        seed: int = 0,
        mask_ratio: float = 0.6,
        block_size: int = 4,
        masked_only: bool = True,
    ) -> None:
        """Set up.

        Args:
            net: [B, C, ...] -> [B, C, ...].
            optim: The `optim` section.
            n_classes: Not used here; the same in all stages.
            patch_size: Not used here; the data module cuts patches.
            class_names: Not used here.
            loss: A torch loss with `reduction`; the mean squared error when left out.
            seed: Decides the masks.
            mask_ratio: Share of the blocks that is hidden, between 0 and 1.
            block_size: Edge of a block in voxels.
            masked_only: The loss looks at hidden voxels only; otherwise at all.

        Raises:
            ConfigError: a ratio or a block size that hides nothing or everything.
        """
        super().__init__(net, optim, n_classes=n_classes, patch_size=patch_size, class_names=class_names, seed=seed)
        if not 0 < mask_ratio < 1:
            raise ConfigError(f"model.module.mask_ratio: {mask_ratio} is not between 0 and 1 (both excluded).")
        if block_size < 1:
            raise ConfigError(f"model.module.block_size: {block_size} is not a positive number of voxels.")
        self.mask_ratio, self.block_size, self.masked_only = mask_ratio, block_size, masked_only
        self.loss = self.build_loss(loss, reduction="none")

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of `batch["image"]` under this step's masks."""
        loss = self._reconstruction_loss(batch["image"], self._masks(batch, TRAIN, self.global_step))
        self.log_train(loss, len(batch["image"]))
        return loss

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Log the loss under this batch's masks; return them and what the network makes of it."""
        mask = self._masks(batch, VAL, batch_idx)
        output = self._restored(batch["image"], mask)
        self.log_val_loss(self._loss(output, batch["image"], mask), len(batch["image"]))
        return {"mask": mask, "output": output}

    def shown(self, batch: Mapping[str, Any], outputs: Any, most: int) -> list[Restored]:
        """Return the middle planes of the first cases."""
        count = min(most, len(batch["image"]))
        parts = (part[:count, 0] for part in (batch["image"], outputs["mask"], outputs["output"]))
        planes = zip(names_of(batch, count), *parts, strict=True)
        return [Restored(name, *map(middle, case)) for name, *case in planes]

    def _reconstruction_loss(self, image: Tensor, mask: Tensor) -> Tensor:
        return self._loss(self._restored(image, mask), image, mask)

    def _restored(self, image: Tensor, mask: Tensor) -> Tensor:
        output: Tensor = self(image.masked_fill(mask, 0.0))
        return output

    def _loss(self, output: Tensor, image: Tensor, mask: Tensor) -> Tensor:
        """Return the mean over the cases of the mean over hidden voxels, or over all."""
        voxelwise: Tensor = self.loss(output, image)
        if not self.masked_only:
            return voxelwise.mean()
        hidden = mask.expand_as(voxelwise)
        # Case by case: blocks at the border are smaller, and a case weighs the same wherever the others are.
        return ((voxelwise * hidden).flatten(1).sum(1) / hidden.flatten(1).sum(1)).mean()

    def _masks(self, batch: Mapping[str, Any], part: int, number: int) -> Tensor:
        """Return the masks of a batch; drawn on the CPU, so that every device gets the same."""
        image, shape = batch["image"], batch["image"].shape[2:]
        alone = [(self.global_rank, number, item) for item in range(len(image))]
        draws = [map(int, draw.split()) for draw in batch["draw"]] if "draw" in batch else alone
        generators = [torch.Generator().manual_seed(_mixed(self.seed, part, *draw)) for draw in draws]
        blocks = [block_mask(shape, self.mask_ratio, self.block_size, generator) for generator in generators]
        return _voxels(torch.stack(blocks).to(image.device), self.block_size, shape)


def block_mask(shape: Sequence[int], ratio: float, block: int, generator: torch.Generator) -> Tensor:
    """Return which blocks of a case are hidden, boolean [1, blocks along each axis]: the same number for every draw.

    Args:
        shape: Of the case, in voxels.
        ratio: Share of the blocks to hide; at least one block is hidden and one shown where there are two.
        block: Edge of a block in voxels.
        generator: Where the randomness comes from.
    """
    grid = [-(-size // block) for size in shape]
    blocks = math.prod(grid)
    hidden = min(max(round(ratio * blocks), 1), max(blocks - 1, 1))
    mask = torch.zeros(blocks, dtype=torch.bool)
    mask[torch.randperm(blocks, generator=generator)[:hidden]] = True
    return mask.reshape(1, *grid)


def _voxels(mask: Tensor, block: int, shape: Sequence[int]) -> Tensor:
    """Return a mask of blocks [B, 1, ...] as one of voxels; blocks at the far border are cut off."""
    for axis, size in enumerate(shape, start=2):
        mask = mask.repeat_interleave(block, dim=axis).narrow(axis, 0, size)
    return mask


def _mixed(*numbers: int) -> int:
    """Return one seed for several numbers, so that neighbours give unrelated streams."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return mixed
