"""Whether what is watched is logged at all: by the module, in a validation that happens, or by who trains beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from asparagus.spec import Spec
from asparagus.stages.base import StageModule
from asparagus.targets import parameters_of

BEST = "checkpoint.monitor"
LIGHTNINGS = ("pytorch_lightning.", "lightning.")
OURS = "asparagus.callbacks."


class Listener:
    """Hears what a module logs, and in which part of the training."""

    def __init__(self, module: pl.LightningModule) -> None:
        """Listen; the module's `log`, through which all logging goes, is replaced by one that tells."""
        self._validation: set[str] = set()
        self._elsewhere: set[str] = set()
        log = module.log

        def heard(name: str, *args: Any, **kwargs: Any) -> None:
            (self._validation if module.trainer.validating else self._elsewhere).add(name)
            log(name, *args, **kwargs)

        module.log = heard

    def only_in_validation(self, metric: str) -> bool:
        """Tell whether nothing but the validation logged a metric."""
        return _among(metric, self._validation) and not _among(metric, self._elsewhere)


def _among(metric: str, names: Iterable[str]) -> bool:
    """Tell whether a metric is one of those names, or what Lightning makes of one (`loss_epoch`)."""
    return any(metric == name or metric.startswith((f"{name}_", f"{name}/dataloader_idx_")) for name in names)


@dataclass(frozen=True)
class Wait:
    """One schedule that lowers the learning rate when a metric stops getting better."""

    metric: str
    every_step: bool


class Schedules(Callback):
    """Notes which metrics schedules wait for, and what there is after the first step.

    Lightning would stop where one is missing, and name no setting; it may come from callbacks that are not here.
    """

    def __init__(self) -> None:
        self.waits: list[Wait] = []
        self.after_a_step: set[str] = set()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what is waited for, and let it be missing."""
        for config in trainer.lr_scheduler_configs if pl_module.automatic_optimization else ():
            if config.reduce_on_plateau and config.strict:
                self.waits.append(Wait(config.monitor, config.interval == "step" and config.frequency == 1))
                config.strict = False

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Note what is there before any validation."""
        self.after_a_step |= set(trainer.callback_metrics)


@dataclass(frozen=True)
class Logged:
    """What a short training has shown."""

    names: set[str]
    in_validation: Listener
    schedules: Schedules
    silent: str
    """The settings under which no validation ever happens; empty where it may."""
    others: list[str]
    """Callbacks of one's own, by key, which may log more."""

    def judge(self, key: str, metric: str) -> tuple[str, bool]:
        """Say whether a metric is there to be watched by the setting at `key`; and whether that is well."""
        if metric in self.names:
            if not (self.silent and self.in_validation.only_in_validation(metric)):
                return f"{metric} is logged", True
            rest = [name for name in sorted(self.names) if not self.in_validation.only_in_validation(name)]
            advice = f"Change that, or set {key} to one of: {', '.join(rest)}" if rest else "Change that"
            return f"{metric} is logged in validation alone, and there is none: {self.silent}. {advice}", False
        if self.others:
            return f"{metric} is not logged by the module; it has to come from {', '.join(self.others)}", True
        logged = ", ".join(sorted(self.names)) or "nothing"
        return f"{metric} is not logged. Logged: {logged}. Set {key} to one of them", False

    def judge_schedules(self, spec: Spec, module: pl.LightningModule) -> Iterator[tuple[str, str, bool]]:
        """Yield the setting, the verdict and whether it is well, for every schedule that waits for a metric."""
        ours = isinstance(module, StageModule) or "optim" in parameters_of(type(module))
        place = "optim.sched" if ours and spec.optim.get("sched") else f"{type(module).__name__}.configure_optimizers"
        for wait in self.schedules.waits:
            told, ok = self.judge(f"{place}.monitor", wait.metric)
            if ok and wait.every_step and wait.metric in self.names - self.schedules.after_a_step:
                told = f"{wait.metric} is not there yet after the first step, when the schedule asks for it"
                told, ok = f"{told}. Set {place}.interval=epoch", False
            yield f"{place}.monitor", told, ok


def watched(spec: Spec, callbacks: Mapping[str, Callback]) -> Iterator[tuple[str, str]]:
    """Yield the setting and the metric of what makes a checkpoint the best, and of callbacks that watch one."""
    yield from [(BEST, spec.checkpoint.monitor)] if spec.checkpoint.monitor is not None else []
    for key, callback in callbacks.items():
        if isinstance(metric := getattr(callback, "monitor", None), str):
            yield f"{key}.monitor", metric


def logged_by(callbacks: Mapping[str, Callback]) -> tuple[set[str], list[str]]:
    """Return what callbacks of ours log, and the keys of those of which nobody knows: Lightning's log no metrics."""
    known: set[str] = set()
    unknown = []
    for key, callback in callbacks.items():
        home = type(callback).__module__
        if home.startswith(OURS):
            known.update(getattr(sys.modules[home], "METRICS", ()))
        elif not home.startswith(LIGHTNINGS):
            unknown.append(key)
    return known, unknown


def no_validation(trainer: Mapping[str, Any]) -> str:
    """Return the settings of the section `trainer` under which no validation ever happens; nothing where it may."""
    if trainer.get("fast_dev_run"):
        return ""
    limit = trainer.get("limit_val_batches")
    if limit is not None and limit == 0 and not trainer.get("overfit_batches"):  # the latter overrules the former
        return f"trainer.limit_val_batches={limit}"
    every, epochs = trainer.get("check_val_every_n_epoch"), trainer.get("max_epochs")
    if isinstance(every, int) and isinstance(epochs, int) and 0 < epochs < every:
        return f"trainer.check_val_every_n_epoch={every} is more than trainer.max_epochs={epochs}"
    return ""
