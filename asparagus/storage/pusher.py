"""A run's folder into the store: what is new, in an order in which nothing half-written counts."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from asparagus.errors import StoreError
from asparagus.storage.mirror import Mirror, is_pushed
from asparagus.storage.names import CHECKPOINTS, GONE, HELD, JOURNAL, MANIFEST, PARTS, STATE

PUSH_S = 1.0
RETRY_S = 5.0
LOG_S = 10.0
"""A log that grows is put again this often, and when all ends."""
SURE_S = 5.0
"""For so long it counts as certain that no other machine has gone on with the run."""
PART = 1 << 18
"""Bytes of a part of the journal; the last one is put again while it grows."""
DRIVERS = ("run.json", "record.json", "recorded.json")
"""What the driver alone writes."""

log = logging.getLogger("asparagus")


class Pusher:
    """Puts what is new in a run's folder.

    Args:
        mirror: The store.
        folder: Of the run.
        attempt: Which one; a later one's store is not written to.
        belongs: Whether a file is this process's to put.
    """

    def __init__(self, mirror: Mirror, folder: Path, attempt: int, belongs: Callable[[Path], bool]) -> None:
        self._mirror, self._store, self.folder, self._attempt = mirror, mirror.store, folder, attempt
        self._belongs = belongs
        self._done: dict[Path, tuple[int, int]] = {}
        self._put: dict[Path, float] = {}
        self._sealed: dict[str, bytes] = {}
        self._journal = -1
        self._checked = -SURE_S

    def push(self, *, last: bool = False) -> None:
        """Put all that is new; `last` waits for no log to grow.

        Raises:
            StoreError: The store is away or refuses, or another machine goes on with the run.
        """
        sealed = list(self._new_checkpoints())
        self._must_be_ours(SURE_S if not sealed else 0)
        for path in self._new_files():
            if last or path.suffix != ".log" or time.monotonic() - self._put.get(path, -LOG_S) >= LOG_S:
                self._put_file(path)
        if self._belongs(self.folder / JOURNAL):
            self._push_journal()  # before the checkpoints: what is not trained again is written down in it
            for checkpoint in sealed:
                self._push_checkpoint(checkpoint)
            self._take_away()
            self._clear_leftovers()

    def lacking(self) -> list[Path]:
        """Return what the store does not have yet."""
        journal = [self.folder / JOURNAL] if self._journal_left() else []
        return [*self._new_files(), *self._new_checkpoints(), *journal]

    def _new_files(self) -> Iterator[Path]:
        for path in sorted(self.folder.rglob("*")):
            inside = path.relative_to(self.folder)
            is_state = inside.parts[0] == CHECKPOINTS and HELD not in inside.parts
            if is_state or not is_pushed(inside) or not self._belongs(path) or not path.is_file():
                continue
            if _seen(path) != self._done.get(path):
                yield path

    def _put_file(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            seen = _seen(path)
            self._store.put(self._mirror.key(path), path)
            if seen is not None:
                self._done[path], self._put[path] = seen, time.monotonic()

    def _new_checkpoints(self) -> Iterator[Path]:
        """Yield the whole checkpoints that the store may not have, the oldest first."""
        if not self._belongs(self.folder / JOURNAL):
            return
        for manifest in sorted(self.folder.glob(f"{CHECKPOINTS}/epoch=*/{MANIFEST}"), key=_changed):
            here = manifest.parent
            if (here / STATE).exists() and _content(manifest) not in (None, self._sealed.get(here.name)):
                yield here

    def _push_checkpoint(self, checkpoint: Path) -> None:
        """Put a checkpoint, its manifest last; one that is removed meanwhile leaves nothing."""
        manifest, key = _content(checkpoint / MANIFEST), f"{self._mirror.key(checkpoint)}/{MANIFEST}"
        if manifest is None:
            return
        there = self._store.read(key)
        if there == manifest:
            self._sealed[checkpoint.name] = manifest
            return
        if there is not None:  # the same step, trained again
            self._store.delete(key)
        try:
            for path in sorted(checkpoint.rglob("*")):
                inside = path.relative_to(checkpoint)
                if path.is_file() and is_pushed(inside) and inside.parts[0] != HELD and path.name != MANIFEST:
                    self._store.put(self._mirror.key(path), path)
        except FileNotFoundError:
            manifest = None
        if manifest is None or _content(checkpoint / MANIFEST) != manifest:
            self._mirror.remove(checkpoint)
            return
        self._store.write(key, manifest)
        self._sealed[checkpoint.name] = manifest

    def _push_journal(self) -> None:
        while left := self._journal_left():
            start, end = left
            with (self.folder / JOURNAL).open("rb") as file:
                file.seek(start)
                content = file.read(end - start)
            self._store.write(f"{self._mirror.key(self.folder)}/{PARTS}/{start:020d}", content)
            self._journal = start + len(content)

    def _journal_left(self) -> tuple[int, int] | None:
        """Return from where to where the next part is to be put; None where the store has all of it."""
        journal = self.folder / JOURNAL
        if not self._belongs(journal) or not journal.is_file():
            return None
        if self._journal < 0:
            parts = self._store.list(f"{self._mirror.key(self.folder)}/{PARTS}")
            self._journal = max((int(PurePosixPath(key).name) + part.size for key, part in parts.items()), default=0)
        size = journal.stat().st_size
        if size <= self._journal:
            return None
        start = self._journal - self._journal % PART
        return start, min(size, start + PART)

    def _must_be_ours(self, at_least: float) -> None:
        """Leave the store to a later attempt.

        Args:
            at_least: How old, in seconds, may be what is known.

        Raises:
            StoreError: There is one.
        """
        if time.monotonic() - self._checked < at_least:
            return
        told = self._store.read(f"{self._mirror.key(self.folder)}/run.json")
        try:
            newest = int(json.loads(told or b"{}").get("attempt", 0))
        except ValueError:
            newest = 0
        if newest > self._attempt:
            raise StoreError(
                f"{self.folder}: another machine has gone on with this run (attempt {newest}, this one is "
                f"{self._attempt}). What is trained here stays here."
            )
        self._checked = time.monotonic()

    def _take_away(self) -> None:
        """Remove from the store what was removed here, unless something there holds it."""
        for gone in (self.folder / CHECKPOINTS).glob(f"{GONE}*"):
            checkpoint = gone.with_name(gone.name.removeprefix(GONE))
            held = self._store.list(f"{self._mirror.key(checkpoint)}/{HELD}")
            if not checkpoint.exists() and not held:
                self._mirror.remove(checkpoint)
            self._sealed.pop(checkpoint.name, None) if not checkpoint.exists() else None
            gone.unlink(missing_ok=True)

    def _clear_leftovers(self) -> None:
        """Remove, once, states without a manifest that a process that was killed has put."""
        if self._sealed.get("") is not None:
            return
        self._sealed[""] = b""
        there = self._store.list(f"{self._mirror.key(self.folder)}/{CHECKPOINTS}")
        names: dict[str, set[str]] = {}
        for key in there:
            path = PurePosixPath(key.removeprefix(f"{self._mirror.key(self.folder)}/{CHECKPOINTS}/"))
            names.setdefault(path.parts[0], set()).add(path.name)
        for name, files in names.items():
            if name.startswith("epoch=") and MANIFEST not in files:
                self._mirror.remove(self.folder / CHECKPOINTS / name)


class Pushing:
    """A thread that keeps a run's folder in the store while it is trained; use as a context manager.

    Args:
        pusher: Puts what is new.
    """

    def __init__(self, pusher: Pusher) -> None:
        self._pusher = pusher
        self._ending = threading.Event()
        self._problem: StoreError | None = None
        self._thread = threading.Thread(target=self._go_on, name="store", daemon=True)
        self._thread.start()

    def end(self, patience_s: float) -> tuple[list[Path], str]:
        """Put the rest, for as long as that.

        Returns:
            What the store lacks all the same, and why.
        """
        self._ending.set()
        self._thread.join(patience_s)
        if not self._thread.is_alive() and self._problem is None:
            return [], ""
        why = str(self._problem or f"the store took longer than {patience_s:g} s")
        try:
            return self._pusher.lacking(), why
        except StoreError:
            return [self._pusher.folder], why

    def _go_on(self) -> None:
        while True:
            last = self._ending.is_set()
            try:
                self._pusher.push(last=last)
                self._problem = None
            except (StoreError, OSError) as error:
                self._tell(error)
            if last:
                return
            self._ending.wait(RETRY_S if self._problem else PUSH_S)

    def _tell(self, error: StoreError | OSError) -> None:
        if self._problem is None:
            log.warning("%s The training goes on; it is tried again.", error)
        self._problem = error if isinstance(error, StoreError) else StoreError(str(error))


def _seen(path: Path) -> tuple[int, int] | None:
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return about.st_size, about.st_mtime_ns


def _changed(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
