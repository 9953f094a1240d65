"""Modules and data modules that inherit from ours: whether they have what they have to write, and their specs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from asparagus.check.bases import written_below
from asparagus.check.optimizer import GIVEN, SCHEDULE_GIVEN, groups, interval, learning_rate
from asparagus.check.target import call, nested
from asparagus.data import OF_SUBCLASSES
from asparagus.errors import one_of
from asparagus.optim import OPTIMIZERS, STEPPING
from asparagus.spec import Spec

MODULE = "asparagus.stages.own.BaseModule"
DATA_MODULE = "asparagus.data.own.BaseDataModule"
LOADER = "torch.utils.data.DataLoader"
STEPS = {"fit": "training_step", "validate": "validation_step", "test": "test_step"}
"""What a module needs for each `run.mode`."""
CLASSES = [path.rpartition(".")[2] for path in OPTIMIZERS.values() if path.startswith("torch.optim.")]
OF_OPTIMIZER = ("id", "params", "filter_requires_grad")
OF_SCHEDULER = ("id", *STEPPING)
"""Keys of a spec that the class does not take."""
FACTORIES = ("transform_factory", "augmentation_factory")


def module(spec: Spec) -> Iterator[str]:
    """Yield what is wrong with a module that inherits from `BaseModule`, and with its specs."""
    where, section = "model.module", spec.model.get("module")
    written = written_below(spec.own_module, MODULE) if spec.own_module else None
    if written is None or not isinstance(section, dict):
        return
    step = STEPS.get(spec.run.mode)
    for name in ("initialize_model", *([step] if step and not spec.script else [])):
        if name not in written:
            yield f"{where}._target_: {spec.own_module} has no {name}. Write it there: its base leaves it to you."
    if "configure_optimizers" not in written and spec.run.mode == "fit":
        yield from _optimizer(f"{where}.optimizer_spec", section.get("optimizer_spec"))
        yield from _scheduler(f"{where}.scheduler_spec", section.get("scheduler_spec"))


def data_module(data: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a data module that inherits from `BaseDataModule`, and with its specs."""
    path = data.get("_target_")
    written = written_below(path, DATA_MODULE) if isinstance(path, str) else None
    if written is None:
        return
    for name, told in OF_SUBCLASSES.items():
        if name not in written:
            yield f"data._target_: {path} has no {name}. {told}"
    for key in ("dataloader_spec", "val_dataloader_spec_override"):
        if isinstance(section := data.get(key), dict):
            yield from call(f"data.{key}", LOADER, section, frozenset({"dataset"}), whole=False)
    for key in FACTORIES:
        yield from nested(f"data.{key}", data.get(key))


def _optimizer(where: str, given: Any) -> Iterator[str]:
    if not given:
        advice = f"Give {where}={{id: Adam, lr: 1e-3}}, or write configure_optimizers."
        yield f"{where}: Module has no optimizer_spec! {advice}"
        return
    spec = {"id": given} if isinstance(given, str) else given
    if not _has_id(spec):
        yield f"{where}.id: is missing. Give the name of a class in torch.optim: {{id: Adam, lr: 1e-3}}."
        return
    path = f"torch.optim.{spec['id']}"
    if spec["id"].islower():  # torch has modules of these names: `adam`
        yield one_of(f"{where}.id", spec["id"], CLASSES)
        return
    arguments = {key: value for key, value in spec.items() if key not in OF_OPTIMIZER}
    yield from call(where, path, arguments, GIVEN, named_by="id")
    yield from groups(where, spec.get("params"), path)
    if "lr" in spec:
        yield from learning_rate(where, spec["lr"])


def _scheduler(where: str, given: Any) -> Iterator[str]:
    if not given:
        return
    spec = {"id": given} if isinstance(given, str) else given
    if not _has_id(spec):
        yield f"{where}.id: is missing. Give the name of a class in torch.optim.lr_scheduler: {{id: StepLR, ...}}."
        return
    arguments = {key: value for key, value in spec.items() if key not in OF_SCHEDULER}
    yield from call(where, f"torch.optim.lr_scheduler.{spec['id']}", arguments, SCHEDULE_GIVEN, named_by="id")
    yield from interval(where, spec)


def _has_id(spec: Any) -> bool:
    return isinstance(spec, dict) and isinstance(spec.get("id"), str)
