"""The laptop's door: a spec in, what is needed to plan it out, or every problem in one error."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asparagus.callbacks.steps import FREEZES, UNUSED, WAITING
from asparagus.check.crops import datasplit_of
from asparagus.check.data import test_cases
from asparagus.check.logged import is_among, logged
from asparagus.check.parent import Found, further, must_be_a_form, resolve_parent
from asparagus.check.resources import resources
from asparagus.check.sections import sections
from asparagus.check.settings import settings
from asparagus.check.target import takes
from asparagus.check.trainer import epoch, trainer
from asparagus.data import CASE_DATA
from asparagus.data.layout import Task, fingerprint, read_split, read_task
from asparagus.data.subjects import must_be_apart
from asparagus.errors import ConfigError, RequestError, did_you_mean, one_of
from asparagus.models import SIZE_NAMES, contradiction
from asparagus.plan import batches_of, misfits
from asparagus.python_file import MODEL_OF, changed
from asparagus.record.numbers import find_folder
from asparagus.secrets import missing, references
from asparagus.spec import ENDLESS, OF_STAGE, Parent, Spec
from asparagus.stages import STAGES, Stage
from asparagus.storage import kept
from asparagus.storage.tasks import see_task

RUN = re.compile(r"run:(\d+)(?:/|$)")
UNSEEN = "data and weights are looked at where it runs, before anything is trained"
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
    fingerprint: str | None = None
    """Of the data and their split, where they can be seen from here."""
    notes: tuple[str, ...] = ()
    """What is no mistake, and worth a line in the plan."""


def check(spec: Spec) -> Findings:
    """Check all that can be known without a machine, torch or MLflow.

    Raises:
        ConfigError: Every problem, one line each.
    """
    problems: list[str] = [*kept.problems(spec.paths.stores)]
    if problems:
        raise ConfigError(*problems)
    stage = STAGES.get(spec.stage)
    problems += [one_of("stage", spec.stage, STAGES)] if stage is None else []
    task, cases = _data(spec, problems)
    parent = _parent(spec, stage, problems)
    problems += _rules(spec, stage, task, cases)
    known = _fingerprint(spec, task, problems) if cases is not None else datasplit_of(spec, problems)
    if problems or stage is None:
        raise ConfigError(*dict.fromkeys(problems))
    notes = (*(parent.notes if parent else ()), *_notes(spec))
    return Findings(stage, task, cases, parent.parent if parent else None, known, notes)


def check_from_afar(spec: Spec) -> Findings:
    """Check what another machine will carry out: all but the data and weights, which lie there and are checked there.

    Raises:
        ConfigError: Every problem, one line each.
    """
    problems: list[str] = []
    stage = STAGES.get(spec.stage)
    problems += [one_of("stage", spec.stage, STAGES)] if stage is None else []
    if _looks_for_parent(spec, stage, problems):
        try:
            must_be_a_form(str(spec.init_from))
        except ConfigError as error:
            problems.append(f"init_from: {error}")
    problems += _rules(spec, stage, None, None)
    if problems or stage is None:
        raise ConfigError(*dict.fromkeys(problems))
    return Findings(stage, None, None, None, notes=(UNSEEN, *_notes(spec)))


def _rules(spec: Spec, stage: Stage | None, task: Task | None, cases: dict[str, int] | None) -> list[str]:
    """Return every problem that has nothing to do with where the data and weights are."""
    problems: list[str] = []
    problems += sections(spec, stage)
    problems += _fits(spec, stage, task)
    for rule in (trainer, settings, resources, misfits, further, _monitors, _secrets, _file_of_net):
        problems += rule(spec)
    problems += epoch(spec, batches_of(spec, cases)) if not problems else []
    return problems


def _data(spec: Spec, problems: list[str]) -> tuple[Task | None, dict[str, int] | None]:
    """Look at the task and its split, where the data folder can be seen from here."""
    if spec.site.address != "local" and not Path(spec.data_root).is_dir():
        return None, None
    try:
        if spec.data_root == spec.paths.data:
            see_task(Path(spec.data_root), spec.task)
        task = read_task(spec.data_root, spec.task)
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
    try:
        parts |= {"test": tested} if (tested := test_cases(spec, task)) else {}
        must_be_apart(parts, task, allowed=spec.run.mode != "fit" or spec.data.get("subject_overlap") is True)
    except RequestError as error:
        problems.append(str(error))
    return task, {name: len(files) for name, files in parts.items()}


def _fingerprint(spec: Spec, task: Task | None, problems: list[str]) -> str | None:
    """Look whether every case of the split is there, and return what tells these data from others."""
    try:
        return fingerprint(task, spec.data["split"]) if task is not None else None
    except RequestError as error:
        problems.append(str(error))
        return None


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
    yield from _channels(spec, stage, task)


def _channels(spec: Spec, stage: Stage, task: Task) -> Iterator[str]:
    """Check the channels and classes that were typed for the stage's network against the task's (SEEDS A32)."""
    name = "net" if spec.model.get("net") else stage.network
    given = spec.model.get(name)
    network: dict[str, Any] = given if isinstance(given, dict) else {}
    outputs = task.n_modalities if stage.kind == "pretrain" else task.n_classes
    for size, value in (("in_channels", task.n_modalities), ("out_channels", outputs)):
        for word in SIZE_NAMES[size]:
            if isinstance(typed := network.get(word), int) and typed != value:
                yield contradiction(f"model.{name}.{word}", typed, value, size)


def _parent(spec: Spec, stage: Stage | None, problems: list[str]) -> Found | None:
    """Resolve `init_from`; the run folder answers, so neither MLflow nor torch is needed."""
    if not _looks_for_parent(spec, stage, problems):
        return None
    if stage and stage.init_from == "never" and spec.run.mode == "fit" and not _of_this_stage(spec):
        problems.append(f"init_from: {spec.init_from!r} given, but {spec.stage} starts from nothing. Leave it out.")
        return None
    try:
        return resolve_parent(str(spec.init_from), Path(spec.paths.models), spec.site.tracking_uri)
    except RequestError as error:
        problems.append(f"init_from: {error}")
        return None


def _looks_for_parent(spec: Spec, stage: Stage | None, problems: list[str]) -> bool:
    """Tell whether `init_from` points to something that is there; what is missing is a problem."""
    if spec.run.resume_from_checkpoint is not None:
        return False  # its whole state, weights included, comes from there
    needed = stage.init_from if stage else "optional"
    if spec.init_from is None and needed == "required" and spec.run.mode == "fit":
        problems.append(
            f"init_from: {spec.stage} starts from a pretrained run, and none was given. Give run:<id>/last, "
            f"run:<id>/best, model:<name>@<alias> or file:/path/to/weights (asp runs lists the ids, asp model list "
            f"the models)" + (f", or train from scratch with {stage.scratch}." if stage and stage.scratch else ".")
        )
    # That of a pipeline's stage is not there yet.
    return spec.init_from is not None and not spec.init_from.startswith(OF_STAGE)


def _of_this_stage(spec: Spec) -> bool:
    """Tell whether the parent is a run of the same stage: its weights are trained on, as `load_model` asks for."""
    number = RUN.match(str(spec.init_from))
    if number is None:
        return False
    try:
        return find_folder(Path(spec.paths.models), int(number[1])).parent.name == spec.stage
    except RequestError:
        return False


def _file_of_net(spec: Spec) -> Iterator[str]:
    """Check that a training config in Python, which builds the network, is still what it was: a run is repeated."""
    net = spec.model.get("net")
    if isinstance(net, dict) and net.get("_target_") == MODEL_OF:
        try:
            problem = changed(str(net.get("file")), str(net.get("digest")))
        except ConfigError as error:
            problem = str(error)
        yield from [f"model.net: {problem}"] if problem else []


def _monitors(spec: Spec) -> Iterator[str]:
    """Check that what is watched is logged, where all that logs is known: our modules, Lightning's callbacks."""
    known = logged(spec)
    if known is None:
        return
    watched = {"checkpoint.monitor": spec.checkpoint.monitor}
    watched |= {
        f"callbacks.{name}.monitor": entry.get("monitor")
        for name, entry in spec.callbacks.items()
        if isinstance(entry, dict)
    }
    for key, metric in watched.items():
        if isinstance(metric, str) and "${" not in metric and not is_among(metric, known):
            near = did_you_mean(metric, known)
            names = ", ".join(name + ("<class>" if name.endswith("/") else "") for name in known)
            yield f"{key}: {spec.stage} logs no {metric!r}. {near} It logs: {names}.".replace("  ", " ")


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


