"""A run begins, or goes on: its number, its folder, its record, and what its parent is told."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from asparagus.checkpoint.folder import manifests
from asparagus.checkpoint.full_disk import full_disk, is_full
from asparagus.checkpoint.holds import child, hold
from asparagus.driver.timing import note_launch
from asparagus.errors import RecordError
from asparagus.journal import Journal
from asparagus.plan import Plan
from asparagus.record import run_folder
from asparagus.record.differences import Difference, between, describe, of_specs
from asparagus.record.environment import Code, Machine, read_code
from asparagus.record.numbers import claim, enter, find_folder, folder_name, give_up, one_at_a_time
from asparagus.record.recorder import NumberTakenError, Recorder, RunRecord, flatten
from asparagus.record.run_folder import (
    FAILED,
    RUNNING,
    STARTING,
    RunFolder,
    fill,
    note_child,
    read_state,
    write_json,
    write_state,
)
from asparagus.record.standing import Standing, standing
from asparagus.spec import OF_STAGE, Assignment, Parent, Spec
from asparagus.stages import STAGES
from asparagus.stopwatch import Stopwatch
from asparagus.storage import kept
from asparagus.storage.follow import fetch_the_rest

NOT_TOLD = ("site", "paths", "run", "failures")
"""Sections of a spec whose changes are no news when a run goes on."""

log = logging.getLogger("asparagus")


@dataclass(frozen=True)
class Surroundings:
    """The code and the machine of this attempt."""

    code: Code
    machine: Machine

    def to_dict(self) -> dict[str, Any]:
        """Return plain values as a record keeps them."""
        return {"code": self.code.to_dict(), "machine": dataclasses.asdict(self.machine)}


@dataclass(frozen=True)
class Begun:
    """A run that has its number, its folder and its record."""

    plan: Plan
    run_id: int
    mlflow_run_id: str
    folder: RunFolder
    attempt: int = 1
    offset: int = 0
    """Where this attempt's events begin in the journal."""

    @property
    def assignment(self) -> Assignment:
        """What its workers are told."""
        plan, run = self.plan, (self.run_id, str(self.folder.path), self.attempt)
        return Assignment(plan.spec, *run, plan.parent, has_figures=plan.trial is None)

    def write_state(self, state: str, metrics: dict[str, float]) -> None:
        """Mark the folder with how the run stands."""
        _write_state(self.folder, self.plan, self.run_id, state, self.attempt, self.mlflow_run_id, metrics)


@contextmanager
def looking() -> Iterator[Future[Surroundings]]:
    """Read the code and the machine while something else happens: git and package lists take a while."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(lambda: Surroundings(read_code(Path.cwd()), Machine()))


def otherwise_now(plan: Plan, found: Standing) -> str:
    """Return in what code and packages differ now from those that a run was made with, line by line.

    Raises:
        RecordError: They do, and `run.strict` is set.
    """
    if not found.folder.record.is_file():
        return ""
    before = json.loads(found.folder.record.read_text(encoding="utf-8"))
    now = Surroundings(read_code(Path.cwd()), Machine())
    return _strictly(plan, between(before, {**before, **now.to_dict()}), f"run {found.run_id} was made with")


@contextmanager
def begun(plan: Plan, recorder: Recorder, seen: Future[Surroundings], watch: Stopwatch) -> Iterator[Begun]:
    """Begin a run, or go on with the identical one that is unfinished; it is this process's during the body.

    Raises:
        RequestError: It cannot be recorded, is being trained by another process, or has changed under `run.strict`.
    """
    if (plan.spec.init_from or "").startswith(OF_STAGE):
        raise RecordError(f"init_from: {plan.spec.init_from} is a pipeline's own. Give a run: init_from=run:<id>/best")
    kept.catch_up(Path(plan.spec.paths.models))
    floor, since = recorder.largest_number(), _since(plan, seen.result())
    while True:
        place = _place(plan, floor)
        try:
            started = _go_on(plan, place, recorder, seen.result(), since)
            note_launch(started.folder, started.attempt, watch)
            break
        except NumberTakenError as error:
            if place.found is not None:
                place.lock.release()
                raise RecordError(
                    f"{error} Run {place.run_id} was begun with another tracking store: go on with that one "
                    "(MLFLOW_TRACKING_URI), or train a new run here: run.resume=false."
                ) from error
            place.give_up()
            if plan.spec.run.id is not None:
                raise
            floor = max(floor, place.run_id)
        except BaseException as error:
            place.lock.release()
            if isinstance(error, OSError) and is_full(error):
                raise full_disk(error, place.folder.path, place.run_id) from error
            raise
    try:
        yield started
    finally:
        try:
            fetch_the_rest(place.folder.path)
            kept.push_all(place.folder.path)
        finally:
            place.lock.release()


@dataclass(frozen=True)
class _Place:
    """A run's number and folder, held by this process."""

    run_id: int
    folder: RunFolder
    lock: run_folder.Held
    models: Path
    about: dict[str, str]
    found: Standing | None = None

    @property
    def attempt(self) -> int:
        return self.found.attempt + 1 if self.found else 1

    def give_up(self) -> None:
        """Remove what was made a moment ago, and holds no training yet: the number is another machine's."""
        assert self.found is None
        shutil.rmtree(self.folder.path)
        self.lock.release()
        kept.gone(self.folder.path)
        give_up(self.models, self.run_id, self.about)


