"""One plan carried out: number, folder, record, training, end."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asparagus.checkpoint.folder import best_in, manifests
from asparagus.driver.begin import Begun, begun, looking, otherwise_now
from asparagus.driver.leaving import leaving
from asparagus.driver.timing import note_end
from asparagus.errors import LeftError, RecordError, RunError
from asparagus.journal import Event, JournalReader
from asparagus.plan import Plan
from asparagus.record.backlog import waiting
from asparagus.record.recorder import Recorder
from asparagus.record.run_folder import FAILED, FINISHED, INTERRUPTED, RunFolder
from asparagus.record.standing import Standing, standing
from asparagus.secrets import hide, references, reveal
from asparagus.spec import Assignment, Parent
from asparagus.stopwatch import WATCH, Phase

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
    repeated: bool = True
    """False for an identical run that had finished before: it is shown."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        parent = self.parent
        edge = {"run_id": parent.run_id, "checkpoint": parent.checkpoint} if parent else None
        values = dataclasses.asdict(self)
        return {
            **{key: values[key] for key in values if key not in ("parent", "recorded", "repeated")},
            "init_from": edge,
        }


def drive(plan: Plan, watcher: Watcher) -> Outcome:
    """Carry out a plan: train a new run, go on with the identical one that is unfinished, or show the finished one.

    Raises:
        RequestError: The store cannot be reached or the resources are not there; nothing was trained.
        RunError: The training failed; the record says so.
        KeyboardInterrupt: It was interrupted; the record says so.
    """
    found = standing(plan.spec, plan.identity)
    WATCH.lap(Phase.CHECK)
    if found is not None and found.finished:
        if news := otherwise_now(plan, found):
            watcher({"kind": "attempt", "attempt": found.attempt, "news": news})
        recorded = complete(plan, [found.run_id])
        return _shown(found, plan, recorded=recorded)
    with (
        ExitStack() as over,
        looking() as seen,
        _recorder(plan) as recorder,
        _engine(plan) as engine,
        begun(plan, recorder, seen, WATCH) as run,
    ):
        over.callback(note_end, run.folder, run.attempt)
        return _train(run, engine, recorder, watcher)


def complete(plan: Plan, run_ids: Iterable[int]) -> bool:
    """Tell the store what it lacks of runs that are over, if anything; returns whether it knows all of them now."""
    uri = str(reveal(plan.spec.site.tracking_uri))
    late = set(run_ids) & set(waiting(Path(plan.spec.paths.models), uri))
    if not late:
        return True
    try:
        with _recorder(plan) as recorder:
            problems = recorder.complete(late)
    except RecordError as error:
        problems = [str(error)]
    for problem in problems:
        log.warning("the tracking store lacks the end of it: %s", problem)
    return not problems


def _recorder(plan: Plan) -> Recorder:
    uri, paths = str(reveal(plan.spec.site.tracking_uri)), plan.spec.paths
    return Recorder(uri, Path(paths.results) / "mlartifacts", Path(paths.models))


def _train(run: Begun, engine: Engine, recorder: Recorder, watcher: Watcher) -> Outcome:
    """Let the engine train, and write down how it ended, whatever happens."""
    state, metrics, recorded = FAILED, {}, False
    try:
        with _watching(run, watcher), leaving(run.folder.path, run.plan.spec.failures.grace_s):
            metrics = _trained(engine, run.assignment)
        state = FINISHED
    except (KeyboardInterrupt, LeftError):
        state = INTERRUPTED
        raise
    except SystemExit as end:  # Ray's own answer to Ctrl-C
        state = INTERRUPTED
        raise KeyboardInterrupt from end
    except RunError as error:
        _write_error(run, error)
        raise
    finally:
        _write_end(run, state, metrics)
        recorded = _close(recorder, run.run_id, state)
    return _outcome(run, state, metrics, recorded=recorded)


def _trained(engine: Engine, assignment: Assignment) -> dict[str, float]:
    try:
        metrics: dict[str, float] = engine(assignment)["metrics"]
        return metrics
    finally:
        WATCH.start()  # who trains tells the journal of the time until here


def _write_end(run: Begun, state: str, metrics: dict[str, float]) -> None:
    """Mark the folder; a disk that is full must not hide what went wrong before."""
    try:
        run.write_state(state, metrics)
    except OSError as error:
        log.warning("%s cannot be written (%s): the run counts as unfinished", run.folder.state, error.strerror)


def _shown(found: Standing, plan: Plan, *, recorded: bool) -> Outcome:
    """Return how a run ended that need not be trained again."""
    facts = found.facts
    return Outcome(
        run_id=found.run_id,
        mlflow_run_id=str(facts["mlflow_run_id"]),
        state=str(facts["state"]),
        folder=str(found.folder.path),
        metrics=facts["metrics"],
        checkpoint=best_in(found.folder.checkpoints),
        parent=plan.parent,
        recorded=recorded,
        repeated=False,
    )


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
        checkpoint=best_in(begun.folder.checkpoints),
        parent=begun.plan.parent,
        recorded=recorded,
    )


@contextmanager
def _engine(plan: Plan) -> Iterator[Engine]:
    """Bring up what trains, while the recorder starts beside it."""
    if plan.workers:
        from asparagus.driver.on_ray import ray_engine

        with ray_engine(plan) as engine:
            WATCH.lap(Phase.RAY)
            yield engine
        return
    import asparagus.worker.work  # noqa: F401 - seconds, while the recorder starts
    from asparagus.driver.in_process import train_here

    WATCH.lap(Phase.IMPORTS)
    yield train_here


def failure(assignment: Assignment, error: BaseException | str, *, hint: str = "") -> RunError:
    """Return the error that a failed training ends with: the cause in one line, and where to read on."""
    if isinstance(error, RunError):  # said in our own words where it happened
        return type(error)(f"{error}\n{hint}") if hint else error
    folder = RunFolder(Path(assignment.folder), assignment.spec.stage)
    kept = manifests(folder.checkpoints)
    again = "The same command goes on from there."
    saved = f"Its last checkpoint: {folder.checkpoints / kept[-1].name}. {again}" if kept else "It wrote no checkpoint."
    names = set(references(assignment.spec.to_dict()))
    cause = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return RunError(
        f"run {assignment.run_id} failed: {hide(cause, names)}\n"
        + (f"{hint}\n" if hint else "")
        + f"{saved} The whole story: {folder.log}"
    )


def _write_error(begun: Begun, error: RunError) -> None:
    import traceback

    story = "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError), begun.folder.log.open("a", encoding="utf-8") as file:  # a disk that is full
        file.write(hide(story, set(references(begun.plan.spec.to_dict()))))


@contextmanager
def _watching(begun: Begun, watcher: Watcher) -> Iterator[None]:
    """Show the journal's events to the watcher while the body runs, the last ones included."""
    watcher({"kind": "run", "run_id": begun.run_id, "folder": str(begun.folder.path)})
    reader, done = JournalReader(begun.folder.journal, begun.offset), threading.Event()

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
