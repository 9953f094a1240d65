"""What other rooms ask of a store. Of a folder like any other, all of this is nothing, and costs a look."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from asparagus.errors import StoreError
from asparagus.storage.fetch import fetch
from asparagus.storage.holder import Holder, is_held_here
from asparagus.storage.mirror import mirror_of
from asparagus.storage.names import GONE, MANIFEST, OURS, UNSTORED
from asparagus.storage.pusher import DRIVERS, Pusher, Pushing
from asparagus.storage.store import Store

CLAIMS = OURS / "claims"
WAIT_S = 120.0
"""How long the end of a run waits for the store; what is not stored by then is told, and stored by a later launch."""

ASKED_S = 60.0

log = logging.getLogger("asparagus")


def see_register(models: Path, *, at_least: float = 2.0) -> None:
    """Have the numbers, identities and names of all runs here.

    Args:
        models: The folder of all runs.
        at_least: How old, in seconds, may be what is known.
    """
    if mirror := mirror_of(models):
        mirror.see_register(at_least=at_least)


def see_run(folder: Path, *, at_least: float = 2.0) -> None:
    """Have all of a run here but the states of its checkpoints."""
    if mirror := mirror_of(folder):
        mirror.see_run(folder, at_least=at_least)


def see_runs(folders: Sequence[Path]) -> None:
    """Have all of many runs here but the states of their checkpoints."""
    if folders and (mirror := mirror_of(folders[0])):
        mirror.store.each(mirror.see_run, folders)


def put(*files: Path) -> None:
    """Put small files into the store at once."""
    if files and (mirror := mirror_of(files[0])):
        mirror.put_now(*files)


def take_away(*files: Path) -> None:
    """Take small files out of the store at once."""
    if files and (mirror := mirror_of(files[0])):
        mirror.delete_now(*files)


def removed(checkpoint: Path) -> None:
    """Note that a checkpoint was removed here: whoever puts its run's folder removes it from the store."""
    if mirror_of(checkpoint):
        with contextlib.suppress(FileNotFoundError):
            checkpoint.with_name(f"{GONE}{checkpoint.name}").touch()


def moved(folder: Path, to: Path) -> None:
    """Move in the store what was moved here."""
    if mirror := mirror_of(to):
        mirror.move(folder, to)


def gone(folder: Path) -> None:
    """Remove from the store what was removed here."""
    if mirror := mirror_of(folder):
        mirror.remove(folder)


def claim(entry: Path) -> bool:
    """Take a number for this machine; whoever sees that another one takes it gives way.

    Args:
        entry: The number's file, which this machine has made.
    """
    mirror = mirror_of(entry)
    if mirror is None:
        return True
    claims = str(CLAIMS / entry.stem)
    mine = f"{claims}/{uuid.uuid4().hex}"
    mirror.store.write(mine, b"{}")
    try:
        if mirror.store.list(claims).keys() != {mine} or mirror.store.read(mirror.key(entry)) is not None:
            return False
        mirror.store.put(mirror.key(entry), entry)
        return True
    finally:
        mirror.store.delete(mine)


@contextmanager
def alone(models: Path, what: str) -> Iterator[None]:
    """Let no other machine do the same during the body."""
    mirror = mirror_of(models)
    if mirror is None:
        yield
        return
    holder = Holder(mirror, models / OURS / "alone" / what)
    holder.acquire(wait=True)
    try:
        yield
    finally:
        holder.release()


def hold(folder: Path) -> Holder | None:
    """Hold a run for this process in the sight of all machines; None where there is no store.

    Raises:
        RecordError: Another machine trains it.
    """
    mirror = mirror_of(folder)
    if mirror is None:
        return None
    holder = Holder(mirror, folder)
    holder.acquire()
    _unstored(folder).parent.mkdir(parents=True, exist_ok=True)
    _unstored(folder).touch()
    return holder


