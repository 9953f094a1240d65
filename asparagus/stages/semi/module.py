"""The semi-supervised module: a classifier, losses without labels beside it, and a teacher where one of them asks."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from asparagus.errors import ConfigError, one_of
from asparagus.stages.base import StageModule, by_case, constants_left_out
from asparagus.stages.semi import STUDENT, SUPERVISED, TEACHER
from asparagus.stages.semi.batches import image_of, label_of, views_of
from asparagus.stages.semi.branch import Branch, Teacher
from asparagus.stages.semi.heads import LossHead
from asparagus.stages.semi.neighbours import NearestNeighbours
from asparagus.stages.semi.weighting import Weighting
from asparagus.stages.shown import Answers, names_of

WHERE = "model.module"
HEADS = f"{WHERE}.regularization_loss_heads"
BEST = "semi_best_top1"
"""What the best accuracy so far is called in a checkpoint."""

Section = Mapping[str, Any]

log = logging.getLogger("asparagus")


class SemiModule(StageModule):
    """Trains on supervised + sum of scale_factor * scheduler(step) * reduce(loss) over the heads (SEEDS D23).

    It reads `data.train.supervised` and whatever loaders its heads name, and logs what SEEDS D31 lists. The teacher is
    there if a head or `predict_with` names `backbone_ema`; a training that begins, begins with a teacher that is equal
    to its student, whatever weights were taken over.
    """

    def __init__(
        self,
        backbone: nn.Module,
        optim: Section,
        *,
        n_classes: int | None,
        supervised_loss: Section | None = None,
        regularization_loss_heads: Mapping[str, Section] | None = None,
        ema_decay: float = 0.999,
        predict_with: str = STUDENT,
        neighbours: NearestNeighbours | None = None,
    ) -> None:
        """Set up; heads are built in the natural order of their names.

        Args:
            backbone: [B, C, ...] -> [B, out_features], an attribute of it.
            optim: The `optim` section.
            n_classes: Number of classes.
            supervised_loss: `callable`, cross entropy where it is left out, and `reduction`, `scheduler`,
                `scale_factor`.
            regularization_loss_heads: By name: `head`, a `LossHead`, and `reduction`, `scheduler`, `scale_factor`.
            ema_decay: How much of itself the teacher keeps at each step; 1 is a teacher that stays what it began as.
            predict_with: `backbone` or `backbone_ema`: who validates, tests and predicts. Several views of an image are
                answered by the mean of their softmaxes (test-time augmentation).
            neighbours: Whether labels can be read off the features alone, measured at each validation.

        Raises:
            ConfigError: What is given does not fit together.
        """
        classes = _checked_classes(n_classes)
        super().__init__(_checked_backbone(backbone), optim, n_classes=classes)
        self.head = nn.Linear(int(backbone.out_features), classes)  # type: ignore[arg-type]
        given = {"callable": nn.CrossEntropyLoss(), **(supervised_loss or {})}
        self.weighting = Weighting.of(given, f"{WHERE}.supervised_loss", beside=["callable"])
        self.loss = constants_left_out(_checked_loss(given["callable"]))
        heads = {name: _head(name, regularization_loss_heads) for name in natural(regularization_loss_heads or ())}
        self.weightings = {name: weighting for name, (_, weighting) in heads.items()}
        self.predict_with = _checked_branch(f"{WHERE}.predict_with", predict_with)
        named = {predict_with, *(branch for head, _ in heads.values() for branch in head.input_backbones)}
        self.teacher = Teacher(self.student, ema_decay) if TEACHER in named else None
        for head, _ in heads.values():
            head.build(self.branches)
        self.regularization = nn.ModuleDict({name: head for name, (head, _) in heads.items()})
        self.accuracy, self.mean_loss = MulticlassAccuracy(max(classes, 2), average="micro"), MeanMetric()
        self.neighbours = neighbours
        self.best_top1 = 0.0
        self._looked_at: set[str] = set()

    @property
    def student(self) -> Branch:
        """The network that is trained."""
        return Branch(self.net, self.head)

    @property
    def branches(self) -> dict[str, Branch]:
        """What heads may name."""
        return {STUDENT: self.student} | ({TEACHER: self.teacher.branch} if self.teacher is not None else {})

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [B, n_classes] of who predicts."""
        return self.branches[self.predict_with].logits(x)

    def on_train_start(self) -> None:
        """Refuse loaders that heads name and nobody gives; let the teacher begin.

        Raises:
            ConfigError: An `input_data` is no loader, or none is `supervised`, or that has more classes.
        """
        wanted = {f"{HEADS}.{name}.head.input_data": head.input_data for name, head in self._heads()}
        _check_loaders(self.trainer.train_dataloader, {"the supervised loss": SUPERVISED, **wanted})
        _check_classes(self.trainer.train_dataloader[SUPERVISED], self.n_classes)
        if self.neighbours is not None:
            _extra(self.trainer, self.neighbours.input_data)
        if self.teacher is not None and self.global_step == 0:
            self.teacher.begin_as(self.student)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Return the sum of the losses of `{loader: batch}`."""
        x, y = image_of(batch[SUPERVISED], SUPERVISED), label_of(batch[SUPERVISED], SUPERVISED)
        self._look_at(y, f"data.train.{SUPERVISED}")
        logits = self.student.logits(x)
        self.check_channels(logits, y)
        branches = self.branches
        loss = self._weigh("train/supervised", self.loss(logits, y), self.weighting)
        for name, head in self._heads():
            loss = loss + self._weigh(f"train/regularization/{name}", head(batch, branches), self.weightings[name])
        rates = {f"optim/lr/param_group/{i}": lr for i, lr in enumerate(self._rates())}
        self._log({"train/top1": (logits.argmax(1) == y).float().mean(), **rates})
        self.log("train/loss", loss, on_step=True, on_epoch=False, prog_bar=True, batch_size=len(x))
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Let the teacher follow each step of the optimizer; batches that accumulate are none."""
        super().optimizer_step(*args, **kwargs)
        if self.teacher is not None:
            self.teacher.follow(self.student)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Count what is right, and the loss, over all loaders together; return the answers."""
        features, logits, labels = self._count(batch)
        if self.neighbours is not None:
            self.neighbours.update(features, labels)
        return {"predicted": logits.argmax(1), "labels": labels}

    def shown(self, batch: Any, outputs: Any, most: int) -> Answers:
        """Return the answers for all cases of a batch."""
        names = names_of(batch if isinstance(batch, Mapping) else {}, len(outputs["labels"]))
        return Answers(names, outputs["predicted"], outputs["labels"])

    def on_validation_epoch_end(self) -> None:
        """Log `val/loss`, `val/top1`, and `val/top1/best`, the best so far; and what the neighbours know."""
        top1 = self._log_counted("val")
        if self.neighbours is not None:
            self._ask(self.neighbours)
        if not self.trainer.sanity_checking:
            self.best_top1 = max(self.best_top1, top1)
        self.log("val/top1/best", self.best_top1, sync_dist=True)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any] | None:
        """Count as in validation, and return prediction and label of each case that has a name."""
        _, logits, labels = self._count(batch)
        pairs = zip(logits.argmax(1).tolist(), labels.tolist(), strict=True)
        found = ({"prediction": prediction, "label": label} for prediction, label in pairs)
        return by_case(batch, found) if isinstance(batch, Mapping) else None

    def on_test_epoch_end(self) -> None:
        """Log `test/loss` and `test/top1`."""
        self._log_counted("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the best accuracy so far; not among the weights, which another training may take over."""
        checkpoint[BEST] = self.best_top1

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the best accuracy so far."""
        self.best_top1 = float(checkpoint.get(BEST, 0.0))

    def _heads(self) -> Iterable[tuple[str, Any]]:
        return self.regularization.items()

    def _rates(self) -> Iterable[float]:
        return (group["lr"] for group in self.trainer.optimizers[0].param_groups)

    def _weigh(self, name: str, loss: Tensor, weighting: Weighting) -> Tensor:
        reduced, weight = weighting.reduce(loss), weighting.weight(self.global_step)
        weighted = weight * reduced
        self._log({f"{name}/loss": reduced, f"{name}/loss_weight": weight, f"{name}/weighted_loss": weighted})
        return weighted

    def _log(self, values: Mapping[str, Any]) -> None:
        self.log_dict(dict(values), on_step=True, on_epoch=False, batch_size=1)  # of steps no mean is taken

    def _look_at(self, labels: Tensor, where: str) -> None:
        """Refuse labels that are no class: the first ones, and all that are on the CPU, where it makes nobody wait."""
        if where not in self._looked_at or not labels.is_cuda:
            _check_labels(labels, self.n_classes, where)
            self._looked_at.add(where)

    def _ask(self, neighbours: NearestNeighbours) -> None:
        """Log `val/knn/top1`."""
        name = neighbours.input_data
        for batch in _extra(self.trainer, name):
            x, y = (part(batch, name).to(self.device) for part in (image_of, label_of))
            neighbours.know(self.branches[self.predict_with].features(x), y)
        self.log("val/knn/top1", neighbours.compute(), sync_dist=True)
        neighbours.reset()

    def _count(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Count a batch; return features (of the first view), logits (the mean answer of all) and labels."""
        part = "test" if self.trainer.testing else "val"
        views, y = views_of(batch, part), label_of(batch, part)
        self._look_at(y, f"data.{part}")
        branch = self.branches[self.predict_with]
        features = [branch.features(view) for view in views]
        logits = _mean_answer([branch.head(feature) for feature in features])
        self.check_channels(logits, y)
        self.mean_loss.update(self.loss(logits, y).mean(), weight=len(y))
        self.accuracy.update(logits, y)
        return features[0], logits, y

    def _log_counted(self, part: str) -> float:
        top1 = self.accuracy.compute()
        self.log_dict({f"{part}/loss": self.mean_loss.compute(), f"{part}/top1": top1}, prog_bar=True, sync_dist=True)
        self.accuracy.reset()
        self.mean_loss.reset()
        return float(top1)


