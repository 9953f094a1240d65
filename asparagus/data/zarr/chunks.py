"""What was read of object stores, on this machine's disk: bounded, and shared by all its processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

GB = 10**9
SPARE = GB
"""Bytes of the disk that are left to others: checkpoints may be written to it, too."""
ROOM = 0.1
"""The share of the limit that is freed at once: to look at all that is kept takes a while."""
SEEN_S = 60.0
"""Whether something was used is noted once in so many seconds."""
TOTAL = ".total"
CHECK, SALT = 4, 1
"""Bytes of the checksum before each content, and what it begins with: that of nothing is not 0."""
WRITING = ".writing-"

log = logging.getLogger("asparagus")


class Kept(NamedTuple):
    """A file of the cache."""

    used: float
    size: int
    path: Path


class ChunkCache:
    """Contents by the address of their volume and a name; what was not used for longest gives way first.

    It never fails a training: what cannot be kept is fetched again, and said once.

    Args:
        root: A folder for all volumes; made when there is something to keep.
        limit: Bytes.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self._root, self._limit = root, limit
        self._works = limit > 0

    def folder(self, address: str) -> Path:
        """Return the folder of a volume."""
        readable = address.partition("@")[0].rpartition("/")[2][:40]
        return self._root / f"{readable}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"

    def get(self, address: str, name: str) -> bytes | None:
        """Return what is kept, or None."""
        file = self._file(address, name)
        try:
            with file.open("rb") as stream:
                content = _checked(stream.read())
                used = os.fstat(stream.fileno()).st_mtime
        except OSError:  # nothing is kept, it just gave way, or it is another user's
            return None
        if content is not None and time.time() - used > SEEN_S:
            with contextlib.suppress(OSError):
                os.utime(file)
        return content

    def put(self, address: str, name: str, content: bytes) -> None:
        """Keep a content, if there is room or can be made."""
        if not self._works or len(content) > self._limit * ROOM:
            return
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with self._total() as total:
                content = zlib.crc32(content, SALT).to_bytes(CHECK, "little") + content
                kept = self._with_room(_number(total.read()), len(content))
                total.seek(0)
                total.truncate()
                total.write(str(kept + len(content)))
                _write(self._file(address, name), content)
        except FileNotFoundError:  # somebody deletes the folder
            return
        except OSError as error:
            self._works = False
            log.warning(
                "%s: nothing more of stores is kept on this machine (%s), and it is fetched each time. Set "
                "ASPARAGUS_CACHE to a folder on a disk with room, or data.disk_gb=0.",
                self._root,
                error.strerror,
            )

    def _file(self, address: str, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self.folder(address) / digest[:2] / digest[2:]

    def _with_room(self, kept: int | None, size: int) -> int:
        """Return how much is kept when there is room for so many bytes, made if need be.

        Raises:
            OSError: The disk is full without us.
        """
        kept = sum(file.size for file in self._all()) if kept is None else kept
        lacking = max(kept + size - self._limit, SPARE + size - shutil.disk_usage(self._root).free)
        if lacking <= 0:
            return kept
        found = list(self._all())
        freed = _free(found, int(lacking + self._limit * ROOM))
        if freed < lacking:
            raise OSError(errno.ENOSPC, f"less than {SPARE / GB:g} GB of its disk are free")
        return sum(file.size for file in found) - freed

    @contextmanager
    def _total(self) -> Iterator[IO[str]]:
        """Yield the file that says how much is kept; one process at a time has it."""
        with (self._root / TOTAL).open("a+", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            yield file

    def _all(self) -> Iterator[Kept]:
        """Yield what is kept, of all volumes."""
        for folder, _, names in os.walk(self._root):
            for name in names:
                path = Path(folder, name)
                try:
                    about = path.stat()
                except OSError:  # it just went
                    continue
                if path.parent != self._root:
                    yield Kept(about.st_mtime, about.st_size, path)


def _checked(stored: bytes) -> bytes | None:
    """Return the content of a file, or None if it is not what was written: a power cut may leave zeros, or nothing."""
    content = stored[CHECK:]
    return content if zlib.crc32(content, SALT) == int.from_bytes(stored[:CHECK], "little") else None


def _write(file: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    writing = file.with_name(f"{WRITING}{uuid.uuid4().hex[:8]}")
    try:
        writing.write_bytes(content)
        writing.replace(file)
    finally:
        writing.unlink(missing_ok=True)


def _free(found: list[Kept], size: int) -> int:
    """Delete the files that were not used for longest, of so many bytes at least; return of how many."""
    freed = 0
    for kept in sorted(found):
        if freed >= size:
            break
        kept.path.unlink(missing_ok=True)
        freed += kept.size
    return freed


def _number(text: str) -> int | None:
    """Return the number in a text; None where there is none: the file is new, or its disk was full."""
    return int(text) if text.isdecimal() else None
