"""`asp show N --timing`: where the time of a run went, attempt by attempt; of a sweep, over its trials."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from asparagus.record.timing import SweepTiming, Timing

BAR = 24
"""Characters."""


def show_timing(run_id: int, folder: Path, *, as_json: bool) -> int:
    """Print where the time of the run, or of the sweep, in a folder went.

    Raises:
        RecordError: It does not tell.
    """
    from asparagus.record.run_files import read_run
    from asparagus.record.run_folder import RunFolder
    from asparagus.record.sweeps import SWEEP
    from asparagus.record.timing import timing_of, timing_of_sweep

    if folder.parent.name == SWEEP:
        sweep = timing_of_sweep(folder.parents[2], run_id)
        print(json.dumps(sweep.to_dict())) if as_json else _print_sweep(sweep)
        return 0
    of_trial = read_run(folder).record.get("sweep_id") is not None
    run = timing_of(RunFolder(folder, folder.parent.name), run_id, of_trial=of_trial)
    print(json.dumps(run.to_dict())) if as_json else _print_run(run)
    return 0


def _print_run(timing: Timing) -> None:
    from rich.console import Console

    from asparagus.record.timing_page import title

    console = Console(highlight=False)
    for attempt in timing.attempts:
        console.print(f"run {timing.run_id}, {title(attempt)}", markup=False, soft_wrap=True)
        console.print(_table(attempt.phases))
    if timing.is_running:
        console.print("  it is still going: this is what is known so far", markup=False, soft_wrap=True)


def _print_sweep(timing: SweepTiming) -> None:
    from rich.console import Console

    console, total = Console(highlight=False), timing.total
    told = f"sweep {timing.sweep_id}: {len(timing.trials)} runs, {sum(total.values()):.1f} s in all"
    console.print(told, markup=False, soft_wrap=True)
    console.print(_table(total, {phase: timing.median(phase) for phase in total}))
    if timing.untold:
        told = f"  {timing.untold} more runs do not tell: not begun, thrown away, or of an earlier version"
        console.print(told, markup=False, soft_wrap=True)


def _table(phases: Mapping[str, float], medians: Mapping[str, float] | None = None) -> Table:
    """Return a row with a bar for each phase; of many runs, with the median of one."""
    from rich.bar import Bar
    from rich.table import Table

    from asparagus.record.timing import rows
    from asparagus.record.timing_page import WORDS

    longest = max(phases.values(), default=0.0) or 1.0
    table = Table(box=None, padding=(0, 1), show_header=medians is not None)
    table.add_column("phase", no_wrap=True)
    for name in ("seconds", "share", *(["median of a run"] if medians is not None else [])):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", width=BAR)
    table.add_column("", style="dim", overflow="ellipsis", no_wrap=True)
    for phase, seconds, share in rows(phases):
        median = [f"{medians[phase]:.2f} s"] if medians is not None else []
        bar = Bar(longest, 0, seconds, width=BAR)
        table.add_row(phase, f"{seconds:.2f} s", f"{share:.1%}", *median, bar, WORDS.get(phase, ""))
    return table
