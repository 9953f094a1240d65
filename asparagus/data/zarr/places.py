"""Where volumes are: folders, and object stores whose chunks are kept on this machine once they were read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asparagus.data.zarr.chunks import GB, ChunkCache
from asparagus.data.zarr.datasplit import is_remote, join
from asparagus.data.zarr.n5 import readable
from asparagus.data.zarr.settings import Access
from asparagus.errors import ConfigError, DataError
from asparagus.storage.names import cache_folder
from asparagus.storage.store import Store as Objects

try:
    import zarr
    from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
    from zarr.storage import LocalStore
except ModuleNotFoundError as error:
    raise ConfigError("data: volumes need zarr 3: pip install 'asparagus[bio]'.") from error

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

TRIES = 8
"""Of one request: an epoch makes many thousands, and one in ten may fail."""
SUFFIXES = (".zarr/", ".n5/")
METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata", "attributes.json")
Part = tuple[int, int | None] | None
"""First byte, counted from the end if negative, and the one after the last; None is the whole."""


class NoGroupError(DataError):
    """There is no group at a place."""


def open_group(place: str, access: Access | None = None) -> zarr.Group:
    """Open a group of volumes for reading.

    Args:
        place: A folder, or a URI (`s3://BUCKET/...`).
        access: How stores are read.

    Raises:
        NoGroupError: There is none.
        DataError: It is of another format.
        StoreError: The store cannot be reached.
    """
    container, inside = _split(place)
    try:
        store = _store(container, access or Access(), os.getpid())
        return zarr.open_group(store, path=inside, mode="r", zarr_format=3 if is_n5(place) else None)
    except (FileNotFoundError, zarr.errors.BaseZarrError, ValueError, KeyError) as error:
        there = "" if is_remote(place) or Path(place).is_dir() else " There is no such folder."
        kind = "N5" if is_n5(place) else "Zarr"
        told = f"{place}: is no {kind} group.{there} Look at the paths in the datasplit: they name the group of levels."
        raise (NoGroupError if isinstance(error, FileNotFoundError) else DataError)(told) from error


def is_n5(place: str) -> bool:
    """Tell whether a place is in an N5 container."""
    return ".n5/" in f"{place}/"


def cache_of(access: Access) -> ChunkCache:
    """Return what is kept of stores on this machine."""
    return ChunkCache(cache_folder() / "volumes", int(access.disk_gb * GB))


def forget_stores() -> None:
    """Forget which containers this process has open."""
    _store.cache_clear()


@lru_cache(maxsize=4096)
def _store(container: str, access: Access, _process: int) -> Store:
    """Open a container, once in each process: connections do not survive a fork."""
    store = ObjectStore(container, access) if is_remote(container) else LocalStore(container, read_only=True)
    return readable(store) if is_n5(container) else store


def _split(place: str) -> tuple[str, str]:
    """Split a place after its container; without one, what is inside is empty."""
    for suffix in SUFFIXES:
        container, found, inside = place.partition(suffix)
        if found:
            return f"{container}{suffix.rstrip('/')}", inside
    return place, ""


class ObjectStore(Store):
    """Zarr's view of an object store, for reading: what was read is kept, and requests that fail are made again.

    Args:
        uri: `s3://BUCKET/volume.zarr`.
        access: How it is read.
    """

    supports_writes = supports_deletes = supports_listing = False

    def __init__(self, uri: str, access: Access) -> None:
        super().__init__(read_only=True)
        self._uri, self._access = uri, access
        self._objects = Objects(uri, anonymous=access.anonymous, tries=TRIES)
        self._kept = cache_of(access)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectStore) and (self._uri, self._access) == (other._uri, other._access)

    def __hash__(self) -> int:
        return hash((self._uri, self._access))

    def __repr__(self) -> str:
        return f"ObjectStore({self._uri!r})"

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return an object or a part of it; None where there is none, as of chunks that hold nothing."""
        content = await asyncio.to_thread(self._read, key, _ends(byte_range))
        return prototype.buffer.from_bytes(content) if content else None

    def _read(self, key: str, part: Part) -> bytes | None:
        name = key if part is None else f"{key}@{part[0]}:{part[1]}"
        if (kept := self._kept.get(self._objects.address, name)) is not None:
            return kept
        content = self._objects.read(key) if part is None else self._objects.read_part(key, *part)
        if content is not None:
            self._kept.put(self._objects.address, name, content)
        elif key.rpartition("/")[2] not in METADATA:  # a chunk that holds nothing; what is to come is not written off
            self._kept.put(self._objects.address, name, b"")
        return content

    async def get_partial_values(self, prototype: BufferPrototype, key_ranges: Any) -> list[Buffer | None]:
        """Return several parts of objects."""
        return await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))

    async def exists(self, key: str) -> bool:
        """Tell whether there is an object."""
        return await asyncio.to_thread(self._objects.read_part, key, 0, 1) is not None

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse: it is for reading."""
        raise PermissionError(f"{join(self._uri, key)}: is read and not written.")

    async def delete(self, key: str) -> None:
        """Refuse: it is for reading."""
        raise PermissionError(f"{join(self._uri, key)}: is read and not written.")

    def list(self) -> AsyncIterator[str]:
        """Refuse: nothing here needs it."""
        raise NotImplementedError

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Refuse: nothing here needs it."""
        raise NotImplementedError

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Refuse: nothing here needs it."""
        raise NotImplementedError


def _ends(part: ByteRequest | None) -> Part:
    if isinstance(part, RangeByteRequest):
        return part.start, part.end
    if isinstance(part, OffsetByteRequest):
        return part.offset, None
    return (-part.suffix, None) if isinstance(part, SuffixByteRequest) else None
