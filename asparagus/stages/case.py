"""What stages share that answer a case as a whole, with a class or with numbers: loss, steps, measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from asparagus.stages.base import StageModule, by_case
from asparagus.stages.shown import Answers, names_of


class CaseModule(StageModule):
    """Trains on `loss(net(image), label)`; logs the loss and each measure of validation and test.

    A subclass names its loss, and says what is measured, what of an output is wrong, and what it answers.
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
    ) -> None:
        """Set up.

        Args:
            net: [B, C, ...] -> [B, n_classes].
            optim: The `optim` section.
            n_classes: Outputs of the network: classes, or numbers of a case.
            patch_size: Not used here; the data module cuts patches.
            class_names: What they are called, one each.
            loss: Arguments for the default loss, or a loss of another `_target_`.
            seed: Not used here.
        """
        super().__init__(net, optim, n_classes=n_classes, patch_size=patch_size, class_names=class_names, seed=seed)
        self.loss = self.build_loss(loss)
        # They add up over cases of all ranks, so that uneven shares weigh what they should.
        self.measured = MetricCollection(dict(self.measures()), compute_groups=False)

    def measures(self) -> Mapping[str, Metric]:
        """Return what is measured of outputs and labels, by the name that is logged."""
        raise NotImplementedError

    def must_fit(self, output: Tensor, label: Tensor) -> None:
        """Refuse outputs that the loss and the measures would make numbers of without a meaning.

        Raises:
            ConfigError: There are more or fewer than the task needs.
        """
        raise NotImplementedError

    def answers(self, output: Tensor) -> Tensor:
        """Return the answer for each case of a batch: a class each, or its numbers."""
        raise NotImplementedError

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of `image` [B, C, ...] against `label`."""
        _, loss = self._compared(batch)
        self.log_train(loss, len(batch["image"]))
        return loss

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Tensor] | None:
        """Measure, log the loss, and return the answers; nothing where there is no one answer yet."""
        output, loss = self._compared(batch)
        self.log_val_loss(loss, len(batch["image"]))
        self._measure(output, batch["label"])
        return {"predicted": self.answers(output)}

    def shown(self, batch: Mapping[str, Any], outputs: Any, most: int) -> Answers:
        """Return the answers for all cases of a batch."""
        return Answers(names_of(batch, len(batch["label"])), outputs["predicted"].detach(), batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Log the measures over all cases of all ranks."""
        self._log_measures("val")

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any] | None:
        """Measure, log the loss, and return prediction and label of each case."""
        output, loss = self._compared(batch)
        self.log_test_loss(loss, len(batch["image"]))
        self._measure(output, batch["label"])
        pairs = zip(self.answers(output).tolist(), batch["label"].tolist(), strict=True)
        return by_case(batch, ({"prediction": prediction, "label": label} for prediction, label in pairs))

    def on_test_epoch_end(self) -> None:
        """Log the measures over all cases of all ranks."""
        self._log_measures("test")

    def _compared(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return outputs that fit, and their loss."""
        output = self(batch["image"])
        self.must_fit(output, batch["label"])
        return output, self.loss(output, batch["label"])

    def _measure(self, output: Tensor, label: Tensor) -> None:
        self.measured.update(output.contiguous(), label)

    def _log_measures(self, where: str) -> None:
        for name, value in self.measured.compute().items():
            self.log(f"{where}/{name}", value, prog_bar=True, sync_dist=True)
        self.measured.reset()
