"""Whether the record and the run folders agree, and what a killed process left behind; each finding can be mended."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from asparagus.checkpoint.removal import LEFTOVER, clear_leftovers
from asparagus.doctor.findings import Finding, Surroundings, bad, ok, warn
from asparagus.errors import RecordError
from asparagus.paths import SQLITE, get_tracking_uri
from asparagus.record.asked import Asked
from asparagus.record.backlog import waiting
from asparagus.record.numbers import OURS, REGISTER, all_numbers, place_of, relocated
from asparagus.record.reader import open_reader
from asparagus.record.run_folder import (
    INTERRUPTED,
    RUNNING,
    UNENDED,
    RunFolder,
    is_running,
    mark_lost,
    read_state,
    write_state,
)
from asparagus.record.sql_engine import newest_schema, older_schemas, schema_of
from asparagus.record.tracking import STATE
from asparagus.spec import Parent

SHOWN = 5
STALE_S = 3600.0
"""A temporary file of ours lives for milliseconds."""
GONE = "parent_gone"
"""In `run.json`: that the parent's checkpoint is known to be gone."""
MEND = "asp doctor --fix"


def schema(around: Surroundings) -> Iterator[Finding]:
    """Compare the tables of a local store with the installed MLflow's."""
    uri = get_tracking_uri(around.paths, around.env)
    file = Path(uri.removeprefix(SQLITE))
    version = schema_of(file) if uri.startswith(SQLITE) and file.is_file() else None
    if version is None or version == newest_schema():
        return
    if version in older_schemas():
        found = f"{file} is of an older MLflow (schema {version}), which this one does not write to"
        do = f"{MEND} upgrades it and keeps a copy beside it"
        yield replace(bad("store schema", found, do), mend=lambda: _upgrade(file, version))
        return
    do = "Install the MLflow that wrote it, or a newer one: pip install --upgrade mlflow. Nothing was changed."
    yield bad("store schema", f"{file} was written by a newer MLflow (schema {version})", do)


def runs(around: Surroundings) -> Iterator[Finding]:
    """Look at every run folder of this machine."""
    models = Path(around.paths.models)
    if "://" in around.paths.models or not (models / REGISTER).is_dir():
        return
    folders = list(_folders(models))
    yield from _lost(folders, around)
    yield from _half_written(folders)
    yield from _orphans(folders, models)
    yield from _not_told(folders, models, around)
    yield from _temporary(models)
    yield from _forgotten(models, around)
    yield ok("runs", f"{len(folders)} run folder{'' if len(folders) == 1 else 's'} under {models} looked at")


def _folders(models: Path) -> Iterator[tuple[int, RunFolder, dict[str, Any]]]:
    for run_id in all_numbers(models):
        try:
            path = place_of(models, run_id)
            folder = RunFolder(path, path.parent.name)
            if path.is_dir():
                yield run_id, folder, read_state(folder)
        except RecordError:  # moved, removed or unreadable: each command says so of the run that it is asked about
            continue


def _lost(folders: list[tuple[int, RunFolder, dict[str, Any]]], around: Surroundings) -> Iterator[Finding]:
    """Find runs that say that they run, with nobody behind them."""
    for run_id, folder, facts in folders:
        if facts.get("state") in UNENDED and not is_running(folder):
            found = f"run {run_id} is {facts['state']!r}, and no process trains it"
            do = f"The same asp-launch goes on with it; {MEND} marks it {INTERRUPTED} until then"
            yield replace(warn("lost run", found, do), mend=_interrupter(folder, run_id, around))


def _half_written(folders: list[tuple[int, RunFolder, dict[str, Any]]]) -> Iterator[Finding]:
    for run_id, folder, _ in folders:
        left = [path for prefix in LEFTOVER for path in folder.checkpoints.glob(f"{prefix}*")]
        if left and not is_running(folder):
            found = f"run {run_id}: {', '.join(path.name for path in left[:SHOWN])} in {folder.checkpoints}"
            yield replace(
                warn("half a checkpoint", found, f"{MEND} removes it; whole ones are not touched"),
                mend=_clearer(folder.checkpoints),
            )


def _orphans(folders: list[tuple[int, RunFolder, dict[str, Any]]], models: Path) -> Iterator[Finding]:
    """Find runs whose parent's checkpoint is not where it was."""
    for run_id, folder, facts in folders:
        parent = Parent(**facts["init_from"]) if facts.get("init_from") else None
        if parent is None or GONE in facts or Path(parent.checkpoint).exists():
            continue
        now = relocated(parent, models)
        where = f"is at {now.checkpoint} now" if now else "is gone: moved or deleted"
        found = f"run {run_id} started from {parent.checkpoint}, which {where}"
        do = f"{MEND} " + (
            "writes down where it is now" if now else "notes that it is gone; its digest stays on record"
        )
        yield replace(warn("lineage", found, do), mend=_noter(folder, facts, now))


