"""`asp data ...` and `asp-split`: how data become tasks, and who trains on which cases."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

SUBCOMMANDS: dict[str, tuple[str, str]] = {
    "new-conversion": ("asparagus.cli.conversion:new", "write a conversion of your own data, to fill in"),
    "convert": ("asparagus.cli.conversion:convert", "convert and preprocess your own data into a task"),
    "register": ("asparagus.cli.registration:register", "make a task of files that are ready as they are"),
    "check": ("asparagus.cli.registration:check", "read every case and split of a task, and say what is wrong"),
    "card": ("asparagus.cli.conversion:card", "write card.html: counts, spacings, intensities, pictures"),
    "update-paths": ("asparagus.cli.registration:update_paths", "say where a task's files are, after it was moved"),
    "datasplit": ("asparagus.cli.datasplit:datasplit", "list which crops of volumes are trained and validated on"),
    "make": ("asparagus.cli.data:make", "write a task to try things on, the same for everyone"),
}
"""`asp data SUBCOMMAND`: where each lives and what it does."""
TRAINED_BY = {
    "Task001_Digits": "experiment/digits",
    "Task995_LauritSynReg": "train_reg task=Task995_LauritSynReg",
    "Task996_LauritSynCls": "train_cls task=Task996_LauritSynCls",
    "Task997_LauritSynSeg": "train_seg task=Task997_LauritSynSeg",
    "Task998_LauritSyn": "pretrain task=Task998_LauritSyn",
}
"""What to try on each task that `asp data make` makes."""


def data(arguments: Sequence[str]) -> int:
    """Run `asp data ...`."""
    about = "\n".join(f"  {name:<15} {text}" for name, (_, text) in SUBCOMMANDS.items())
    parser = argparse.ArgumentParser(
        "asp data",
        description="Data of a task.",
        epilog=f"commands:\n{about}\n\nasp data COMMAND --help says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", help="one of those below")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="...", help="what it takes")
    options = parser.parse_args(arguments)
    if options.command not in SUBCOMMANDS:
        from asparagus.errors import DataError, one_of

        raise DataError(one_of("asp data", options.command, SUBCOMMANDS, see="asp data --help says what each does."))
    module, _, function = SUBCOMMANDS[options.command][0].partition(":")
    status: int = getattr(importlib.import_module(module), function)(options.words)
    return status


def make(arguments: Sequence[str]) -> int:
    """Run `asp data make TASK`."""
    from asparagus.data import MAKERS

    parser = argparse.ArgumentParser("asp data make", description=SUBCOMMANDS["make"][1])
    parser.add_argument("task", metavar="TASK", nargs="?", help=f"one of {', '.join(MAKERS)}")
    parser.add_argument("--cases", type=int, help="how many (default: enough for the demo)")
    options = parser.parse_args(arguments)
    if options.task is None:
        from asparagus.errors import DataError

        raise DataError(
            f"TASK is missing. Give one: asp data make {next(iter(MAKERS))}. There are {', '.join(MAKERS)}."
        )

    from asparagus.data.made import SPLIT
    from asparagus.paths import get_paths, load_environment

    load_environment()
    made = make_task(options.task, Path(get_paths().data), cases=options.cases)
    print(f"{options.task} is in {made}, with the split {SPLIT}. Next: asp-launch {TRAINED_BY[options.task]}")
    return 0


def make_task(name: str, root: Path, *, cases: int | None = None) -> Path:
    """Make one of the tasks that asparagus brings, with progress, and return its folder."""
    from asparagus.cli.screen import counted
    from asparagus.data.made import make as made
    from asparagus.data.made import must_be_known

    must_be_known(name)
    with counted(name) as progress:
        return made(name, root, cases=cases, progress=progress)


def split(arguments: Sequence[str]) -> int:
    """Run `asp-split -t TASK (--fn FUNCTION | --vals TRAIN VAL TEST)`."""
    parser = argparse.ArgumentParser("asp-split", description="Divide a task's cases into train, validation and test.")
    parser.add_argument("-t", "--task", "-d", "--dataset", required=True, help="a folder of ASPARAGUS_DATA")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--fn", help="the split function, e.g. split_80_20, BIDSsplit_40_10_50")
    which.add_argument("--vals", nargs="+", type=int, metavar="PERCENT", help="train, val and test: 40 10 50")
    options = parser.parse_args(arguments)

    from asparagus.cli.screen import waiting
    from asparagus.paths import get_paths, load_environment
    from asparagus.storage.tasks import fetch_task, put_task

    load_environment()
    root = Path(get_paths().data)
    with waiting(f"splitting {options.task}"):  # mostly, scikit-learn is imported
        from asparagus.data.split import made_by, plain_name

        fetch_task(root, options.task)
        made = made_by(root, options.task, options.fn if options.vals is None else plain_name(options.vals))
        put_task(root, options.task)
    print("\n".join(map(str, made)))
    return 0
