"""The laptop's door: a spec in, what is needed to plan it out, or every problem in one error."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asparagus.check.signature import TargetMissingError, signature_of
from asparagus.checkpoint.folder import pick
from asparagus.data.layout import Task, read_split, read_task
from asparagus.errors import ConfigError, RequestError, did_you_mean, one_of
from asparagus.optim import OPTIMIZERS, SCHEDULES
from asparagus.record.numbers import find_folder
from asparagus.spec import RAY_STRATEGIES, Parent, Spec
from asparagus.stages import STAGES, Stage

TRAINER = "pytorch_lightning.Trainer"
OURS = {
    "callbacks": "Put it under callbacks.<name> with its _target_.",
    "logger": "MLflow is always on.",
    "enable_checkpointing": "Checkpoints are always written; see the section checkpoint.",
    "enable_progress_bar": "Progress is always shown.",
    "devices": "Use resources.workers and resources.gpus_per_worker.",
    "num_nodes": "Use resources.workers.",
    "default_root_dir": "Everything goes into the run folder.",
    "use_distributed_sampler": "The data module decides.",
    "plugins": "Ranks come from Ray.",
}
"""Trainer arguments that the launcher sets itself, and where the wish behind each one goes."""
PRECISIONS = ("16-mixed", "16-true", "bf16-mixed", "bf16-true", "32-true", "64-true", "16", "bf16", "32", "64")
GIVEN: dict[str, frozenset[str]] = {
    "model": frozenset(
        [
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
        ]
    ),
    "data": frozenset(["root", "task", "kind", "dimensions", "seed", "rank", "world_size"]),
    "module": frozenset({"net", "optim", "n_classes", "patch_size", "class_names", "loss", "seed"}),
    "optim": frozenset({"params"}),
}
"""Arguments that the launcher fills in, from the data set and the ranks."""
ENDLESS = -1
ADDRESS = re.compile(r"local|auto|[\w.\-]+:\d+|\[[0-9a-fA-F:]+\]:\d+")
SCHEDULE_KEYS = frozenset({"name", "min_lr", "warmup_steps", "warmup_ratio", "max_steps"})


@dataclass(frozen=True)
class Findings:
    """What the check learned on the way that the plan needs."""

    stage: Stage
    task: Task | None
    cases: dict[str, int] | None
    """Cases per part of the split, where the data can be seen from here."""
    parent: Parent | None


def check(spec: Spec) -> Findings:
    """Check all that can be known without a machine, torch or MLflow.

    Raises:
        ConfigError: Every problem, one line each.
    """
    problems: list[str] = []
    stage = STAGES.get(spec.stage)
    problems += [one_of("stage", spec.stage, STAGES)] if stage is None else []
    task, cases = _data(spec, problems)
    parent = _parent(spec, stage, problems)
    problems += _sections(spec, stage)
    problems += _numbers(spec)
    problems += _writable("ASPARAGUS_MODELS", spec.paths.models)
    problems += _writable("ASPARAGUS_RESULTS", spec.paths.results)
    if problems or stage is None:
        raise ConfigError("\n".join(problems))
    return Findings(stage, task, cases, parent)


def _data(spec: Spec, problems: list[str]) -> tuple[Task | None, dict[str, int] | None]:
    """Look at the task and its split, where the data folder can be seen from here."""
    if spec.site.address != "local" and not Path(spec.paths.data).is_dir():
        return None, None
    try:
        task = read_task(spec.paths.data, spec.task)
    except RequestError as error:
        problems.append(str(error))
        return None, None
    split, fold = spec.data.get("split"), spec.data.get("fold", 0)
    if split is None:
        return task, None
    try:
        parts = read_split(task, split, fold)
    except RequestError as error:
        problems.append(str(error))
        return task, None
    return task, {name: len(files) for name, files in parts.items()}


def _parent(spec: Spec, stage: Stage | None, problems: list[str]) -> Parent | None:
    """Resolve `init_from`; the run folder answers, so neither MLflow nor torch is needed."""
    needed = stage.init_from if stage else "optional"
    if spec.init_from is None:
        if needed == "required":
            problems.append(
                f"init_from: {spec.stage} starts from a pretrained run, and none was given. Give run:<id>/last, "
                f"run:<id>/best or file:/path/to/weights (asp runs lists the ids), or train from scratch with "
                f"{spec.stage.replace('finetune', 'train')}."
            )
        return None
    if needed == "never":
        problems.append(f"init_from: {spec.init_from!r} given, but {spec.stage} starts from nothing. Leave it out.")
        return None
    try:
        return resolve_parent(spec.init_from, Path(spec.paths.models))
    except RequestError as error:
        problems.append(f"init_from: {error}")
        return None


def resolve_parent(init_from: str, models: Path) -> Parent:
    """Return what `run:<id>/<checkpoint>` or `file:<path>` points to.

    Raises:
        RequestError: It is neither, or what it points to is not there.
    """
    kind, _, rest = init_from.partition(":")
    if kind == "file" and rest:
        path = Path(rest).expanduser().absolute()
        if not path.exists():
            raise ConfigError(f"{path} does not exist. Give the path of a checkpoint folder or weights file.")
        return Parent(checkpoint=str(path))
    number, _, which = rest.partition("/")
    if kind != "run" or not number.isdigit():
        raise ConfigError(
            f"{init_from!r} is neither run:<id>/last, run:<id>/best, run:<id>/<checkpoint> nor file:/path/to/weights."
        )
    folder = find_folder(models, int(number))
    checkpoint, manifest = pick(folder / "checkpoints", which or "last")
    return Parent(str(checkpoint), manifest.digest, int(number), str(folder), manifest.step)


def _sections(spec: Spec, stage: Stage | None) -> Iterator[str]:
    yield from _model(spec, stage)
    yield from _target("data", spec.data, GIVEN["data"])
    yield from _trainer(spec)
    yield from _optim(spec.optim)
    if spec.loss and stage is not None:
        yield from _target("loss", {"_target_": stage.loss, **spec.loss}, frozenset())
    for name, callback in spec.callbacks.items():
        if not isinstance(callback, dict):
            yield f"callbacks.{name}: {callback!r} given, but it is a section: a _target_ and its arguments."
        else:
            yield from _target(f"callbacks.{name}", callback, frozenset())


def _model(spec: Spec, stage: Stage | None) -> Iterator[str]:
    patch = spec.data.get("patch_size")
    if isinstance(patch, list) and spec.model.get("dimensions") == "3D" and len(patch) != 3:  # noqa: PLR2004
        yield f"data.patch_size: {patch} has to be three numbers of voxels for model.dimensions=3D."
    if (dimensions := spec.model.get("dimensions")) not in ("2D", "3D"):
        yield f"model.dimensions: {dimensions!r} is not known. Known: 2D, 3D."
    if stage is None:
        return
    name = "net" if "net" in spec.model else stage.network
    network = spec.model.get(name)
    if not isinstance(network, dict):
        has = sorted(key for key in spec.model if key.endswith("_net")) or ["none"]
        yield f"model.{name}: {spec.stage} needs a network there, with its _target_. This model has: {', '.join(has)}."
        return
    yield from _target(f"model.{name}", network, GIVEN["model"])
    if options := spec.model.get("module"):
        yield from _target("model.module", {"_target_": stage.module, **options}, GIVEN["module"])


def _target(where: str, section: dict[str, Any], given: frozenset[str]) -> Iterator[str]:
    """Check a section against the signature of its `_target_`, and the sections inside it."""
    target = section.get("_target_")
    if not isinstance(target, str):
        yield f"{where}._target_: is missing. Give the dotted path of a class, and its arguments beside it."
        return
    arguments = {key: value for key, value in section.items() if not key.startswith("_")}
    yield from _call(where, target, arguments, given)
    for key, value in arguments.items():
        if isinstance(value, dict) and "_target_" in value:
            yield from _target(f"{where}.{key}", value, frozenset())


def _call(where: str, target: str, arguments: dict[str, Any], given: frozenset[str]) -> Iterator[str]:
    try:
        signature = signature_of(target)
    except TargetMissingError as error:
        yield f"{where}: {target} cannot be imported: {error}."
        return
    if signature is None:
        return
    for key, value in arguments.items():
        if key not in signature.parameters and not signature.takes_anything:
            near = did_you_mean(key, signature.parameters)
            known = ", ".join(sorted(set(signature.parameters) - given))
            yield f"{where}.{key}: {target} takes no such argument. {near} It takes: {known}.".replace("  ", " ")
        elif kind := signature.mismatch(key, value):
            yield f"{where}.{key}: {value!r} given, but {target} takes {kind} there."
    for key in signature.required:
        if key not in arguments and key not in given and not signature.takes_anything:
            yield f"{where}.{key}: {target} needs it. Give {where}.{key}=..."


def _trainer(spec: Spec) -> Iterator[str]:
    trainer = spec.trainer
    for key in OURS.keys() & trainer.keys():
        yield f"trainer.{key}: is set by the launcher. {OURS[key]}"
    yield from _call("trainer", TRAINER, {key: value for key, value in trainer.items() if key not in OURS}, frozenset())
    if trainer.get("strategy") == "dp":
        yield "trainer.strategy: 'dp' is gone from Lightning. Use ddp (with resources.workers=2 or more)."
    elif spec.resources.workers and trainer.get("strategy") not in (None, *RAY_STRATEGIES):
        yield one_of("trainer.strategy on Ray workers", trainer["strategy"], RAY_STRATEGIES)
    if spec.resources.workers and "accelerator" in trainer:
        yield "trainer.accelerator: is Ray's to give to its workers. Use resources.gpus_per_worker."
    precision = trainer.get("precision")
    if precision is not None and str(precision) not in PRECISIONS:
        yield one_of("trainer.precision", precision, PRECISIONS)
    if (
        trainer.get("max_epochs") in (None, ENDLESS)
        and trainer.get("max_steps") is None
        and trainer.get("max_time") is None
    ):
        yield "trainer.max_epochs: nothing ends this training. Give trainer.max_epochs, max_steps or max_time."


def _optim(optim: dict[str, Any]) -> Iterator[str]:
    name = optim.get("name")
    if name is None:
        yield f"optim.name: is missing. Known: {', '.join(sorted(OPTIMIZERS))}."
    elif not isinstance(name, str) or name not in OPTIMIZERS:
        yield one_of("optim.name", name, OPTIMIZERS)
    else:
        arguments = {key: value for key, value in optim.items() if key not in ("name", "sched")}
        yield from _call("optim", OPTIMIZERS[name], arguments, GIVEN["optim"])
    if optim.get("lr") is None:
        yield "optim.lr: is missing. Every optimizer needs it, e.g. optim.lr=1e-3."
    elif not isinstance(optim["lr"], (int, float)) or optim["lr"] <= 0:
        yield f"optim.lr: {optim['lr']!r} is no positive number."
    if optim.get("sched"):
        yield from _schedule(optim["sched"])


def _schedule(sched: Any) -> Iterator[str]:
    if not isinstance(sched, dict):
        yield f"optim.sched: {sched!r} given, but it is a section, e.g. {{name: cosine, warmup_ratio: 0.05}}."
        return
    if not isinstance(name := sched.get("name"), str) or name not in SCHEDULES:
        yield one_of("optim.sched.name", name, SCHEDULES)
    for key in sched.keys() - SCHEDULE_KEYS:
        yield one_of("optim.sched key", key, SCHEDULE_KEYS)
    if sched.get("warmup_steps") is not None and sched.get("warmup_ratio") is not None:
        yield "optim.sched: warmup_steps and warmup_ratio exclude each other. Give one of them."


def _numbers(spec: Spec) -> Iterator[str]:
    """Check what has to be at least so much: Lightning, Ray and arithmetic would find out late, or never."""
    least: list[tuple[str, Any, float]] = [
        ("resources.workers", spec.resources.workers, 0),
        ("resources.gpus_per_worker", spec.resources.gpus_per_worker, 0),
        ("data.batch_size", spec.data.get("batch_size"), 1),
        ("trainer.accumulate_grad_batches", spec.trainer.get("accumulate_grad_batches"), 1),
        ("trainer.max_epochs", spec.trainer.get("max_epochs"), -1),
        ("checkpoint.every_n_epochs", spec.checkpoint.every_n_epochs, 1),
        ("checkpoint.keep_best", spec.checkpoint.keep_best, 0),
        ("run.max_failures", spec.run.max_failures, 0),
        ("seed", spec.seed, 0),
        ("run.id", spec.run.id, 1),
        ("data.num_workers", spec.data.get("num_workers"), 0),
        ("site.nodes", spec.site.nodes, 1),
        ("site.cpus_per_node", spec.site.cpus_per_node, 1),
        ("site.gpus_per_node", spec.site.gpus_per_node, 0),
    ]
    for name, value, bound in least:
        if isinstance(value, (int, float)) and value < bound:
            yield f"{name}: {value} is too small. The least is {bound}."
    if spec.resources.cpus_per_worker <= 0:
        yield f"resources.cpus_per_worker: {spec.resources.cpus_per_worker} has to be positive."
    if spec.checkpoint.mode not in (None, "min", "max"):
        yield one_of("checkpoint.mode", spec.checkpoint.mode, ("min", "max"))
    if not ADDRESS.fullmatch(spec.site.address):
        yield f"site.address: {spec.site.address!r} is no address. Give local, auto, or host:port."


def _writable(variable: str, folder: str) -> Iterable[str]:
    """Try to write where the folder is, or would come to be. Nothing stays behind."""
    if "://" in folder:
        yield f"{variable}: {folder!r} is a URI, and only folders work yet. Give one that every node sees."
        return
    path = Path(folder)
    existing = next(place for place in [path, *path.parents] if place.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return
    except OSError as error:
        yield f"{variable}: nothing can be written to {folder} ({error.strerror}). Set {variable} to a folder of yours."
