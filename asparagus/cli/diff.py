"""`asp diff A B`: what differs between two runs, from their folders."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from asparagus.cli.show_run import folder_of

if TYPE_CHECKING:
    from asparagus.record.differences import Difference
    from asparagus.record.run_files import RunFiles


def diff(arguments: Sequence[str]) -> int:
    """Run `asp diff A B`."""
    parser = argparse.ArgumentParser(
        "asp diff", description="What differs between two runs: spec, code, packages, data, parent, metrics."
    )
    parser.add_argument("left", type=int, metavar="A", help="a run's number")
    parser.add_argument("right", type=int, metavar="B", help="another's")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)

    from asparagus.record.differences import of_metrics, of_records, of_specs
    from asparagus.record.run_files import read_run

    left, right = read_run(folder_of(options.left)), read_run(folder_of(options.right))
    found = [*of_specs(left.spec, right.spec), *of_records(_told(left), _told(right))]
    metrics = of_metrics(left.metrics, right.metrics)
    if options.json:
        print(json.dumps(_as_json(left, right, found, metrics)))
        return 0
    print("\n".join(_lines(left, right, found, metrics)))
    return 0


def _told(run: RunFiles) -> dict[str, Any]:
    """Return the record of a run; one from before records were written tells at least its parent."""
    return {**run.record, "parent": run.record.get("parent") or run.state.get("init_from")}


def _problems(*runs: RunFiles) -> list[str]:
    without = [run for run in runs if not run.record]
    unknown = [
        f"run {run.run_id}: no {run.folder.record.name}: its code, packages and data are unknown" for run in without
    ]
    return [*unknown, *(problem for run in runs for problem in run.problems)]


def _as_json(
    left: RunFiles, right: RunFiles, found: Sequence[Difference], metrics: Sequence[Difference]
) -> dict[str, Any]:
    return {
        "left": left.run_id,
        "right": right.run_id,
        "differences": [difference.to_dict() for difference in found],
        "metrics": [
            {
                "metric": metric.key,
                "left": _finite(metric.left),
                "right": _finite(metric.right),
                "difference": _finite(_change(metric)),
            }
            for metric in metrics
        ],
        "problems": _problems(left, right),
    }


def _lines(
    left: RunFiles, right: RunFiles, found: Sequence[Difference], metrics: Sequence[Difference]
) -> Iterator[str]:
    from asparagus.record.differences import describe

    yield " -> ".join(
        f"run {run.run_id} ({run.folder.stage}, {run.folder.path.parent.parent.name})" for run in (left, right)
    )
    yield describe(found)
    if found and not any(difference.decides for difference in found):
        yield "Nothing that decides the weights differs."
    yield from (f"! {problem}" for problem in _problems(left, right))
    changed = [metric for metric in metrics if _change(metric) != 0]
    if changed:
        yield ""
        yield f"{'last value of':<32} {f'run {left.run_id}':>12} {f'run {right.run_id}':>12} {'difference':>12}"
        yield from map(_row, changed)
    if metrics and len(changed) < len(metrics):
        yield f"{len(metrics) - len(changed)} of {len(metrics)} metrics have equal last values."


def _row(metric: Difference) -> str:
    change = _change(metric)
    told = "-" if change is None else f"{change:+.6g}"
    return f"{metric.key:<32} {_number(metric.left):>12} {_number(metric.right):>12} {told:>12}"


def _change(metric: Difference) -> float | None:
    """Return how much larger the value on the right is; `None` where a side has none."""
    if metric.left is None or metric.right is None:
        return None
    if math.isnan(metric.left) and math.isnan(metric.right):
        return 0.0
    return 0.0 if metric.left == metric.right else float(metric.right - metric.left)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
