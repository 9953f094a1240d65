"""Linear probe: linear layers on the frozen features of a network, one for each learning rate, trained at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from asparagus.errors import ConfigError
from asparagus.stages.base import StageModule
from asparagus.stages.cls import ClsModule
from asparagus.stages.metrics import MacroAUROC
from asparagus.stages.semi.backbones import without_head

TOKENS = 3
"""Axes of [B, tokens, C], which transformers give."""


class LinearProbe(ClsModule):
    """Asks what a linear layer can read from the features of a network that it does not change.

    One pass of the network feeds a head for each learning rate. Their losses are added, and none has a weight of
    another's: each is trained as if it were alone. The one with the highest `val/auroc` answers, tests, and is saved
    as such; `val/auroc/lr=<lr>` tells of each.
    """

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
        head: str | None = None,
        n_features: int | None = None,
        allow_fresh: bool = False,
    ) -> None:
        """Set up; every head begins with the same weights.

        Args:
            net: [B, C, ...] -> [B, n_classes], whose last linear layer is taken off; or -> features: [B, F], maps
                [B, F, ...] or tokens [B, N, F], which are averaged.
            optim: The `optim` section; its `lr` is a list, with a head for each.
            n_classes: Number of classes.
            patch_size: Not used here; the data module cuts patches.
            class_names: What they are called, one each.
            loss: Arguments for the cross entropy, or a loss of another `_target_`.
            seed: Not used here.
            head: The dotted name of the network's last linear layer; None: the last one, if it has `n_classes` outputs.
            n_features: F, of a network that has no such layer and does not say it in `out_features`.
            allow_fresh: Go on where frozen weights are not among those of `init_from`.

        Raises:
            ConfigError: Learning rates or features that no head can be made of.
        """
        features = _features_of(net, n_classes, head, n_features)
        rates = learning_rates(optim)
        groups = {f".heads.{place}": {"lr": rate} for place, rate in enumerate(rates)}
        super().__init__(
            net.requires_grad_(requires_grad=False).eval(),
            {**optim, "lr": rates[0], "params": groups},
            n_classes=n_classes,
            patch_size=patch_size,
            class_names=class_names,
            loss=loss,
            seed=seed,
        )
        self.rates = rates
        self.heads = nn.ModuleList(nn.Linear(features, n_classes) for _ in rates)
        for other in self.heads[1:]:
            other.load_state_dict(self.heads[0].state_dict())
        self.best: Tensor
        self.register_buffer("best", torch.tensor(0))
        self.of_heads = nn.ModuleList(MetricCollection(dict(self.measures()), compute_groups=False) for _ in rates)
        self.losses = nn.ModuleList(MeanMetric() for _ in rates)
        self.from_parent = () if allow_fresh else ("net.",)

    def measures(self) -> Mapping[str, Metric]:
        """Return the accuracy, and the AUROC of each class against the rest, averaged over the classes."""
        classes = max(self.n_classes, 2)
        return {"accuracy": MulticlassAccuracy(classes, average="micro"), "auroc": MacroAUROC(classes)}

    def train(self, mode: bool = True) -> LinearProbe:  # noqa: FBT001, FBT002 - torch's signature
        """Switch the heads; the network stays as it answers, with the statistics that it was trained to."""
        super().train(mode)
        self.net.eval()
        return self

    def features(self, x: Tensor) -> Tensor:
        """Return [B, F] for [B, C, ...]: maps and tokens are averaged."""
        with torch.no_grad():
            found = StageModule.forward(self, x)
        if found.ndim == TOKENS:
            return found.mean(1)
        return found if found.ndim < TOKENS else found.flatten(2).mean(-1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [B, n_classes] of the best head."""
        logits: Tensor = self.heads[int(self.best)](self.features(x))
        return logits

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the sum of the heads' losses; logged is their mean."""
        features = self.features(batch["image"])
        losses = torch.stack([self.loss(head(features), batch["label"]) for head in self.heads])
        self.log_train(losses.detach().mean(), len(batch["image"]))
        return losses.sum()

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the norm of each head's gradients by itself: one that runs away must not slow the others."""
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            for head in self.heads:
                nn.utils.clip_grad_norm_(head.parameters(), gradient_clip_val)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Measure every head."""
        features, label = self.features(batch["image"]), batch["label"]
        for head, measured, losses in zip(self.heads, self.of_heads, self.losses, strict=True):
            logits = head(features)
            self._into(measured, logits, label)
            losses.update(self.loss(logits, label), len(label))  # type: ignore[operator]

    def on_validation_epoch_end(self) -> None:
        """Choose the best head over all cases of all ranks, and log what it and the others came to."""
        scores = [measured.compute() for measured in self.of_heads]  # type: ignore[operator]
        losses = [loss.compute() for loss in self.losses]  # type: ignore[operator]
        for metric in (*self.of_heads, *self.losses):
            metric.reset()
        best = int(torch.stack([score["auroc"] for score in scores]).nan_to_num(-1.0).argmax())
        self.best.fill_(best)
        self.log("val/loss", losses[best], prog_bar=True)
        for name, value in scores[best].items():
            self.log(f"val/{name}", value, prog_bar=True)
        for rate, score in zip(self.rates, scores, strict=True):
            self.log(f"val/auroc/lr={rate:g}", score["auroc"])

    def _measure(self, output: Tensor, label: Tensor) -> None:
        self._into(self.measured, output, label)

    @staticmethod
    def _into(measured: Any, logits: Tensor, label: Tensor) -> None:
        # Probabilities: torchmetrics takes logits that happen to lie between 0 and 1 for such.
        measured.update(logits.float().softmax(1), label)


def learning_rates(optim: Mapping[str, Any]) -> list[float]:
    """Return the learning rates of a section `optim`, one or a list.

    Raises:
        ConfigError: There is none, or one twice.
    """
    given = optim.get("lr")
    rates = [float(rate) for rate in (given if isinstance(given, (list, tuple)) else [given]) if rate is not None]
    if not rates:
        raise ConfigError("optim.lr: missing. Give the learning rates to try: optim.lr=[1e-4,1e-3,1e-2].")
    if twice := sorted({rate for rate in rates if rates.count(rate) > 1}):
        raise ConfigError(f"optim.lr: {twice[0]:g} is given twice. Give each learning rate once.")
    return rates


def _features_of(net: nn.Module, n_classes: int, head: str | None, n_features: int | None) -> int:
    """Take a classifier's last layer off, and return how many features there are.

    Raises:
        ConfigError: Nobody knows how many.
    """
    linear = [name for name, part in net.named_modules() if isinstance(part, nn.Linear) and name]
    if head is None and linear and net.get_submodule(linear[-1]).out_features == n_classes:
        head = linear[-1]
    if head is not None:
        net = without_head(net, head, key="model.module.head")
    found = n_features if n_features is not None else getattr(net, "out_features", None)
    if not isinstance(found, int):
        raise ConfigError(
            f"model.module.n_features: {type(net).__name__} ends in no linear layer of {n_classes} outputs that could "
            "be taken off, and has no attribute out_features. Say how many features it gives, or which linear layer "
            "is its last: model.module.head=NAME."
        )
    return found
