"""The record, restored from run folders: each holds all that the tracking store was told."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from asparagus.errors import RecordError
from asparagus.record.backlog import told
from asparagus.record.book import AWAY, LEAVE_S, Book
from asparagus.record.numbers import TRASH, all_numbers, find_folder, is_taken, place_of, relocated
from asparagus.record.recorder import RunRecord
from asparagus.record.registry import restore
from asparagus.record.run_folder import RunFolder, end_of, is_running, left, mark_lost, read_state, write_json
from asparagus.record.store import Store
from asparagus.spec import Parent
from asparagus.storage import kept

PATIENCE_S = 30.0
"""How long one run is tried."""


@dataclass(frozen=True)
class Rebuilt:
    """What became of one run, or of a registered model."""

    what: str
    found: str
    ok: bool = True


def rebuild(store: Store, models: Path) -> Iterator[Rebuilt]:
    """Record every run of a models folder that the store lacks, or has only in part; parents before their children.

    It may be done at any time, and again: what is recorded already stays as it is.
    """
    done: set[int] = set()
    for run_id in all_numbers(models):
        if not (models / TRASH / place_of(models, run_id).name).is_dir():  # what was thrown away stays so
            yield from _with_ancestors(store, models, run_id, done)
    folders = [(run_id, RunFolder(path, path.parent.name)) for run_id, path in _on_disk(models)]
    for problem in restore(store, folders):
        yield Rebuilt("registry", problem, ok=False)


def _on_disk(models: Path) -> Iterator[tuple[int, Path]]:
    for run_id in all_numbers(models):
        with contextlib.suppress(RecordError):  # said of the run itself
            yield run_id, find_folder(models, run_id)


def _with_ancestors(store: Store, models: Path, run_id: int, done: set[int]) -> Iterator[Rebuilt]:
    if run_id in done:
        return
    done.add(run_id)
    try:
        folder = _folder_of(models, run_id)
        record = _record_of(folder, models)
    except RecordError as error:
        yield Rebuilt(f"run {run_id}", str(error), ok=False)
        return
    if record.parent is not None and record.parent.run_id is not None:
        yield from _with_ancestors(store, models, record.parent.run_id, done)
    yield Rebuilt(f"run {run_id}", *complete(store, folder, record))


def complete(store: Store, folder: RunFolder, record: RunRecord) -> tuple[str, bool]:
    """Bring what the store has of a run up to what its folder says; returns what was done, and whether it is whole."""
    if is_running(folder):
        return "is being trained; its own recorder keeps it", True
    return _written(store, folder, record, LEAVE_S)


def bring_up_to_date(store: Store, models: Path, run_id: int) -> str:
    """Complete one run in the store, if whoever trained it is gone; returns what was done.

    Nobody is waited for: what another process is at is that one's. What the store is not told of now waits on.
    """
    try:
        folder = _folder_of(models, run_id)
        record = _record_of(folder, models)
        kept.see_run(folder.path)  # another machine may have gone on with it
        with left(folder) as is_left:
            if not is_left:
                return f"run {run_id}: whoever trains it has not ended it yet"
            if mark_lost(folder):
                kept.put(folder.state)
            return f"run {run_id}: {_written(store, folder, record, 0.0)[0]}"
    except (RecordError, OSError) as error:
        if not is_taken(models, run_id):
            told(models, run_id, store.uri)
        return f"run {run_id}: {error}"


def _written(store: Store, folder: RunFolder, record: RunRecord, patience_s: float) -> tuple[str, bool]:
    facts = read_state(folder)
    before = facts.get("mlflow_run_id") or "unknown"
    try:
        book = Book(store, record, mlflow_run_id=before, attempt=facts.get("attempt", 1), patience_s=patience_s)
        whole = book.close(end_of(folder), PATIENCE_S, ended=facts.get("updated"))
    except Timeout:
        return "another recorder is at it", False
    except (*AWAY, RecordError) as error:
        return f"the store refused it: {error}", False
    if facts and book.mlflow_run_id != before:
        write_json(folder.state, {**read_state(folder), "mlflow_run_id": book.mlflow_run_id})
    return ("kept" if book.mlflow_run_id == before else f"restored as {book.mlflow_run_id}"), whole


def _folder_of(models: Path, run_id: int) -> RunFolder:
    path = find_folder(models, run_id)
    return RunFolder(path, path.parent.name)


def _record_of(folder: RunFolder, models: Path) -> RunRecord:
    """Read what a folder keeps for this, with the paths of today.

    Raises:
        RecordError: It keeps nothing: the run was lost before it began, or is of a version that kept none.
    """
    try:
        record = RunRecord.from_dict(json.loads(folder.record.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RecordError(f"{folder.record}: cannot be read ({error}), so the run cannot be recorded anew.") from error
    return dataclasses.replace(record, folder=str(folder.path), parent=_of_today(record.parent, models))


def _of_today(parent: Parent | None, models: Path) -> Parent | None:
    if parent is None or Path(parent.checkpoint).exists():
        return parent
    return relocated(parent, models) or parent
