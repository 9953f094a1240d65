"""Stages: what a run does. The table says which module trains which network, and where its first weights come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One row of the table."""

    name: str
    kind: str
    """How cases are read: `pretrain`, `seg`, `cls` or `reg`; `own` is up to a module of your own."""
    module: str
    """Dotted path of the LightningModule; empty where it is always one of your own."""
    network: str
    """Which entry of the `model` section is its network."""
    init_from: str
    """Weights of another run: `never`, `optional` or `required`."""
    monitor: str
    """The metric that makes a checkpoint the best."""
    mode: str
    """`min` or `max`: which way the monitor is better."""
    loss: str
    """Dotted path of the loss that the arguments in the `loss` section are for, when it names no other."""
    metrics: tuple[str, ...] = ()
    """What its own module logs; one that ends in `/` stands for all that begin so."""
    many_rates: bool = False
    """Its `optim.lr` is a list of learning rates that are trained at once, or one."""

    @property
    def scratch(self) -> str | None:
        """The stage that does the same without weights of another run; None where there is none."""
        name = self.name.replace("finetune", "train")
        return name if name != self.name and name in STAGES else None


_PRETRAIN = "asparagus.stages.pretrain.PretrainModule"
_SEG = "asparagus.stages.seg.SegModule"
_CLS = "asparagus.stages.cls.ClsModule"
_REG = "asparagus.stages.reg.RegModule"
_PROBE = "asparagus.stages.linear_probe.LinearProbe"
_MSE = "torch.nn.MSELoss"
_DICE_CE = "monai.losses.DiceCELoss"
_CE = "torch.nn.CrossEntropyLoss"
_LOGGED = ("train/loss", "train/loss_epoch", "val/loss", "optim/lr")
_SEG_LOGGED = (*_LOGGED, "val/dice", "val/dice/")
_CLS_LOGGED = (*_LOGGED, "val/accuracy")
_AUROC = "val/auroc"
_PROBED = (*_CLS_LOGGED, _AUROC, f"{_AUROC}/")
_REG_LOGGED = (*_LOGGED, "val/mse", "val/mae")

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("pretrain", "pretrain", _PRETRAIN, "pretrain_net", "optional", "val/loss", "min", _MSE, _LOGGED),
        Stage("train_seg", "seg", _SEG, "seg_net", "never", "val/dice", "max", _DICE_CE, _SEG_LOGGED),
        Stage("train_cls", "cls", _CLS, "cls_net", "never", "val/accuracy", "max", _CE, _CLS_LOGGED),
        Stage("train_reg", "reg", _REG, "cls_net", "never", "val/mse", "min", _MSE, _REG_LOGGED),
        Stage("finetune_seg", "seg", _SEG, "seg_net", "required", "val/dice", "max", _DICE_CE, _SEG_LOGGED),
        Stage("finetune_cls", "cls", _CLS, "cls_net", "required", "val/accuracy", "max", _CE, _CLS_LOGGED),
        Stage("finetune_reg", "reg", _REG, "cls_net", "required", "val/mse", "min", _MSE, _REG_LOGGED),
        Stage("linear_probe", "cls", _PROBE, "cls_net", "required", _AUROC, "max", _CE, _PROBED, many_rates=True),
        Stage("train", "own", "", "net", "optional", "val/loss", "min", ""),
        Stage("finetune", "own", "", "net", "required", "val/loss", "min", ""),
    )
}
"""Every stage by name."""
