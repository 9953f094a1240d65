"""A working copy and its store: which file is which object, and what goes where in which order."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath

from filelock import FileLock

from asparagus.storage.names import (
    BEHIND,
    CHECKPOINTS,
    HELD,
    IN_STORE,
    JOURNAL,
    MANIFEST,
    OURS,
    PARTS,
    SHARED,
    STATE,
    STORE,
    TRASH,
    root_of,
)
from asparagus.storage.store import Entry, Store

SEEN_S = 2.0
"""For so long, what was seen of a store counts as what it is."""
PULLING = ".pulling.lock"


@dataclass(eq=False)
class Mirror:
    """A working copy of a store."""

    root: Path
    store: Store
    _seen: dict[str, float] = field(default_factory=dict)

    def key(self, path: Path) -> str:
        """Return the key of a file or folder."""
        return path.relative_to(self.root).as_posix()

    def see_register(self, *, at_least: float = SEEN_S) -> None:
        """Have the numbers, identities and names of all runs here.

        Args:
            at_least: How old, in seconds, may be what is known.
        """
        if not self._is_due(str(OURS), at_least):
            return
        there = self.store.list(str(OURS))
        lacking = [
            key
            for key in there
            if PurePosixPath(key).parts[1] in SHARED
            and not key.endswith((".lock", ".writing"))
            and not (self.root / key).is_file()
        ]
        self.store.each(lambda key: self._fetch_small(key, there[key]), lacking)

    def see_run(self, folder: Path, *, at_least: float = SEEN_S) -> None:
        """Have all of a run here but the states of its checkpoints, unless it is this machine that trains it."""
        from asparagus.storage.holder import is_held_here

        if not self._is_due(self.key(folder), at_least) or is_held_here(folder):
            return
        self.pull(folder)

    def pull(self, folder: Path) -> None:
        """Bring a run's folder up to what the store has of it; what only this folder has is left."""
        there = self.store.list(self.key(folder))
        if not there:
            self._follow_into_trash(folder)
            return
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / PULLING):
            self._set_behind_aside(folder)
            checkpoints = f"{self.key(folder)}/{CHECKPOINTS}/"
            plain = [key for key in there if not key.startswith(checkpoints) and _is_plain(key)]
            self.store.each(lambda key: self._fetch_small(key, there[key]), plain)
            self._pull_checkpoints(folder, {key: entry for key, entry in there.items() if key.startswith(checkpoints)})
            self.pull_journal(folder, there)

    def pull_journal(self, folder: Path, there: dict[str, Entry] | None = None) -> None:
        """Append to the journal here what the store has more of it."""
        parts = f"{self.key(folder)}/{PARTS}/"
        known = self.store.list(parts.rstrip("/")) if there is None else there
        journal = folder / JOURNAL
        size = journal.stat().st_size if journal.is_file() else 0
        for key in sorted(key for key in known if key.startswith(parts)):
            start = int(PurePosixPath(key).name)
            if start + known[key].size <= size or start > size:
                continue
            content = self.store.read(key) or b""
            with journal.open("ab") as file:
                file.write(content[size - start :])
            size = max(size, start + len(content))

    def put_now(self, *files: Path) -> None:
        """Put small files at once."""
        self.store.each(lambda file: self.store.put(self.key(file), file), files)

    def delete_now(self, *files: Path) -> None:
        """Take small files away at once."""
        self.store.delete_all(self.key(file) for file in files)

    def move(self, folder: Path, to: Path) -> None:
        """Move all that the store has of a folder; a checkpoint's manifest leaves first and arrives last."""
        old, new = self.key(folder), self.key(to)
        keys = sorted(self.store.list(old), key=lambda key: key.endswith(f"/{MANIFEST}"))
        for key in keys:
            self.store.move(key, f"{new}{key.removeprefix(old)}")

    def remove(self, folder: Path) -> None:
        """Take away all that the store has of a folder, manifests first."""
        keys = list(self.store.list(self.key(folder)))
        self.store.delete_all(key for key in keys if key.endswith(f"/{MANIFEST}"))
        self.store.delete_all(key for key in keys if not key.endswith(f"/{MANIFEST}"))

    def _is_due(self, what: str, at_least: float) -> bool:
        now = time.monotonic()
        if now - self._seen.get(what, -at_least) < at_least:
            return False
        self._seen[what] = now
        return True

    def _fetch_small(self, key: str, entry: Entry) -> None:
        """Have a file as the store has it; of what is only ever added to, the longer one is the newer one."""
        target = self.root / key
        if target.is_file():
            grows = target.suffix == ".log"
            same = grows and target.stat().st_size >= entry.size
            if same or (entry.size == target.stat().st_size and target.stat().st_mtime == entry.changed):
                return
        with contextlib.suppress(FileNotFoundError):  # gone since it was listed
            if entry.size:
                self.store.get(key, target)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()
            _stamp(target, entry.changed)

    def _pull_checkpoints(self, folder: Path, there: dict[str, Entry]) -> None:
        """Have the manifests of the checkpoints that are whole in the store, and forget those that left it."""
        whole = {PurePosixPath(key).parent.name for key in there if PurePosixPath(key).name == MANIFEST}
        for name in whole:
            self._pull_manifest(folder / CHECKPOINTS / name)
        for key in there:
            if PurePosixPath(key).parent.name == HELD and PurePosixPath(key).parts[-3] in whole:
                (self.root / key).parent.mkdir(exist_ok=True)
                (self.root / key).touch()
        for absent in (folder / CHECKPOINTS).glob(f"*/{IN_STORE}"):
            if absent.parent.name not in whole and not (absent.parent / STATE).exists():
                shutil.rmtree(absent.parent)

    def _pull_manifest(self, checkpoint: Path) -> None:
        key = f"{self.key(checkpoint)}/{MANIFEST}"
        told = self.store.read(key)
        manifest = checkpoint / MANIFEST
        if told is None or (manifest.is_file() and manifest.read_bytes() == told):
            return
        if manifest.is_file():  # the same step, trained again elsewhere
            shutil.rmtree(checkpoint)
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / IN_STORE).touch()
        writing = checkpoint / f".{MANIFEST}.writing"
        writing.write_bytes(told)
        writing.replace(manifest)

    def _follow_into_trash(self, folder: Path) -> None:
        """Throw a run's folder away here that another machine has thrown away."""
        thrown = self.root / TRASH / folder.name
        if folder.is_dir() and folder != thrown and not thrown.exists() and self.store.list(self.key(thrown)):
            thrown.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(thrown)

    def _set_behind_aside(self, folder: Path) -> None:
        """Move a run's folder away that another machine went on with from an earlier point than this one's last."""
        told = self.store.read(f"{self.key(folder)}/run.json")
        here = _attempt((folder / "run.json").read_bytes() if (folder / "run.json").is_file() else None)
        if here is None or (_attempt(told) or 0) <= here or self._is_part(folder):
            return
        place = self.root / BEHIND / f"{folder.name}.attempt{here}"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for path in folder.iterdir():
            if path.name not in {PULLING, ".lock"}:
                path.rename(place / path.name)

    def _is_part(self, folder: Path) -> bool:
        """Tell whether the journal here is the beginning of the store's."""
        journal = folder / JOURNAL
        here = journal.read_bytes() if journal.is_file() else b""
        parts = sorted(self.store.list(f"{self.key(folder)}/{PARTS}"))
        return b"".join(self.store.read(key) or b"" for key in parts).startswith(here)


def mirror_of(path: Path) -> Mirror | None:
    """Return the working copy that a path lies in, with its store; None for a folder like any other."""
    root = root_of(path)
    return None if root is None else _mirror(root, (root / STORE).stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _mirror(root: Path, _: int) -> Mirror:
    return Mirror(root, Store(json.loads((root / STORE).read_text(encoding="utf-8"))["uri"]))


def is_pushed(path: Path) -> bool:
    """Tell whether a file of a run's folder belongs into the store as it is."""
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.name not in {IN_STORE, JOURNAL} and not path.name.endswith((".lock", ".writing"))


def _is_plain(key: str) -> bool:
    path = PurePosixPath(key)
    return path.parent.name != PARTS and not any(part.startswith(".") for part in path.parts)


def _attempt(content: bytes | None) -> int | None:
    try:
        return int(json.loads(content or b"")["attempt"])
    except (ValueError, KeyError, TypeError):
        return None


def _stamp(file: Path, changed: float) -> None:
    with contextlib.suppress(OSError):
        os.utime(file, (changed, changed))
