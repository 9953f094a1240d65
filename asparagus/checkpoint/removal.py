"""Checkpoints taken away, so that whoever is killed in the middle leaves nothing that looks like one.

A checkpoint loses its name first; then its holds are looked at once more, and it is put back if one came in between.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from asparagus.checkpoint.folder import (
    MANIFEST,
    NAME,
    REMOVING,
    STATE,
    TORN,
    WRITING,
    Manifest,
    is_whole,
    manifests,
)
from asparagus.checkpoint.holds import holds
from asparagus.checkpoint.retention import Rule, Stored, retained, size_told
from asparagus.storage.fetch import is_in_store
from asparagus.storage.kept import removed

LEFTOVER = (WRITING, REMOVING)
"""What a process that was killed leaves behind."""

log = logging.getLogger("asparagus")


def stored(checkpoints: Path) -> list[Stored]:
    """Return the checkpoints of a run with their sizes and holds, oldest step first; digests are not looked at."""
    found = manifests(checkpoints)
    return [Stored(item, _bytes(checkpoints / item.name, item), holds(checkpoints / item.name)) for item in found]


def _bytes(checkpoint: Path, manifest: Manifest) -> int:
    """Return what a checkpoint takes: here, or in the store that it is in."""
    return size_of(checkpoint) + (manifest.bytes if is_in_store(checkpoint) else 0)


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder; what goes away while they are counted counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if not path.is_dir() else 0
        except FileNotFoundError:
            continue
    return total


def remove(checkpoint: Path) -> bool:
    """Remove a checkpoint, unless it is held; returns whether it was removed."""
    going = checkpoint.with_name(f"{REMOVING}{checkpoint.name}")
    if holds(checkpoint):
        return False
    shutil.rmtree(going, ignore_errors=True)
    try:
        checkpoint.rename(going)
    except FileNotFoundError:  # somebody else removed it
        return False
    if holds(going):
        going.rename(checkpoint)
        return False
    shutil.rmtree(going)
    removed(checkpoint)
    return True


def leftovers(checkpoints: Path) -> list[Path]:
    """Return what killed processes left, and checkpoints that were set aside as torn."""
    return sorted(path for path in checkpoints.glob(".*") if path.name.startswith((*LEFTOVER, TORN)) and path.is_dir())


def clear_leftovers(checkpoints: Path) -> list[Path]:
    """Remove what a killed process left, and put back what it was about to remove if that is held by now.

    Nobody else may be writing here. Torn checkpoints are not touched.

    Returns:
        What was removed.
    """
    gone = []
    for path in leftovers(checkpoints):
        if path.name.startswith(TORN):
            continue
        if not put_back(path):
            shutil.rmtree(path)
            gone.append(path)
    return gone


def discard(leftover: Path) -> bool:
    """Remove what is left of a checkpoint, unless it is held; returns whether it was removed."""
    if not leftover.name.startswith("."):
        return remove(leftover)
    if holds(leftover):
        put_back(leftover)
        return False
    shutil.rmtree(leftover, ignore_errors=True)
    return not leftover.exists()


def put_back(leftover: Path) -> bool:
    """Give a checkpoint its name again that was about to be removed and is held; returns whether it was one."""
    if not (leftover.name.startswith(REMOVING) and holds(leftover)):
        return False
    original = leftover.with_name(leftover.name.removeprefix(REMOVING))
    if original.exists():  # replaced by one of the same step: this one stays, under a name that nothing removes
        leftover.rename(_free(leftover.with_name(f"{TORN}{original.name}")))
        return True
    leftover.rename(original)
    return True


def set_aside_torn(checkpoints: Path, keep_best: int) -> list[Path]:
    """Rename checkpoints that are damaged, so that none counts as the last or as a best at the cost of a whole one.

    Those that would count are read from end to end, until all that do are whole.

    Returns:
        The new place of each.
    """
    aside = [_set_aside(path) for path in _cut_short(checkpoints)]
    seen: set[str] = set()
    while True:
        found = [Stored(manifest, 0) for manifest in manifests(checkpoints)]
        counting = retained(found, Rule(keep_best)) - seen
        unread = [item.manifest for item in found if item.name in counting]
        torn = [manifest.name for manifest in unread if not is_whole(checkpoints / manifest.name, manifest)]
        aside += [_set_aside(checkpoints / name) for name in torn]
        seen |= counting
        if not torn:
            return aside


def _cut_short(checkpoints: Path) -> list[Path]:
    """Return the folders that have a checkpoint's name, and no readable manifest or a state of another size."""
    good = {manifest.name for manifest in manifests(checkpoints)}
    return [
        path
        for path in checkpoints.glob("epoch=*")
        if NAME.fullmatch(path.name)
        and path.name not in good
        and ((path / MANIFEST).exists() or (path / STATE).exists())
    ]


def _set_aside(checkpoint: Path) -> Path:
    place = _free(checkpoint.with_name(f"{TORN}{checkpoint.name}"))
    size = size_told(size_of(checkpoint))
    checkpoint.rename(place)
    log.warning("checkpoint %s is torn or was changed; it was moved to %s (%s)", checkpoint, place.name, size)
    return place


def _free(wanted: Path) -> Path:
    """Return the path, or the first of its numbered kind that is not taken."""
    path, number = wanted, 1
    while path.exists():
        number += 1
        path = wanted.with_name(f"{wanted.name}.{number}")
    return path
