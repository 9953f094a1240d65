"""`asp eval-box run|prepare|collect`: is this checkpoint any good? A matrix of finetunes, one table (SEEDS A.2)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from asparagus.record.eval_box import BoxTable

BOX = "experiment/eval_box"
"""What is run where nothing else is named."""
NAMED, EXPERIMENTS = "box", "experiment/"
OF_CHECKPOINTS = ("run:", "model:", "sweep:", "file:")


def eval_box(arguments: Sequence[str]) -> int:
    """Run `asp eval-box`."""
    parser = argparse.ArgumentParser(
        "asp eval-box",
        description="Is this checkpoint any good? Every row of a box (an experiment with a section eval_box) is "
        "trained from each checkpoint and from scratch, as one sweep; a table and a plot come out.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    running = commands.add_parser(
        "run",
        usage="asp eval-box run CHECKPOINT [CHECKPOINT ...] [box=NAME] [OVERRIDE ...] [--dry-run] [--json]",
        help="train all of it; the same command goes on",
        allow_abbrev=False,
    )
    looking = commands.add_parser(
        "prepare",
        usage="asp eval-box prepare [box=NAME] [OVERRIDE ...] [--json]",
        help="see whether the data of every row are there",
        allow_abbrev=False,
    )
    for command in (running, looking):
        command.add_argument(
            "words",
            nargs="*",
            metavar="WORD",
            help="run:12/best and other checkpoints; box=NAME, a config or an experiment/NAME; overrides, of one row "
            "as NAME:key=value; row=A,B for some of the rows; seed=1,2,3 for the spread",
        )
    running.add_argument("--dry-run", action="store_true", help="check everything and print the plan")
    collecting = commands.add_parser("collect", help="the table again, of a box that is under way too")
    collecting.add_argument("sweep_id", type=int, metavar="N", help="the number of the box's sweep")
    for command in (running, looking, collecting):
        command.add_argument("--json", action="store_true", help="print one JSON object")
    options, more = parser.parse_known_args(arguments)
    if options.command == "run":
        return _run(options, more)
    if more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    return _prepare(options) if options.command == "prepare" else _collect(options)


def _run(options: argparse.Namespace, more: Sequence[str]) -> int:
    """Launch it as a sweep; options that are not ours are the launch's (--submit)."""
    from asparagus.cli.launch import launch

    box, words = _box_in(options.words)
    checkpoints = [word for word in words if word.startswith(OF_CHECKPOINTS)]
    rest = [word for word in words if word not in checkpoints]
    asked = [f"init_from={','.join(map(_quoted, checkpoints))}"] if checkpoints else []
    flags = [flag for flag, given in (("--dry-run", options.dry_run), ("--json", options.json)) if given]
    return launch([box, "-m", *asked, *rest, *flags, *more])


def _prepare(options: argparse.Namespace) -> int:
    from asparagus.api import prepare
    from asparagus.compose import Request
    from asparagus.compose.eval_box import eval_box_of
    from asparagus.errors import ConfigError, RequestError
    from asparagus.sweeps.eval_box import look_at_data

    prepare()
    box, words = _box_in(options.words)
    asked = eval_box_of(Request(box, tuple(words)))
    if asked is None:
        raise ConfigError(
            f"{NAMED}: {box} has no section eval_box. Write one, with NAME: {{config: ...}} for each row."
        )
    found = look_at_data(asked)
    bad = {name: str(one) for name, one in found.items() if isinstance(one, RequestError)}
    told = {name: one.spec.task for name, one in found.items() if not isinstance(one, RequestError)}
    if options.json:
        print(json.dumps({"rows": told, "problems": bad}))
        return 2 if bad else 0
    for name, one in found.items():
        cases = (
            "" if isinstance(one, RequestError) else ", ".join(f"{n} {part}" for part, n in (one.cases or {}).items())
        )
        print(f"BAD  {name:<10} {one}" if name in bad else f"ok   {name:<10} {told[name]}: {cases}")
    return 2 if bad else 0


def _collect(options: argparse.Namespace) -> int:
    from asparagus.driver.eval_box import folder_of_results
    from asparagus.paths import get_paths, load_environment
    from asparagus.record.eval_box import collect, plain
    from asparagus.record.eval_box_page import write

    load_environment()
    paths = get_paths()
    table = collect(Path(paths.models), options.sweep_id)
    folder = folder_of_results(paths.results, options.sweep_id)
    files = write(table, folder)
    if options.json:
        print(json.dumps({**plain(table), "files": [str(file) for file in files]}))
        return 0
    from rich.console import Console

    Console().print(rich_table(table))
    print(f"evaluation box {table.sweep_id} {table.state}: {folder}")
    return 0


def rich_table(table: BoxTable) -> Table:
    """Return the table for a terminal."""
    from rich.table import Table

    from asparagus.record.eval_box_page import grid

    head, *rows = grid(table)
    made = Table(box=None, pad_edge=False)
    for name in head:
        made.add_column(name)
    for row in rows:
        made.add_row(*row)
    return made


def _box_in(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the config that `box=NAME` names, and the other words."""
    rest = [word for word in words if not word.startswith(f"{NAMED}=")]
    named: list[Any] = [word.partition("=")[2] for word in words if word not in rest]
    if not named:
        return BOX, rest
    from asparagus.compose import search_folders

    box = str(named[-1])
    inside = f"{EXPERIMENTS}{box}"
    known = any((folder / f"{inside}.yaml").is_file() for folder in search_folders())
    return inside if known else box, rest


def _quoted(checkpoint: str) -> str:
    return "'" + checkpoint.replace("'", "\\'") + "'"
