"""A backbone with the classifier on top, as loss heads are given them, and the teacher: the student's running mean."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from asparagus.errors import ConfigError


@dataclass(frozen=True)
class Branch:
    """A way from images to logits; whoever has it made owns the weights."""

    backbone: nn.Module
    head: nn.Linear

    @property
    def out_features(self) -> int:
        """Features per image."""
        return self.head.in_features

    def features(self, x: Tensor) -> Tensor:
        """Return [B, out_features] of images [B, C, ...].

        Raises:
            ConfigError: The backbone gives something else.
        """
        found: Tensor = self.backbone(x)
        if found.ndim != 2 or found.shape[1] != self.out_features:  # noqa: PLR2004 - batch and features
            raise ConfigError(
                f"model.module.backbone: gives {list(found.shape)} for {len(x)} images, and its out_features promise "
                f"{[len(x), self.out_features]}. Average over space, or correct its out_features."
            )
        return found

    def logits(self, x: Tensor) -> Tensor:
        """Return [B, classes] of images [B, C, ...]."""
        found: Tensor = self.head(self.features(x))
        return found


class Teacher(nn.Module):
    """The mean of the student over its steps (Tarvainen & Valpola 2017): t <- d t + (1 - d) s; buffers are copied.

    It is never in training mode and has no gradients; it is saved with everything else.
    """

    def __init__(self, student: Branch, decay: float) -> None:
        """Begin as the student.

        Args:
            student: Whom it follows.
            decay: d, within 0 to 1: how much of itself it keeps at each step.

        Raises:
            ConfigError: The decay is outside.
        """
        super().__init__()
        if not isinstance(decay, int | float) or not 0 <= decay <= 1:
            raise ConfigError(f"model.module.ema_decay: {decay!r} is not within 0 to 1. Common: 0.99 to 0.9999.")
        self.decay = decay
        self.backbone, self.head = copy.deepcopy(student.backbone), copy.deepcopy(student.head)
        self.requires_grad_(requires_grad=False)
        self.train()

    @property
    def branch(self) -> Branch:
        """What heads are given."""
        return Branch(self.backbone, self.head)

    def train(self, mode: bool = True) -> Teacher:  # noqa: FBT001, FBT002 - torch's signature
        """Stay in evaluation mode."""
        super().train(mode=False)
        return self

    def begin_as(self, student: Branch) -> None:
        """Take the student's weights."""
        self.backbone.load_state_dict(student.backbone.state_dict())
        self.head.load_state_dict(student.head.state_dict())

    @torch.no_grad()
    def follow(self, student: Branch) -> None:
        """Take one step after the student's; with a decay of 1, none: its buffers stay as well."""
        if self.decay == 1:
            return
        theirs = chain(student.backbone.parameters(), student.head.parameters())
        for mean, weight in zip(self.parameters(), theirs, strict=True):
            mean.lerp_(weight, 1 - self.decay)
        for mine, buffer in zip(self.buffers(), student.backbone.buffers(), strict=True):
            mine.copy_(buffer)
