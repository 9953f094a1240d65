"""Reasons why a checkpoint must stay: empty files in its folder `held/`. Standard library only.

They lie in the checkpoint itself, so that whoever removes needs no database to ask, and a folder that is moved or
copied takes them along. A reason is `run_id=<N>` (that run started from it), `model=<name>@<alias>` (it is
registered) or `pinned`.
"""

from __future__ import annotations

import contextlib
import re
import time
import urllib.parse
from pathlib import Path

from asparagus.checkpoint.folder import MANIFEST
from asparagus.errors import RecordError
from asparagus.storage.kept import put, take_away

HELD = "held"
PINNED = "pinned"
CHILD = "run_id="
MODEL = "model="
REASON = re.compile(rf"{PINNED}|{CHILD}\d+|{MODEL}[^/@]+@[^/@]+")
SETTLE_S = 2.0
"""Who removes a checkpoint takes its name away, looks at the holds once more, and puts it back: within this time."""
POLL_S = 0.01


def child(run_id: int) -> str:
    """Return the reason that a run started from the checkpoint."""
    return f"{CHILD}{run_id}"


def registered(name: str, alias: str) -> str:
    """Return the reason that the checkpoint is a registered model."""
    return f"{MODEL}{urllib.parse.quote(name, safe='')}@{urllib.parse.quote(alias, safe='')}"


def can_be_held(checkpoint: Path) -> bool:
    """Tell whether a path is a checkpoint folder of ours: a file of weights from elsewhere is nobody's to remove."""
    return (checkpoint / MANIFEST).is_file()


def hold(checkpoint: Path, reason: str) -> None:
    """Let a checkpoint stay for a reason; doing so again changes nothing.

    Raises:
        RecordError: The checkpoint is not there, or was removed at this moment.
        OSError: Its folder cannot be written to: it is somebody else's.
    """
    held = _place(checkpoint, reason)
    try:
        (checkpoint / MANIFEST).stat()
        held.parent.mkdir(exist_ok=True)
        held.touch()
        put(held)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _vanished(checkpoint) from error
    deadline = time.monotonic() + SETTLE_S
    while not (held.exists() and can_be_held(checkpoint)):
        if time.monotonic() > deadline:
            raise _vanished(checkpoint)
        time.sleep(POLL_S)


def release(checkpoint: Path, reason: str) -> None:
    """Take a reason away; nothing happens if it is not there, or the checkpoint is not."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        _place(checkpoint, reason).unlink()
        take_away(_place(checkpoint, reason))


def holds(checkpoint: Path) -> tuple[str, ...]:
    """Return the reasons why a checkpoint must stay; none for one that is not there."""
    try:
        return tuple(sorted(path.name for path in (checkpoint / HELD).iterdir()))
    except (FileNotFoundError, NotADirectoryError):
        return ()


def told(reason: str) -> str:
    """Say a reason in words: `held by run 12`."""
    if reason.startswith(CHILD):
        return f"held by run {reason.removeprefix(CHILD)}"
    if reason.startswith(MODEL):
        return f"registered as {urllib.parse.unquote(reason.removeprefix(MODEL))}"
    return reason


def children(checkpoint: Path) -> tuple[int, ...]:
    """Return the numbers of the runs that hold a checkpoint."""
    numbers = [reason.removeprefix(CHILD) for reason in holds(checkpoint) if reason.startswith(CHILD)]
    return tuple(sorted(int(number) for number in numbers if number.isdigit()))


def _place(checkpoint: Path, reason: str) -> Path:
    assert REASON.fullmatch(reason), f"{reason!r} is no reason: make one with child, registered or PINNED"
    return checkpoint / HELD / reason


def _vanished(checkpoint: Path) -> RecordError:
    return RecordError(
        f"{checkpoint}: the checkpoint is not there any more; it was removed or moved meanwhile. asp gc lists those "
        "that are left; take one of them."
    )
