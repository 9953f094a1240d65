"""The parts in turn, each in a process of its own; what one has measured is kept before the next begins."""

from __future__ import annotations

import os
import platform
import re
import signal
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

import psutil

from benchmarks.chart import draw
from benchmarks.commands import Asked, Failed, LeftOut
from benchmarks.figures import Measured, Section, kept_with, load, replace, save
from benchmarks.parts import Part
from benchmarks.report import page, quoted_in, section_lines

LEAVE_S = 30.0
"""For a process that has answered, or was interrupted."""


def measure_all(chosen: Sequence[Part], asked: Asked, order: Sequence[str]) -> tuple[list[Section], list[str]]:
    """Measure parts in turn, each in a process of its own, and keep each as soon as it is there.

    Args:
        chosen: The parts.
        asked: What is asked of each.
        order: Of the parts in RESULTS.md.

    Returns:
        The sections that were made, and the names of the parts that failed.
    """
    made, failed = [], []
    for place, part in enumerate(chosen, start=1):
        print(f"\n[{place}/{len(chosen)}] {part.name}: {part.about}", flush=True)
        started = time.monotonic()
        try:
            section = measured(part, asked)
        except LeftOut as reason:
            print(f"{part.name} is left out: {reason}", flush=True)
            continue
        except Failed as error:
            print(f"{part.name} failed: {error}", flush=True)
            failed.append(part.name)
            continue
        sections = kept_with(section, load(asked.into), order)
        keep(asked.into, sections, order)
        made.append(section)
        print("\n".join(["", *section_lines(section), "", f"in {time.monotonic() - started:.0f} s"]), flush=True)
    return made, failed


def keep(folder: Path, sections: Sequence[Section], order: Sequence[str]) -> None:
    """Write figures.json, the picture and RESULTS.md, and the tables that the README beside the folder quotes."""
    save(folder, sections)
    draw(folder, sections)
    replace(folder / "RESULTS.md", page(sections, order))
    readme = folder.parent / "README.md"
    before = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if (now := quoted_in(before, sections)) != before:
        replace(readme, now)


def measured(part: Part, asked: Asked) -> Section:
    """Measure a part in a fresh process: threads, memory and imports of one are not the next one's.

    Raises:
        Failed: It could not be measured, with why.
        LeftOut: There is nothing to measure it on.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(part, asked, theirs))
    process.start()
    theirs.close()
    try:
        told = ours.recv()
    except EOFError:
        process.join()
        raise Failed(f"its process ended with {process.exitcode}") from None
    except KeyboardInterrupt:
        os.kill(process.pid or 0, signal.SIGINT)  # a terminal has told it too; who kills by number has not
        raise
    finally:
        process.join(timeout=LEAVE_S)
        process.kill()
    if isinstance(told, Exception):
        raise told
    return cast("Section", told)


def _measure(part: Part, asked: Asked, answer: Connection) -> None:
    try:
        answer.send(stamped(part, getattr(import_module(part.module), part.function)(asked), asked))
    except (Failed, LeftOut) as error:
        answer.send(error)
    except KeyboardInterrupt:
        return
    except Exception:  # noqa: BLE001 - a bug in one part, told in full, must not cost the figures of the others
        answer.send(Failed(traceback.format_exc()))


def stamped(part: Part, found: Measured, asked: Asked) -> Section:
    """Return what was measured with where, when, and by which command it is measured again."""
    versions = {name: version(name) for name in part.packages}
    command, today = f"python -m benchmarks --only {part.name}{asked.words()}", f"{datetime.now(UTC):%Y-%m-%d}"
    return Section(part.name, part.title, command, today, machine(), versions, found)


def machine() -> str:
    """Return what this machine is, in words."""
    cpus = Path("/proc/cpuinfo")
    told = re.search(r"^model name\s*: (.+)$", cpus.read_text(), re.MULTILINE) if cpus.is_file() else None
    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total / 1e9
    name = told[1] if told else platform.machine()
    return f"{name}, {cores} cores, {memory:.0f} GB, Python {platform.python_version()}"
