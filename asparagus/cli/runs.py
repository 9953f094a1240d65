"""`asp runs`, `asp getid`: looking at the record."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from asparagus.errors import RecordError, one_of
from asparagus.record.asked import BEST, LIMIT, RUN, STARTED, Asked, Bound
from asparagus.record.tracking import STATES

if TYPE_CHECKING:
    from rich.console import Console

    from asparagus.record.store import Store
    from asparagus.record.summary import RunSummary

WIDE = 160
SORTS = (RUN, STARTED, BEST)
METRICS, TAGS = "metrics:", "tags:"
NOTHING = "-"
FOLDED = 500
"""Up to so many rows are folded to a terminal's width."""
RUN_ID = re.compile(r"###RUN-ID=(\d+)###")


def getid(arguments: Sequence[str]) -> int:
    """Run `asp getid FILE` (SEEDS A22, A44)."""
    parser = argparse.ArgumentParser(
        "asp getid", description="Print the run number that a log or output file speaks of."
    )
    parser.add_argument("file", type=Path, help="a log, or anything that asp-launch printed")
    file = parser.parse_args(arguments).file
    if not file.is_file():
        raise RecordError(f"{file}: there is no such file. Give a log: <run folder>/<stage>.log.")
    found = RUN_ID.search(file.read_text(encoding="utf-8", errors="replace"))
    print(f"found run-ID: {found[1]}" if found else "found 0 run-IDs")
    return 0 if found else 2


def runs(arguments: Sequence[str]) -> int:
    """Run `asp runs`."""
    options = _runs_parser().parse_args(arguments)
    if options.jobs is not None:
        from asparagus.cli.jobs import list_jobs

        return list_jobs(options.jobs or None, as_json=options.json)
    asked = _asked(options)
    columns = _columns(options.columns, asked)
    limit = None if options.all else options.limit

    from asparagus.record.reader import open_reader

    # One more than is shown tells whether there are more.
    found = open_reader(tracking_uri()).runs(dataclasses.replace(asked, limit=None if limit is None else limit + 1))
    _must_be_measured(asked.sort, found)
    shown = found[:limit]
    if options.json:
        print(json.dumps([run.to_dict() for run in shown]))
    elif shown:
        _print_table(shown, columns)
    else:
        print("No run is recorded that fits. asp runs shows all.", file=sys.stderr)
    if len(found) > len(shown):
        print(f"{len(shown)} runs are shown; --all shows the rest too, --limit N as many as you say.", file=sys.stderr)
    return 0


