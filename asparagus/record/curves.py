"""Training curves, drawn from a run's journal: one image of the losses, one of the other metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from asparagus.journal import JournalReader
from asparagus.record.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = list[tuple[int, float]]
"""Steps and values."""
FOLDER = "curves"
LOSS = "loss"
OTHER = "other"
POINTS = 1000
"""A line on a screen has no more to show."""
MOST = 12
"""So many metrics are drawn; a figure of more is not looked at."""
COLUMNS = 3
INCHES = (4.5, 3.0)
DOTS_PER_INCH = 100
DECADES = 100
"""A loss that falls by more than this is drawn on a logarithmic scale."""
FEW_POINTS = 30
"""Up to here each point is marked: one or two alone make no line."""


def draw(folder: RunFolder) -> list[Path]:
    """Draw the metrics of a run into `plots/curves/`; returns the images, none where nothing was measured twice."""
    measured = curves_of(folder)
    if all(len(points) < 2 for points in measured.values()):  # noqa: PLR2004 - a point is no curve
        return []
    drawn = []
    for family, curves in sorted(families(measured).items()):
        path = folder.plots / FOLDER / f"{family}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        _draw(curves, path)
        drawn.append(path)
    return drawn


def curves_of(folder: RunFolder) -> dict[str, Curve]:
    """Return the values of each metric by step; of a step that was repeated, the last one."""
    values: dict[str, dict[int, float]] = {}
    for event in JournalReader(folder.journal).read():
        if event["kind"] == "metrics":
            for name, value in event["values"].items():
                if math.isfinite(value):
                    values.setdefault(name, {})[event["step"]] = value
    return {name: sorted(points.items()) for name, points in sorted(values.items())}


def families(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Divide metrics into the losses and the others, at most `MOST` of each."""
    found: dict[str, dict[str, Curve]] = {}
    for name, points in curves.items():
        family = found.setdefault(LOSS if LOSS in name.lower() else OTHER, {})
        if len(family) < MOST:
            family[name] = thinned(points)
    return found


def thinned(points: Curve) -> Curve:
    """Return at most about `POINTS` points, the last one among them."""
    every = -(-len(points) // POINTS)
    return points if every <= 1 else [*points[:-1][::every], points[-1]]


def _draw(curves: Mapping[str, Curve], path: Path) -> None:
    """Draw each metric into a field of its own: they have scales of their own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # by itself: pyplot would look for a display
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(INCHES[0] * columns, INCHES[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    fields = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for field, (name, points) in zip(fields, curves.items(), strict=False):
        _draw_curve(field, name, points)
    for field in fields[len(curves) :]:
        field.set_axis_off()
    writing = path.with_name(f".{path.name}.writing")
    figure.savefig(writing, dpi=DOTS_PER_INCH, format="png")
    writing.replace(path)


def _draw_curve(field: Axes, name: str, points: Curve) -> None:
    steps, values = zip(*points, strict=True)
    field.plot(steps, values, marker="." if len(points) <= FEW_POINTS else "", linewidth=1.2)
    field.set_title(name.replace("$", r"\$"), fontsize="medium")
    field.set_xlabel("step")
    field.grid(visible=True, alpha=0.3)
    if LOSS in name.lower() and min(values) > 0 and max(values) / min(values) > DECADES:
        field.set_yscale("log")