def _notes(spec: Spec) -> Iterator[str]:
    """Say what was asked for and is done otherwise, so that nothing is skipped in silence."""
    asked = spec.trainer
    if asked.get("enable_checkpointing") is False:
        yield "trainer.enable_checkpointing=false stops Lightning's own checkpoints; the run's are written all the same"
    if spec.run.resume_from_checkpoint is not None and spec.init_from is not None:
        yield "run.resume_from_checkpoint wins over init_from: the whole state comes from the checkpoint"
    elif spec.init_from is not None and spec.run.mode == "fit" and STAGES[spec.stage].init_from == "never":
        yield f"init_from: {spec.init_from} is a {spec.stage} too: its weights are trained on, from epoch 0 on"
    end, sched = asked.get("max_steps"), spec.optim.get("sched")
    if end not in (None, ENDLESS) and isinstance(sched, dict) and sched.get("max_steps") not in (None, ENDLESS, end):
        yield f"optim.sched.max_steps: {sched['max_steps']} is not used: trainer.max_steps={end} says where it ends"
    if spec.has_callback(FREEZES) and asked.get("strategy") == WAITING[-1]:
        yield f"trainer.strategy: {UNUSED} is used on workers: frozen parts have no gradients to wait for"
    if asked.get("fast_dev_run"):
        yield "trainer.fast_dev_run: Lightning logs nothing, and the weights are those of a few batches"
    if spec.own_module and spec.optim and takes(spec.own_module, "optim") is False:
        yield f"optim is not used: {spec.own_module} takes no argument of that name and configures its own optimizers"
