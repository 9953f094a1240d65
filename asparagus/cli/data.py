"""`asp data make TASK` and `asp-split`: tasks to try things on, and who trains on which cases."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path


def data(arguments: Sequence[str]) -> int:
    """Run `asp data ...`."""
    from asparagus.data import MAKERS

    parser = argparse.ArgumentParser("asp data", description="Data of a task.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="make")
    make = commands.add_parser("make", help="write a task to try things on, the same for everyone")
    make.add_argument("task", help=f"one of {', '.join(MAKERS)}")
    make.add_argument("--cases", type=int, help="how many (default: enough for the demo)")
    options = parser.parse_args(arguments)

    from asparagus.errors import DataError, one_of
    from asparagus.paths import get_paths, load_environment
    from asparagus.storage.tasks import put_task

    load_environment()
    if options.task not in MAKERS:
        raise DataError(one_of("task", options.task, MAKERS))
    root = Path(get_paths().data)
    made = make_task(options.task, root, cases=options.cases)
    put_task(root, options.task)
    print(f"{options.task} is in {made}. Next: asp-split -t {options.task} --fn split_80_20")
    return 0


def make_task(name: str, root: Path, *, cases: int | None = None) -> Path:
    """Make one of the tasks that asparagus brings, with progress, and return its folder."""
    from asparagus.data import MAKERS

    module, _, function = MAKERS[name].rpartition(".")
    maker = getattr(importlib.import_module(module), function)
    asked = {} if cases is None else {"cases": cases}
    return Path(maker(root, progress=_progress, **asked).folder)


def split(arguments: Sequence[str]) -> int:
    """Run `asp-split -t TASK --fn FUNCTION`."""
    parser = argparse.ArgumentParser("asp-split", description="Divide a task's cases into training and validation.")
    parser.add_argument("-t", "--task", required=True, help="a folder of ASPARAGUS_DATA")
    parser.add_argument("--fn", required=True, help="the split function, e.g. split_80_20")
    options = parser.parse_args(arguments)

    from asparagus.data.split import make_split
    from asparagus.paths import get_paths, load_environment
    from asparagus.storage.tasks import fetch_task, put_task

    load_environment()
    root = Path(get_paths().data)
    fetch_task(root, options.task)
    made = make_split(root, options.task, options.fn)
    put_task(root, options.task)
    print(made)
    return 0


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done}/{total} cases", end="\n" if done == total else "", file=sys.stderr, flush=True)
