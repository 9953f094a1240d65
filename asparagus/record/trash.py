"""Runs that were thrown away: moved aside with all they have, brought back, or removed for good.

The number of a run stays taken, the line in its parent's `derived_models.log` stays written, and its MLflow run is
marked as deleted, which MLflow itself can take back.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow.exceptions import MlflowException

from asparagus.checkpoint.folder import manifests
from asparagus.checkpoint.holds import CHILD, HELD, child, hold, holds, release, told
from asparagus.checkpoint.removal import size_of
from asparagus.errors import RecordError
from asparagus.record.children import Children, children_of_checkpoint, living_children, parent_of
from asparagus.record.numbers import TRASH, place_of
from asparagus.record.run_files import children_of, read_run
from asparagus.record.run_folder import RunFolder, is_running
from asparagus.record.store import Store
from asparagus.record.tracking import FOLDER
from asparagus.secrets import without_passwords
from asparagus.storage import kept

GOING = ".removing-"


@dataclass(frozen=True)
class Moved:
    """A run that was moved, and what a person should know of it."""

    run_id: int
    folder: Path
    """Where it lies now, or lay before it was removed for good."""
    bytes: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return what `--json` prints of it."""
        return {"run_id": self.run_id, "folder": str(self.folder), "bytes": self.bytes, "notes": list(self.notes)}


def throw_away(models: Path, run_ids: Sequence[int], store: Store) -> list[Moved]:
    """Move runs to the trash, once it is sure that all of them may go.

    Of a run whose folder somebody moved or deleted by hand, only the traces go: its holds, and its MLflow run.

    Args:
        models: The folder of all runs.
        run_ids: Their numbers. A parent may go together with its children.
        store: Where they are recorded; it was reached.

    Raises:
        RecordError: There is no such run, it is being trained, others started from it, or it holds a registered or
            pinned checkpoint; or the store refuses.
    """
    folders = {run_id: _folder(models, run_id) for run_id in dict.fromkeys(run_ids)}
    living = living_children(models)
    problems = [
        problem for run_id, folder in folders.items() for problem in _kept_by(models, run_id, folder, living, folders)
    ]
    if problems:
        raise RecordError("\n".join(problems))
    return [
        _throw(models, run_id, folder, store) if folder.path.is_dir() else _forget(models, run_id, folder, store)
        for run_id, folder in folders.items()
    ]


def bring_back(models: Path, run_id: int, store: Store) -> Moved:
    """Bring a run back from the trash.

    Raises:
        RecordError: It is not there, its parent is there too, or the store refuses.
    """
    thrown, home = models / TRASH / _name(run_id), place_of(models, run_id)
    kept.see_run(thrown)
    if not thrown.is_dir():
        raise RecordError(f"run {run_id}: is not in the trash. {_there(models)}")
    if home.exists():
        raise RecordError(f"run {run_id}: {home} is there already, so the one in {thrown} cannot be moved back to it.")
    if (parent := parent_of(thrown)) is not None and (models / TRASH / _name(parent[0])).is_dir():
        raise RecordError(
            f"run {run_id}: started from run {parent[0]}, which is in the trash too. Bring that one back first: "
            f"asp rm --restore {parent[0]} {run_id}"
        )
    notes = _mark(store, thrown, store.client.restore_run)
    home.parent.mkdir(parents=True, exist_ok=True)
    kept.moved(thrown, home)
    thrown.rename(home)
    notes += _hold_parent(models, run_id, home)
    return Moved(run_id, home, size_of(home), tuple(notes))


def empty(models: Path) -> Iterator[Moved]:
    """Remove for good what is in the trash; yields each run when it is gone."""
    trash = models / TRASH
    for left in trash.glob(f"{GOING}*"):  # of an emptying that was killed
        shutil.rmtree(left)
    for run_id, thrown in thrown_away(models):
        size, going = size_of(thrown), thrown.with_name(f"{GOING}{thrown.name}")
        kept.gone(thrown)
        thrown.rename(going)  # half a run is none that could be brought back
        shutil.rmtree(going)
        yield Moved(run_id, thrown, size)


def thrown_away(models: Path) -> list[tuple[int, Path]]:
    """Return the numbers and folders of the runs in the trash."""
    found = [(path.name.partition("=")[2], path) for path in (models / TRASH).glob("run_id=*")]
    return sorted((int(number), path) for number, path in found if number.isdigit())


def _folder(models: Path, run_id: int) -> RunFolder:
    home = place_of(models, run_id)
    kept.see_run(home)
    if (models / TRASH / home.name).is_dir():
        raise RecordError(f"run {run_id}: is in the trash already. asp rm --empty removes it for good.")
    return RunFolder(home, home.parent.name)


def _name(run_id: int) -> str:
    return f"run_id={run_id}"


def _there(models: Path) -> str:
    there = [str(run_id) for run_id, _ in thrown_away(models)]
    return f"There are: {', '.join(there)}." if there else "The trash is empty."


