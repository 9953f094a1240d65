"""Losses that no library has."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import binary_cross_entropy_with_logits


class AnnotatedBCE(nn.Module):
    """Binary cross entropy of logits, the mean over the annotated voxels (SEEDS E23).

    NaN in a target is a voxel that nobody has looked at: it gives no loss and no gradient. Upstream divides by all
    voxels, so that a sparsely annotated batch counts for less. Of a batch without any annotation, the loss is 0.

    In a training on several ranks the mean is over the annotated voxels of all of them, however they are shared out:
    the losses of the ranks, and their gradients, average to it.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits [B, n_classes, ...] against 0, 1 or NaN of the same shape."""
        known = ~target.isnan()
        voxelwise = binary_cross_entropy_with_logits(logits, target.masked_fill(~known, 0.0), reduction="none")
        return voxelwise.masked_fill(~known, 0.0).sum() / self._number(known.sum())

    def _number(self, known: Tensor) -> Tensor:
        """Return how many voxels to divide by: those here, or in a training the mean number of a rank."""
        together = self.training and torch.is_grad_enabled() and distributed.is_available()
        if not (together and distributed.is_initialized()):
            return known.clamp(min=1)
        ranks, everywhere = distributed.get_world_size(), known.float()
        distributed.all_reduce(everywhere)
        return everywhere.clamp(min=1) / ranks
