"""`asp show N`: one run on a page, from its folder; where that is not here, what MLflow still knows."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asparagus.errors import RecordError

if TYPE_CHECKING:
    from asparagus.record.summary import RunSummary


def show(arguments: Sequence[str]) -> int:
    """Run `asp show N`."""
    parser = argparse.ArgumentParser("asp show", description="One run: what it is, where from, what came of it.")
    parser.add_argument("run_id", type=int, metavar="N", help="the run's number (asp runs lists them)")
    parser.add_argument("--timing", action="store_true", help="where its time went; of a sweep, over its trials")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)

    from asparagus.record.run_files import read_run
    from asparagus.record.run_page import lines, page_of

    try:
        folder = folder_of(options.run_id)
    except RecordError as error:
        if options.timing and _recorded(options.run_id) is not None:
            raise RecordError(f"{error} Its times are there, and in MLflow: its artifact plots/timing.html.") from error
        if options.timing:
            raise
        return _show_summary(options.run_id, error, as_json=options.json)
    if options.timing:
        from asparagus.cli.timing import show_timing

        return show_timing(options.run_id, folder, as_json=options.json)
    page = page_of(read_run(folder))
    print(json.dumps(page.to_dict()) if options.json else "\n".join(lines(page)))
    return 0


def folder_of(run_id: int) -> Path:
    """Return the folder of a run: under the models folder, else where MLflow says that it was trained.

    Raises:
        RecordError: It is at neither place.
    """
    from asparagus.paths import get_paths, load_environment
    from asparagus.record.numbers import SeveralFoldersError, find_folder

    load_environment()
    try:
        return find_folder(Path(get_paths().models), run_id)
    except SeveralFoldersError:
        raise
    except RecordError:
        recorded = _recorded(run_id)
        if recorded is not None and Path(recorded.folder).is_dir():
            return Path(recorded.folder)
        raise


def _recorded(run_id: int) -> RunSummary | None:
    """Return what MLflow knows of a run; nothing where it cannot be asked."""
    from asparagus.cli.runs import tracking_uri
    from asparagus.record.reader import open_reader

    try:
        found = open_reader(tracking_uri()).by_numbers([run_id])
    except RecordError:
        return None
    return found[0] if found else None


def _show_summary(run_id: int, missing: RecordError, *, as_json: bool) -> int:
    summary = _recorded(run_id)
    if summary is None:
        raise missing
    if as_json:
        print(json.dumps({**summary.to_dict(), "problems": [str(missing)]}))
        return 0
    print("\n".join(_lines(summary, missing)))
    return 0


def _lines(run: RunSummary, missing: RecordError) -> Iterator[str]:
    yield f"run {run.run_id} · {run.stage} · {run.task} · {run.state}"
    yield f"  ! {missing}"
    yield "  What MLflow still knows:"
    yield f"  folder      {run.folder} (not on this machine)"
    yield f"  mlflow      {run.mlflow_run_id}"
    if run.parent_checkpoint:
        source = f"run {run.parent_id} " if run.parent_id is not None else ""
        yield f"  from        {source}{run.parent_checkpoint}"
    if run.best is not None:
        yield f"  best        {run.monitor} {run.best:.6g}"
    yield from (f"    {name:<32} {value:.6g}" for name, value in run.metrics.items())