def _mean_answer(logits: list[Tensor]) -> Tensor:
    """Return the logarithm of the mean softmax of several views; of one, its logits."""
    if len(logits) == 1:
        return logits[0]
    return torch.stack([log_softmax(one, dim=1) for one in logits]).logsumexp(0) - math.log(len(logits))


def natural(names: Iterable[str]) -> list[str]:
    """Return names in natural order: numbers in them count as numbers, so that `head2` comes before `head10`."""
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def _checked_classes(n_classes: int | None) -> int:
    if type(n_classes) is not int or n_classes < 1:
        raise ConfigError(
            f"{WHERE}.n_classes: {n_classes!r} is no number of classes, and the task does not say it. Set it."
        )
    return n_classes


def _checked_backbone(backbone: Any) -> nn.Module:
    if not isinstance(backbone, nn.Module):
        raise ConfigError(f"{WHERE}.backbone: {backbone!r} is no network. Give a section with its `_target_`.")
    if not isinstance(getattr(backbone, "out_features", None), int):
        raise ConfigError(
            f"{WHERE}.backbone: {type(backbone).__name__} does not say its out_features, the features per image. Give "
            "it such an attribute, or take its last layer off with asparagus.stages.semi.backbones.without_head."
        )
    return backbone


def _checked_loss(loss: Any) -> Any:
    if not callable(loss):
        example = "torch.nn.CrossEntropyLoss"
        raise ConfigError(f"{WHERE}.supervised_loss.callable: {loss!r} is no loss. Give a `_target_`, e.g. {example}.")
    return loss


