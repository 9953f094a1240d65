"""The open sections against the signatures of what they name: networks, data, losses, callbacks, loggers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

from asparagus.callbacks.steps import FREEZES, range_of
from asparagus.check import data, optimizer, own
from asparagus.check.bases import is_a
from asparagus.check.target import NEEDS, takes, target
from asparagus.errors import ConfigError, one_of
from asparagus.spec import Spec
from asparagus.stages import Stage

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
    "optim": optimizer.GIVEN,
    "sched": optimizer.SCHEDULE_GIVEN,
    "logger": frozenset({"save_dir"}),
    "script": frozenset({"trainer", "module", "datamodule", "ckpt_path"}),
}
"""Arguments that the launcher fills in, from the data set, the ranks and the run."""
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def sections(spec: Spec, stage: Stage | None) -> Iterator[str]:
    """Yield what is wrong with the open sections; the Trainer's arguments have a module of their own."""
    if stage is not None:
        yield from _model(spec, stage)
        yield from own.module(spec)
    yield from data.data_module(spec.data)
    yield from own.data_module(spec.data)
    if spec.optim or _trains_by_optim(spec):
        yield from optimizer.optimizer(spec)
    if spec.loss and stage is not None and (stage.loss or "_target_" in spec.loss):
        yield from target("loss", {"_target_": stage.loss, **spec.loss}, frozenset())
    for name in ("callbacks", "plugins", "logger"):
        for key, section in getattr(spec, name).items():
            yield from _entry(f"{name}.{key}", section, GIVEN.get(name, frozenset()))
    yield from _frozen(spec)
    for key, section in spec.logger.items():
        yield from _logger(f"logger.{key}", section)
    yield from _kinds(spec)
    if spec.script:
        yield from target("script", spec.script, GIVEN["script"])


def _frozen(spec: Spec) -> Iterator[str]:
    """Check the ranges of steps in which parts are frozen; whether there are such parts, only torch can tell."""
    for section in spec.callbacks.values():
        if not isinstance(section, dict) or section.get("_target_") != FREEZES:
            continue
        modules = section.get("modules")
        if not isinstance(modules, dict):
            yield f"freeze_updates.modules: {modules!r} given, but it is a section: {{encoder: 200, head: [50, -1]}}."
            continue
        for name, given in modules.items():
            try:
                range_of(name, given)
            except ConfigError as error:
                yield str(error)


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
    module, own = spec.model.get("module") or {}, spec.own_module
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
    return spec.own_module is None or takes(spec.own_module, "optim") is True
