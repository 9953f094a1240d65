"""The laptop's door: a spec in, what is needed to plan it out, or every problem in one error."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asparagus.check.data import LOADERS
from asparagus.check.sections import sections
from asparagus.check.target import takes
from asparagus.check.trainer import trainer
from asparagus.checkpoint.folder import pick
from asparagus.data.layout import Task, read_split, read_task
from asparagus.errors import ConfigError, RequestError, did_you_mean, one_of
from asparagus.plan import CASE_DATA, batches_of, misfits
from asparagus.python_file import changed
from asparagus.record.numbers import find_folder
from asparagus.secrets import missing, references, reveal, without_passwords
from asparagus.spec import MODES, Parent, Spec
from asparagus.stages import STAGES, Stage

FOLDER_NAME = re.compile(r"(?!\.)[^/\\\x00]+")
ADDRESS = re.compile(r"local|auto|[\w.\-]+:\d+|\[[0-9a-fA-F:]+\]:\d+")
STORES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks", "file")
"""Schemes of a tracking URI, without the driver (`postgresql+psycopg2`)."""
LIGHTNINGS = "pytorch_lightning."
BUILDS_NET = "asparagus.python_file.model_of"
PART_OF = {"fit": "train", "validate": "val", "test": "test"}
"""Which data a `run.mode` looks at."""
LARGEST_SEED = 2**32 - 1
"""Of numpy's generators, which are seeded as well."""
OWN = "own"
"""The kind of stage whose data only a module of one's own knows."""


@dataclass(frozen=True)
class Findings:
    """What the check learned on the way that the plan needs."""

    stage: Stage
    task: Task | None
    cases: dict[str, int] | None
    """Cases per part of the split, where the data can be seen from here."""
    parent: Parent | None
    notes: tuple[str, ...] = ()
    """What is no mistake, and worth a line in the plan."""


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
    problems += sections(spec, stage)
    problems += _fits(spec, stage, task)
    problems += trainer(spec)
    for rule in (_numbers, misfits, _values, _run, _where, _monitors, _secrets, _file_of_net):
        problems += rule(spec)
    problems += _epoch(spec, batches_of(spec, cases)) if not problems else []
    problems += _writable("ASPARAGUS_MODELS", spec.paths.models)
    problems += _writable("ASPARAGUS_RESULTS", spec.paths.results)
    if problems or stage is None:
        raise ConfigError(*dict.fromkeys(problems))
    return Findings(stage, task, cases, parent, tuple(_notes(spec)))


def _data(spec: Spec, problems: list[str]) -> tuple[Task | None, dict[str, int] | None]:
    """Look at the task and its split, where the data folder can be seen from here."""
    if spec.site.address != "local" and not Path(spec.paths.data).is_dir():
        return None, None
    try:
        task = read_task(spec.paths.data, spec.task)
    except RequestError as error:
        if needs_task(spec):
            problems.append(str(error))
        return None, None
    split, fold = spec.data.get("split"), spec.data.get("fold", 0)
    if not isinstance(split, str) or not isinstance(fold, int):  # none, or of a wrong type: the signature tells
        return task, None
    try:
        parts = read_split(task, split, fold)
    except RequestError as error:
        problems.append(str(error))
        return task, None
    return task, {name: len(files) for name, files in parts.items()}


def needs_task(spec: Spec) -> bool:
    """Tell whether the data come from a folder of ASPARAGUS_DATA: a data module of one's own may know better."""
    return takes(spec.data.get("_target_"), "task") is True


def _fits(spec: Spec, stage: Stage | None, task: Task | None) -> Iterator[str]:
    """Check what is asked of our data module against the task."""
    if task is None or stage is None or spec.data.get("_target_") != CASE_DATA:
        return
    if spec.model.get("dimensions") == "3D" and task.dimensions == 2:  # noqa: PLR2004
        yield f"model.dimensions: 3D does not fit {task.name}, whose cases are 2D. Set model.dimensions=2D."
    kind, known = spec.data.get("kind"), sorted({row.kind for row in STAGES.values()} - {OWN})
    if stage.kind == OWN and kind is None:
        yield f"data.kind: is missing: {stage.name} does not say how cases are read. Give one of: {', '.join(known)}."
    elif kind is not None and kind not in known:
        yield one_of("data.kind", kind, known)


def _parent(spec: Spec, stage: Stage | None, problems: list[str]) -> Parent | None:
    """Resolve `init_from`; the run folder answers, so neither MLflow nor torch is needed."""
    if spec.run.resume_from_checkpoint is not None:
        return None  # its whole state, weights included, comes from there
    needed = stage.init_from if stage else "optional"
    if spec.init_from is None:
        if needed == "required" and spec.run.mode == "fit":
            problems.append(
                f"init_from: {spec.stage} starts from a pretrained run, and none was given. Give run:<id>/last, "
                f"run:<id>/best or file:/path/to/weights (asp runs lists the ids), or train from scratch with "
                f"{spec.stage.replace('finetune', 'train')}."
            )
        return None
    if needed == "never" and spec.run.mode == "fit":
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


