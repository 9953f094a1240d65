"""`asp rm N ...`: runs into the trash, back out of it, and out of the world."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asparagus.record.store import Store
    from asparagus.record.trash import Moved

DESCRIPTION = (
    "Move runs to the trash. A run stays that another one started from, that is being trained, or whose checkpoint is "
    "registered or pinned. Its number is never used again; its MLflow run is marked as deleted."
)


def rm(arguments: Sequence[str]) -> int:
    """Run `asp rm`."""
    parser = argparse.ArgumentParser("asp rm", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("run_ids", nargs="*", type=int, metavar="N", help="numbers of runs; children go with parents")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--restore", action="store_true", help="bring these runs back from the trash")
    how.add_argument("--empty", action="store_true", help="remove for good all that is in the trash; nothing is asked")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    options = parser.parse_args(arguments)
    if bool(options.run_ids) == options.empty:
        parser.error("--empty takes no numbers: all of it goes" if options.empty else "give the numbers of runs")

    action = _empty if options.empty else _restore if options.restore else _throw_away
    moved, told = action(options.run_ids)
    print(json.dumps([one.to_dict() for one in moved]) if options.json else told)
    return 0


def _throw_away(run_ids: Sequence[int]) -> tuple[list[Moved], str]:
    from asparagus.cli.gc import models
    from asparagus.record.trash import throw_away

    moved = throw_away(models(), run_ids, _store())
    numbers = " ".join(str(one.run_id) for one in moved)
    after = f"Bring back: asp rm --restore {numbers}. Remove for good: asp rm --empty."
    return moved, "\n".join([*_lines(moved, "is in the trash"), after])


def _restore(run_ids: Sequence[int]) -> tuple[list[Moved], str]:
    from asparagus.cli.gc import models
    from asparagus.record.trash import bring_back

    store = _store()
    moved = [bring_back(models(), run_id, store) for run_id in run_ids]
    return moved, "\n".join(_lines(moved, "is back"))


def _empty(_: Sequence[int]) -> tuple[list[Moved], str]:
    from asparagus.checkpoint.retention import size_told
    from asparagus.cli.gc import models
    from asparagus.record.trash import empty

    moved = list(empty(models()))
    after = f"Freed {size_told(sum(one.bytes for one in moved))}." if moved else "The trash is empty."
    return moved, "\n".join([*_lines(moved, "is removed for good"), after])


def _lines(moved: Iterable[Moved], what: str) -> Iterator[str]:
    """Say what became of runs."""
    from asparagus.checkpoint.retention import size_told

    for one in moved:
        yield f"run {one.run_id} {what}: {one.folder} ({size_told(one.bytes)})"
        yield from (f"  {note}" for note in one.notes)


def _store() -> Store:
    """Reach the store, before anything is moved."""
    from asparagus.cli.runs import open_store, tracking_uri

    return open_store(tracking_uri())