def push_run(folder: Path) -> None:
    """Put all of a run's folder that the store lacks.

    Raises:
        StoreError: The store does not take it.
    """
    if mirror := mirror_of(folder):
        Pusher(mirror, folder, attempt_of(folder), lambda _: True).push(last=True)


def push_all(folder: Path, patience_s: float = WAIT_S) -> None:
    """Put the rest when a run has ended; what the store does not take is told, and lies here."""
    mirror = mirror_of(folder)
    if mirror is None:
        return
    pusher = Pusher(mirror, folder, attempt_of(folder), lambda _: True)
    left, why = Pushing(pusher).end(patience_s)
    if left:
        named = ", ".join(str(path.relative_to(folder)) for path in left[:5]) + (", ..." if len(left) > 5 else "")  # noqa: PLR2004
        log.warning(
            "%s: not all of it is in %s (%s). It lies in %s: %s. The next launch from here puts it there.",
            *(folder.name, mirror.store.uri, why, folder, named),
        )
        return
    _unstored(folder).unlink(missing_ok=True)


def catch_up(models: Path) -> None:
    """Put what earlier runs of this machine could not put: their launches were killed, or the store was away."""
    for noted in (models / UNSTORED).glob("*"):
        folder = models / Path(noted.name.replace("|", "/"))
        if is_held_here(folder):
            continue
        try:
            if folder.is_dir():
                push_run(folder)
        except StoreError as error:
            log.warning("%s", error)
        else:
            noted.unlink(missing_ok=True)


def have(checkpoint: Path) -> None:
    """Have a checkpoint here, with its state: it is about to be loaded."""
    if mirror_of(checkpoint) is None:
        return
    if not (checkpoint / MANIFEST).is_file():
        see_run(checkpoint.parents[1], at_least=0)
    fetch(checkpoint)


def pull(folder: Path) -> None:
    """Bring a run's folder up to the store's; by who holds the run."""
    if mirror := mirror_of(folder):
        mirror.pull(folder)


def pushing(folder: Path, attempt: int, belongs: Callable[[Path], bool]) -> Pushing:
    """Keep a run's folder in the store from now on.

    Args:
        folder: Of the run, in a working copy.
        attempt: Which one.
        belongs: Whether a file is this process's to put.
    """
    mirror = mirror_of(folder)
    assert mirror is not None
    return Pushing(Pusher(mirror, folder, attempt, belongs))


def problems(stores: Mapping[str, str]) -> Iterator[str]:
    """Yield what keeps stores from being used: within ten seconds each, and asked again only after a minute.

    Args:
        stores: `models` and `data`, where they are any.
    """
    for name, uri in stores.items():
        if told := _problem(name, uri, time.monotonic() // ASKED_S):
            yield f"paths.{name}: {told}"


@lru_cache(maxsize=8)
def _problem(name: str, uri: str, _: float) -> str:
    store = Store(uri)
    try:
        store.check() if name == "models" else store.check_reading()
    except StoreError as error:
        return str(error)
    return ""


def belongs_to(rank: int, folder: Path) -> Callable[[Path], bool]:
    """Return what of a run's folder a worker puts: the first all but the driver's files, the others their own logs."""

    def of_first(path: Path) -> bool:
        return path.parent != folder or path.name not in DRIVERS

    def of_other(path: Path) -> bool:
        return path.suffix == ".log" and path.stem.endswith((f"rank{rank}", f"rank={rank}"))

    return of_first if rank == 0 else of_other


def attempt_of(folder: Path) -> int:
    """Return which attempt a run's folder is of."""
    try:
        return int(json.loads((folder / "run.json").read_text(encoding="utf-8")).get("attempt", 1))
    except (OSError, ValueError):
        return 1


def _unstored(folder: Path) -> Path:
    """Return this machine's note that a run is not wholly in the store."""
    mirror = mirror_of(folder)
    assert mirror is not None
    return mirror.root / UNSTORED / mirror.key(folder).replace("/", "|")
