"""The pages on which the plots of a sweep are looked at; each needs nothing but itself. Pure.

MLflow shows an artifact in a frame that can fetch nothing, not even the file beside it. So each page carries all of
plotly.js, compressed (a third of its size): the browser unpacks it, and shows the images until it has.
"""

from __future__ import annotations

import base64
import functools
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --faint: #626b76; --line: #c3cad3; --card: #f5f7f9;
  --best: #1a7f37; --failed: #b42318; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e4e8ec; --faint: #9aa4af; --line: #434c57;
  --card: #1e2329; --best: #4ac26b; --failed: #ff8a80; } }
body { margin: 2rem; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .2rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .2rem; overflow-wrap: anywhere; }
p { margin: 0 0 .8rem; color: var(--faint); }
.plot { overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem; background: #fff; }
.plot:has(img) { min-height: 480px; }
.plot img { display: block; max-width: 100%; margin: auto; }
.table { max-height: 40rem; overflow: auto; border: 1px solid var(--line); border-radius: .4rem; }
table { border-collapse: collapse; font-size: .9em; width: 100%; }
th { position: sticky; top: 0; background: var(--card); cursor: pointer; text-align: left; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.best { font-weight: 600; color: var(--best); }
tr.failed, tr.out_of_memory, tr.lost, tr.diverged { color: var(--failed); }
tr.infeasible, tr.inherited, tr.pruned, tr.capped { color: var(--faint); }
li { color: var(--faint); }
"""
SORT = """
for (const head of document.querySelectorAll("th")) head.onclick = () => {
  const body = head.closest("table").tBodies[0], column = head.cellIndex, turn = head.turn = -(head.turn ?? -1);
  const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const compared = (a, b) => a !== "" && b !== "" && !isNaN(a) && !isNaN(b) ? a - b : a.localeCompare(b);
  body.append(...[...body.rows].sort((a, b) => turn * compared(key(a), key(b))));
};
"""
DRAW = """
const unpacked = place => {
  const letters = atob(document.getElementById(place).textContent.trim());
  const packed = new Blob([Uint8Array.from(letters, letter => letter.charCodeAt(0))]);
  return new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).text();
};
const library = unpacked("plotly").then(text => {
  const script = document.createElement("script");
  script.textContent = text;
  document.head.append(script);
});
const seen = new IntersectionObserver(entries => entries.filter(entry => entry.isIntersecting).forEach(async entry => {
  const box = entry.target;
  seen.unobserve(box);
  const [text] = await Promise.all([unpacked(box.id + "-figure"), library]);
  const figure = JSON.parse(text), drawing = document.createElement("div");
  box.replaceChildren(drawing);
  Plotly.newPlot(drawing, figure.data, figure.layout, {responsive: true, displaylogo: false});
}), {rootMargin: "300px"});
document.querySelectorAll(".plot").forEach(box => seen.observe(box));
"""


@dataclass(frozen=True)
class Section:
    """A plot as it is shown."""

    name: str
    """Of its files, without an ending; unique on a page."""
    title: str
    about: str
    figure: str
    """As plotly's JSON."""
    picture: bytes
    """As PNG."""


def index(title: str, about: str, sections: Sequence[Section], left_out: Mapping[str, str], table: str) -> str:
    """Return the page with all plots of a sweep.

    Args:
        title: Of the page.
        about: What came of the sweep.
        sections: Its plots.
        left_out: Why others are not there, by their titles.
        table: The trials, as HTML.
    """
    body = [f"<p>{escape(about)}</p>", *(_section(section) for section in sections)]
    if left_out:
        reasons = (f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in left_out.items())
        body += ["<h2>Not drawn</h2>", "<ul>", *reasons, "</ul>"]
    body += ["<h2>Trials</h2>", "<p>Best first; a click on a head sorts. With all digits: trials.csv.</p>"]
    return _page(title, [*body, f'<div class="table">{table}</div>'], sections)


def single(title: str, section: Section) -> str:
    """Return the page with one plot."""
    return _page(title, [_section(section)], [section])


def table_page(title: str, about: str, table: str) -> str:
    """Return the page with nothing but the trials."""
    return _page(title, [f"<p>{escape(about)}</p>", f'<div class="table">{table}</div>'], [])


def _page(title: str, body: Sequence[str], sections: Sequence[Section]) -> str:
    scripts = [f"<script>{SORT}</script>"]
    if sections:
        packed = {"plotly": _plotly(), **{f"{one.name}-figure": _packed(one.figure) for one in sections}}
        # of a type that no browser runs: data
        scripts += [f'<script type="text/plain" id="{escape(name)}">{text}</script>' for name, text in packed.items()]
        scripts.append(f"<script>{DRAW}</script>")
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head>",
            f"<body><h1>{escape(title)}</h1>",
            *body,
            *scripts,
            "</body></html>\n",
        ]
    )


def _section(section: Section) -> str:
    picture = base64.b64encode(section.picture).decode()
    return (
        f"<h2>{escape(section.title)}</h2><p>{escape(section.about)}</p>"
        f'<div class="plot" id="{escape(section.name)}">'
        f'<img alt="{escape(section.title)}" src="data:image/png;base64,{picture}"></div>'
    )


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


@functools.cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # a second that only a page with plots needs

    return _packed(get_plotlyjs())