def _not_told(
    folders: list[tuple[int, RunFolder, dict[str, Any]]], models: Path, around: Surroundings
) -> Iterator[Finding]:
    """Find runs whose end the tracking store could not be told."""
    unended = {run_id for run_id, _, facts in folders if facts.get("state") in UNENDED}
    held = {run_id for run_id, folder, _ in folders if is_running(folder)}
    uri = get_tracking_uri(around.paths, around.env)
    for run_id in sorted({run_id for run_id, _, _ in folders}.intersection(waiting(models, uri)) - unended - held):
        found = f"run {run_id} ended while the tracking store was away, or all of its processes were killed"
        do = f"The next run brings it up to date by itself; {MEND} does it now"
        yield replace(warn("record", found, do), mend=partial(_told, models, around, run_id))


def _temporary(models: Path) -> Iterator[Finding]:
    stale = [
        path
        for path in (models / OURS).rglob("*.writing")
        if path.is_file() and time.time() - path.stat().st_mtime > STALE_S
    ]
    if stale:
        found = f"{len(stale)} stale temporary file{'' if len(stale) == 1 else 's'} under {models / OURS}"
        yield replace(warn("temporary files", found, f"{MEND} removes them"), mend=_remover(stale))


def _forgotten(models: Path, around: Surroundings) -> Iterator[Finding]:
    """Find runs that the store says are running, and whose folder in this models folder is gone."""
    try:
        running = open_reader(get_tracking_uri(around.paths, around.env)).runs(Asked(state=RUNNING, limit=None))
    except RecordError:  # the check of the store says so
        return
    for run in running:
        folder = Path(run.folder)
        if run.folder and folder.is_relative_to(models) and not folder.exists():
            found = f"run {run.run_id} is {RUNNING!r} in the tracking store, and its folder {folder} is gone"
            yield replace(
                warn("lost run", found, f"{MEND} marks it {INTERRUPTED} there"),
                mend=_closer(run.mlflow_run_id, around),
            )


def _interrupter(folder: RunFolder, run_id: int, around: Surroundings) -> Callable[[], str]:
    def mend() -> str:
        mark_lost(folder)
        return f"run {run_id} is {INTERRUPTED}; " + _told(Path(around.paths.models), around, run_id)

    return mend


def _clearer(checkpoints: Path) -> Callable[[], str]:
    return lambda: "removed " + ", ".join(path.name for path in clear_leftovers(checkpoints))


def _noter(folder: RunFolder, facts: dict[str, Any], now: Parent | None) -> Callable[[], str]:
    def mend() -> str:
        if now is None:
            write_state(folder, **{**facts, GONE: True})
            return "noted that it is gone"
        moved = {**facts["init_from"], "folder": now.folder, "checkpoint": now.checkpoint}
        write_state(folder, **{**facts, "init_from": moved})
        return f"it is {now.checkpoint} now"

    return mend


def _remover(files: list[Path]) -> Callable[[], str]:
    def mend() -> str:
        for file in files:
            file.unlink(missing_ok=True)
        return f"removed {len(files)}"

    return mend


def _closer(mlflow_run_id: str, around: Surroundings) -> Callable[[], str]:
    def mend() -> str:
        from asparagus.record.store import Store

        client = Store(get_tracking_uri(around.paths, around.env)).client
        client.set_tag(mlflow_run_id, STATE, INTERRUPTED)
        client.set_terminated(mlflow_run_id, "KILLED")
        return f"marked {INTERRUPTED}"

    return mend


def _told(models: Path, around: Surroundings, run_id: int) -> str:
    """Tell the store what it lacks of a run."""
    from asparagus.record.rebuild import bring_up_to_date
    from asparagus.record.store import Store

    store = Store(get_tracking_uri(around.paths, around.env), Path(around.paths.results) / "mlartifacts")
    return bring_up_to_date(store, models, run_id)


def _upgrade(file: Path, version: str) -> str:
    """Upgrade a copy of a store and let it take the store's place; the store as it was stays beside it."""
    from asparagus.record.store import upgrade

    kept = file.with_name(f"{file.name}.{version}")
    making = file.with_name(f".{file.name}.upgrading")
    shutil.copyfile(file, making)
    upgrade(f"{SQLITE}{making}")
    if not kept.exists():
        file.rename(kept)
    making.rename(file)
    return f"upgraded; the store as it was: {kept}"
