"""The state of a checkpoint that is in the store, fetched when somebody needs it."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from filelock import FileLock

from asparagus.storage.mirror import mirror_of
from asparagus.storage.names import HELD, IN_STORE, MANIFEST, STATE

FETCHING = ".fetching-"
LOCK = ".fetching.lock"

log = logging.getLogger("asparagus")


def is_in_store(checkpoint: Path) -> bool:
    """Tell whether a checkpoint is whole in the store, and its state not here."""
    return (checkpoint / IN_STORE).is_file() and not (checkpoint / STATE).exists()


def fetch(checkpoint: Path) -> None:
    """Have the state of a checkpoint here; nothing happens where it is here, or there is no store.

    A state that arrives otherwise than it was written is not taken.

    Raises:
        StoreError: The store cannot be reached.
    """
    mirror = mirror_of(checkpoint) if is_in_store(checkpoint) else None
    if mirror is None:
        return
    with FileLock(checkpoint / LOCK):
        if not is_in_store(checkpoint):
            return
        digest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["digest"]
        beside = mirror.key(checkpoint)
        for key in mirror.store.list(beside):
            inside = Path(key.removeprefix(f"{beside}/"))
            if inside.parts[0] != HELD and inside.name not in {MANIFEST, STATE}:
                mirror.store.get(key, checkpoint / inside)
        arrived = checkpoint / f"{FETCHING}{STATE}"
        try:
            mirror.store.get(f"{beside}/{STATE}", arrived)
        except FileNotFoundError:
            log.warning("%s is not in the store any more", checkpoint)
            return
        with arrived.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == digest
        if not same:
            arrived.unlink()
            log.warning("%s is not in the store as it was written (its digest differs)", checkpoint)
            return
        arrived.replace(checkpoint / STATE)
        (checkpoint / IN_STORE).unlink()
