"""The trials of a study in rows, the best first: as CSV, and as a table of a page."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

RUN_ID, OUTCOME, ERROR = "asparagus.run_id", "asparagus.outcome", "asparagus.error"
"""User attributes of a trial."""
INFEASIBLE, INHERITED = "infeasible", "inherited"
OF_STATE = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.FAIL: "failed",
}
"""What is told of a trial that has no outcome of ours, in the order of the table."""
MINUTE, HOUR = 60, 3600


@dataclass(frozen=True)
class Row:
    """One trial."""

    number: int
    run_id: int | None
    state: str
    outcome: str
    values: tuple[float | None, ...]
    """Of the metrics; of a trial that was stopped, the last."""
    params: dict[str, Any]
    error: str
    """The first line."""
    seconds: float | None
    is_best: bool
    """Of this sweep's own; where there are several metrics, none is better in all of them."""


def outcome(trial: FrozenTrial) -> str:
    """Return what became of a trial."""
    return str(trial.user_attrs.get(OUTCOME) or OF_STATE[trial.state])


def rows(study: optuna.Study) -> list[Row]:
    """Return the trials of a study as rows, the best first."""
    trials = ranked(study)
    best = _best(study, trials)
    return [_row(trial, len(study.directions), is_best=trial.number in best) for trial in trials]


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """Return its trials: those with a result, the best first, then those stopped, running, and failed."""
    front = {trial.number for trial in study.best_trials} if len(study.directions) > 1 else set()

    def place(trial: FrozenTrial) -> tuple[Any, ...]:
        group = (outcome(trial) == INFEASIBLE, list(OF_STATE).index(trial.state))
        steps = 0 if trial.state is TrialState.COMPLETE else -(trial.last_step or 0)
        return (*group, trial.number not in front, steps, *_losses(study, trial), trial.number)

    return sorted(study.get_trials(deepcopy=False), key=place)


def to_csv(table: Sequence[Row], metrics: Sequence[str]) -> str:
    """Return the rows with all their digits; a parameter that a trial does not have is empty."""
    names, text = _names(table), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fixed = ["number", "run_id", "state", "outcome", *metrics, *(f"params.{name}" for name in names)]
    writer.writerow([*fixed, "error", "seconds"])
    for row in table:
        params = ["" if name not in row.params else _whole(row.params[name]) for name in names]
        writer.writerow(
            [row.number, row.run_id, row.state, row.outcome, *row.values, *params, row.error, row.seconds],
        )
    return text.getvalue()


def to_html(table: Sequence[Row], metrics: Sequence[str]) -> str:
    """Return the rows as a `<table>`."""
    names = _names(table)
    head = ["trial", "run", "outcome", *metrics, *names, "duration", "error"]
    lines = ["<table><thead><tr>", *(f"<th>{escape(name)}</th>" for name in head), "</tr></thead><tbody>"]
    lines += [f'<tr class="{_kind(row)}">{"".join(_cells(row, names))}</tr>' for row in table]
    return "\n".join([*lines, "</tbody></table>"])


def summary(table: Sequence[Row], metrics: Sequence[str]) -> str:
    """Return the table in a sentence or two: what the trials came to, and the best."""
    counts = Counter(row.outcome for row in table).most_common()
    told = "1 trial" if len(table) == 1 else f"{len(table)} trials"
    told += f" ({', '.join(f'{count} {name}' for name, count in counts)})" if counts else ""
    best = [row for row in table if row.is_best]
    if not best:
        return f"{told}."
    if len(metrics) > 1:
        return f"{told}. On the Pareto front of {', '.join(metrics)}: {len(best)}."
    run = "" if best[0].run_id is None else f", run {best[0].run_id}"
    return f"{told}. The best {metrics[0]} is {_short(best[0].values[0])} (trial {best[0].number}{run})."


def _best(study: optuna.Study, trials: Sequence[FrozenTrial]) -> set[int]:
    """Return the numbers of the best, of trials in their order."""
    if len(study.directions) > 1:
        return {trial.number for trial in study.best_trials if outcome(trial) != INHERITED}
    own = (one.number for one in trials if one.state is TrialState.COMPLETE and outcome(one) != INHERITED)
    return set(itertools.islice(own, 1))


def _losses(study: optuna.Study, trial: FrozenTrial) -> list[float]:
    """Return the values of a trial so that less is better; a trial without any comes last."""
    signs = [-1 if direction is optuna.study.StudyDirection.MAXIMIZE else 1 for direction in study.directions]
    values = trial.values or [math.nan] * len(signs)
    losses = [sign * value for sign, value in zip(signs, values, strict=True)]
    return [math.inf if math.isnan(loss) else loss for loss in losses]


def _row(trial: FrozenTrial, objectives: int, *, is_best: bool) -> Row:
    error = str(trial.user_attrs.get(ERROR) or "").strip()
    return Row(
        trial.number,
        trial.user_attrs.get(RUN_ID),
        trial.state.name,
        outcome(trial),
        tuple(trial.values or [None] * objectives),
        dict(trial.params),
        error.splitlines()[0] if error else "",
        trial.duration.total_seconds() if trial.duration else None,
        is_best,
    )


def _names(table: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in sorted(table, key=lambda row: row.number) for name in row.params))


def _cells(row: Row, names: Sequence[str]) -> Iterator[str]:
    yield from (_number(value) for value in (row.number, row.run_id))
    yield f"<td>{escape(row.outcome)}</td>"
    yield from (_number(value) for value in row.values)
    yield from (_number(row.params[name]) if name in row.params else "<td></td>" for name in names)
    yield f'<td class="number" data-value="{row.seconds or 0}">{lasted(row.seconds)}</td>'
    yield f"<td>{escape(row.error)}</td>"


def _kind(row: Row) -> str:
    return "best" if row.is_best else escape(row.outcome)


def _number(value: Any) -> str:
    """Return a cell; by `data-value` the page sorts numbers as such."""
    if value is None:
        return "<td></td>"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'<td class="number" data-value="{value}">{_short(value)}</td>'
    return f"<td>{escape(str(value))}</td>"


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _whole(value: Any) -> str:
    return "null" if value is None else str(value)


def lasted(seconds: float | None) -> str:
    """Return a duration as people read it; nothing where it is not known."""
    if seconds is None:
        return ""
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), MINUTE)
    if seconds < HOUR:
        return f"{minutes}:{rest:02} min"
    return f"{minutes // MINUTE}:{minutes % MINUTE:02} h"
