"""A checkpoint is a folder `checkpoints/epoch=E-step=S/`: the state, and a manifest beside it. Standard library only.

The manifest is written last and the folder takes its name in one rename, so a folder with that name is a whole one;
the digest in it tells a file that rotted or was cut short afterwards.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from asparagus.errors import RecordError, did_you_mean
from asparagus.storage import names
from asparagus.storage.fetch import fetch, is_in_store

STATE = names.STATE
MANIFEST = names.MANIFEST
WRITING = ".writing-"
REMOVING = ".removing-"
TORN = ".torn-"
"""How the names of folders begin that look like a checkpoint and are none: half there, half gone, or damaged."""
NAME = re.compile(r"epoch=\d+-step=\d+(-v\d+)?")
ARCHIVES = ".asparagus"
"""How files of `asparagus.archive` end."""
SAVED_BY_TORCH = (b"PK", b"\x80")
"""How files of weights begin: as a zip archive, before torch 1.6 as a pickle."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """What is known of a checkpoint without opening it."""

    name: str
    epoch: int
    step: int
    metrics: dict[str, float]
    digest: str
    bytes: int
    world_size: int = 1
    monitor: str | None = None
    mode: str | None = None
    created: float = field(default_factory=time.time)
    batch: int = 0
    """Batches of its epoch that were seen, where it was written in the middle of one."""

    @property
    def score(self) -> float | None:
        """The monitored value, larger is better; `None` when it was not measured or is not a number."""
        value = self.metrics.get(self.monitor or "")
        if value is None or math.isnan(value):
            return None
        return -value if self.mode == "min" else value


def no_weights(path: Path) -> str:
    """Say why there can be no weights of torch's at a path, without torch; nothing if there may be."""
    if not path.exists():
        return f"{path} does not exist."
    state = path / STATE if path.is_dir() else path
    if not state.is_file():
        return f"{path} is a folder without a {STATE}."
    try:
        with state.open("rb") as file:
            begins = file.read(2)
    except OSError as error:
        return f"{state} cannot be read ({error.strerror})."
    if state.suffix == ARCHIVES:
        return f"{state} is an archive: asp model import {state} takes it apart and prints what init_from takes."
    return "" if begins.startswith(SAVED_BY_TORCH) else f"{state} is no file that torch.save wrote."


def name_of(epoch: int, step: int) -> str:
    """Return the folder name of the checkpoint after `step` optimizer steps, in 0-based `epoch`."""
    return f"epoch={epoch}-step={step}"


def seal(writing: Path, manifest: Manifest) -> Path:
    """Write the manifest beside the state and give the folder its name. Returns the finished checkpoint."""
    final = writing.parent / manifest.name
    told = {key: value for key, value in asdict(manifest).items() if key != "batch" or value}  # a reader may be older
    (writing / MANIFEST).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    replaced = final.with_name(f"{REMOVING}{final.name}")
    if final.exists():  # the same step, trained again after a restart from an earlier checkpoint
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    writing.rename(final)
    shutil.rmtree(replaced, ignore_errors=True)
    return final


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifests(checkpoints: Path) -> list[Manifest]:
    """Return the manifests of all whole checkpoints in a folder, oldest step first."""
    found = []
    for path in checkpoints.glob(f"*/{MANIFEST}"):
        if path.parent.name.startswith("."):
            continue
        try:
            manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
            if is_in_store(path.parent) or (path.parent / STATE).stat().st_size == manifest.bytes:
                found.append(manifest)
            else:
                log.warning("%s was cut short; it is passed over", path.parent)
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s cannot be read (%s); that checkpoint is passed over", path, error)
    return sorted(found, key=lambda manifest: (manifest.step, manifest.epoch, manifest.created))


def manifest_of(checkpoint: Path) -> Manifest | None:
    """Return the manifest of one checkpoint folder; `None` for anything else."""
    try:
        return Manifest(**json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def newest_whole(checkpoints: Path) -> Path | None:
    """Return the newest checkpoint whose state still has the digest it was written with, or `None`."""
    for manifest in reversed(manifests(checkpoints)):
        folder = checkpoints / manifest.name
        if is_whole(folder, manifest):
            return folder
        log.warning("checkpoint %s is torn or was changed (its digest differs): using the one before it", folder)
    return None


def is_whole(folder: Path, manifest: Manifest) -> bool:
    """Tell whether the state file is there with the size and digest that the manifest records.

    One that is in a store is fetched first: it is about to be used.
    """
    state = folder / STATE
    try:
        fetch(folder)
        return state.stat().st_size == manifest.bytes and digest_of(state) == manifest.digest
    except OSError:  # not there, no longer there, or on a bad sector
        return False


def best_of(found: Iterable[Manifest]) -> Manifest | None:
    """Return the manifest with the best monitored value, the earliest among equals; `None` if none was measured."""
    scored = [manifest for manifest in found if manifest.score is not None]
    return max(scored, key=lambda manifest: (manifest.score, -manifest.step), default=None)


def best_in(checkpoints: Path) -> str | None:
    """Return the path of the checkpoint to go on with: the best, or the last where nothing was measured."""
    found = manifests(checkpoints)
    chosen = best_of(found) or (found[-1] if found else None)
    return str(checkpoints / chosen.name) if chosen else None


def pick(checkpoints: Path, which: str) -> tuple[Path, Manifest]:
    """Return the checkpoint called `which`: `last`, `best`, or a name with or without `.ckpt`.

    Raises:
        RecordError: There is none of that name; the message lists those that are there.
    """
    found = manifests(checkpoints)
    if not found:
        raise RecordError(
            f"{checkpoints}: no checkpoint is there yet. Wait for the run's first one, or take another run."
        )
    named = {manifest.name: manifest for manifest in found}
    chosen = {"last": found[-1], "best": best_of(found)}.get(which, named.get(which.removesuffix(".ckpt")))
    if chosen is None:
        known = ["last", *(["best"] if best_of(found) else []), *named]
        raise RecordError(
            f"{checkpoints}: no checkpoint {which!r}. {did_you_mean(which, known)} There are: {', '.join(known)}."
        )
    return checkpoints / chosen.name, chosen
