"""Losses that need no labels: each is given the batches by loader and the networks by name, and returns one per image.

B images, K classes; z(x) are the classifier's logits [B, K], p(x) their softmax.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, softmax

from asparagus.errors import ConfigError
from asparagus.stages.semi import STUDENT, TEACHER
from asparagus.stages.semi.batches import image_of, label_of, views_of
from asparagus.stages.semi.branch import Branch
from asparagus.stages.semi.collation import JIGSAW_CLASSES, QUARTERS

Batches = Mapping[str, Any]
Branches = Mapping[str, Branch]
TWO = 2


class LossHead(nn.Module):
    """A loss without labels: what is written for one of your own.

    Its layers are made in `build`, not before: heads are built in the order of their names, whatever the file's order.
    """

    def __init__(self, input_data: str, *input_backbones: str) -> None:
        """Keep what it needs.

        Args:
            input_data: The loader of `data.train` whose batches it reads.
            input_backbones: Which networks it asks: `backbone`, `backbone_ema`.
        """
        super().__init__()
        self.input_data, self.input_backbones = input_data, input_backbones

    def build(self, branches: Branches) -> None:
        """Make layers of its own, if it has any."""

    def forward(self, batches: Batches, branches: Branches) -> Tensor:
        """Return the losses [B], or one number."""
        raise NotImplementedError


class RotationPrediction(LossHead):
    """By how much was it turned? CE(W f(x) + b, k) of features f and quarter turns k (Gidaris et al. 2018).

    Its loader needs `collate_fn: {_target_: asparagus.stages.semi.collation.RotationTransformer}`: [4B, ...], k [4B].
    """

    collate = "RotationTransformer"

    def __init__(self, input_data: str, input_backbone: str = STUDENT, num_pretext_classes: int = QUARTERS) -> None:
        """Set up.

        Args:
            input_data: The loader of `data.train` whose batches it reads.
            input_backbone: Which network's features.
            num_pretext_classes: How many answers there are.
        """
        super().__init__(input_data, input_backbone)
        self.num_pretext_classes = num_pretext_classes
        self._looked = False

    def build(self, branches: Branches) -> None:
        """Make the linear layer."""
        self.head = nn.Linear(branches[self.input_backbones[0]].out_features, self.num_pretext_classes)

    def forward(self, batches: Batches, branches: Branches) -> Tensor:
        """Return the cross entropies."""
        batch = batches[self.input_data]
        labels = label_of(batch, self.input_data)
        self._look_at(labels)
        features = branches[self.input_backbones[0]].features(image_of(batch, self.input_data))
        return cross_entropy(self.head(features), labels, reduction="none")

    def _look_at(self, labels: Tensor) -> None:
        """Refuse labels of something else: once, for it makes a GPU wait."""
        if not self._looked and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_pretext_classes:
            raise ConfigError(
                f"data.train.{self.input_data}: has labels {int(labels.min())} to {int(labels.max())}, and "
                f"{type(self).__name__} has {self.num_pretext_classes} answers. Set data.train.{self.input_data}."
                f"collate_fn._target_=asparagus.stages.semi.collation.{self.collate}."
            )
        self._looked = True


class JigsawPrediction(RotationPrediction):
    """In which order are the tiles? CE(W f(x) + b, k) of six orders k (Noroozi & Favaro 2016).

    Its loader needs `collate_fn: {_target_: asparagus.stages.semi.collation.JigsawTransformer}`: [6B, ...], k [6B].
    """

    collate = "JigsawTransformer"

    def __init__(
        self, input_data: str, input_backbone: str = STUDENT, num_pretext_classes: int = JIGSAW_CLASSES
    ) -> None:
        """Set up as `RotationPrediction`."""
        super().__init__(input_data, input_backbone, num_pretext_classes)


class ConsistencyHead(LossHead):
    """Two views, one answer: sum_k (p_k(x1) - p_k(x2))^2 / K, the Pi model (Laine & Aila 2017).

    One view is looked at twice: dropout then makes the difference. Gradients go both ways.
    """

    def __init__(self, input_data: str, input_backbone: str = STUDENT) -> None:
        """Set up."""
        super().__init__(input_data, input_backbone)

    def forward(self, batches: Batches, branches: Branches) -> Tensor:
        """Return the squared differences."""
        views = views_of(batches[self.input_data], self.input_data)
        branch = branches[self.input_backbones[0]]
        return squared_difference(branch.logits(views[0]), branch.logits(views[-1]))


class MeanTeacher(LossHead):
    """The student agrees with its running mean: sum_k (p_k(x1) - p'_k(x2))^2 / K (Tarvainen & Valpola 2017).

    The teacher p' sees the last view, or the same where there is one; it is given no gradient.
    """

    def __init__(self, input_data: str, input_backbone: str = STUDENT, teacher_backbone: str = TEACHER) -> None:
        """Set up.

        Args:
            input_data: The loader of `data.train` whose batches it reads.
            input_backbone: The student.
            teacher_backbone: The teacher.
        """
        super().__init__(input_data, input_backbone, teacher_backbone)

    def forward(self, batches: Batches, branches: Branches) -> Tensor:
        """Return the squared differences."""
        student, teacher = (branches[name] for name in self.input_backbones)
        views = views_of(batches[self.input_data], self.input_data)
        with torch.no_grad():
            wanted = teacher.logits(views[-1])
        return squared_difference(student.logits(views[0]), wanted)


class FixMatch(LossHead):
    """What is sure of the weak view is right of the strong one (Sohn et al. 2020, equation 4).

    1(max_k p_k(weak) >= t) CE(z(strong), argmax_k p_k(weak)); the mean is over all images, sure or not. The weak view
    is given no gradient.
    """

    def __init__(
        self,
        input_data: str,
        input_backbone: str = STUDENT,
        teacher_backbone: str | None = None,
        threshold: float = 0.5,
    ) -> None:
        """Set up.

        Args:
            input_data: The loader of `data.train` whose batches it reads: a weak and a strong view, in this order.
            input_backbone: Who learns.
            teacher_backbone: Who says what is right; the same where it is left out.
            threshold: t, within 0 to 1: how sure is sure.

        Raises:
            ConfigError: A threshold outside.
        """
        super().__init__(input_data, input_backbone, teacher_backbone or input_backbone)
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold: {threshold!r} of FixMatch is not within 0 to 1, as probabilities are.")
        self.threshold = threshold

    def forward(self, batches: Batches, branches: Branches) -> Tensor:
        """Return the cross entropies; 0 for what is not sure.

        Raises:
            ConfigError: The batches have not two views.
        """
        student, teacher = (branches[name] for name in self.input_backbones)
        views = views_of(batches[self.input_data], self.input_data)
        if len(views) != TWO:
            raise ConfigError(
                f"data.train.{self.input_data}: FixMatch needs a weak and a strong view, and there are {len(views)}. "
                "Let collate_fn be asparagus.stages.semi.collation.Views with two transforms."
            )
        with torch.no_grad():
            sure, wanted = softmax(teacher.logits(views[0]), dim=1).max(dim=1)
        losses = cross_entropy(student.logits(views[1]), wanted, reduction="none")
        return losses * (sure >= self.threshold)


class EntropyMinimization(LossHead):
    """Be sure of something: -sum_k p_k(x) log p_k(x) (Grandvalet & Bengio 2004)."""

    def __init__(self, input_data: str, input_backbone: str = STUDENT) -> None:
        """Set up."""
        super().__init__(input_data, input_backbone)

    def forward(self, batches: Batches, branches: Branches) -> Tensor:
        """Return the entropies, in nats."""
        logits = branches[self.input_backbones[0]].logits(image_of(batches[self.input_data], self.input_data))
        return -(softmax(logits, dim=1) * log_softmax(logits, dim=1)).sum(1)


def squared_difference(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean over classes of the squared difference of two softmaxes: [B, K] x [B, K] -> [B]."""
    return (softmax(one, dim=1) - softmax(other, dim=1)).square().mean(1)
