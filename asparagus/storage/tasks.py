"""Tasks in a store: what they consist of is known at once, and their cases are fetched where they are trained on."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from functools import lru_cache
from pathlib import Path, PurePosixPath

from filelock import FileLock

from asparagus.errors import DataError
from asparagus.storage.mirror import Mirror, mirror_of
from asparagus.storage.names import OURS, root_of
from asparagus.storage.store import Entry

TASKS = OURS / "tasks"
"""`<task>.json`: what the store has of a task; `<task>.here.json`: which of it is here, as it was then."""
DATASET = "dataset.json"
"""Fetched last: without it, a folder is no task."""
SEEN_S = 5.0

log = logging.getLogger("asparagus")

Listed = dict[str, list[float]]
"""Path inside the task -> size and time of change."""


def see_task(root: Path, task: str) -> None:
    """Have a task's own files here (`*.json`), and know how large its cases are; nothing happens without a store.

    Raises:
        DataError: The store has no such task.
        StoreError: The store cannot be reached.
    """
    if mirror := mirror_of(root):
        listed = _list(mirror, task, time.monotonic() // SEEN_S)
        _fetch(mirror, task, {name: seen for name, seen in listed.items() if _is_about(name)}, whole=False)


def fetch_task(root: Path, task: str) -> None:
    """Have all of a task here, as the store has it now; what is here already, and the same, is not fetched again.

    Raises:
        DataError: The store has no such task.
        StoreError: The store cannot be reached.
    """
    if mirror := mirror_of(root):
        _fetch(mirror, task, _list(mirror, task, time.monotonic()), whole=True)


def put_task(root: Path, task: str) -> None:
    """Put a task that was made here into the store, its `dataset.json` last."""
    mirror = mirror_of(root)
    if mirror is None:
        return
    files = [path for path in sorted((root / task).rglob("*")) if path.is_file() and path.suffix != ".lock"]
    about = [path for path in files if path == root / task / DATASET]
    mirror.put_now(*[path for path in files if path not in about])
    mirror.put_now(*about)
    _write(mirror.root / TASKS / f"{task}.here.json", _as_listed(mirror, task))


def size_in_store(case: Path) -> int | None:
    """Return how large a case is that is not here, and that the store has; None where there is none."""
    root = root_of(case)
    if root is None:
        return None
    inside = case.relative_to(root)
    seen = _read(root / TASKS / f"{inside.parts[0]}.json").get(PurePosixPath(*inside.parts[1:]).as_posix())
    return int(seen[0]) if seen else None


def _fetch(mirror: Mirror, task: str, listed: Listed, *, whole: bool) -> None:
    (mirror.root / TASKS).mkdir(parents=True, exist_ok=True)
    with FileLock(mirror.root / TASKS / f"{task}.lock"):
        noted = mirror.root / TASKS / f"{task}.here.json"
        here = _read(noted)
        lacking = [
            name for name, seen in listed.items() if not _is_here(mirror.root / task / name, seen, here.get(name))
        ]
        if sum(listed[name][0] for name in lacking) > 1e6:  # noqa: PLR2004 - what takes a while is told
            size = sum(listed[name][0] for name in lacking) / 1e6
            log.info("fetching %d files of %s from %s (%.0f MB)", len(lacking), task, mirror.store.uri, size)
        first = [name for name in lacking if name != DATASET]
        mirror.store.each(lambda name: mirror.store.get(f"{task}/{name}", mirror.root / task / name), first)
        if DATASET in lacking:
            mirror.store.get(f"{task}/{DATASET}", mirror.root / task / DATASET)
        if whole:
            for name in here.keys() - listed.keys():
                with contextlib.suppress(FileNotFoundError):
                    (mirror.root / task / name).unlink()
        if lacking or (whole and here.keys() - listed.keys()):
            _write(noted, listed if whole else {**here, **listed})


def _is_here(file: Path, seen: list[float], before: list[float] | None) -> bool:
    return seen == before and file.is_file() and file.stat().st_size == seen[0]


def _is_about(name: str) -> bool:
    return "/" not in name and name.endswith(".json")


@lru_cache(maxsize=16)
def _list(mirror: Mirror, task: str, _: float) -> Listed:
    listed = _as_listed(mirror, task)
    if DATASET not in listed:
        known = sorted({PurePosixPath(key).parts[0] for key in mirror.store.list("") if key.endswith(f"/{DATASET}")})
        raise DataError(f"task: no task {task!r} in {mirror.store.uri}. Known there: {', '.join(known) or 'none'}.")
    _write(mirror.root / TASKS / f"{task}.json", listed)
    return listed


def _as_listed(mirror: Mirror, task: str) -> Listed:
    found: dict[str, Entry] = mirror.store.list(task)
    return {key.removeprefix(f"{task}/"): [entry.size, entry.changed] for key, entry in found.items()}


def _read(file: Path) -> Listed:
    try:
        listed: Listed = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return listed


def _write(file: Path, listed: Listed) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    writing = file.with_name(f".{file.name}.writing")
    writing.write_text(json.dumps(listed), encoding="utf-8")
    writing.replace(file)
