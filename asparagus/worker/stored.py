"""An assignment whose run folder or data are in a store: in this machine's own folders, and put into the store."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asparagus.paths import in_working_copies
from asparagus.spec import Assignment
from asparagus.storage import kept
from asparagus.storage.follow import sign
from asparagus.storage.names import working_copy
from asparagus.storage.tasks import fetch_task
from asparagus.worker.ranks import Ranks

log = logging.getLogger("asparagus")


@contextmanager
def stored(assignment: Assignment, ranks: Ranks) -> Iterator[Assignment]:
    """Have everything that an assignment needs on this machine, and put what comes of it into the store meanwhile.

    Yields:
        The assignment with this machine's folders in place of the driver's.
    """
    stores = assignment.spec.paths.stores
    if not stores:
        yield assignment
        return
    here = at_home(assignment)
    if "data" in stores and here.spec.data_root == here.spec.paths.data:
        fetch_task(Path(here.spec.paths.data), here.spec.task)
    if "models" not in stores:
        yield here
        return
    folder = Path(here.folder)
    _have(here)
    if ranks.rank == 0:
        sign(folder)
    pushing = kept.pushing(folder, here.attempt, kept.belongs_to(ranks.rank, folder))
    try:
        yield here
    finally:
        left, why = pushing.end(kept.WAIT_S)
        if left:
            log.warning("%s: not all of it is stored (%s); it lies there", folder, why)


def at_home(assignment: Assignment) -> Assignment:
    """Return an assignment with this machine's working copies in place of the driver's."""
    theirs = assignment.spec.paths
    paths = in_working_copies(dataclasses.replace(theirs, **theirs.stores, stores={}))
    parent, exploit = assignment.parent, assignment.exploit

    def ours(path: str) -> str:
        return _moved(path, theirs.models, paths.models)

    if parent is not None:
        its = ours(parent.folder) if parent.folder is not None else None
        parent = dataclasses.replace(parent, checkpoint=ours(parent.checkpoint), folder=its)
    if exploit is not None:
        exploit = dataclasses.replace(exploit, checkpoint=ours(exploit.checkpoint))
    spec = dataclasses.replace(assignment.spec, paths=paths)
    return dataclasses.replace(assignment, spec=spec, folder=ours(assignment.folder), parent=parent, exploit=exploit)


def home_of(folder: str, models: str, uri: str) -> Path:
    """Return where a run's folder of the driver's is on this machine."""
    return Path(_moved(folder, models, str(working_copy(uri))))


def _have(assignment: Assignment) -> None:
    """Have the run's folder here, and the states that it starts from."""
    kept.see_run(Path(assignment.folder), at_least=0)
    for place in (assignment.parent, assignment.exploit):
        if place is not None:
            kept.have(Path(place.checkpoint))


def _moved(path: str, theirs: str, ours: str) -> str:
    """Return a path below one folder as one below another; a path elsewhere as it is."""
    inside = Path(path).is_relative_to(theirs)
    return str(Path(ours) / Path(path).relative_to(theirs)) if inside else path
