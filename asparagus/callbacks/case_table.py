"""A table of what a test found of each case, the worst first: as CSV, and as a page."""

from __future__ import annotations

import csv
import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

Value = str | int | float | None

STYLE = """body { font: 14px system-ui, sans-serif; margin: 2em; color: #222 }
table { border-collapse: collapse } caption { text-align: left; padding-bottom: .7em }
th, td { padding: .25em .8em; text-align: right } th { position: sticky; top: 0; background: #eef3f7 }
th:first-child, td:first-child { text-align: left } tr:nth-child(even) td { background: #f8f8f8 }
td.worst { font-weight: 600 }"""


@dataclass(frozen=True)
class Table:
    """Rows under their columns; the second column is what they are sorted by."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    order: str
    """How they are sorted, in words."""


def table_of(cases: Mapping[str, Any], names: Sequence[str]) -> Table | None:
    """Return the table of a test's cases, the worst first; nothing where they are of no form that is known.

    Args:
        cases: As the predictions file has them: metrics by class, or `prediction` and `label`.
        names: Of the classes, background first, or of the numbers.
    """
    forms = {_form(case) for case in cases.values()}
    if len(forms) != 1 or (form := forms.pop()) is None:
        return None
    return form(cases, names)


def write_table(table: Table, title: str, csv_file: Path, html_file: Path) -> None:
    """Write a table in both forms."""
    csv_file.parent.mkdir(parents=True, exist_ok=True)
    with csv_file.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table.columns)
        writer.writerows(["" if value is None else value for value in row] for row in table.rows)
    html_file.write_text(_page(table, title), encoding="utf-8")


def _form(case: Any) -> Callable[[Mapping[str, Any], Sequence[str]], Table] | None:
    if not isinstance(case, Mapping):
        return None
    if "prediction" in case and "label" in case:
        return _numbers if isinstance(case["label"], list) else _classes
    measured = [part for part in case.values() if isinstance(part, Mapping)]
    return _segmented if measured and all("dice" in part for part in measured) else None


def _segmented(cases: Mapping[str, Any], names: Sequence[str]) -> Table:
    """The lowest mean Dice over the foreground classes that are there or were predicted."""
    labels = [label for label, part in next(iter(cases.values())).items() if isinstance(part, Mapping)][1:]
    rows: list[list[Value]] = []
    for name, case in cases.items():
        dice = [case[label]["dice"] for label in labels]
        there = [value for value in dice if value is not None]
        missed = sum(case[label]["FN"] for label in labels)
        too_much = sum(case[label]["FP"] for label in labels)
        rows.append([name, fmean(there) if there else None, *dice, missed, too_much])
    columns = ["case", "mean dice", *(f"dice {_named(names, label)}" for label in labels), "voxels missed", "too much"]
    return Table(columns, sorted(rows, key=_lowest_first), "the lowest Dice first")


def _classes(cases: Mapping[str, Any], names: Sequence[str]) -> Table:
    """The wrong ones, by their true class."""
    pairs = [(name, case["prediction"], case["label"]) for name, case in cases.items()]
    pairs.sort(key=lambda pair: (pair[1] == pair[2], pair[2], pair[1], pair[0]))
    rows = [
        [name, "right" if predicted == true else "wrong", _named(names, predicted), _named(names, true)]
        for name, predicted, true in pairs
    ]
    return Table(["case", "answer", "prediction", "truth"], rows, "the wrong ones first")


def _numbers(cases: Mapping[str, Any], names: Sequence[str]) -> Table:
    """The largest mean absolute error over the numbers of a case."""
    rows: list[list[Value]] = []
    for name, case in cases.items():
        pairs = list(zip(case["prediction"], case["label"], strict=True))
        known = [abs(predicted - true) for predicted, true in pairs if predicted is not None and true is not None]
        flat = [value for pair in pairs for value in pair]
        rows.append([name, fmean(known) if known else None, *flat])
    count = max(len(case["label"]) for case in cases.values())
    each = [f"{part} {_named(names, number)}" for number in range(count) for part in ("predicted", "true")]
    return Table(["case", "mean |error|", *each], sorted(rows, key=_largest_first), "the largest error first")


def _named(names: Sequence[str], number: Any) -> str:
    place = int(number)
    return str(names[place]) if 0 <= place < len(names) else str(number)


def _lowest_first(row: Sequence[Value]) -> tuple[bool, float, str]:
    return row[1] is None, float(row[1] or 0), str(row[0])


def _largest_first(row: Sequence[Value]) -> tuple[bool, float, str]:
    return row[1] is not None, -float(row[1] or 0), str(row[0])  # no number at all is worse than a wrong one


def _page(table: Table, title: str) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    body = "\n".join(f"<tr>{''.join(map(_cell, row, range(len(row))))}</tr>" for row in table.rows)
    told = html.escape(f"{title}: {len(table.rows)} cases, {table.order}")
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n<table><caption>{told}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table></html>\n"
    )


def _cell(value: Value, column: int) -> str:
    text = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"<td{' class=worst' if column == 1 else ''}>{html.escape(text)}</td>"