def _run(spec: Spec) -> Iterator[str]:
    """Check how it is carried out: what it does with the weights, and that they are there."""
    run = spec.run
    if run.mode not in MODES:
        yield one_of("run.mode", run.mode, MODES)
    elif run.mode != "fit" and spec.init_from is None and run.resume_from_checkpoint is None:
        yield f"run.mode: {run.mode} needs weights to look at. Give init_from=run:<id>/best or file:/path/to/weights."
    elif spec.data.get("_target_") == LOADERS and not spec.script and spec.data.get(part := PART_OF[run.mode]) is None:
        yield f"data.{part}: is missing, and run.mode={run.mode} needs it. Give it a loader section."
    if run.mode == "test" and not _has_own_module(spec) and spec.stage in STAGES:
        advice = "Use run.mode=validate, or a module of your own with a test_step."
        yield f"run.mode: test runs a test loop, and the module of {spec.stage} has none yet. {advice}"
    if run.resume_from_checkpoint is not None and not Path(run.resume_from_checkpoint).expanduser().exists():
        yield f"run.resume_from_checkpoint: {run.resume_from_checkpoint} does not exist. Give a Lightning checkpoint."


def _where(spec: Spec) -> Iterator[str]:
    """Check that what it runs on and what it asks for go together."""
    if not spec.resources.workers and spec.resources.gpus_per_worker:
        gpus = f"resources.gpus_per_worker: {spec.resources.gpus_per_worker:g}"
        yield (
            f"{gpus} and resources.workers=0 exclude each other: "
            "in this process the Trainer takes what trainer.accelerator says. Give resources.workers=1 or more."
        )
    if _lacks_gpu(spec):
        yield (
            f"trainer.accelerator: {spec.trainer['accelerator']} asked for, and this machine has no NVIDIA GPU. Use "
            "trainer.accelerator=cpu (hardware=cpu), or a site that has some (site=cluster resources=one_gpu)."
        )
    if spec.site.address != "local" and not spec.resources.workers:
        yield (
            f"resources.workers: 0 trains in this process, and site.address={spec.site.address} is a cluster: they "
            "exclude each other. Give resources.workers=1 or more, or site=local."
        )


def _has_own_module(spec: Spec) -> bool:
    module = spec.model.get("module")
    return isinstance(module, dict) and "_target_" in module


def _file_of_net(spec: Spec) -> Iterator[str]:
    """Check that a training config in Python, which builds the network, is still what it was: a run is repeated."""
    net = spec.model.get("net")
    if isinstance(net, dict) and net.get("_target_") == BUILDS_NET:
        try:
            problem = changed(str(net.get("file")), str(net.get("digest")))
        except ConfigError as error:
            problem = str(error)
        yield from [f"model.net: {problem}"] if problem else []


def _lacks_gpu(spec: Spec) -> bool:
    here = spec.site.address == "local" and not spec.resources.workers
    return here and spec.trainer.get("accelerator") in ("gpu", "cuda") and not spec.site.gpus_per_node


def _monitors(spec: Spec) -> Iterator[str]:
    """Check that what is watched is logged, where all that logs is known: our modules, Lightning's callbacks."""
    stage = STAGES.get(spec.stage)
    entries = [entry for part in (spec.callbacks, spec.plugins) for entry in part.values() if isinstance(entry, dict)]
    foreign = [entry for entry in entries if not str(entry.get("_target_", "")).startswith(LIGHTNINGS)]
    if stage is None or _has_own_module(spec) or foreign or not stage.metrics:
        return
    watched = {"checkpoint.monitor": spec.checkpoint.monitor}
    watched |= {
        f"callbacks.{name}.monitor": entry.get("monitor") for name, entry in spec.callbacks.items() if entry in entries
    }
    for key, metric in watched.items():
        if isinstance(metric, str) and "${" not in metric and not _is_logged(metric, stage.metrics):
            near = did_you_mean(metric, stage.metrics)
            logged = ", ".join(name + ("<class>" if name.endswith("/") else "") for name in stage.metrics)
            yield f"{key}: {stage.name} logs no {metric!r}. {near} It logs: {logged}.".replace("  ", " ")


def _is_logged(metric: str, logged: Iterable[str]) -> bool:
    return any(metric == name or (name.endswith("/") and metric.startswith(name)) for name in logged)


def _secrets(spec: Spec) -> Iterator[str]:
    """Check that the secrets are in this environment: it is handed on from here."""
    values = spec.to_dict()
    for name in sorted(set(references(values)) - os.environ.keys()):
        for key in list(_places(values, name))[:1]:
            yield f"{key}: environment variable {name} is not set here. Set it, or put it into .env."


def _places(node: Any, name: str, path: str = "") -> Iterator[str]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        full = f"{path}.{key}" if path else str(key)
        if isinstance(value, str) and name in missing(value):
            yield full
        yield from _places(value, name, full)


