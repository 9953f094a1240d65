"""Where volumes are: folders, and object stores whose chunks are kept on this machine once they were read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asparagus.data.zarr.datasplit import is_remote, join
from asparagus.errors import ConfigError, DataError
from asparagus.storage.names import working_copy
from asparagus.storage.store import Store as Objects

try:
    import zarr
    from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
    from zarr.experimental.cache_store import CacheStore
    from zarr.storage import LocalStore
except ModuleNotFoundError as error:
    raise ConfigError("data: volumes need zarr 3: pip install 'asparagus[bio]'.") from error

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

TRIES = 8
"""Of one request: an epoch makes many thousands, and one in ten may fail."""
SUFFIXES = (".zarr/", ".n5/")


def open_group(place: str, *, anonymous: bool | None = None) -> zarr.Group:
    """Open a group of volumes for reading.

    Args:
        place: A folder, or a URI (`s3://BUCKET/...`).
        anonymous: As of `asparagus.storage.store.Store`.

    Raises:
        DataError: There is none, or it is of another format.
        StoreError: The store cannot be reached.
    """
    container, inside = _split(place)
    if ".n5/" in f"{place}/":
        raise DataError(f"{place}: zarr 3 reads no N5. Convert it to OME-NGFF Zarr, and write the datasplit anew.")
    try:
        return zarr.open_group(_store(container, anonymous, os.getpid()), path=inside, mode="r")
    except (FileNotFoundError, zarr.errors.BaseZarrError, ValueError, KeyError) as error:
        there = "" if is_remote(place) or Path(place).is_dir() else " There is no such folder."
        raise DataError(f"{place}: is no Zarr group.{there} Look at the paths in the datasplit.") from error


def cache_of(uri: str) -> Path:
    """Return the folder in which chunks of a container are kept."""
    return working_copy(uri) / "chunks"


@lru_cache(maxsize=4096)
def _store(container: str, anonymous: bool | None, _process: int) -> Store:  # noqa: FBT001 - a key of the cache
    """Open a container, once in each process: connections do not survive a fork."""
    if not is_remote(container):
        return LocalStore(container, read_only=True)
    return CacheStore(ObjectStore(container, anonymous), cache_store=LocalStore(cache_of(container)))


def _split(place: str) -> tuple[str, str]:
    """Split a place after its container; without one, what is inside is empty."""
    for suffix in SUFFIXES:
        container, found, inside = place.partition(suffix)
        if found:
            return f"{container}{suffix.rstrip('/')}", inside
    return place, ""


class ObjectStore(Store):
    """Zarr's view of an object store, for reading; requests that fail are made again.

    Args:
        uri: `s3://BUCKET/volume.zarr`.
        anonymous: As of `asparagus.storage.store.Store`.
    """

    supports_writes = supports_deletes = supports_listing = False

    def __init__(self, uri: str, anonymous: bool | None = None) -> None:  # noqa: FBT001
        super().__init__(read_only=True)
        self._uri, self._anonymous = uri, anonymous
        self._objects = Objects(uri, anonymous=anonymous, tries=TRIES)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectStore) and (self._uri, self._anonymous) == (other._uri, other._anonymous)

    def __hash__(self) -> int:
        return hash((self._uri, self._anonymous))

    def __repr__(self) -> str:
        return f"ObjectStore({self._uri!r})"

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return an object or a part of it; None where there is none, as of chunks that hold nothing."""
        content = await asyncio.to_thread(self._read, key, byte_range)
        return None if content is None else prototype.buffer.from_bytes(content)

    def _read(self, key: str, part: ByteRequest | None) -> bytes | None:
        if isinstance(part, RangeByteRequest):
            return self._objects.read_part(key, part.start, part.end)
        if isinstance(part, OffsetByteRequest):
            return self._objects.read_part(key, part.offset, None)
        if isinstance(part, SuffixByteRequest):
            return self._objects.read_part(key, -part.suffix, None)
        return self._objects.read(key)

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
