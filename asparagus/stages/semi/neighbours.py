"""Whether labels can be read off the features alone: a vote of the nearest neighbours (SEEDS D.2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from asparagus.errors import ConfigError

QUERIES = 1024
"""How many images are compared with all others at once; each pair takes 4 bytes."""


class NearestNeighbours(Metric):
    """The share of images whose label is what their k nearest neighbours vote for (Wu et al. 2018, section 3.4).

    A neighbour's vote counts exp(cos / t), with the cosine of the two feature vectors. Neighbours are the images of a
    loader of `data.extra`, labels and all; features of all ranks are gathered.
    """

    full_state_update = False

    def __init__(self, input_data: str, k: int = 200, temperature: float = 0.07) -> None:
        """Set up.

        Args:
            input_data: The loader of `data.extra` whose images are the neighbours.
            k: How many vote; all of them where there are fewer.
            temperature: t: how much more the nearest ones count.

        Raises:
            ConfigError: A number that is not above 0.
        """
        super().__init__()
        for name, value in (("k", k), ("temperature", temperature)):
            if not value > 0:
                raise ConfigError(f"model.module.neighbours.{name}: {value!r} is not above 0. Common: 200 and 0.07.")
        self.input_data, self.k, self.temperature = input_data, k, temperature
        for state in ("known", "known_labels", "asked", "asked_labels"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def know(self, features: Tensor, labels: Tensor) -> None:
        """Add neighbours: features [B, F], labels [B]."""
        self.known.append(normalize(features.detach()))
        self.known_labels.append(labels)
        self._computed = None

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Ask about images: features [B, F], labels [B]."""
        self.asked.append(normalize(features.detach()))
        self.asked_labels.append(labels)

    def compute(self) -> Tensor:
        """Return the share, from 0 to 1, of those that were asked about."""
        known, labels = dim_zero_cat(self.known), dim_zero_cat(self.known_labels)
        asked, wanted = dim_zero_cat(self.asked), dim_zero_cat(self.asked_labels)
        votes = torch.cat([self.votes(part, known, labels) for part in asked.split(QUERIES)])
        right: Tensor = votes.argmax(1) == wanted
        return right.float().mean()

    def votes(self, asked: Tensor, known: Tensor, labels: Tensor) -> Tensor:
        """Return the votes for each class [B, K] of features [B, F] by neighbours [N, F] with labels [N]."""
        near, who = (asked @ known.T).topk(min(self.k, len(known)), dim=1)
        votes: Tensor = near.new_zeros(len(asked), int(labels.max()) + 1)
        return votes.scatter_add(1, labels[who], (near / self.temperature).exp())
