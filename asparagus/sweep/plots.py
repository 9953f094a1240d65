"""What Optuna can draw of a sweep, as pages and as images, with a page of them all and the table of its trials."""

from __future__ import annotations

import html
import io
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna

from asparagus.sweep import plots_page
from asparagus.sweep.moment import Moment, Spelling, spelled
from asparagus.sweep.plot_kinds import Plot, plots
from asparagus.sweep.plots_page import Section
from asparagus.sweep.trial_table import rows, summary, to_csv, to_html

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INDEX, TABLE, CSV = "index.html", "table.html", "trials.csv"
MOST_NAMED = 20
"""So many lines have a place in the legend of an image."""
DOTS_PER_INCH = 100
INCHES = (8.0, 5.0)
RING = "taken over"

log = logging.getLogger(__name__)
_one_at_a_time = threading.Lock()  # pyplot is the same for all threads


def write_plots(study: optuna.Study, folder: Path, *, metrics: Sequence[str]) -> list[Path]:
    """Write the plots, the table and the page of a sweep; what cannot be drawn is left out, and the page says why.

    Args:
        study: It may be running.
        folder: Is made if need be; files that are there from before are replaced.
        metrics: What its values are called, in the order of its directions.

    Returns:
        The files, the page of them all first.

    Raises:
        OSError: The folder cannot be written.
    """
    with _quiet():
        moment = spelled(Moment(study.get_trials(), metrics, study.directions), str)
        sections, left_out = _drawn(moment)
        table = rows(moment)
    title = f"Sweep {study.study_name.removeprefix('sweep-')}"
    about, shown = summary(table, metrics), to_html(table, metrics)
    files = {
        INDEX: plots_page.index(title, about, sections, left_out, shown).encode(),
        TABLE: plots_page.table_page(f"{title}: trials", about, shown).encode(),
        CSV: to_csv(table, metrics).encode(),
    }
    for section in sections:
        files[f"{section.name}.html"] = plots_page.single(title, section).encode()
        files[f"{section.name}.png"] = section.picture
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def _drawn(moment: Moment) -> tuple[list[Section], dict[str, str]]:
    """Draw what can be drawn; returns the reasons of the others too, by their titles."""
    sections: list[Section] = []
    left_out: dict[str, str] = {}
    for plot in plots(moment):
        if plot.lacks:
            left_out[plot.title] = plot.lacks
            continue
        try:
            sections.append(Section(plot.name, plot.title, plot.about, _page_figure(plot), _picture(plot)))
        except (
            Exception
        ) as error:  # Optuna's, or of what it draws with: no sweep is lost for a plot, and the page tells
            log.warning("plot %s could not be drawn", plot.name, exc_info=True)
            left_out[plot.title] = f"it could not be drawn ({type(error).__name__}: {error})"
    return sections, left_out


def _page_figure(plot: Plot) -> str:
    """Return a plot for a page, as JSON."""
    moment, arguments = _spelled(plot, lambda text: html.escape(text, quote=False))  # plotly reads texts as HTML
    figure = getattr(optuna.visualization, plot.function)(moment, **arguments)
    if plot.ringed:
        numbers, values = zip(*plot.ringed, strict=True)
        ring = {"symbol": "circle-open", "size": 14, "color": "#444"}
        figure.add_scatter(x=numbers, y=values, mode="markers", name=RING, marker=ring, hoverinfo="skip")
    figure.update_layout(template="plotly_white", title=None, height=plot.height, margin={"t": 50})
    return str(figure.to_json())


def _picture(plot: Plot) -> bytes:
    """Return a plot as an image."""
    from optuna.visualization import matplotlib as twin  # a second that only pictures need

    moment, arguments = _spelled(plot, lambda text: text.replace("$", r"\$"))  # matplotlib reads $ as mathematics
    with _pyplot():
        every = np.ravel(getattr(twin, plot.function)(moment, **arguments))
        axes = every[0]
        for one in every:
            one.label_outer()
        for place, line in enumerate(axes.lines[MOST_NAMED:]):  # Optuna draws all of these in one colour
            line.set_color(f"C{place % 7}")
        if plot.ringed:
            _ring(axes, plot)
        legend = axes.get_legend()
        if legend is not None and len(legend.get_texts()) > MOST_NAMED:
            legend.remove()
        if plot.inches:
            axes.figure.set_size_inches(plot.inches)
        image = io.BytesIO()
        axes.figure.savefig(image, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
    return image.getvalue()


def _ring(axes: Axes, plot: Plot) -> None:
    numbers, values = zip(*plot.ringed, strict=True)
    axes.scatter(numbers, values, s=120, facecolors="none", edgecolors="#444", label=RING)
    axes.legend(bbox_to_anchor=(1.05, 1.0), loc="upper left")  # where Optuna has put it


def _spelled(plot: Plot, spelling: Spelling) -> tuple[Moment, dict[str, Any]]:
    """Return a plot's trials and arguments with their texts as a way of drawing wants them."""

    def respelled(argument: Any) -> Any:
        if isinstance(argument, list):
            return [spelling(text) for text in argument]
        return spelling(argument) if isinstance(argument, str) else argument

    return spelled(plot.of, spelling), {name: respelled(one) for name, one in plot.arguments.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Optuna would tell a person who draws by hand from one who only trains."""
    with _one_at_a_time, warnings.catch_warnings(action="ignore"):
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(before)


@contextmanager
def _pyplot() -> Iterator[None]:
    """Have pyplot draw without a display, and leave its figures, settings and backend as they were."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    backend, figures = mpl.get_backend(), set(plt.get_fignums())
    with mpl.rc_context({"figure.figsize": INCHES}):
        plt.switch_backend("agg")
        try:
            yield
        finally:
            for number in set(plt.get_fignums()) - figures:
                plt.close(number)
            plt.switch_backend(backend)