def _kept_by(models: Path, run_id: int, folder: RunFolder, living: Children, going: Collection[int]) -> Iterator[str]:
    """Say what keeps a run where it is."""
    if is_running(folder):
        yield f"run {run_id}: is being trained. Stop it first, or wait for it."
    if children := sorted(_children(run_id, folder, living) - set(going)):
        named = ", ".join(f"run {number}{_if_gone(models, number)}" for number in children)
        yield (
            f"run {run_id}: {named} started from it, and could not be traced or repeated without it. Remove "
            f"{'it' if len(children) == 1 else 'them'} too: asp rm {run_id} {' '.join(map(str, children))}"
        )
    for manifest in manifests(folder.checkpoints):
        for reason in holds(folder.checkpoints / manifest.name):
            if not reason.startswith(CHILD):
                yield (
                    f"run {run_id}: its checkpoint {manifest.name} is {told(reason)}. Take that back first "
                    "(a pin: asp gc --unpin; a model: asp model remove <name>/<version>)."
                )


def _if_gone(models: Path, run_id: int) -> str:
    try:
        return "" if place_of(models, run_id).is_dir() else " (whose folder is gone)"
    except RecordError:  # of another models folder
        return ""


def _children(run_id: int, folder: RunFolder, living: Children) -> set[int]:
    names = {manifest.name for manifest in manifests(folder.checkpoints)}
    names |= {name for parent, name in living if parent == run_id}
    by_checkpoint = {number for name in names for number in children_of_checkpoint(folder, run_id, name, living)}
    elsewhere = {number for number, where in children_of(folder) if Path(where).is_dir()}
    return by_checkpoint | elsewhere


def _throw(models: Path, run_id: int, folder: RunFolder, store: Store) -> Moved:
    thrown = models / TRASH / _name(run_id)
    thrown.parent.mkdir(parents=True, exist_ok=True)
    notes = _mark(store, folder.path, store.client.delete_run)
    kept.moved(folder.path, thrown)
    try:
        folder.path.rename(thrown)
    except OSError as error:
        _mark(store, folder.path, store.client.restore_run)
        raise RecordError(f"run {run_id}: {folder.path} cannot be moved to {thrown} ({error.strerror}).") from error
    if (parent := _parent_checkpoint(models, thrown)) is not None:
        release(parent, child(run_id))
    return Moved(run_id, thrown, size_of(thrown), tuple(notes))


def _forget(models: Path, run_id: int, folder: RunFolder, store: Store) -> Moved:
    """Take back what a run that is gone holds, and mark its MLflow run."""
    for held in models.glob(f"*/*/run_id=*/checkpoints/*/{HELD}/{child(run_id)}"):
        release(held.parent.parent, child(run_id))
    notes = [f"its folder {folder.path} was gone; what it held is free now"]
    if (run := store.run_of(run_id)) is not None:
        store.client.delete_run(run.info.run_id)
    return Moved(run_id, folder.path, 0, tuple(notes))


def _mark(store: Store, folder: Path, change: Callable[[str], None]) -> list[str]:
    """Have the MLflow run deleted or restored; returns what there is to say of it.

    Raises:
        RecordError: The store does not.
    """
    mlflow_run_id = read_run(folder).state.get("mlflow_run_id")
    try:
        mlflow_run_id = _recorded_as(store, folder, mlflow_run_id)
        if mlflow_run_id is None:
            return [f"{without_passwords(store.uri)} has no record of it"]
        change(mlflow_run_id)
    except MlflowException as error:
        raise RecordError(
            f"tracking: {without_passwords(store.uri)} does not take back or delete {mlflow_run_id}: {error}"
        ) from error
    return []


def _recorded_as(store: Store, folder: Path, mlflow_run_id: str | None) -> str | None:
    """Return the MLflow run of a folder: the one that it names or, in a store that was rebuilt, that names it."""
    if mlflow_run_id is not None and store.get(mlflow_run_id) is not None:
        return mlflow_run_id
    there = read_run(folder).record.get("folder")
    numbered = store.with_number(int(folder.name.partition("=")[2]))
    return next((run.info.run_id for run in numbered if run.data.tags.get(FOLDER) == there), None)


def _hold_parent(models: Path, run_id: int, home: Path) -> list[str]:
    """Hold what a run started from again; returns what there is to say of it."""
    parent, checkpoint = parent_of(home), _parent_checkpoint(models, home)
    if parent is None:
        return []
    if checkpoint is None:
        return [f"the checkpoint that it started from is not there any more: {parent[1]} of run {parent[0]}"]
    try:
        hold(checkpoint, child(run_id))
    except (RecordError, OSError) as error:
        return [f"the checkpoint that it started from is not held: {error}"]
    return []


def _parent_checkpoint(models: Path, folder: Path) -> Path | None:
    """Return where the checkpoint lies that a run started from, also if it was moved since, or thrown away."""
    parent = read_run(folder).state.get("init_from") or {}
    if parent.get("run_id") is None:
        return None
    then = Path(parent["checkpoint"])
    places = [then, models / TRASH / _name(parent["run_id"]) / "checkpoints" / then.name]
    with contextlib.suppress(RecordError):  # of another models folder
        places.insert(1, place_of(models, parent["run_id"]) / "checkpoints" / then.name)
    return next((place for place in places if place.is_dir()), None)
