"""The open sections against the signatures of what they name: networks, data, losses, callbacks, loggers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from asparagus.check import optimizer
from asparagus.check.annotation import mismatch
from asparagus.check.signature import Signature, TargetMissingError, is_a, signature_of
from asparagus.data import BATCH_SIZES, BUILT_IN, LOADER_KEYS
from asparagus.errors import did_you_mean, one_of
from asparagus.optim import OPTIMIZERS, REGISTERED_OPTIMIZERS, REGISTERED_SCHEDULERS, SCHEDULES, STEPPING
from asparagus.registry import DATASETS
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
    "model": frozenset(SIZES),
    "data": frozenset(["root", "task", "kind", "dimensions", "seed", "rank", "world_size"]),
    "module": frozenset({"net", "optim", "n_classes", "patch_size", "class_names", "loss", "seed"}),
    "optim": frozenset({"params"}),
    "loader": frozenset({"root", "data_source", "sampler"}),
    "dataset": frozenset({"root", "subset", "image_transform"}),
    "sched": frozenset({"optimizer", "max_steps"}),
    "logger": frozenset({"save_dir"}),
    "script": frozenset({"trainer", "module", "datamodule", "ckpt_path"}),
}
"""Arguments that the launcher fills in, from the data set, the ranks and the run."""
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
SCHEDULE_KEYS = frozenset({"name", "min_lr", "warmup_steps", "warmup_ratio", "max_steps"})
LOADERS = "asparagus.data.loaders.LoaderDataModule"
LOADER_TYPES = {
    "batch_size": "int",
    "batch_size_per_gpu": "int",
    "shuffle": "bool",
    "num_workers": "int",
    "pin_memory": "bool",
    "drop_last": "bool",
    "timeout": "float",
    "persistent_workers": "bool",
    "prefetch_factor": "int",
}
HANDS_ON = {
    "TensorBoardLogger": ("torch.utils.tensorboard.writer.SummaryWriter", "tensorboardX.writer.SummaryWriter"),
    "WandbLogger": ("wandb.sdk.wandb_init.init",),
}
"""Loggers that take anything, and what their other arguments are for."""
EXTRAS = {"wandb": "wandb", "tensorboard": "tensorboard", "comet_ml": "comet_ml", "neptune": "neptune"}
NEEDS = {"WandbLogger": "wandb", "CometLogger": "comet_ml", "NeptuneLogger": "neptune"}
"""Loggers of Lightning's that need a package which Lightning does without."""
PLACEHOLDER = "${"


def sections(spec: Spec, stage: Stage | None) -> Iterator[str]:
    """Yield what is wrong with the open sections; the Trainer's arguments have a module of their own."""
    if stage is not None:
        yield from _model(spec, stage)
    yield from _data(spec.data)
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


def takes(target_path: object, name: str) -> bool | None:
    """Tell whether a target has a parameter of this name; None when its source does not tell."""
    try:
        signature = signature_of(target_path) if isinstance(target_path, str) else None
    except TargetMissingError:
        return None
    return None if signature is None else name in signature.parameters


def target(where: str, section: Mapping[str, Any], given: frozenset[str]) -> Iterator[str]:
    """Check a section against the signature of its `_target_`, and the sections inside it."""
    path = section.get("_target_")
    if not isinstance(path, str):
        yield f"{where}._target_: is missing. Give the dotted path of a class, and its arguments beside it."
        yield from (one_of(f"{where}.{key}", key, SPECIAL) for key in section if _looks_special(key, section))
        return
    yield from _special(where, section)
    arguments = {key: value for key, value in section.items() if key not in SPECIAL}
    yield from call(where, path, arguments, given, whole=not (section.get("_partial_") or section.get("_args_")))
    if section.get("_recursive_", True):
        for key, value in arguments.items():
            yield from nested(f"{where}.{key}", value, given if key == "sampler" else frozenset())


def _looks_special(key: str, section: Mapping[str, Any]) -> bool:
    """Tell a misspelt `_target_` from an argument."""
    return key not in SPECIAL and "_target_" not in section and bool(did_you_mean(key, ("_target_",)))


def _nameless(where: str, section: Mapping[str, Any], known: Iterable[str]) -> Iterator[str]:
    yield f"{where}.name: is missing. Known: {', '.join(sorted(known))}."
    near = [key for key in section if key != "name" and did_you_mean(key, ("name",))]
    yield from (f"{where}.{key}: is not known. Did you mean 'name'?" for key in near)


def _special(where: str, section: Mapping[str, Any]) -> Iterator[str]:
    for key, kind, written in (("_partial_", bool, "true"), ("_recursive_", bool, "true"), ("_args_", list, "[...]")):
        if key in section and not isinstance(section[key], kind):
            yield f"{where}.{key}: {section[key]!r} given, but it is a {kind.__name__}: {key}: {written}."


def call(
    where: str,
    path: str,
    arguments: Mapping[str, Any],
    given: frozenset[str],
    *,
    whole: bool = True,
    named_by: str = "_target_",
) -> Iterator[str]:
    """Check arguments against the signature of a dotted path.

    Args:
        where: Where the arguments stand in the config.
        path: What they are for.
        arguments: As given.
        given: What the launcher adds.
        whole: Mandatory ones have to be there too.
        named_by: The key of the section that holds the path.
    """
    try:
        signature = signature_of(path)
    except TargetMissingError as error:
        reason = str(error) if str(error).endswith(("?", ".")) else f"{error}."
        yield f"{where}.{named_by}: {path} cannot be imported: {reason}{_install(path)}"
        return
    if signature is None:
        return
    signature = _with_handed_on(path, signature)
    for key, value in arguments.items():
        yield from _argument(f"{where}.{key}", path, signature, value, given)
    for key in signature.required if whole else ():
        if key not in arguments and key not in given and not signature.takes_anything:
            yield f"{where}.{key}: {path} needs it. Give {where}.{key}=..."


