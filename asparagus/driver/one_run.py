"""One plan carried out: number, folder, record, training, end."""

from __future__ import annotations

import dataclasses
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asparagus.checkpoint.folder import best_of, manifests
from asparagus.errors import RecordError, RunError
from asparagus.journal import Event, JournalReader
from asparagus.plan import Plan
from asparagus.record.numbers import claim
from asparagus.record.recorder import Recorder, RunRecord, flatten
from asparagus.record.run_folder import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    RunFolder,
    create,
    note_child,
    write_state,
)
from asparagus.secrets import hide, references, reveal
from asparagus.spec import Assignment, Parent
from asparagus.stages import STAGES

Watcher = Callable[[Event], None]
"""Sees every event of the journal, on a thread of its own."""
Engine = Callable[[Assignment], dict[str, Any]]
"""Trains an assignment and returns what `work` does."""
WATCH_S = 0.2

log = logging.getLogger("asparagus")


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    run_id: int
    mlflow_run_id: str
    state: str
    folder: str
    metrics: dict[str, float] = field(default_factory=dict)
    checkpoint: str | None = None
    parent: Parent | None = None
    recorded: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        parent = self.parent
        edge = {"run_id": parent.run_id, "checkpoint": parent.checkpoint} if parent else None
        values = dataclasses.asdict(self)
        return {**{key: values[key] for key in values if key not in ("parent", "recorded")}, "init_from": edge}


@dataclass(frozen=True)
class Begun:
    """A run that has its number, its folder and its record."""

    plan: Plan
    run_id: int
    mlflow_run_id: str
    folder: RunFolder

    @property
    def assignment(self) -> Assignment:
        """What its workers are told."""
        return Assignment(self.plan.spec, self.run_id, str(self.folder.path), parent=self.plan.parent)

    def write_state(self, state: str, metrics: dict[str, float]) -> None:
        """Mark the folder with how the run stands."""
        spec, parent = self.plan.spec, self.plan.parent
        write_state(
            self.folder,
            run_id=self.run_id,
            stage=spec.stage,
            task=spec.task,
            state=state,
            metrics=metrics,
            mlflow_run_id=self.mlflow_run_id,
            init_from=dataclasses.asdict(parent) if parent else None,
        )


def drive(plan: Plan, watcher: Watcher) -> Outcome:
    """Carry out a plan.

    Raises:
        RequestError: The store cannot be reached or the resources are not there; nothing was trained.
        RunError: The training failed; the record says so.
        KeyboardInterrupt: It was interrupted; the record says so.
    """
    uri, results = str(reveal(plan.spec.site.tracking_uri)), Path(plan.spec.paths.results)
    with Recorder(uri, results / "mlartifacts") as recorder, _engine(plan) as engine:
        begun = _begin(plan, recorder)
        state, metrics, recorded = FAILED, {}, False
        try:
            with _watching(begun, watcher):
                metrics = engine(begun.assignment)["metrics"]
            state = FINISHED
        except KeyboardInterrupt:
            state = INTERRUPTED
            raise
        except RunError as error:
            _write_error(begun, error)
            raise
        finally:
            begun.write_state(state, metrics)
            recorded = _close(recorder, begun.run_id, state)
    return _outcome(begun, state, metrics, recorded=recorded)


def _begin(plan: Plan, recorder: Recorder) -> Begun:
    """Give the run its number, folder and record, and tell its parent."""
    spec, models = plan.spec, Path(plan.spec.paths.models)
    about = {"stage": spec.stage, "task": spec.task}
    run_id = claim(models, about=about, wanted=spec.run.id, floor=recorder.largest_number())
    folder = create(models, spec, run_id, plan.to_json())
    folder.log.write_text(f"###RUN-ID={run_id}###\n{plan.describe()}\n", encoding="utf-8")
    try:
        begun = Begun(plan, run_id, recorder.open(_record(plan, run_id, folder)), folder)
    except RecordError:
        write_state(folder, run_id=run_id, **about, state=FAILED)
        raise
    begun.write_state(RUNNING, {})
    if plan.parent is not None and plan.parent.folder is not None:
        try:
            note_child(Path(plan.parent.folder), run_id=run_id, folder=folder.path)
        except OSError as error:  # somebody else's run: the edge is in MLflow and in our own folder all the same
            log.warning("%s/derived_models.log cannot be written (%s)", plan.parent.folder, error.strerror)
    return begun


