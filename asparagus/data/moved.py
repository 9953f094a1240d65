"""Bringing a task's absolute paths up to date after its folder was moved or renamed; a backup is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from asparagus.data.files import read_json, replacing, write_json
from asparagus.data.layout import BACKUP, DATASET_FILE, PATHS_FILE, Task, inside, lists_of_paths, read_paths, read_task
from asparagus.data.subjects import shown
from asparagus.errors import DataError


class Updated(NamedTuple):
    """What was done to a task."""

    files: list[Path]
    """That were rewritten; none where all were right already."""
    paths: int
    """That changed, in all of them."""


def update_paths(data_root: Path, name: str) -> Updated:
    """Rewrite the paths in `paths.json`, splits and lists of test cases to where the task lies now.

    Paths of files elsewhere, as `asp data register` takes them in, are left as they are. Each changed file is kept as
    `backup_<file>`.

    Raises:
        DataError: No such task, a malformed file, or cases that are not there; nothing of the task was changed.
    """
    task = read_task(data_root, name)
    read_paths(task)  # there has to be a list of them
    was = _name_there(task)
    files = lists_of_paths(task.folder)
    before = {file: read_json(file) for file in files}
    after = {file: _rerooted(content, task, was) for file, content in before.items()}
    known = set(_paths(after[task.folder / PATHS_FILE]))
    if lost := sorted(path for path in known if not Path(path).is_file()):
        raise DataError(
            f"{task.folder}: {len(lost)} of the {len(known)} cases in {PATHS_FILE} are not there: {shown(lost)}. Copy "
            "them too, then say this again; nothing was changed."
        )
    changed = [file for file in files if before[file] != after[file]]
    for file in changed:
        with replacing(file.with_name(f"{BACKUP}{file.name}")) as writing:
            writing.write_bytes(file.read_bytes())
        write_json(file, after[file])
    count = sum(a != b for file in changed for a, b in zip(_paths(before[file]), _paths(after[file]), strict=True))
    return Updated(changed, count)


def _name_there(task: Task) -> str:
    """Return the name under which the task was written: its folder may be called otherwise now."""
    name = read_json(task.folder / DATASET_FILE).get("name")
    return name if isinstance(name, str) else task.name


def _rerooted(content: Any, task: Task, was: str) -> Any:
    if isinstance(content, dict):
        return {key: _rerooted(part, task, was) for key, part in content.items()}
    if isinstance(content, list):
        return [_rerooted(part, task, was) for part in content]
    if not isinstance(content, str) or task.files_root is not None:
        return content
    for name in (task.name, was):
        _, known, after = content.rpartition(f"/{name}/")
        if known:
            return str(task.folder / after)
    return str(task.folder / inside(content, task))


def _paths(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list) else []
    return [path for part in parts for path in _paths(part)]