def _with_handed_on(path: str, signature: Signature) -> Signature:
    """Return the signature of a logger together with that of what its other arguments go to."""
    for other in HANDS_ON.get(path.rpartition(".")[2], ()) if signature.takes_anything else ():
        try:
            found = signature_of(other)
        except TargetMissingError:
            continue
        if found is not None:
            parameters = (*signature.parameters, *found.parameters)
            signature = Signature(
                parameters, signature.required, takes_anything=False, annotations=signature.annotations
            )
    return signature


def _argument(full: str, path: str, signature: Signature, value: Any, given: frozenset[str]) -> Iterator[str]:
    key = full.rpartition(".")[2]
    if key.startswith("_") and key.endswith("_"):
        yield one_of(full, key, SPECIAL)
    elif key not in signature.parameters and not signature.takes_anything:
        near = did_you_mean(key, signature.parameters)
        known = ", ".join(sorted(set(signature.parameters) - given)) or "nothing from here"
        yield f"{full}: {path} takes no such argument. {near} It takes: {known}.".replace("  ", " ")
    elif isinstance(value, str) and PLACEHOLDER in value:
        return
    elif kind := signature.mismatch(key, value):
        yield f"{full}: {value!r} given, but {path} takes {kind} there."


def nested(where: str, value: Any, given: frozenset[str] = frozenset()) -> Iterator[str]:
    """Check every section with a `_target_` in a value."""
    if isinstance(value, dict) and "_target_" in value:
        yield from target(where, value, given)
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from nested(f"{where}[{key}]" if isinstance(key, int) else f"{where}.{key}", part)


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


def _data(data: dict[str, Any]) -> Iterator[str]:
    """Check the data module; the loaders of `LoaderDataModule` give their parts a root and their data."""
    for key in ("rank", "world_size"):
        if data.get(key) is not None:
            yield f"data.{key}: is filled in by the launcher, for each worker. Leave it out."
    if data.get("_target_") != LOADERS:
        yield from target("data", data, GIVEN["data"])
        return
    yield from target("data", {"_recursive_": False, **data}, GIVEN["data"])
    for part in ("train", "val", "test"):
        section = data.get(part)
        if section is None:
            continue
        if not isinstance(section, dict):
            yield f"data.{part}: {section!r} given, but it is a loader section, or several by name."
            continue
        loaders = {f"data.{part}": section} if "dataset" in section else _named(f"data.{part}", section)
        for where, loader in loaders.items():
            yield from _loader(where, loader)


def _named(where: str, section: dict[str, Any]) -> dict[str, Any]:
    return {f"{where}.{name}": loader for name, loader in section.items() if loader is not None}


def _loader(where: str, loader: Any) -> Iterator[str]:
    if not isinstance(loader, dict):
        yield f"{where}: {loader!r} given, but it is a loader section: a dataset, and how it is batched."
        return
    for key in loader.keys() - set(LOADER_KEYS):
        yield one_of(f"{where}.{key}", key, LOADER_KEYS)
    yield from _batching(where, loader)
    if all(loader.get(key) is not None for key in BATCH_SIZES):
        yield f"{where}: cannot set both {' and '.join(BATCH_SIZES)}. Give one of them."
    if loader.get("dataset") is None:
        yield f"{where}.dataset: is missing. Give a section with a _target_, or with a name and a root."
    for key, value in loader.items():
        yield from nested(f"{where}.{key}", value, GIVEN["loader"])
    if isinstance(dataset := loader.get("dataset"), dict) and "_target_" not in dataset:
        yield from _dataset(f"{where}.dataset", dataset)


def _batching(where: str, loader: dict[str, Any]) -> Iterator[str]:
    for key, kind in LOADER_TYPES.items():
        value = loader.get(key)
        if value is None or (isinstance(value, str) and PLACEHOLDER in value):
            continue
        if takes_kind := mismatch(kind, value):
            yield f"{where}.{key}: {value!r} given, but a loader takes {takes_kind} there."


def _dataset(where: str, section: dict[str, Any]) -> Iterator[str]:
    """Check `{name: cases, root: ..., ...}` against what the name stands for."""
    name = section.get("name")
    if name is None:
        yield from _nameless(where, section, [*BUILT_IN, *DATASETS])
        return
    if not isinstance(name, str) or (name not in BUILT_IN and "." not in name):
        see = "Others are registered, or given by their _target_."
        yield one_of(f"{where}.name", name, [*BUILT_IN, *DATASETS], see=see)
        return
    arguments = {key: value for key, value in section.items() if key != "name"}
    yield from call(where, BUILT_IN.get(name, name), arguments, GIVEN["dataset"], named_by="name")


def _install(path: str) -> str:
    package = EXTRAS.get(path.partition(".")[0])
    return f" pip install {package}." if package else ""


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
        yield from _nameless("optim", optim, [*OPTIMIZERS, *REGISTERED_OPTIMIZERS])
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