def _place(plan: Plan, floor: int) -> _Place:
    """Take the identical run that is unfinished, or a new number with a folder."""
    spec, models = plan.spec, Path(plan.spec.paths.models)
    about = about_run(plan)
    with one_at_a_time(models, plan.identity):
        found = standing(spec, plan.identity, trial=plan.trial)
        if found is not None and found.finished:
            raise RecordError(f"run {found.run_id}: an identical run finished a moment ago. Launch again to see it.")
        if found is not None:
            return _again(found, models, about)
        run_id, folder = _new_folder(spec, about, floor)
        return _Place(run_id, folder, run_folder.hold(folder), models, about)


def _again(found: Standing, models: Path, about: dict[str, str]) -> _Place:
    """Take a run that is unfinished, as it stands when nobody else has it any more."""
    lock = run_folder.hold(found.folder)
    try:
        kept.pull(found.folder.path)
        now = dataclasses.replace(found, facts=read_state(found.folder))
    except BaseException:
        lock.release()
        raise
    if now.finished:
        lock.release()
        raise RecordError(f"run {found.run_id}: finished a moment ago, elsewhere. Launch again to see it.")
    return _Place(now.run_id, now.folder, lock, models, about, now)


def about_run(plan: Plan) -> dict[str, str]:
    """Return what the register is told of a run.

    A trial that is not over is the sweep's own: nobody else goes on with it, so it is not found by its identity.
    """
    spec, trial = plan.spec, plan.trial
    about = {"stage": spec.stage, "task": spec.task, "name": spec.run.name or spec.run.label or ""}
    if trial is None or not trial.last:
        about["identity"] = plan.identity
    if trial is not None:
        about |= {"trial": f"{trial.sweep_id}/{trial.name}", "name": spec.run.name or ""}
    return about


def _new_folder(spec: Spec, about: dict[str, str], floor: int) -> tuple[int, RunFolder]:
    """Take a number, and make its folder; one that lies there without being registered keeps its number."""
    models = Path(spec.paths.models)
    while True:
        run_id = claim(models, about=about, wanted=spec.run.id, floor=floor)
        folder = RunFolder(models / folder_name(spec.task, spec.stage, run_id), spec.stage)
        if not folder.path.exists():
            break
        if spec.run.id is not None:
            raise RecordError(
                f"run.id: {run_id} is taken by {folder.path}. Leave run.id out to get the next free number."
            )
    enter(models, run_id, about)
    folder.path.mkdir(parents=True)
    return run_id, folder


def _since(plan: Plan, surroundings: Surroundings) -> str:
    """Return what is otherwise than it was when the run first ran that this one repeats, line by line.

    Raises:
        RecordError: Something is, and `run.strict` is set.
    """
    run_id = plan.spec.run.rerun_of
    if run_id is None:
        return ""
    try:
        record = find_folder(Path(plan.spec.paths.models), run_id) / "record.json"
        before = json.loads(record.read_text(encoding="utf-8"))
    except (RecordError, OSError) as error:
        if plan.spec.run.strict:
            raise RecordError(f"run.strict: what run {run_id} was made with cannot be compared: {error}") from error
        return f"run {run_id} is not here any more, so code, packages and data cannot be compared ({error})"
    now = {**before, **surroundings.to_dict(), "fingerprint": plan.fingerprint}
    return _strictly(plan, between(before, now), f"run {run_id} was made with")


def _strictly(plan: Plan, otherwise: list[Difference], what: str) -> str:
    if otherwise and plan.spec.run.strict:
        raise RecordError(
            f"run.strict: {what} other code, packages or data (then -> now):\n{describe(otherwise)}\n"
            "Bring them back, or leave --strict out to go on all the same."
        )
    return describe(otherwise) if otherwise else ""


def _go_on(plan: Plan, place: _Place, recorder: Recorder, surroundings: Surroundings, since: str) -> Begun:
    """Write down what begins, or what is otherwise than it was; tell the parent and the tracking store."""
    folder, attempt = place.folder, place.attempt
    facts = read_state(folder)
    news = _first_or_news(plan, place, surroundings) or since
    _write_state(folder, plan, place.run_id, STARTING, attempt, facts.get("mlflow_run_id"), facts.get("metrics", {}))
    if plan.parent is not None and plan.parent.folder is not None:
        _tell_parent(plan.parent, place)
    record = _of_here(RunRecord.from_dict(json.loads(folder.record.read_text(encoding="utf-8"))), plan, folder)
    offset = folder.journal.stat().st_size if folder.journal.is_file() else 0
    if attempt > 1 or news:
        journal = Journal(folder.journal)  # waits for what is left of a training that was killed
        journal.append("attempt", attempt=attempt, news=news)
        journal.close()
    kept.push_run(folder.path)
    try:
        mlflow_run_id = recorder.open(record, mlflow_run_id=facts.get("mlflow_run_id"), attempt=attempt)
    except RecordError as error:
        if not isinstance(error, NumberTakenError):
            run_folder.mark(folder, FAILED)
        raise
    made = Begun(plan, place.run_id, mlflow_run_id, folder, attempt, offset)
    made.write_state(RUNNING, facts.get("metrics", {}))
    return made


