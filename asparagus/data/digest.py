"""Whether two test sets are the same: a digest of what a model would be given, whoever made it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from asparagus.errors import DataError

LENGTH = 16
"""Hexadecimal digits of a test set's digest that are shown and recorded."""


def test_set_digest(dataset: Dataset[Any]) -> str:
    """Return a digest of a dataset's items, whatever their order; the same in every process and on every machine.

    An item may hold tensors, arrays, images of PIL's, texts, numbers, and mappings, sequences and sets of them. A
    tensor and an array of the same values and type are the same; a list and a tuple are, too.

    Raises:
        DataError: It holds something else.
    """
    return combined(item_digests(dataset))


def item_digests(dataset: Any, rank: int = 0, world_size: int = 1, num_workers: int = 0) -> list[bytes]:
    """Return the digest of each item of this rank's share, read by so many loader processes."""
    share = range(rank, len(dataset), world_size)
    loader = DataLoader(dataset, batch_size=None, sampler=share, num_workers=num_workers, collate_fn=item_digest)
    return list(loader)


def combined(digests: Iterable[bytes]) -> str:
    """Return the digest of a test set from those of its items."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:LENGTH]


def item_digest(item: Any) -> bytes:
    """Return the sha256 of one item."""
    return hashlib.sha256(b"".join(_parts(item))).digest()


def _parts(item: Any) -> Iterable[bytes]:
    """Yield what is hashed of an item: the kind, the size and the content of each thing in it."""
    if isinstance(item, torch.Tensor):
        flat = item.detach().cpu().contiguous().reshape(-1)
        yield f"array {str(item.dtype).removeprefix('torch.')} {list(item.shape)} ".encode()
        yield flat.view(torch.uint8).numpy().tobytes()  # numpy has no bfloat16
    elif isinstance(item, (np.ndarray, np.generic)) or hasattr(item, "__array_interface__"):
        array = np.asarray(item)
        if array.dtype.hasobject:  # its bytes would be addresses
            yield from _of_many(array.tolist())
            return
        yield f"array {array.dtype.name} {list(array.shape)} ".encode()
        yield array.astype(array.dtype.newbyteorder("<")).tobytes()
    elif isinstance(item, (str, Path, bytes, int, float, complex)) or item is None:
        text = item if isinstance(item, bytes) else str(item).encode()
        yield b"%s %d " % (_kind(item), len(text))
        yield text
    else:
        yield from _of_many(item)


def _of_many(item: Any) -> Iterable[bytes]:
    if isinstance(item, Mapping):
        pairs = sorted((item_digest(key), item_digest(value)) for key, value in item.items())
        digests = [digest for pair in pairs for digest in pair]
    elif isinstance(item, AbstractSet):
        digests = sorted(map(item_digest, item))
    elif isinstance(item, Sequence):
        digests = [item_digest(part) for part in item]
    else:
        raise DataError(f"data: a test item holds a {type(item).__name__}, of which there is no digest.")
    kind = next(kind for kind in (Mapping, AbstractSet, Sequence) if isinstance(item, kind))
    yield b"%s %d " % (kind.__name__.encode(), len(digests))
    yield from digests


def _kind(item: Any) -> bytes:
    return ("str" if isinstance(item, Path) else type(item).__name__).encode()