def _runs_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "asp runs",
        description="Recorded runs, newest first.",
        epilog="example: asp runs --stage finetune_seg --metric 'val/loss<0.3' --sort val/loss --reverse",
    )
    parser.add_argument("--stage", help="only of this stage")
    parser.add_argument("--task", help="only of this task")
    parser.add_argument("--state", help=f"only in this state: {', '.join(STATES)}")
    parser.add_argument(
        "--metric", action="append", default=[], metavar="CONDITION", help="only where it holds: 'val/loss<0.3'"
    )
    parser.add_argument("--tag", action="append", default=[], metavar="NAME=VALUE", help="only with this MLflow tag")
    parser.add_argument(
        "--sort",
        default=RUN,
        metavar="KEY",
        help="run, started, best (by its own monitor), or a metric; the largest, latest or best first",
    )
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument("--columns", metavar="NAME,...", help=f"of {', '.join(CELLS)}, metrics:NAME, tags:NAME")
    many = parser.add_mutually_exclusive_group()
    many.add_argument("--limit", type=int, default=LIMIT, metavar="N", help=f"show at most N (default {LIMIT})")
    many.add_argument("--all", action="store_true", help="show all")
    parser.add_argument(
        "--jobs", nargs="?", const="", metavar="ADDRESS", help="instead: the jobs that were submitted to a cluster"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    return parser


def _asked(options: argparse.Namespace) -> Asked:
    if options.state is not None and options.state not in STATES:
        raise RecordError(one_of("--state", options.state, STATES))
    if options.limit < 1:
        raise RecordError(f"--limit: {options.limit} shows nothing. Give a number from 1 on, or --all.")
    return Asked(
        stage=options.stage,
        task=options.task,
        state=options.state,
        tags=dict(_tag(text) for text in options.tag),
        metrics=tuple(Bound.parse(text) for text in options.metric),
        sort=options.sort,
        ascending=options.reverse,
        show=tuple(name.removeprefix(TAGS) for name in (options.columns or "").split(",") if name.startswith(TAGS)),
    )


def _tag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise RecordError(f"--tag: {text!r} is not NAME=VALUE. For example: --tag asparagus.version=0.1.0")
    return name, value


def _columns(given: str | None, asked: Asked) -> list[str]:
    """Return the columns that are asked for; else the usual ones, with the metrics that were spoken of."""
    if given is None:
        spoken_of = [bound.name for bound in asked.metrics] + [asked.sort] * (asked.sort not in SORTS)
        return [*USUAL, *(f"{METRICS}{name}" for name in dict.fromkeys(spoken_of))]
    columns = [name.strip() for name in given.split(",")]
    for name in columns:
        if name not in CELLS and not (name.startswith((METRICS, TAGS)) and name not in (METRICS, TAGS)):
            raise RecordError(one_of("--columns", name, [*CELLS, f"{METRICS}NAME", f"{TAGS}NAME"]))
    return columns


def _must_be_measured(sort: str, found: Sequence[RunSummary]) -> None:
    """Refuse to sort by what none of the runs has: it is misspelt."""
    measured = {name for run in found for name in run.metrics}
    if found and sort not in SORTS and sort not in measured:
        raise RecordError(one_of("--sort", sort, [*SORTS, *measured], see="A metric is one that the runs measured."))


def tracking_uri() -> str:
    """Return where runs are recorded, as the environment says."""
    from asparagus.paths import get_paths, get_tracking_uri, load_environment

    load_environment()
    return get_tracking_uri(get_paths())


def open_store(uri: str, artifacts: Path | None = None) -> Store:
    """Open the store to change it: MLflow takes seconds to import, in which something moves on a terminal."""
    from asparagus.cli.screen import waiting

    with waiting("opening the record"):
        from asparagus.record.store import Store

        return Store(uri, artifacts)


def _print_table(found: Sequence[RunSummary], columns: Sequence[str]) -> None:
    cells = [[_cell(run, name) for name in columns] for run in found]
    if sys.stdout.isatty() and len(found) <= FOLDED:
        _print_folded(cells, columns)
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in ([*columns], ["-" * width for width in widths], *cells):
        placed = zip(columns, row, widths, strict=True)
        print(
            "  ".join(
                cell.rjust(width) if _is_number(name) else cell.ljust(width) for name, cell, width in placed
            ).rstrip()
        )


def _print_folded(cells: Sequence[Sequence[str]], columns: Sequence[str]) -> None:
    """Print a table that fits the terminal; slow where it is long."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in columns:
        justify: Literal["right", "left"] = "right" if _is_number(name) else "left"
        table.add_column(escape(name), justify=justify, overflow="fold", no_wrap=name not in LONG)
    for row in cells:
        table.add_row(*map(escape, row))
    console().print(table)


def _is_number(column: str) -> bool:
    return column in NUMBERS or column.startswith(METRICS)


def _cell(run: RunSummary, column: str) -> str:
    if column in CELLS:
        return CELLS[column](run) or NOTHING
    if column.startswith(TAGS):
        return run.tags.get(column.removeprefix(TAGS), NOTHING)
    value = run.metrics.get(column.removeprefix(METRICS))
    return NOTHING if value is None else f"{value:.4g}"


def console() -> Console:
    """Return a console for results; what goes into a file or a pipe is not folded to a terminal's width."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)


def origin(run: RunSummary) -> str:
    """Return where a run's weights came from as text."""
    if run.parent_checkpoint is None:
        return NOTHING
    name = Path(run.parent_checkpoint).name
    return f"run {run.parent_id} {name}" if run.parent_id else name


def _started(run: RunSummary) -> str:
    return datetime.fromtimestamp(run.started, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def _other(number: int | None) -> str:
    return "" if number is None else str(number)


CELLS: dict[str, Callable[[RunSummary], str]] = {
    "run": lambda run: str(run.run_id),
    "stage": lambda run: run.stage,
    "task": lambda run: run.task,
    "state": lambda run: run.state,
    "best": lambda run: run.score,
    "from": origin,
    "started": _started,
    "rerun_of": lambda run: _other(run.rerun_of),
    "sweep": lambda run: _other(run.sweep_id),
    "folder": lambda run: run.folder,
    "mlflow_run_id": lambda run: run.mlflow_run_id,
}
"""The columns of `asp runs`, beside metrics and tags."""
USUAL = tuple(CELLS)[:7]
NUMBERS = ("run", "rerun_of", "sweep")
LONG = ("task", "from", "folder")
"""Columns that are folded where a terminal is narrow."""
