"""The table of an evaluation box for people: CSV, Markdown, HTML, YAML, and a plot."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from asparagus.record.eval_box import SCRATCH, BoxTable, Cell, plain
from asparagus.record.run_folder import FINISHED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "eval_box"
"""Of the files, and of their folder among the results."""
INCHES = (3.2, 3.4)
"""Of the plot of one row."""
DOTS_PER_INCH = 110
COLUMNS = (
    *("row", "stage", "task", "metric", "mode", "init_from", "run_id", "seed", "state", "value"),
    *("n", "mean", "sd", "gain"),
)
STYLE = "body{font:14px sans-serif;margin:2em}td,th{padding:.4em 1em;text-align:left;border-bottom:1px solid #ddd}"


def write(table: BoxTable, *folders: Path) -> list[Path]:
    """Write all that there is to look at into each folder; returns the files.

    Raises:
        OSError: A folder cannot be written.
    """
    contents = {
        f"{NAME}.csv": to_csv(table).encode(),
        f"{NAME}.md": to_markdown(table).encode(),
        f"{NAME}.html": to_html(table).encode(),
        f"{NAME}.yaml": yaml.safe_dump(plain(table), sort_keys=False).encode(),
        f"{NAME}.png": to_png(table),
    }
    files = []
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
            files.append(folder / name)
    return files


def grid(table: BoxTable) -> list[list[str]]:
    """Return the table as texts, its head first."""
    head = ["row", "metric", *(name_of(column) for column in table.columns)]
    return [head, *([row, _metric(table, row), *map_cells(table, row)] for row in table.rows)]


def map_cells(table: BoxTable, row: str) -> Iterator[str]:
    """Yield what stands in the cells of a row."""
    for cell in table.of_row(row):
        yield "" if cell is None else told(table, cell)


def told(table: BoxTable, cell: Cell) -> str:
    """Return a cell in words: the mean, the standard deviation over seeds, the gain over scratch."""
    finished, all_of = len(cell.values), len(cell.results)
    open_ones = "" if finished == all_of else f" ({finished} of {all_of}: {_states(cell)})"
    if cell.mean is None:
        return open_ones.strip(" ()") or "nothing measured"
    spread = f" ± {cell.sd:.3g}" if cell.sd is not None else ""
    gain = table.gain(cell)
    return f"{cell.mean:.4g}{spread}" + (f"  {gain:+.3g}" if gain is not None else "") + open_ones


def name_of(column: str) -> str:
    """Return what a column is called."""
    return "from scratch" if column == SCRATCH else column


def to_csv(table: BoxTable) -> str:
    """Return a line for each run, with what its cell came to."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in table.cells.values():
        about = [cell.row, cell.stage, cell.task, cell.metric, cell.mode, cell.init_from]
        of_cell = [len(cell.values), cell.mean, cell.sd, table.gain(cell)]
        writer.writerows([*about, one.run_id, one.seed, one.state, one.value, *of_cell] for one in cell.results)
    return text.getvalue()


def to_markdown(table: BoxTable) -> str:
    """Return the table as Markdown."""
    head, *rows = grid(table)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(text.replace('|', '/') for text in line)} |" for line in lines) + "\n"


def to_html(table: BoxTable) -> str:
    """Return a page with the table, and the plot beside it."""
    head, *rows = ([html.escape(text) for text in line] for line in grid(table))
    title = f"Evaluation box {table.sweep_id}: {html.escape(table.state)}"
    lines = ["".join(f"<th>{text}</th>" for text in head)]
    lines += ["".join(f"<td>{text}</td>" for text in row) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    picture = f'<p><img src="{NAME}.png" alt="each run, and the mean of each cell"></p>'
    page = f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1><table>{body}</table>{picture}"
    return f'<!doctype html><meta charset="utf-8">{page}\n'


def to_png(table: BoxTable) -> bytes:
    """Draw each row into a field of its own, for each has its own measure: a dot for a run, a line for a mean."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # by itself: pyplot would look for a display
    from matplotlib.figure import Figure

    figure = Figure(figsize=(INCHES[0] * len(table.rows), INCHES[1]), layout="constrained")
    FigureCanvasAgg(figure)
    fields = figure.subplots(1, len(table.rows), squeeze=False)[0]
    for field, row in zip(fields, table.rows, strict=True):
        _draw(field, table, row)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=DOTS_PER_INCH)
    return image.getvalue()


def _draw(field: Axes, table: BoxTable, row: str) -> None:
    for place, cell in enumerate(table.of_row(row)):
        if cell is None or cell.mean is None:
            continue
        colour = "0.5" if cell.init_from == SCRATCH else f"C{place}"
        field.plot([place] * len(cell.values), cell.values, "o", color=colour, alpha=0.6)
        field.hlines(cell.mean, place - 0.3, place + 0.3, color=colour, linewidth=2.5)
    field.set_title(row.replace("$", r"\$"), fontsize="medium")
    field.set_ylabel(_metric(table, row).replace("$", r"\$"))
    field.set_xticks(range(len(table.columns)), [name_of(column) for column in table.columns], rotation=30, ha="right")
    field.set_xlim(-0.6, len(table.columns) - 0.4)
    field.grid(visible=True, axis="y", alpha=0.3)


def _metric(table: BoxTable, row: str) -> str:
    cell = next((cell for cell in table.of_row(row) if cell is not None and cell.metric), None)
    return "" if cell is None else f"{cell.metric} ({'higher' if cell.mode == 'max' else 'lower'} is better)"


def _states(cell: Cell) -> str:
    return ", ".join(dict.fromkeys(one.state for one in cell.results if one.state != FINISHED)) or "no number"
