"""`asp gc`: which checkpoints can go and why the others stay; with `--apply`, they go."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asparagus.record.gc import Row, Survey, Wish

DESCRIPTION = (
    "Show which checkpoints can be freed, by each run's own rule of retention, and why the others stay. A checkpoint "
    "stays that another run started from, that is a registered model, that is pinned, whose run is being trained, or "
    "that is the only whole one of its run."
)


def gc(arguments: Sequence[str]) -> int:
    """Run `asp gc`."""
    options = _parser().parse_args(arguments)
    if options.pin is not None or options.unpin is not None:
        return _pins(options)
    from asparagus.record.gc import survey

    surveys = survey(models(), _wish(options))
    freed = _apply(surveys) if options.apply else {found.run_id: found.freed for found in surveys}
    if options.json:
        print(json.dumps(_as_dict(surveys, freed, applied=options.apply)))
        return 0
    for found in surveys:
        print("\n".join(_lines(found)))
    print(_summary(surveys, freed, options))
    return 0


def models() -> Path:
    """Return the folder of all runs, as the environment says."""
    from asparagus.paths import get_paths, load_environment

    load_environment()
    return Path(get_paths().models)


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("asp gc", description=DESCRIPTION, allow_abbrev=False)
    made.add_argument("--task", help="only runs of this task")
    made.add_argument("--stage", help="only runs of this stage")
    made.add_argument("--keep-best", type=int, metavar="K", help="so many best ones of each run, whatever its own rule")
    made.add_argument("--quota", metavar="SIZE", help="what all of these may take together: 500MB, 2GB, 1.5GiB")
    made.add_argument("--json", action="store_true", help="print one JSON object")
    action = made.add_mutually_exclusive_group()
    action.add_argument("--apply", action="store_true", help="free them; without it, nothing is changed")
    action.add_argument("--pin", metavar="N[/CHECKPOINT]", help="let a checkpoint of run N stay; unnamed, the best")
    action.add_argument("--unpin", metavar="N[/CHECKPOINT]", help="take that back; unnamed, for all of run N")
    return made


def _wish(options: argparse.Namespace) -> Wish:
    from asparagus.checkpoint.retention import bytes_of
    from asparagus.errors import ConfigError
    from asparagus.record.gc import Wish

    if options.keep_best is not None and options.keep_best < 0:
        raise ConfigError(f"--keep-best: {options.keep_best} is too small. The least is 0.")
    try:
        quota = None if options.quota is None else bytes_of(options.quota)
    except ConfigError as error:
        raise ConfigError(f"--quota: {error}") from error
    return Wish(options.task, options.stage, options.keep_best, quota)


def _pins(options: argparse.Namespace) -> int:
    from asparagus.record.gc import pin, unpin

    if options.pin is not None:
        changed = [pin(models(), options.pin)]
        said = "is pinned: neither its run nor asp gc removes it"
    else:
        changed = unpin(models(), options.unpin)
        said = "is pinned no longer"
    if options.json:
        print(json.dumps([str(checkpoint) for checkpoint in changed]))
        return 0
    for checkpoint in changed:
        print(f"{checkpoint} {said}")
    if not changed:
        print(f"{options.unpin}: nothing was pinned there")
    return 0


def _apply(surveys: Sequence[Survey]) -> dict[int, tuple[Row, ...]]:
    from asparagus.record.gc import free

    return {found.run_id: free(found) for found in surveys}


def _as_dict(surveys: Sequence[Survey], freed: dict[int, tuple[Row, ...]], *, applied: bool) -> dict[str, object]:
    return {
        "runs": [found.to_dict() for found in surveys],
        "bytes": sum(found.bytes for found in surveys),
        "free": sum(row.bytes for rows in freed.values() for row in rows),
        "applied": applied,
    }


def _lines(found: Survey) -> Iterator[str]:
    from asparagus.checkpoint.retention import size_told

    yield f"run {found.run_id}  {found.folder.stage} {found.task}  {size_told(found.bytes)}"
    width = max(len(row.name) for row in found.rows)
    for row in found.rows:
        fate = f"stays: {', '.join(row.why)}" if row.why else "can go"
        what = f" ({row.what})" if row.what else ""
        yield f"  {row.name:<{width}}  {size_told(row.bytes):>8}  {fate}{what}"


def _summary(surveys: Sequence[Survey], freed: dict[int, tuple[Row, ...]], options: argparse.Namespace) -> str:
    from asparagus.checkpoint.retention import bytes_of, size_told

    total = sum(found.bytes for found in surveys)
    going = sum(row.bytes for rows in freed.values() for row in rows)
    if not surveys:
        return "No run has a checkpoint."
    over = total - going - bytes_of(options.quota) if options.quota else 0
    missed = f" The rest is {size_told(over)} over the quota, and all of it has a reason to stay." if over > 0 else ""
    if options.apply:
        return f"Freed {size_told(going)} of {size_told(total)} in {len(surveys)} runs.{missed}"
    how = " Free it: the same command with --apply." if going else ""
    return f"{size_told(going)} of {size_told(total)} in {len(surveys)} runs can go.{how}{missed}"
