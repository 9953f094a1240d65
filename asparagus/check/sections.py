"""The open sections against the signatures of what they name: networks, data, losses, callbacks, loggers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

from asparagus.check import data, optimizer
from asparagus.check.signature import is_a
from asparagus.check.target import PLACEHOLDER, call, nameless, takes, target
from asparagus.errors import one_of
from asparagus.optim import OPTIMIZERS, REGISTERED_OPTIMIZERS, REGISTERED_SCHEDULERS, SCHEDULES, STEPPING
from asparagus.spec import Spec
from asparagus.stages import Stage
from asparagus.targets import SPECIAL

SIZES = (
    "spatial_dims",
    "in_channels",
    "n_input_channels",
    "out_channels",
    "num_classes",
    "n_classes",
    "img_size",
    "image_size",
    "in_shape",
    "in_features",
)
GIVEN: dict[str, frozenset[str]] = {
    **data.GIVEN,
    "model": frozenset(SIZES),
    "module": frozenset({"net", "optim", "n_classes", "patch_size", "class_names", "loss", "seed"}),
    "optim": frozenset({"params"}),
    "sched": frozenset({"optimizer", "max_steps"}),
    "logger": frozenset({"save_dir"}),
    "script": frozenset({"trainer", "module", "datamodule", "ckpt_path"}),
}
"""Arguments that the launcher fills in, from the data set, the ranks and the run."""
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
SCHEDULE_KEYS = frozenset({"name", "min_lr", "warmup_steps", "warmup_ratio", "max_steps"})
NEEDS = {"WandbLogger": "wandb", "CometLogger": "comet_ml", "NeptuneLogger": "neptune"}
"""Loggers of Lightning's that need a package which Lightning does without."""


def sections(spec: Spec, stage: Stage | None) -> Iterator[str]:
    """Yield what is wrong with the open sections; the Trainer's arguments have a module of their own."""
    if stage is not None:
        yield from _model(spec, stage)
    yield from data.data_module(spec.data)
    if spec.optim or _trains_by_optim(spec):
        yield from _optim(spec.optim)
        yield from optimizer.numbers(spec)
    if spec.loss and stage is not None and (stage.loss or "_target_" in spec.loss):
        yield from target("loss", {"_target_": stage.loss, **spec.loss}, frozenset())
    for name in ("callbacks", "plugins", "logger"):
        for key, section in getattr(spec, name).items():
            yield from _entry(f"{name}.{key}", section, GIVEN.get(name, frozenset()))
    for key, section in spec.logger.items():
        yield from _logger(f"logger.{key}", section)
    yield from _kinds(spec)
    if spec.script:
        yield from target("script", spec.script, GIVEN["script"])


def _kinds(spec: Spec) -> Iterator[str]:
    """Check that what is described is an object of the kind that its place in the config needs."""
    places = [("data", spec.data, "LightningDataModule"), ("model.module", spec.model.get("module"), "LightningModule")]
    places += [(f"model.{key}", value, "Module") for key, value in spec.model.items() if key.endswith("net")]
    for name, kind in (("callbacks", "Callback"), ("plugins", "Callback"), ("logger", "Logger")):
        places += [(f"{name}.{key}", value, kind) for key, value in getattr(spec, name).items()]
    for where, section, kind in places:
        path = section.get("_target_") if isinstance(section, dict) else None
        if isinstance(path, str) and is_a(path, kind) is False:
            yield f"{where}._target_: {path} is no {kind}, and one is needed there."
        elif isinstance(section, dict) and path and section.get("_partial_") is True:
            yield f"{where}._partial_: would make a function, and a {kind} is needed there. Leave it out."


def _entry(where: str, section: Any, given: frozenset[str]) -> Iterator[str]:
    if isinstance(section, dict):
        yield from target(where, section, given)
    elif section is not None:
        yield f"{where}: {section!r} given, but it is a section: a _target_ and its arguments."


def _logger(where: str, section: Any) -> Iterator[str]:
    path = str(section.get("_target_")) if isinstance(section, dict) else ""
    package = NEEDS.get(path.rpartition(".")[2]) if "lightning" in path.partition(".")[0] else None
    if package and importlib.util.find_spec(package) is None:
        yield f"{where}: {path} needs {package}, which is not installed here. pip install {package}, or ~{where}."


def _model(spec: Spec, stage: Stage) -> Iterator[str]:
    module = spec.model.get("module") or {}
    own = module.get("_target_") if isinstance(module, dict) else None
    if not stage.module and not own:
        yield (
            f"model.module._target_: the stage {stage.name} trains a LightningModule of your own, and none is named. "
            "Give its dotted path, or take a stage that brings one: pretrain, train_seg, train_cls."
        )
    yield from _other_networks(spec, stage)
    if own is None or takes(own, "net"):
        yield from _network(spec, stage, needed=own is None and bool(stage.module))
    if not isinstance(module, dict):
        yield f"model.module: {module!r} given, but it is a section: a _target_ and its arguments."
    elif module and (own or stage.module):
        yield from target("model.module", {"_target_": stage.module, **module}, GIVEN["module"])


