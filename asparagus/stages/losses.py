"""Losses that no library has."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits


class AnnotatedBCE(nn.Module):
    """Binary cross entropy of logits, the mean over the annotated voxels (SEEDS E23).

    NaN in a target is a voxel that nobody has looked at: it gives no loss and no gradient. Upstream divides by all
    voxels, so that a sparsely annotated batch counts for less. Of a batch without any annotation, the loss is 0.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits [B, n_classes, ...] against 0, 1 or NaN of the same shape."""
        known = ~target.isnan()
        voxelwise = binary_cross_entropy_with_logits(logits, target.masked_fill(~known, 0.0), reduction="none")
        return voxelwise.masked_fill(~known, 0.0).sum() / known.sum().clamp(min=1)
