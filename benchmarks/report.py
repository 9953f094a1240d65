"""Where the benchmarks write what they measured: each has a section of RESULTS.md to itself."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def report(title: str, command: str, about: str, packages: Iterable[str], rows: Sequence[str]) -> None:
    """Print a table, and let it replace the section of the same title in RESULTS.md."""
    cores = len(os.sched_getaffinity(0))
    head = [
        f"## {title}",
        "",
        (
            f"`{command}` on {datetime.now(UTC):%Y-%m-%d}: {platform.machine()}, {cores} cores, Python "
            f"{platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in packages)}."
        ),
        about,
        "",
    ]
    section = "\n".join([*head, *rows]) + "\n"
    print(f"\n{section}")
    before = RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else "# Figures\n"
    others = [part for part in re.split(r"(?m)^(?=## )", before) if not part.startswith(f"## {title}\n")]
    RESULTS.write_text("\n".join(part.rstrip() + "\n" for part in [*others, section]), encoding="utf-8")
