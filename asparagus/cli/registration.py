"""`asp data register`, `asp data check` and `asp data update-paths`: tasks of files that are there."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from asparagus.cli.data import SUBCOMMANDS
from asparagus.errors import DataError

PERCENTS = (80, 10, 10)


def register(arguments: Sequence[str]) -> int:
    """Run `asp data register`."""
    options = _parser().parse_args(arguments)

    from asparagus.data.register import Registration, split_of
    from asparagus.data.register import register as registering
    from asparagus.paths import get_paths, load_environment
    from asparagus.storage.tasks import put_task

    load_environment()
    given = {part: getattr(options, part) for part in ("train", "val", "test")}
    asked = Registration(
        options.task,
        options.kind,
        n_classes=options.n_classes,
        n_modalities=options.n_modalities,
        dimensions=options.dimensions,
        folder=None if options.folder is None else Path(options.folder).absolute(),
        extension=options.extension,
        n_folds=options.n_folds,
        seed=options.seed,
        subjects=options.subjects,
        **(_percents(given) if _are_percents(given) else given),
    )
    root = Path(get_paths().data)
    task = registering(root, asked)
    put_task(root, task.name)
    print(f"{task.folder}: {len(asked.files)} files, split {split_of(asked)}. Next: asp data check {task.name}")
    return 0


def check(arguments: Sequence[str]) -> int:
    """Run `asp data check TASK`."""
    parser = argparse.ArgumentParser("asp data check", description=SUBCOMMANDS["check"][1])
    parser.add_argument("task", help="a folder of ASPARAGUS_DATA")
    parser.add_argument("--json", action="store_true", help="print the problems as one JSON object")
    options = parser.parse_args(arguments)

    from asparagus.cli.screen import counted
    from asparagus.data.inspect import problems_of
    from asparagus.paths import get_paths, load_environment
    from asparagus.storage.tasks import fetch_task

    load_environment()
    root = Path(get_paths().data)
    fetch_task(root, options.task)
    with counted(options.task) as progress:
        problems = problems_of(root, options.task, progress)
    if options.json:
        print(json.dumps({"task": options.task, "problems": problems}))
        return DataError.exit_status if problems else 0
    if problems:
        raise DataError("\n".join([f"{len(problems)} problems in {options.task}:", *problems]))
    print(f"{options.task}: every case and split can be used")
    return 0


def update_paths(arguments: Sequence[str]) -> int:
    """Run `asp data update-paths TASK ...` or `--all`."""
    parser = argparse.ArgumentParser("asp data update-paths", description=SUBCOMMANDS["update-paths"][1])
    parser.add_argument("task", nargs="*", help="folders of ASPARAGUS_DATA; SEG001 is SEG001_Name")
    parser.add_argument("--all", action="store_true", help="every task there is")
    options = parser.parse_args(arguments)

    from asparagus.data.layout import known_tasks, named
    from asparagus.data.moved import update_paths as updating
    from asparagus.paths import get_paths, load_environment

    load_environment()
    root = Path(get_paths().data)
    if bool(options.task) == options.all:
        raise DataError("asp data update-paths: name tasks, or say --all.")
    problems = []
    for name in known_tasks(root) if options.all else options.task:
        try:
            done = updating(root, named(root, name))
        except DataError as error:
            problems.append(str(error))
            continue
        files = ", ".join(file.name for file in done.files)
        print(f"{name}: " + (f"{done.paths} paths in {files}" if done.files else "nothing to change"))
    if problems:
        raise DataError("\n".join(problems))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("asp data register", description=SUBCOMMANDS["register"][1])
    parser.add_argument("-t", "--task", "--task_name", required=True, help="what it will be called, e.g. Task500_Mine")
    parser.add_argument("--kind", default="pretrain", help="pretrain, seg, cls or reg (default: pretrain)")
    parser.add_argument(
        "--n_classes", type=int, default=1, help="of seg and cls; of reg: numbers of a case (default: 1)"
    )
    parser.add_argument("--n_modalities", type=int, default=1, help="channels of an image (default: 1)")
    parser.add_argument("--dimensions", type=int, default=3, choices=(2, 3), help="of space (default: 3)")
    parser.add_argument("-d", "--folder", "--data_dir", help="where the files are; leave it out to list them")
    parser.add_argument("--extension", default=".pt", help=".pt, .nii.gz, .nii or .png (default: .pt)")
    for part, percent in zip(("train", "val", "test"), PERCENTS, strict=True):
        parser.add_argument(
            f"--{part}",
            f"--{part}_ratio",
            nargs="+",
            default=[],
            metavar="PERCENT_OR_FILE",
            help=f"percent of the folder's files (default: {percent}), or files themselves",
        )
    parser.add_argument("--n_folds", type=int, default=5, help="drawn over training and validation cases (default: 5)")
    parser.add_argument("--seed", type=int, default=42, help="of that draw (default: 42)")
    parser.add_argument("--subjects", help="keep a subject's files together: BIDS, ABVIB, PatientID, MCSA or UCSD")
    return parser


def _are_percents(given: dict[str, list[str]]) -> bool:
    words = [word for part in given.values() for word in part]
    return all(len(part) <= 1 for part in given.values()) and all(word.lstrip("-").isdigit() for word in words)


def _percents(given: dict[str, list[str]]) -> dict[str, tuple[int, ...]]:
    """Return the percents; none at all are the usual ones, and of some the others are 0."""
    if not any(given.values()):
        return {"percents": PERCENTS}
    return {"percents": tuple(int(part[0]) if part else 0 for part in given.values())}
