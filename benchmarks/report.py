"""From figures to tables: the summary with every goal, a section per part, and the page that holds both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from benchmarks.figures import Row, Section

SUMMARY = ("part", "what", "median", "over", "ratio", "goal", "")
HEAD = """# Figures

Written by `make bench` from figures.json: medians, each beside its rivals in the same run. Each part keeps its newest
figures, with the machine, versions and date that stand in its section. A ratio is the median of the ratios of each
turn, in which both were measured one after the other: it need not be the quotient of the two medians.
"""
QUOTED = re.compile(r"(<!-- figures of (\w+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
"""Where another page shows the table of a part."""
VERDICTS = {True: "met", False: "**missed**", None: ""}


def number(value: float) -> str:
    """Return a number with the digits that say something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def ratio(row: Row) -> str:
    if row.ratio is None:
        return ""
    return f"{row.ratio:.{3 if row.ratio < 10 else 1}f}x"


def goal(row: Row) -> str:
    return row.aim.told(row.unit) if row.aim else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table whose columns stand below each other on a screen too, without those that are empty.

    Without rows there is no table.
    """
    if not rows:
        return []
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (head, *rows)]
    columns = [column for column in zip(*lines, strict=True) if any(column[1:])]
    widths = [max(len(cell) for cell in column) for column in columns]
    padded = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in zip(*columns, strict=True)
    ]
    return [padded[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *padded[1:]]


def summary(sections: Iterable[Section]) -> list[str]:
    """Return the one table: every row that is compared with something or has a goal."""
    rows = [
        (section.part, row.what, f"{number(row.value)} {row.unit}", row.rival, ratio(row), goal(row), VERDICTS[row.met])
        for section in sections
        for row in section.measured.rows
        if row.rival or row.goal
    ]
    return table(SUMMARY, rows)


def verdict(sections: Iterable[Section]) -> list[str]:
    """Return how many goals are met, and a line for each that is not."""
    judged = [(section.part, row) for section in sections for row in section.measured.rows if row.goal]
    missed = [f"- {part}: {row.what}: {shown(row)}, the goal is {goal(row)}" for part, row in judged if not row.met]
    told = f"{len(judged) - len(missed)} of {len(judged)} goals are met."
    return [f"{told} Missed:", "", *missed] if missed else [told]


def shown(row: Row) -> str:
    """Return that of a row which its goal is about."""
    return ratio(row) if row.aim and row.aim.of == "ratio" else f"{number(row.value)} {row.unit}"


def quoted_in(text: str, sections: Iterable[Section]) -> str:
    """Return a page with the newest table in each place that quotes a part's figures; others stay as they are."""
    known = {section.part: section for section in sections}

    def with_table(found: re.Match[str]) -> str:
        begin, part, end = found.groups()
        if part not in known:
            return found[0]
        return "\n".join([begin, *section_table(known[part]), "", end])

    return QUOTED.sub(with_table, text)


def section_lines(section: Section) -> list[str]:
    """Return a section as RESULTS.md has it."""
    versions = ", ".join(f"{name} {version}" for name, version in section.versions.items())
    where = f"`{section.command}` on {section.date}: {section.machine}, {versions}."
    remarks = [line for remark in section.measured.remarks for line in ("", remark)]
    return [f"## {section.title}", "", where, section.measured.about, "", *section_table(section), *remarks]


def section_table(section: Section) -> list[str]:
    """Return the table of a section."""
    measured = section.measured
    units = {row.unit for row in measured.rows}
    columns = list(dict.fromkeys(name for row in measured.rows for name in row.also))
    (unit, inside) = (units.pop(), False) if len(units) == 1 else ("median", True)
    rows = [
        (
            row.what,
            f"{number(row.value)} {row.unit}" if inside else number(row.value),
            *(row.rival, ratio(row), goal(row), VERDICTS[row.met]),
            *(row.also.get(name, "") for name in columns),
        )
        for row in measured.rows
    ]
    return table(("what", unit, "over", "ratio", "goal", "", *columns), rows)


def page(sections: Sequence[Section], parts: Iterable[str]) -> str:
    """Return RESULTS.md.

    Args:
        sections: What was measured.
        parts: The names of all that can be.
    """
    missing = sorted(set(parts) - {section.part for section in sections})
    open_ones = ["", f"Not measured yet: {', '.join(missing)}."] if missing else []
    top = "\n".join([HEAD, *verdict(sections), *open_ones, "", *summary(sections)])
    return "\n\n".join([top, *("\n".join(section_lines(section)) for section in sections)]) + "\n"
