"""The figures as a picture: of a few parts, how long each way takes, ours in colour."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Row, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = "figures.svg"
SHOWN = {
    "launch": "A small training, the whole command, in seconds",
    "sweep": "One more trial of a sweep, in seconds",
    "record": "A training step with its metrics recorded, in milliseconds",
    "data": "Patches of volumes per second (more is better)",
}
"""The parts in the picture, each with what is measured."""
SHORTEST_S = 1.0
"""Of the commands of a launch; what a blink takes has no bar beside a training."""
OURS, OTHERS = "#3f7d3a", "#b8b8b0"


def draw(folder: Path, sections: Iterable[Section]) -> None:
    """Write figures.svg: the same figures give the same file, byte by byte."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    known = {section.part: section for section in sections}
    panels = {part: bars(known[part]) for part in SHOWN if part in known}
    if not panels:
        return
    # Text stays text: it is sharp at any size, and the fonts are the reader's.
    with rc_context({"svg.hashsalt": "asparagus", "svg.fonttype": "none", "font.size": 9}):
        heights = [len(rows) + 1.0 for rows in panels.values()]
        figure = Figure(figsize=(9, 0.32 * sum(heights)), layout="constrained")
        axes = figure.subplots(len(panels), height_ratios=heights, squeeze=False)[:, 0]
        for axis, (part, rows) in zip(axes, panels.items(), strict=True):
            _draw(axis, SHOWN[part], rows)
        figure.savefig(folder / FILE, format="svg", metadata={"Date": None})


def bars(section: Section) -> list[Row]:
    """Return the rows of a part that are drawn."""
    rows = [row for row in section.measured.rows if not row.what.startswith("stall")]
    return [row for row in rows if section.part != "launch" or row.value >= SHORTEST_S]


def is_ours(row: Row) -> bool:
    """Tell our rows from those of rivals."""
    return row.what.startswith(("asp-launch", "Asparagus"))


def _draw(axis: Axes, title: str, rows: list[Row]) -> None:
    drawn = axis.barh(
        [row.what for row in rows],
        [row.value for row in rows],
        color=[OURS if is_ours(row) else OTHERS for row in rows],
    )
    axis.bar_label(drawn, fmt="%.3g", padding=3)
    axis.set_title(title, loc="left", fontweight="bold")
    axis.invert_yaxis()
    axis.margins(x=0.1)
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.tick_params(left=False, bottom=False, labelbottom=False)