def _numbers(spec: Spec) -> Iterator[str]:
    """Check what has to be at least so much: Lightning, Ray and arithmetic would find out late, or never."""
    least: list[tuple[str, Any, float]] = [
        ("resources.workers", spec.resources.workers, 0),
        ("resources.gpus_per_worker", spec.resources.gpus_per_worker, 0),
        ("data.batch_size", spec.data.get("batch_size"), 1),
        ("checkpoint.every_n_epochs", spec.checkpoint.every_n_epochs, 1),
        ("checkpoint.keep_best", spec.checkpoint.keep_best, 0),
        ("run.max_failures", spec.run.max_failures, 0),
        ("seed", spec.seed, 0),
        ("run.id", spec.run.id, 1),
        ("data.num_workers", spec.data.get("num_workers"), 0),
        ("data.samples_per_epoch", spec.data.get("samples_per_epoch"), 1),
        ("site.nodes", spec.site.nodes, 1),
        ("site.cpus_per_node", spec.site.cpus_per_node, 1),
        ("site.gpus_per_node", spec.site.gpus_per_node, 0),
    ]
    for name, value, bound in least:
        if isinstance(value, (int, float)) and not value >= bound:
            yield f"{name}: {value} is too small. The least is {bound}."
    if spec.seed > LARGEST_SEED:
        yield f"seed: {spec.seed} is too large. The most is {LARGEST_SEED}."
    for name, number in (
        ("resources.cpus_per_worker", spec.resources.cpus_per_worker),
        ("site.poll_interval_s", spec.site.poll_interval_s),
        ("site.start_timeout_s", spec.site.start_timeout_s),
    ):
        if not 0 < number < math.inf:
            yield f"{name}: {number} has to be positive."
    if isinstance(patch := spec.data.get("patch_size"), list):
        wrong = [size for size in patch if not isinstance(size, int) or size < 1]
        if wrong:
            yield f"data.patch_size: {patch} has to be whole numbers of voxels, each at least 1."


def _epoch(spec: Spec, batches: int | None) -> Iterator[str]:
    """Check what is counted in batches of an epoch, where its length is known."""
    if batches is None:
        return
    interval = spec.trainer.get("val_check_interval")
    within = spec.trainer.get("check_val_every_n_epoch", 1) is not None
    if isinstance(interval, int) and not isinstance(interval, bool) and interval > batches and within:
        yield (
            f"trainer.val_check_interval: {interval} batches, and an epoch has {batches}. Give fewer, a share (0.5), "
            "or trainer.check_val_every_n_epoch=null to count across epochs."
        )
    for key in ("limit_train_batches", "overfit_batches"):
        share = spec.trainer.get(key)
        if isinstance(share, float) and 0 < share < 1 and int(share * batches) == 0:
            yield f"trainer.{key}: {share} of {batches} batches is none. Give a larger share, or a number of batches."


def _values(spec: Spec) -> Iterator[str]:
    """Check what has to be one of a few, or of a form."""
    if spec.checkpoint.mode not in (None, "min", "max"):
        yield one_of("checkpoint.mode", spec.checkpoint.mode, ("min", "max"))
    if not ADDRESS.fullmatch(spec.site.address):
        yield f"site.address: {spec.site.address!r} is no address. Give local, auto, or host:port."
    if not FOLDER_NAME.fullmatch(spec.task) or "${" in spec.task:
        advice = "Leave out slashes, dots at its start and $."
        yield f"task: {spec.task!r} is no name of a folder, and runs lie under it. {advice}"
    uri = spec.site.tracking_uri or ""
    if without_passwords(uri) != uri and not any(references(uri)):
        yield (
            "site.tracking_uri: a password is written here in plain text. Put it into an environment variable (or "
            ".env), and write ${secret:NAME_OF_THE_VARIABLE} in its place."
        )
    uri = without_passwords(uri if any(missing(uri)) else reveal(uri))
    if not uri.startswith("${") and uri.partition("://")[0].partition("+")[0] not in STORES and uri != "databricks":
        yield one_of("site.tracking_uri", uri, [f"{scheme}://..." for scheme in STORES])
    elif uri.startswith("sqlite://"):
        yield from _sqlite(uri)


def _sqlite(uri: str) -> Iterator[str]:
    file = uri.removeprefix("sqlite:///")
    if file in (uri, "", ":memory:"):
        yield f"site.tracking_uri: {uri} names no file. Give sqlite:////absolute/path/of/a.db."
    else:
        yield from _writable("site.tracking_uri", str(Path(file).parent))


def _notes(spec: Spec) -> Iterator[str]:
    """Say what was asked for and is done otherwise, so that nothing is skipped in silence."""
    asked = spec.trainer
    if asked.get("enable_checkpointing") is False:
        yield "trainer.enable_checkpointing=false stops Lightning's own checkpoints; the run's are written all the same"
    if spec.run.resume_from_checkpoint is not None and spec.init_from is not None:
        yield "run.resume_from_checkpoint wins over init_from: the whole state comes from the checkpoint"
    if asked.get("fast_dev_run"):
        yield "trainer.fast_dev_run: Lightning logs nothing, and the weights are those of a few batches"
    module = (spec.model.get("module") or {}).get("_target_")
    if module and spec.optim and takes(module, "optim") is False:
        yield f"optim is not used: {module} takes no argument of that name and configures its own optimizers"


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
