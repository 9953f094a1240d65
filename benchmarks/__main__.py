"""Measure the parts, one after the other, and keep their figures.

python -m benchmarks                      all; writes RESULTS.md and figures.json beside this file
python -m benchmarks --only launch,data   these; the figures of the others stay
python -m benchmarks --quick              one repeat, small sizes: shows that it works, and is not kept
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import psutil

from benchmarks.commands import Asked, Failed, LeftOut
from benchmarks.figures import Measured, Section, kept_with, load, replace, save
from benchmarks.parts import PARTS, Part
from benchmarks.report import page, section_lines, summary, verdict

HERE = Path(__file__).parent
DONE, A_PART_FAILED, INTERRUPTED = 0, 3, 130


def parsed(words: Sequence[str], parts: Mapping[str, Part]) -> argparse.Namespace:
    """Return what was typed."""
    listed = "\n".join(f"  {part.name:<10} {part.about}" for part in parts.values())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"parts:\n{listed}\n\nexit status: 0 measured, whether or not a goal was missed; 3 a part failed",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def known(text: str) -> list[str]:
        names = text.split(",")
        if strange := [name for name in names if name not in parts]:
            raise argparse.ArgumentTypeError(f"no part is called {strange[0]!r}. Known: {', '.join(parts)}")
        return names

    usual = [part.name for part in parts.values() if part.usual]
    parser.add_argument("--only", type=known, default=usual, metavar="PART,...", help="these parts")
    parser.add_argument("--quick", action="store_true", help="one repeat, small sizes; prints, and keeps nothing")
    parser.add_argument("--repeats", type=int, metavar="N", help="measure N times in place of each part's own number")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="keep figures there, those of --quick too")
    parser.add_argument("--workers", type=int, nargs="+", default=[], metavar="N", help="scale: with so many workers")
    parser.add_argument("--hydra-python", default="", help="sweep: a Python with hydra-optuna-sweeper and Lightning")
    return parser.parse_args(words)


def main(words: Sequence[str], parts: Mapping[str, Part] = PARTS) -> int:
    """Measure what is asked for; returns the exit status."""
    options = parsed(words, parts)
    with tempfile.TemporaryDirectory() as nowhere:
        into = options.into or (Path(nowhere) if options.quick else HERE)
        into.mkdir(parents=True, exist_ok=True)
        asked = Asked(
            quick=options.quick,
            repeats=options.repeats,
            into=into,
            workers=tuple(options.workers),
            hydra_python=options.hydra_python,
        )
        command = " ".join(["python -m benchmarks", *words])
        try:
            made, failed = measure_all([parts[name] for name in options.only], asked, command, tuple(parts))
        except KeyboardInterrupt:
            print("\ninterrupted: the figures of the parts that were measured are kept", flush=True)
            return INTERRUPTED
    if made:
        print("\n".join(["", *summary(made), "", *verdict(made)]))
    if failed:
        print(f"\nfailed, see above: {', '.join(failed)}. The figures of the others are whole.")
    return A_PART_FAILED if failed else DONE


def measure_all(
    chosen: Sequence[Part], asked: Asked, command: str, order: Sequence[str]
) -> tuple[list[Section], list[str]]:
    """Measure parts in turn, each in a process of its own, and keep each as soon as it is there.

    Args:
        chosen: The parts.
        asked: What is asked of each.
        command: That was typed.
        order: Of the parts in RESULTS.md.

    Returns:
        The sections that were made, and the names of the parts that failed.
    """
    made, failed = [], []
    for place, part in enumerate(chosen, start=1):
        print(f"\n[{place}/{len(chosen)}] {part.name}: {part.about}", flush=True)
        started = time.monotonic()
        try:
            section = stamped(part, measured(part, asked), command)
        except LeftOut as reason:
            print(f"{part.name} is left out: {reason}", flush=True)
            continue
        except Failed as error:
            print(f"{part.name} failed: {error}", flush=True)
            failed.append(part.name)
            continue
        except Exception:  # noqa: BLE001 - a bug in one part, told in full, must not cost the figures of the others
            traceback.print_exc()
            failed.append(part.name)
            continue
        sections = kept_with(section, load(asked.into), order)
        save(asked.into, sections)
        replace(asked.into / "RESULTS.md", page(sections, order))
        made.append(section)
        print("\n".join(["", *section_lines(section), "", f"in {time.monotonic() - started:.0f} s"]), flush=True)
    return made, failed


def measured(part: Part, asked: Asked) -> Measured:
    """Measure a part in a fresh process: threads, memory and imports of one are not the next one's."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, part, asked).result()


def _measure(part: Part, asked: Asked) -> Measured:
    found: Measured = getattr(import_module(part.module), part.function)(asked)
    return found


def stamped(part: Part, found: Measured, command: str) -> Section:
    """Return what was measured with where and when."""
    versions = {name: version(name) for name in part.packages}
    return Section(part.name, part.title, command, f"{datetime.now(UTC):%Y-%m-%d}", machine(), versions, found)


def machine() -> str:
    """Return what this machine is, in words."""
    cpus = Path("/proc/cpuinfo")
    told = re.search(r"^model name\s*: (.+)$", cpus.read_text(), re.MULTILINE) if cpus.is_file() else None
    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total / 1e9
    name = told[1] if told else platform.machine()
    return f"{name}, {cores} cores, {memory:.0f} GB, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
