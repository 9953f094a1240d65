"""SESEMI's files as they are written: what its dotted names are here, and its classifier in our sections (SEEDS D)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from asparagus.compose.tree import Tree, pop, put
from asparagus.errors import one_of

PACKAGE = "sesemi."
CLASSIFIER = "sesemi.Classifier"
LOADER = "sesemi.DataLoader"
"""What a loader section may say of itself there, and need not here."""

_HEADS = "asparagus.stages.semi.heads."
_THEIR_HEADS = "sesemi.models.heads.loss."
TARGETS: dict[str, str] = {
    CLASSIFIER: "asparagus.stages.semi.module.SemiModule",
    "sesemi.PolynomialLR": "asparagus.optim.polynomial.PolynomialLR",
    "sesemi.PyTorchImageModels": "asparagus.stages.semi.backbones.PyTorchImageModels",
    "sesemi.collation.JigsawTransformer": "asparagus.stages.semi.collation.JigsawTransformer",
    "sesemi.collation.RotationTransformer": "asparagus.stages.semi.collation.RotationTransformer",
    "sesemi.dataset": "asparagus.data.loaders.dataset",
    "sesemi.models.backbones.timm.PyTorchImageModels": "asparagus.stages.semi.backbones.PyTorchImageModels",
    f"{_THEIR_HEADS}ConsistencyLossHead": f"{_HEADS}ConsistencyHead",
    f"{_THEIR_HEADS}EMAConsistencyLossHead": f"{_HEADS}MeanTeacher",
    f"{_THEIR_HEADS}EntropyMinimizationLossHead": f"{_HEADS}EntropyMinimization",
    f"{_THEIR_HEADS}FixMatchLossHead": f"{_HEADS}FixMatch",
    f"{_THEIR_HEADS}JigsawPredictionLossHead": f"{_HEADS}JigsawPrediction",
    f"{_THEIR_HEADS}RotationPredictionLossHead": f"{_HEADS}RotationPrediction",
    "sesemi.schedulers.lr.PolynomialLR": "asparagus.optim.polynomial.PolynomialLR",
    "sesemi.schedulers.weight.SigmoidRampupScheduler": "asparagus.stages.semi.schedules.SigmoidRampup",
    "sesemi.transforms.center_crop_transforms": "asparagus.data.pictures.CenterCrop",
    "sesemi.transforms.train_transforms": "asparagus.data.pictures.TrainTransform",
}
"""Every `_target_` of SESEMI's that is known, and whose it is here."""

SCHEDULER = "learner.hparams.lr_scheduler"
HPARAMS: dict[str, str] = {
    "learner.hparams.num_classes": "model.module.n_classes",
    "learner.hparams.model.backbone": "model.module.backbone",
    "learner.hparams.model.supervised_loss": "model.module.supervised_loss",
    "learner.hparams.model.regularization_loss_heads": "model.module.regularization_loss_heads",
    "learner.hparams.model.ema.decay": "model.module.ema_decay",
    "learner.hparams.optimizer": "optim",
    f"{SCHEDULER}.scheduler": "optim.sched",
    # Lightning's words, beside the scheduler (SEEDS D24)
    **{f"{SCHEDULER}.{word}": f"optim.sched.{word}" for word in ("interval", "frequency", "monitor", "strict", "name")},
}
"""Key of its classifier -> key here."""
WHOLE = ("learner.hparams.optimizer", f"{SCHEDULER}.scheduler")
"""Those that take the place of what stood there: another optimizer's or schedule's settings were never meant."""


def in_our_words(tree: Tree, problems: list[str]) -> None:
    """Turn SESEMI's classifier into our sections and its dotted names into ours, in place.

    Args:
        tree: The config, plain.
        problems: Is added to.
    """
    learner = tree.get("learner")
    if isinstance(learner, dict) and learner.get("_target_") == CLASSIFIER:
        _classifier(tree, problems)
    problems += _targets(tree)


def _classifier(tree: Tree, problems: list[str]) -> None:
    """Take the classifier apart: what is trained, and how (SEEDS D5, D24)."""
    for theirs, ours in HPARAMS.items():
        if (given := pop(tree, theirs)) is None:
            continue
        if theirs in WHOLE:
            pop(tree, ours)
        put(tree, ours, given)
    rest = tree.pop("learner")
    problems += [
        one_of(f"learner.hparams.{key}", f"learner.hparams.{key}", HPARAMS)
        for key in _leaves(rest.pop("hparams", None))
    ]
    put(tree, "model.module", rest)


def _leaves(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield, dotted, what a section still holds; what is null was never given."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}"


def _targets(node: Any, path: str = "") -> Iterator[str]:
    """Give each `_target_` of SESEMI's its name here, in place; one that is not known is a problem."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from _targets(value, f"{path}.{key}" if path else str(key))
    target = node.get("_target_") if isinstance(node, dict) else None
    if not isinstance(target, str) or not target.startswith(PACKAGE):
        return
    if target == LOADER:
        node.pop("_target_")
    elif target in TARGETS:
        node["_target_"] = TARGETS[target]
    else:
        yield one_of(f"{path}._target_", target, TARGETS, see="Of SESEMI's names, these are known here.")