def _of_here(record: RunRecord, plan: Plan, folder: RunFolder) -> RunRecord:
    """Return what is recorded of a run, with the paths of this machine: another one may have begun it."""
    if record.folder == str(folder.path):
        return record
    return dataclasses.replace(record, folder=str(folder.path), parent=plan.parent or record.parent)


def _first_or_news(plan: Plan, place: _Place, surroundings: Surroundings) -> str:
    """Fill the folder of a new run; of one that goes on, return what is otherwise than it was.

    Raises:
        RecordError: Code or packages are others, and `run.strict` is set.
    """
    folder = place.folder
    if not folder.record.is_file():  # new, or lost before it was whole: nothing was trained
        fill(folder, _exactly(plan), place.run_id, plan.to_json())
        if surroundings.code.diff:
            folder.diff.write_text(surroundings.code.diff, encoding="utf-8")
        folder.log.write_text(f"###RUN-ID={place.run_id}###\n{plan.describe()}\n", encoding="utf-8")
        write_json(folder.record, _record(plan, place, surroundings).to_dict())
        return ""
    ran = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    asked = [row for row in of_specs(ran, plan.spec.to_dict()) if not row.key.startswith(NOT_TOLD)]
    before = json.loads(folder.record.read_text(encoding="utf-8"))
    otherwise = _strictly(
        plan, between(before, {**before, **surroundings.to_dict()}), f"run {place.run_id} was started with"
    )
    (folder.path / f"plan.attempt{place.attempt}.json").write_text(plan.to_json() + "\n", encoding="utf-8")
    return "\n".join(filter(None, [describe(asked) if asked else "", otherwise]))


def _exactly(plan: Plan) -> Spec:
    """Return the spec with the very checkpoint that `last`, `best` or an alias stood for when it began."""
    parent = plan.parent
    if parent is None:
        return plan.spec
    named = f"run:{parent.run_id}/{Path(parent.checkpoint).name}" if parent.run_id else f"file:{parent.checkpoint}"
    return dataclasses.replace(plan.spec, init_from=named)


def _tell_parent(parent: Parent, place: _Place) -> None:
    """Keep the parent's checkpoint from being tidied away, and write the child into its `derived_models.log`."""
    try:
        hold(Path(parent.checkpoint), child(place.run_id))
        note_child(Path(str(parent.folder)), run_id=place.run_id, folder=place.folder.path)
    except OSError as error:  # somebody else's run: the edge is in MLflow and in our own folder all the same
        log.warning("%s cannot be told that run %d starts from it (%s)", parent.folder, place.run_id, error.strerror)
    except RecordError:
        if not manifests(place.folder.checkpoints):
            raise  # a run with checkpoints of its own goes on from those


def _record(plan: Plan, place: _Place, surroundings: Surroundings) -> RunRecord:
    spec = plan.spec
    facts = {"world_size": str(plan.world_size)}
    facts |= {"global_batch": str(plan.global_batch)} if plan.global_batch else {}
    cases = {f"cases.{part}": str(count) for part, count in (plan.cases or {}).items()}
    return RunRecord(
        run_id=place.run_id,
        stage=spec.stage,
        task=spec.task,
        folder=str(place.folder.path),
        name=spec.run.name or spec.run.label or _called(plan, place.run_id),
        params={**flatten(spec.to_dict()), **{f"plan.{key}": value for key, value in (facts | cases).items()}},
        tags={
            "asparagus.monitor": str(spec.checkpoint.monitor),
            "asparagus.mode": str(spec.checkpoint.mode),
            "asparagus.module": spec.own_module or (STAGES[spec.stage].module if spec.stage in STAGES else ""),
        },
        parent=plan.parent,
        data_root=spec.data_root,
        data_split=spec.data.get("split"),
        fingerprint=plan.fingerprint,
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
        identity=plan.identity,
        rerun_of=spec.run.rerun_of,
        sweep_id=plan.trial.sweep_id if plan.trial else None,
        **surroundings.to_dict(),
    )


def _called(plan: Plan, run_id: int) -> str:
    return f"{plan.spec.stage}-{run_id}" + (f" (trial {plan.trial.number})" if plan.trial else "")


def _write_state(  # noqa: PLR0913, PLR0917 - one row of run.json
    folder: RunFolder,
    plan: Plan,
    run_id: int,
    state: str,
    attempt: int,
    mlflow_run_id: str | None,
    metrics: dict[str, float],
) -> None:
    spec, parent = plan.spec, plan.parent
    write_state(
        folder,
        run_id=run_id,
        stage=spec.stage,
        task=spec.task,
        state=state,
        metrics=metrics,
        mlflow_run_id=mlflow_run_id,
        init_from=dataclasses.asdict(parent) if parent else None,
        attempt=attempt,
    )
