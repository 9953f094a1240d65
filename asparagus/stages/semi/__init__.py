"""Semi-supervised classification: a supervised loss, and losses that need no labels beside it (SEEDS D22, D23, D.2)."""

from __future__ import annotations

SUPERVISED = "supervised"
"""The loader of `data.train` whose labels count."""
STUDENT = "backbone"
"""What a head names to be given the network that is trained."""
TEACHER = "backbone_ema"
"""What a head names to be given the running mean of the network that is trained."""
