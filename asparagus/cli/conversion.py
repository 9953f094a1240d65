"""`asp data new-conversion`, `asp data convert` and `asp data card`: data of one's own become tasks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asparagus.cli.data import SUBCOMMANDS
from asparagus.hardware import cpus_here

if TYPE_CHECKING:
    from asparagus.data.convert import Converted


OF_UPSTREAM = {
    "--bidsify": "cases are named by the conversion: cases() yields RawCase([...], name='sub-01/ses-01/t1').",
    "--save_dset_metadata": "what is known of all cases is always written, to card.json; of each, to JSON beside it.",
}
"""Options of upstream's that have no meaning here, and what does it instead."""


def new(arguments: Sequence[str]) -> int:
    """Run `asp data new-conversion TASK`."""
    parser = argparse.ArgumentParser("asp data new-conversion", description=SUBCOMMANDS["new-conversion"][1])
    parser.add_argument("task", help="what the task will be called, e.g. Task500_Mine")
    options = parser.parse_args(arguments)

    from asparagus.data.conversion import new_conversion
    from asparagus.paths import get_paths, load_environment

    load_environment()
    file = new_conversion(options.task, Path(str(get_paths().configs)))
    print(f"{file}: fill it in, then asp data convert {options.task}")
    return 0


def convert(arguments: Sequence[str]) -> int:
    """Run `asp data convert TASK`, which goes on where it was interrupted."""
    options = _parser().parse_args(arguments)
    _must_be_ours(options)

    from asparagus.cli.screen import counted
    from asparagus.data.card import write_card
    from asparagus.data.conversion import read_conversion
    from asparagus.data.convert import convert as converting
    from asparagus.errors import LeftError
    from asparagus.paths import get_paths, load_environment
    from asparagus.storage.tasks import put_task

    load_environment()
    paths = get_paths()
    definition = read_conversion(options.task or options.dataset, Path(str(paths.configs)))
    root = Path(paths.data)
    try:
        with _pool(options) as pool, counted(definition.name) as progress:
            nifti = options.save_as_nifti
            done = converting(definition, root, Path(paths.source), pool, as_nifti=nifti, progress=progress)
    except KeyboardInterrupt as error:
        raise LeftError(f"{definition.name}: the cases that were done are kept.") from error
    card = write_card(root, definition.name, done.failures)
    put_task(root, definition.name)
    _tell(definition.name, done, card, as_json=options.json)
    return _status(done)


def card(arguments: Sequence[str]) -> int:
    """Run `asp data card TASK`."""
    parser = argparse.ArgumentParser("asp data card", description=SUBCOMMANDS["card"][1])
    parser.add_argument("task", help="a folder of ASPARAGUS_DATA")
    options = parser.parse_args(arguments)

    from asparagus.data.card import write_card
    from asparagus.paths import get_paths, load_environment
    from asparagus.storage.tasks import fetch_task, put_task

    load_environment()
    root = Path(get_paths().data)
    fetch_task(root, options.task)
    print(write_card(root, options.task))
    put_task(root, options.task)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("asp data convert", description=SUBCOMMANDS["convert"][1])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("task", nargs="?", help="a conversion (asp data new-conversion), or the path of its file")
    which.add_argument("-t", "-d", "--dataset", help="the same")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--save_as_tensor", action="store_true", help="write .pt; the default")
    kind.add_argument("--save_as_nifti", action="store_true", help="write .nii.gz; pretrain and seg")
    parser.add_argument("--num_workers", "--workers", type=int, default=cpus_here(), help="processes (default: cores)")
    parser.add_argument(
        "--ray", nargs="?", const="auto", metavar="ADDRESS", help="as Ray tasks, on the cluster at an address"
    )
    parser.add_argument("--json", action="store_true", help="print what was done as one JSON object")
    for word in OF_UPSTREAM:
        parser.add_argument(word, action="store_true", help=argparse.SUPPRESS)
    return parser


def _must_be_ours(options: argparse.Namespace) -> None:
    """Answer what upstream's command takes besides, where a conversion of its own does the work."""
    from asparagus.errors import ConfigError

    problems = [
        f"{word}: {answer}" for word, answer in OF_UPSTREAM.items() if getattr(options, word.removeprefix("--"))
    ]
    if options.num_workers < 1:
        problems.append(f"--num_workers: {options.num_workers} is not at least 1.")
    if problems:
        raise ConfigError(*problems)


def _pool(options: argparse.Namespace) -> AbstractContextManager[Any]:
    if options.ray:
        from asparagus.driver.cases import on_ray

        return on_ray(options.ray)
    from asparagus.data.pool import in_processes

    return nullcontext(in_processes(options.num_workers))


def _tell(task: str, done: Converted, card: Path, *, as_json: bool) -> None:
    if as_json:
        failures = [failure._asdict() for failure in done.failures]
        about = {"task": task, "folder": str(done.folder), "made": done.made, "kept": done.kept, "card": str(card)}
        print(json.dumps({**about, "failures": failures}))
        return
    print(f"{task}: {done.made} cases converted, {done.kept} were there already: {done.folder}")
    print(f"card: {card}")
    print(f"Next: asp data check {task} ; asp-split -t {task} --vals 70 10 20")


def _status(done: Converted) -> int:
    if not done.failures:
        return 0
    from asparagus.data.convert import listed
    from asparagus.errors import RunError

    total = done.made + done.kept + len(done.failures)
    raise RunError(
        f"{len(done.failures)} of {total} cases could not be converted; mend or exclude them, and say the same again:\n"
        f"{listed(done.failures)}"
    )