def _close(recorder: Recorder, run_id: int, state: str) -> bool:
    """Close the record; a store that cannot take it must not change how the run ended."""
    try:
        return recorder.close(run_id, state=state)
    except RecordError as error:
        log.warning("%s", error)
        return False


def _outcome(begun: Begun, state: str, metrics: dict[str, float], *, recorded: bool) -> Outcome:
    if not recorded:
        journal = begun.folder.journal
        log.warning("run %d: the tracking store is away; what it lacks is in %s", begun.run_id, journal)
    return Outcome(
        run_id=begun.run_id,
        mlflow_run_id=begun.mlflow_run_id,
        state=state,
        folder=str(begun.folder.path),
        metrics=metrics,
        checkpoint=_best(begun.folder),
        parent=begun.plan.parent,
        recorded=recorded,
    )


@contextmanager
def _engine(plan: Plan) -> Iterator[Engine]:
    """Bring up what trains, while the recorder starts beside it."""
    if plan.workers:
        from asparagus.driver.on_ray import ray_engine

        with ray_engine(plan) as engine:
            yield engine
        return
    from asparagus.worker.ranks import InProcess
    from asparagus.worker.work import work

    yield lambda assignment: _in_process(assignment, work, InProcess())


def _in_process(assignment: Assignment, work: Callable[..., dict[str, Any]], ranks: Any) -> dict[str, Any]:
    try:
        return work(assignment, ranks)
    except RunError:
        raise
    except Exception as error:
        raise failure(assignment, error) from error


def failure(assignment: Assignment, error: BaseException, *, hint: str = "") -> RunError:
    """Return the error that a failed training ends with: the cause in one line, and where to read on."""
    folder = RunFolder(Path(assignment.folder), assignment.spec.stage)
    kept = manifests(folder.checkpoints)
    saved = f"Its last checkpoint: {folder.checkpoints / kept[-1].name}." if kept else "It wrote no checkpoint."
    names = set(references(assignment.spec.to_dict()))
    return RunError(
        f"run {assignment.run_id} failed: {type(error).__name__}: {hide(str(error), names)}\n"
        + (f"{hint}\n" if hint else "")
        + f"{saved} The whole story: {folder.log}"
    )


def _write_error(begun: Begun, error: RunError) -> None:
    import traceback

    story = "".join(traceback.format_exception(error))
    with begun.folder.log.open("a", encoding="utf-8") as file:
        file.write(hide(story, set(references(begun.plan.spec.to_dict()))))


def _record(plan: Plan, run_id: int, folder: RunFolder) -> RunRecord:
    spec = plan.spec
    facts = {"world_size": str(plan.world_size)}
    facts |= {"global_batch": str(plan.global_batch)} if plan.global_batch else {}
    cases = {f"cases.{part}": str(count) for part, count in (plan.cases or {}).items()}
    return RunRecord(
        run_id=run_id,
        stage=spec.stage,
        task=spec.task,
        folder=str(folder.path),
        name=spec.run.name or f"{spec.stage}-{run_id}",
        params={**flatten(spec.to_dict()), **{f"plan.{key}": value for key, value in (facts | cases).items()}},
        tags={
            "asparagus.monitor": str(spec.checkpoint.monitor),
            "asparagus.mode": str(spec.checkpoint.mode),
            "asparagus.module": spec.own_module or STAGES[spec.stage].module,
        },
        parent=plan.parent,
        data_root=spec.data_root,
        data_split=spec.data.get("split"),
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
    )


def _best(folder: RunFolder) -> str | None:
    """Return the checkpoint to go on with: the best, or the last where nothing was measured."""
    found = manifests(folder.checkpoints)
    chosen = best_of(found) or (found[-1] if found else None)
    return str(folder.checkpoints / chosen.name) if chosen else None


@contextmanager
def _watching(begun: Begun, watcher: Watcher) -> Iterator[None]:
    """Show the journal's events to the watcher while the body runs, the last ones included."""
    watcher({"kind": "run", "run_id": begun.run_id, "folder": str(begun.folder.path)})
    reader, done = JournalReader(begun.folder.journal), threading.Event()

    def follow() -> None:
        while True:
            last = done.is_set()
            for event in reader.read():
                watcher(event)
            if last:
                return
            done.wait(WATCH_S)

    thread = threading.Thread(target=follow, name="journal", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