def _other_networks(spec: Spec, stage: Stage) -> Iterator[str]:
    """Check what `model` holds besides: networks of other stages and of plugins, and how the network is compiled."""
    for key, value in spec.model.items():
        if key.endswith("_net") and key != stage.network and isinstance(value, dict):
            yield from target(f"model.{key}", value, GIVEN["model"])
        elif key.endswith("_net") and key != stage.network and value is not None:
            yield f"model.{key}: {value!r} given, but it is a section: a _target_ and its arguments."
        elif key.endswith("_train_n_last_params") and (not isinstance(value, int) or isinstance(value, bool)):
            yield f"model.{key}: {value!r} is no number of tensors."
    if (mode := spec.model.get("compile_mode")) is not None and mode not in COMPILE_MODES:
        yield one_of("model.compile_mode", mode, COMPILE_MODES)


def _network(spec: Spec, stage: Stage, *, needed: bool) -> Iterator[str]:
    patch, dimensions = spec.data.get("patch_size"), spec.model.get("dimensions")
    if isinstance(patch, list) and dimensions == "3D" and len(patch) != 3:  # noqa: PLR2004
        yield f"data.patch_size: {patch} has to be three numbers of voxels for model.dimensions=3D."
    if isinstance(patch, list) and dimensions == "2D" and len(patch) < 2:  # noqa: PLR2004 - the first two count
        yield f"data.patch_size: {patch} has to be two numbers of pixels for model.dimensions=2D."
    if dimensions not in ("2D", "3D") and (needed or dimensions is not None):
        yield f"model.dimensions: {dimensions!r} is not known. Known: 2D, 3D."
    name = "net" if "net" in spec.model else stage.network
    network = spec.model.get(name)
    if isinstance(network, dict):
        yield from target(f"model.{name}", network, GIVEN["model"])
    elif needed:
        has = sorted(key for key in spec.model if key.endswith("_net")) or ["none"]
        yield f"model.{name}: {spec.stage} needs a network there, with its _target_. This model has: {', '.join(has)}."


def _trains_by_optim(spec: Spec) -> bool:
    """Tell whether the section `optim` is needed: a module of one's own may configure its own optimizers."""
    module = spec.model.get("module")
    own = module.get("_target_") if isinstance(module, dict) else None
    return own is None or takes(own, "optim") is True


def _optim(optim: dict[str, Any]) -> Iterator[str]:
    name, path = optim.get("name"), optim.get("_target_")
    if path is None and name is None:
        yield from nameless("optim", optim, [*OPTIMIZERS, *REGISTERED_OPTIMIZERS])
    elif path is None and (not isinstance(name, str) or name.lower() not in OPTIMIZERS):
        yield one_of("optim.name", name, [*OPTIMIZERS, *REGISTERED_OPTIMIZERS])
    else:
        path = str(path or OPTIMIZERS[str(name).lower()])
        arguments = {key: value for key, value in optim.items() if key not in ("name", "sched", *SPECIAL)}
        yield from call("optim", path, arguments, GIVEN["optim"])
    lr = optim.get("lr")
    if lr is None:
        yield "optim.lr: is missing. Every optimizer needs it, e.g. optim.lr=1e-3."
    elif isinstance(lr, bool) or not isinstance(lr, (int, float)) or lr <= 0:
        yield f"optim.lr: {lr!r} is no positive number."
    if optim.get("sched"):
        yield from _schedule(optim["sched"])


def _schedule(sched: Any) -> Iterator[str]:
    if not isinstance(sched, dict):
        yield f"optim.sched: {sched!r} given, but it is a section, e.g. {{name: cosine, warmup_ratio: 0.05}}."
        return
    if "_target_" in sched:
        if sched.get("interval") not in (None, "step", "epoch"):
            yield one_of("optim.sched.interval", sched["interval"], ("step", "epoch"))
        arguments = {key: value for key, value in sched.items() if key not in ("name", *STEPPING)}
        yield from target("optim.sched", arguments, GIVEN["sched"])
        return
    if not isinstance(name := sched.get("name"), str) or name not in SCHEDULES:
        yield one_of("optim.sched.name", name, [*SCHEDULES, *REGISTERED_SCHEDULERS])
    for key in sched.keys() - SCHEDULE_KEYS:
        yield one_of(f"optim.sched.{key}", key, SCHEDULE_KEYS)
    if sched.get("warmup_steps") is not None and sched.get("warmup_ratio") is not None:
        yield "optim.sched: warmup_steps and warmup_ratio exclude each other. Give one of them."
    yield from _schedule_numbers(sched)


def _schedule_numbers(sched: dict[str, Any]) -> Iterator[str]:
    least: tuple[tuple[str, float, float], ...] = (
        ("warmup_steps", 0, float("inf")),
        ("warmup_ratio", 0, 1),
        ("min_lr", 0, float("inf")),
        ("max_steps", -1, float("inf")),
    )
    for key, low, high in least:
        value = sched.get(key)
        if value is None or (isinstance(value, str) and PLACEHOLDER in value):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            span = f"from {low:g}" + (f" to {high:g}" if high < float("inf") else "")
            yield f"optim.sched.{key}: {value!r} is no number {span}."
