"""The folder of one run: what lies in it, and how it comes to be. Standard library and YAML only."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from asparagus import __version__
from asparagus.errors import RecordError
from asparagus.python_file import MODEL_OF
from asparagus.record.numbers import folder_name
from asparagus.spec import Spec
from asparagus.storage import kept
from asparagus.storage.holder import Holder, is_gone, is_held, is_locked, this_process

FINISHED = "finished"
FAILED = "failed"
INTERRUPTED = "interrupted"
PRUNED = "pruned"
"""A trial that its sweep has stopped: others are better."""
RUNNING = "running"
STARTING = "starting"
"""It has its number and folder, and is not recorded yet."""
PLANS = "plan.attempt[0-9]*.json"
OVER, UNENDED = (FINISHED, FAILED, INTERRUPTED, PRUNED), (STARTING, RUNNING)
UNLOCK_S = 30.0
"""How long a lock may outlive its process: workers that load data notice within seconds that nobody needs them."""


@dataclass(frozen=True)
class RunFolder:
    """Paths in `<MODELS>/<task>/<stage>/run_id=<N>/`."""

    path: Path
    stage: str

    @property
    def config(self) -> Path:
        """The exact spec: a rerun needs nothing else."""
        return self.path / "config.yaml"

    @property
    def plan(self) -> Path:
        """The plan that was carried out."""
        return self.path / "plan.json"

    @property
    def newest_plan(self) -> Path:
        """The plan of the newest attempt: what the run is asked to keep may be otherwise than at first."""
        later = {int(path.name.split(".")[1].removeprefix("attempt")): path for path in self.path.glob(PLANS)}
        return later[max(later)] if later else self.plan

    @property
    def journal(self) -> Path:
        """What happened, event by event."""
        return self.path / "journal.jsonl"

    @property
    def log(self) -> Path:
        """What was said while it ran."""
        return self.path / f"{self.stage}.log"

    @property
    def state(self) -> Path:
        """How it ended: the mark of a finished run."""
        return self.path / "run.json"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints."""
        return self.path / "checkpoints"

    @property
    def record(self) -> Path:
        """What the tracking store is told when the run starts: it is recorded anew from this (`asp record rebuild`)."""
        return self.path / "record.json"

    @property
    def written(self) -> Path:
        """How far the journal is recorded."""
        return self.path / "recorded.json"

    @property
    def diff(self) -> Path:
        """Uncommitted changes of the code that the run was started with."""
        return self.path / "uncommitted.diff"

    @property
    def lock(self) -> Path:
        """Held by the driver for as long as the run is being trained."""
        return self.path / ".lock"

    @property
    def driver(self) -> Path:
        """Who took the run last."""
        return self.path / ".driver"

    @property
    def children(self) -> Path:
        """One line for each run that started from a checkpoint of this one."""
        return self.path / "derived_models.log"

    @property
    def plots(self) -> Path:
        """Images and pages for people."""
        return self.path / "plots"

    @property
    def transfer(self) -> Path:
        """Which weights came over from the parent."""
        return self.path / "transfer.json"


def create(models: Path, spec: Spec, run_id: int, plan_json: str) -> RunFolder:
    """Make the run's folder with its config and plan. The number is fresh, so nothing can be there yet."""
    folder = RunFolder(models / folder_name(spec.task, spec.stage, run_id), spec.stage)
    folder.path.mkdir(parents=True, exist_ok=False)
    fill(folder, spec, run_id, plan_json)
    return folder


def fill(folder: RunFolder, spec: Spec, run_id: int, plan_json: str) -> None:
    """Write config and plan into a run's folder."""
    header = f"# The exact experiment of run {run_id}. Repeat it: asp rerun {run_id}\n"
    header += f"# Of asparagus {__version__}.\n"
    # Its own number is taken: whoever repeats it gets the next one.
    again = dataclasses.replace(
        spec, run=dataclasses.replace(spec.run, id=None, rerun_of=None), model=_with_copies(spec.model, folder.path)
    )
    body = yaml.safe_dump(again.to_dict(), sort_keys=False)
    folder.config.write_text(header + body, encoding="utf-8")
    folder.plan.write_text(plan_json + "\n", encoding="utf-8")