def _checked_branch(key: str, name: str) -> str:
    if name not in (STUDENT, TEACHER):
        raise ConfigError(one_of(key, name, (STUDENT, TEACHER)))
    return name


def _head(name: str, sections: Mapping[str, Section] | None) -> tuple[LossHead, Weighting]:
    """Check the section of a head."""
    key, section = f"{HEADS}.{name}", (sections or {})[name]
    if "." in name or hasattr(nn.ModuleDict, name):
        raise ConfigError(f"{key}: {name!r} cannot be the name of a head: torch wants it. Take another one.")
    head = section.get("head") if isinstance(section, Mapping) else None
    if not isinstance(head, LossHead):
        heads = [known.__name__ for known in _all_heads(LossHead)]
        raise ConfigError(
            f"{key}.head: {head!r} is no loss head. Give a section with its `_target_` in asparagus.stages.semi.heads: "
            f"{', '.join(sorted(heads))}; or a LossHead of your own."
        )
    for branch in head.input_backbones:
        _checked_branch(f"{key}.head: the backbone", branch)
    return head, Weighting.of(section, key, beside=["head"])


def _all_heads(kind: type[LossHead]) -> Iterable[type[LossHead]]:
    for below in kind.__subclasses__():
        yield below
        yield from _all_heads(below)


def _extra(trainer: Any, name: str) -> Iterable[Any]:
    """Return a loader of `data.extra`."""
    loaders = trainer.datamodule.extra_dataloaders() if hasattr(trainer.datamodule, "extra_dataloaders") else {}
    if name not in loaders:
        raise ConfigError(one_of(f"{WHERE}.neighbours.input_data", name, loaders, see="Name a loader of data.extra."))
    found: Iterable[Any] = loaders[name]
    return found


def _check_labels(labels: Tensor, n_classes: int, where: str) -> None:
    """Refuse labels that are no class; what is no whole number is the loss's."""
    if labels.is_floating_point() or not labels.numel():
        return
    lowest, highest = (int(label) for label in labels.aminmax())
    if lowest < 0 or highest >= n_classes:
        raise ConfigError(
            f"{WHERE}.n_classes: {n_classes} are the classes 0 to {n_classes - 1}, and {where} has the label "
            f"{lowest if lowest < 0 else highest}. Set it to the number of classes, or mend the labels."
        )


def _check_classes(loader: Any, n_classes: int) -> None:
    """Compare with the names of the classes, where a dataset has them, as folders of images do."""
    dataset = getattr(loader, "dataset", None)
    names = getattr(next(iter(getattr(dataset, "datasets", [dataset]))), "classes", None)
    if not isinstance(names, list | tuple) or len(names) == n_classes:
        return
    told = f"{WHERE}.n_classes: {n_classes}, and data.train.{SUPERVISED} has {len(names)} classes: {', '.join(names)}"
    if len(names) > n_classes:
        raise ConfigError(f"{told}. Set it to {len(names)}.")
    log.warning("%s; the other answers are never right", told)


def _check_loaders(loaders: Any, wanted: Mapping[str, str]) -> None:
    """Refuse a training whose loaders are not those that are read."""
    if not isinstance(loaders, Mapping):
        raise ConfigError(
            f"data.train: is one loader, and loaders by name are needed: {', '.join(dict.fromkeys(wanted.values()))}. "
            "Put it under `supervised`, and give data=loaders."
        )
    problems = [one_of(key, name, loaders, see="Name a loader of data.train.") for key, name in wanted.items()]
    missing = [problem for problem, name in zip(problems, wanted.values(), strict=True) if name not in loaders]
    if missing:
        raise ConfigError(*missing)
