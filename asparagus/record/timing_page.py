"""Where the time of a run went as one small HTML page that needs nothing but itself: among its plots, and in MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from asparagus.journal import JournalReader
from asparagus.record.run_folder import RunFolder
from asparagus.record.timing import Attempt, attempts_of, rows
from asparagus.stopwatch import ABOUT

FILE = "timing.html"
"""Among the plots of a run."""
NEWEST = 20
"""So many attempts are drawn: of a run with more, the newest."""
WORDS = {str(phase): about for phase, about in ABOUT.items()}

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --faint: #626b76; --line: #e3e7ec; --bar: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e4e8ec; --faint: #9aa4af; --line: #2b323a;
  --bar: #56b4e9; } }
body { margin: 1.5rem; background: var(--paper); color: var(--ink); font: 14px/1.4 system-ui, sans-serif; }
h1 { font-size: 1.2rem; margin: 0 0 .2rem; }
h2 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p, td.about { color: var(--faint); }
table { border-collapse: collapse; }
td { padding: .15rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.bar { width: 16rem; }
td.bar div { height: .8rem; min-width: 1px; background: var(--bar); }
"""


def write(folder: RunFolder) -> Path | None:
    """Draw a run's attempts into `plots/timing.html`, as far as they are known; None where it never trained."""
    attempts = attempts_of(JournalReader(folder.journal).read())
    if all(attempt.number is None for attempt in attempts):
        return None
    path = folder.plots / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    writing = path.with_name(f".{path.name}.writing")
    writing.write_text(page(folder.path.name.removeprefix("run_id="), attempts), encoding="utf-8")
    writing.replace(path)
    return path


def page(run: str, attempts: list[Attempt]) -> str:
    """Return the page of a run's attempts, the newest last."""
    left_out = len(attempts) - NEWEST
    about = f"The newest {NEWEST} of {len(attempts)} attempts. " if left_out > 0 else ""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>Where the time of run {escape(run)} went</title>',
            f"<style>{STYLE}</style></head><body>",
            f"<h1>Where the time of run {escape(run)} went</h1>",
            f"<p>{about}How long recording and taking all down took in the end: asp show {escape(run)} --timing</p>",
            *(line for attempt in attempts[-NEWEST:] for line in _drawn(attempt)),
            "</body></html>\n",
        ]
    )


def title(attempt: Attempt) -> str:
    """Return an attempt in words: which it is, when it began, how long it took."""
    began = datetime.fromtimestamp(attempt.began, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    named = f"attempt {attempt.number}" if attempt.number is not None else "no training began"
    return f"{named}, launch {attempt.launch}: {attempt.seconds:.1f} s from {began}"


def _drawn(attempt: Attempt) -> Iterator[str]:
    longest = max(attempt.phases.values(), default=0.0) or 1.0
    yield f"<h2>{escape(title(attempt))}</h2><table>"
    for phase, seconds, share in rows(attempt.phases):
        width = f"{seconds / longest:.1%}"
        yield (
            f'<tr><td>{escape(phase)}</td><td class="number">{seconds:.2f} s</td><td class="number">{share:.1%}</td>'
            f'<td class="bar"><div style="width:{width}"></div></td>'
            f'<td class="about">{escape(WORDS.get(phase, ""))}</td></tr>'
        )
    yield "</table>"
