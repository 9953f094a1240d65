"""What the files are called that a store and its working copies are made of. Standard library only."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from asparagus.errors import ConfigError

STATE = "checkpoint.ckpt"
MANIFEST = "checkpoint.json"
"""Beside the state of a checkpoint, and written last: without it, there is none."""
IN_STORE = "checkpoint.in-store"
"""An empty file in place of a state that is in the store and was not needed here yet."""
CHECKPOINTS = "checkpoints"
JOURNAL = "journal.jsonl"
PARTS = f"{JOURNAL}.parts"
"""The journal in a store: `<offset>` of each part's first byte. An object cannot be appended to."""
HELD = "held"
HOLDERS = ".holders"
"""`<token>`: who trains a run, written again every few seconds."""
GONE = ".gone-"
"""How the names of empty files begin that stand for a checkpoint that was removed here, and not yet in the store."""
OURS = Path(".asparagus")
STORE = OURS / "store.json"
"""In a working copy: what it is one of."""
UNSTORED = OURS / "unstored"
"""`<number>`: here, and not wholly in the store; of this machine alone."""
TRASH = OURS / "trash"
BEHIND = OURS / "behind"
"""Run folders of this machine that another one went on with from an earlier point."""
SHARED = ("runs", "identities", "sweeps", "names")
"""In `.asparagus`, what is the store's; the rest is this machine's own."""
SCHEMES = ("s3", "gs", "file")


def is_uri(place: str) -> bool:
    """Tell a store from a folder."""
    return "://" in place


def working_copy(uri: str, environment: Mapping[str, str] | None = None) -> Path:
    """Return this machine's folder for a store, made if it is not there: under `ASPARAGUS_CACHE`.

    Args:
        uri: Of the store.
        environment: In place of this process's.

    Raises:
        ConfigError: It is of a kind that is not known, or the folder cannot be made.
    """
    env = os.environ if environment is None else environment
    plain = uri.rstrip("/")
    scheme, _, place = plain.partition("://")
    if scheme not in SCHEMES or not place.strip("/"):
        raise ConfigError(
            f"{uri}: is no store. Give s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, file:///FOLDER, or a folder."
        )
    readable = re.sub(r"[^\w.-]+", "-", place.strip("/"))[:40]
    root = cache_folder(env) / f"{readable}-{hashlib.sha256(plain.encode()).hexdigest()[:12]}"
    if not (root / STORE).is_file():
        try:
            _found(root, plain)
        except OSError as error:
            raise ConfigError(
                f"{root}: the working copy of {uri} cannot be made ({error.strerror}). Set ASPARAGUS_CACHE on this "
                "machine to a folder of yours on a disk with room."
            ) from error
    return root


def cache_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Return the folder of what is this machine's alone: `ASPARAGUS_CACHE`, else `cache` in the home."""
    env = os.environ if environment is None else environment
    cache = env.get("ASPARAGUS_CACHE") or f"{env.get('ASPARAGUS_HOME') or '~/asparagus'}/cache"
    return Path(cache).expanduser().absolute()


def root_of(path: Path) -> Path | None:
    """Return the working copy that a path lies in; None for one that lies in a folder like any other."""
    return next((place for place in (path, *path.parents) if (place / STORE).is_file()), None)


def _found(root: Path, uri: str) -> None:
    (root / OURS).mkdir(parents=True, exist_ok=True)
    writing = root / f"{STORE}.{os.getpid()}.writing"
    writing.write_text(json.dumps({"uri": uri}) + "\n", encoding="utf-8")
    writing.replace(root / STORE)
