"""A lineage as one HTML page that needs nothing but itself. Pure."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator, Sequence
from html import escape

from asparagus.record.descent import Row, rows
from asparagus.record.query import Lineage
from asparagus.record.summary import RunSummary

MARK = '<meta name="generator" content="asparagus lineage">'
"""By this a page is known as one that can be made again."""
SERVERS = ("http", "https")

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --faint: #626b76; --line: #c3cad3; --card: #f5f7f9;
  --asked: #1a7f37; --link: #0758c2; --failed: #b42318; --running: #0758c2; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e4e8ec; --faint: #9aa4af; --line: #434c57;
  --card: #1e2329; --asked: #4ac26b; --link: #6cb2ff; --failed: #ff8a80; --running: #6cb2ff; } }
body { margin: 2rem; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .2rem; }
p { margin: 0 0 1.2rem; color: var(--faint); }
a { color: var(--link); }
ul { list-style: none; margin: 0; padding: 0; }
li ul { margin-left: 1.1rem; padding-left: 1.1rem; border-left: 1px solid var(--line); }
li > ul > li { position: relative; }
li > ul > li::before { content: ""; position: absolute; left: -1.1rem; top: 1.35rem; width: .9rem;
  border-top: 1px solid var(--line); }
.run { display: inline-block; margin: .25rem 0; padding: .3rem .7rem; border: 1px solid var(--line);
  border-radius: .4rem; background: var(--card); }
.run.asked { border: 2px solid var(--asked); }
.run > span { margin-left: .7rem; }
.number { font-weight: 600; }
.run > .number { margin-left: 0; }
.edge { color: var(--faint); margin-right: .5rem; font-size: .9em; }
.state-failed, .state-interrupted, .missing { color: var(--failed); }
.state-running, .state-starting { color: var(--running); }
.missing, .note { display: block; font-size: .9em; }
.note { color: var(--faint); }
"""


def page(found: Lineage, *, tracking_uri: str = "") -> str:
    """Return the page of a run's lineage.

    Args:
        found: The run, its ancestors and its descendants.
        tracking_uri: Of an MLflow server, to whose pages the runs then link.
    """
    run = found.run
    title = f"Lineage of run {run.run_id}"
    about = f"{run.stage} · {run.task} · {len(found.ancestors)} ancestors, {len(found.descendants)} descendants"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            f'<head><meta charset="utf-8">{MARK}',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head>",
            f"<body><h1>{escape(title)}</h1><p>{escape(about)}. Each run stands below the one that it came from.</p>",
            *_lists(rows(found), tracking_uri),
            "</body></html>\n",
        ]
    )


def run_address(run: RunSummary, tracking_uri: str) -> str | None:
    """Return the page of a run on an MLflow server, without credentials; `None` for a store that is a file."""
    parts = urllib.parse.urlsplit(tracking_uri)
    if parts.scheme not in SERVERS or not run.experiment_id or not run.mlflow_run_id:
        return None
    server = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    return f"{server}/#/experiments/{run.experiment_id}/runs/{run.mlflow_run_id}"


def _lists(tree: Sequence[Row], tracking_uri: str) -> Iterator[str]:
    """Yield nested lists; a row closes those that are deeper than itself."""
    depth = -1
    for row in tree:
        if row.depth > depth:
            yield "<ul>"
        else:
            yield "</li></ul>" * (depth - row.depth) + "</li>"
        yield f"<li>{_card(row, tracking_uri)}"
        depth = row.depth
    yield "</li></ul>" * (depth + 1)


def _card(row: Row, tracking_uri: str) -> str:
    run = row.run
    name, address = f"run {run.run_id}", run_address(run, tracking_uri)
    number = f'<a href="{escape(address)}">{name}</a>' if address else name
    edge = f'<span class="edge">{escape(row.edge)} →</span>' if row.edge else ""
    facts = [
        f'<span class="number">{number}</span>',
        *(f"<span>{escape(text)}</span>" for text in (run.stage, run.task, measured(run)) if text),
        f'<span class="state-{escape(run.state.replace(" ", "-"))}">{escape(run.state)}</span>',
        *(f'<span class="{kind}">{escape(text)}</span>' for kind, text in _remarks(row)),
    ]
    return f'{edge}<div class="run{" asked" if row.is_asked else ""}">{"".join(facts)}</div>'


def _remarks(row: Row) -> Iterator[tuple[str, str]]:
    if row.note:
        yield "note", row.note
    if row.missing:
        yield "missing", row.missing


def measured(run: RunSummary) -> str:
    """Return the best value of what a run monitors as text; nothing where it measured none."""
    return f"{run.monitor} {run.best:.4g}" if run.best is not None else ""