def _with_copies(section: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Keep the Python file that builds a network, so that the run repeats when the original has moved on."""
    if section.get("_target_") != MODEL_OF or not Path(section["file"]).is_file():
        return {key: _with_copies(part, folder) if isinstance(part, dict) else part for key, part in section.items()}
    original = Path(section["file"])
    shutil.copyfile(original, folder / original.name)
    return {**section, "file": str(folder / original.name), "home": section.get("home") or str(original.parent)}


def read_state(folder: RunFolder) -> dict[str, Any]:
    """Return what `run.json` says; nothing for a run that was lost before it was written."""
    try:
        facts: dict[str, Any] = json.loads(folder.state.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RecordError(
            f"{folder.state}: cannot be read ({error}). Move it away: the run then counts as unfinished."
        ) from error
    return facts


def write_state(folder: RunFolder, **facts: Any) -> None:
    """Replace `run.json`."""
    write_json(folder.state, {**facts, "updated": time.time()})


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Replace a file, whole or not at all."""
    writing = path.with_name(f".{path.name}.{os.getpid()}.writing")
    writing.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    writing.replace(path)


def mark(folder: RunFolder, state: str) -> None:
    """Change the state in `run.json`, whatever else it says."""
    write_state(folder, **{**read_state(folder), "state": state})


@dataclass(frozen=True)
class Held:
    """A run that is this process's."""

    lock: FileLock
    holder: Holder | None
    """In the sight of other machines, where there is a store."""

    def release(self) -> None:
        """Let it go."""
        if self.holder is not None:
            self.holder.release()
        self.lock.release()


def hold(folder: RunFolder) -> Held:
    """Take a run for this process; it is free again when the lock is released or the process dies.

    Raises:
        RecordError: Another process trains it.
    """
    lock = FileLock(folder.lock)
    deadline = time.monotonic() + UNLOCK_S
    while True:
        try:
            lock.acquire(timeout=1)
        except Timeout:
            who = driver_of(folder)
            if not is_gone(who) or time.monotonic() > deadline:
                known = f"process {who['pid']} on {who['host']}" if who else "another process"
                raise RecordError(
                    f"{folder.path}: is being trained already, by {known}. Wait for it "
                    f"({folder.log} shows how it goes), or train a second one: run.resume=false."
                ) from None
        else:
            break
    try:
        told = kept.hold(folder.path)
    except BaseException:
        lock.release()
        raise
    write_json(folder.driver, this_process())
    return Held(lock, told)


def is_running(folder: RunFolder) -> bool:
    """Tell whether a process trains the run now, here or, where there is a store, on whatever machine."""
    return is_locked(folder.lock) or is_held(folder.path)


def driver_of(folder: RunFolder) -> dict[str, Any]:
    """Return what the process that took the run last said of itself; nothing where nobody can tell."""
    try:
        who: dict[str, Any] = json.loads(folder.driver.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return who


def end_of(folder: RunFolder) -> str:
    """Return how a run ended that nobody trains any more: interrupted, if nobody has written how."""
    state = read_state(folder).get("state")
    return str(state) if state in OVER else INTERRUPTED


@contextmanager
def left(folder: RunFolder) -> Iterator[bool]:
    """Tell whether a run is nobody's any more; if so, nobody takes it during the body.

    It is, if it is over, or if the process that trained it is known to be gone. That nobody has it locked is not
    enough: not all file systems that machines share tell each of them of the others' locks.
    """
    lock = FileLock(folder.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        over = read_state(folder).get("state") in OVER or is_gone(driver_of(folder))
        yield over and not is_held(folder.path)
    finally:
        lock.release()


def mark_lost(folder: RunFolder) -> bool:
    """Write down that a run was interrupted at its last sign of life; returns whether nobody had said how it ended."""
    facts = read_state(folder)
    if facts.get("state") not in UNENDED:
        return False
    last_sign = max(path.stat().st_mtime for path in (folder.state, folder.journal) if path.is_file())
    write_json(folder.state, {**facts, "state": INTERRUPTED, "updated": last_sign})
    return True


def note_child(parent: Path, *, run_id: int, folder: Path) -> None:
    """Append one line to the parent's `derived_models.log`: `<run id>, <run folder>` (SEEDS A33).

    One `write` of an append-mode file: two children at once leave two whole lines. A child that is there already, and
    goes on, is not written again.
    """
    told = RunFolder(parent, "").children
    lines = told.read_text(encoding="utf-8").splitlines() if told.is_file() else []
    if any(line.startswith(f"{run_id}, ") for line in lines):
        return
    handle = os.open(told, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
    try:
        os.write(handle, f"{run_id}, {folder}\n".encode())
    finally:
        os.close(handle)
    kept.put(told)
