"""A lineage as rows of a tree, from the oldest ancestor down: for the terminal and for the page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from asparagus.record.query import INIT_FROM, RERUN, SWEEP, Lineage, Relative
from asparagus.record.summary import RunSummary

SAID = {RERUN: "repeated as", SWEEP: "trial"}
"""How an edge without a checkpoint is called, from the older run to the younger."""
SAID_OF = {INIT_FROM: "started from", RERUN: "repeats", SWEEP: "is a trial of"}

ASKED, MISSING = "◀ this run", "!"
"""What marks the run that was asked for, and what is gone."""


@dataclass(frozen=True)
class Row:
    """A run, so deep in the tree."""

    depth: int
    run: RunSummary
    kind: str | None = None
    """Of the edge from the run above."""
    checkpoint: str | None = None
    """Of that edge; of a run without one above, the weights file that it started from."""
    missing: str | None = None
    is_asked: bool = False
    """The run that was asked for."""
    note: str = ""
    """Which run further down came from this one too, and stands below another."""

    @property
    def edge(self) -> str:
        """What leads here, in words."""
        if self.checkpoint:
            return self.checkpoint if self.kind is None else Path(self.checkpoint).name
        return SAID.get(self.kind or "", "")


def rows(found: Lineage) -> list[Row]:
    """Return every run of a lineage once, each below what it came from.

    The run asked for stands below one line of ancestors, its weights' first; other ancestors stand before that line.
    """
    line = _line(found)
    others = [relative for relative in reversed(found.ancestors) if relative not in line]
    before = [
        Row(0, one.run, None, _foreign(one.run), one.missing, note=f"run {one.via} {SAID_OF[one.kind]} it")
        for one in others
    ]
    return [*before, *_down_to(found, line), *_below(found, len(line))]


def prefixes(depths: Sequence[int]) -> list[str]:
    """Return what a terminal shows left of each row: the branches of the tree."""
    lines: list[str] = []
    goes_on: set[int] = set()
    for depth in reversed(depths):
        trunk = "".join("│   " if level in goes_on else "    " for level in range(1, depth))
        branch = "├── " if depth in goes_on else "└── "
        lines.append(trunk + branch if depth else "")
        goes_on = {level for level in goes_on if level < depth} | {depth}
    return lines[::-1]


def lines(found: Lineage) -> list[str]:
    """Return a lineage as a terminal shows it: a tree, a line for each run."""
    tree = rows(found)
    return [prefix + _told(row) for row, prefix in zip(tree, prefixes([row.depth for row in tree]), strict=True)]


def _told(row: Row) -> str:
    run = row.run
    edge = f"{row.edge} → " if row.edge else ""
    told = " · ".join(filter(None, [f"{run.stage} {run.task}".strip(), run.state, run.score or "-"]))
    asked = f"  {ASKED}" if row.is_asked else ""
    note = f"  ({row.note})" if row.note else ""
    missing = f"  {MISSING} {row.missing}" if row.missing else ""
    return f"{edge}run {run.run_id} {told}{asked}{note}{missing}"


def _line(found: Lineage) -> list[Relative]:
    """Return the ancestors that the run is drawn below, the nearest first."""
    line: list[Relative] = []
    for relative in found.ancestors:
        if relative.via == (line[-1].run.run_id if line else found.run.run_id):
            line.append(relative)
    return line


def _down_to(found: Lineage, line: Sequence[Relative]) -> Iterator[Row]:
    """Yield the line from the oldest run down to the one asked for; each edge is told at its younger end."""
    kind: str | None = None
    checkpoint = _foreign(line[-1].run if line else found.run)
    for depth, older in enumerate(reversed(line)):
        yield Row(depth, older.run, kind, checkpoint, older.missing)
        kind, checkpoint = older.kind, older.checkpoint
    yield Row(len(line), found.run, kind, checkpoint, found.missing, is_asked=True)


def _below(found: Lineage, depth: int) -> Iterator[Row]:
    children: dict[int, list[Relative]] = defaultdict(list)
    for relative in found.descendants:
        children[relative.via].append(relative)
    waiting = [(child, depth + 1) for child in reversed(children[found.run.run_id])]
    while waiting:
        one, level = waiting.pop()
        yield Row(level, one.run, one.kind, one.checkpoint, one.missing)
        waiting += [(child, level + 1) for child in reversed(children[one.run.run_id])]


def _foreign(run: RunSummary) -> str | None:
    return run.parent_checkpoint if run.parent_id is None else None
