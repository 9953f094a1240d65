"""`asp-launch CONFIG -m ...`: the plan of a sweep, the table of its trials while they train, and what came of it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asparagus.cli.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table

    from asparagus.compose import Request
    from asparagus.driver.desk import Planner
    from asparagus.driver.sweep_outcome import SweepOutcome
    from asparagus.sweep_plan import SweepPlan

SHOWN = 8
"""Trials in the table: the best, and those that are being trained."""
STATES = ("finished", "pruned", "capped", "diverged", "failed", "out_of_memory", "lost")


def launch_sweep(request: Request, *, dry_run: bool, as_json: bool) -> int:
    """Plan a sweep, and unless it is only to be looked at, carry it out."""
    from asparagus.sweeps import plan_sweep

    plan, planner = plan_sweep(request)
    if dry_run:
        print(json.dumps(plan.to_dict(), default=str) if as_json else plan.describe(), flush=True)
        return 0
    outcome = carry_out_sweep(plan, planner)
    if as_json:
        print(json.dumps(outcome.to_dict(), default=str))
    return 0


def carry_out_sweep(plan: SweepPlan, planner: Planner) -> SweepOutcome:
    """Carry out a sweep and show how it goes."""
    from asparagus.submit import submit_sweep

    with SweepTable(plan) as table:
        outcome = submit_sweep(plan, planner, table.show)
    table.summary(outcome)
    return outcome


@dataclass
class Row:
    """A trial as it is shown."""

    number: int
    params: dict[str, Any] = field(default_factory=dict)
    run_id: int | None = None
    state: str = "starting"
    epoch: int = 0
    values: list[float] | None = None


class SweepTable(Screen):
    """Shows a sweep's events as they come."""

    def __init__(self, plan: SweepPlan) -> None:
        super().__init__()
        self._plan = plan
        self._table: Live | None = None
        self._rows: dict[int, Row] = {}
        self._over: dict[str, int] = dict.fromkeys(STATES, 0)
        self._best: Row | None = None

    def _greet(self) -> None:
        self._say(f"sweeping {self._plan.told}: {self._plan.trials} trials")

    def _go_live(self) -> Live:
        from rich.live import Live

        self._table = Live(self._drawn(), console=self._console, transient=True, refresh_per_second=4)
        self._table.start()
        return self._table

    def show(self, event: Any) -> None:
        """Show one event."""
        super().show(event)
        if self._table is not None:
            self._table.update(self._drawn())

    def summary(self, outcome: SweepOutcome) -> None:
        """Say what came of it, and what to do with it next."""
        sweep_id = outcome.sweep_id
        if not outcome.repeated:
            self._say(f"###RUN-ID={sweep_id}### {outcome.folder}")
            self._say(f"sweep {sweep_id} is identical and finished before; sweep.trials=N goes on with it")
        ended = f" ({outcome.reason})" if outcome.reason else ""
        counts = ", ".join(f"{count} {state}" for state, count in _counts(outcome).items())
        self._say(f"sweep {sweep_id} {outcome.state}{ended}: {counts or 'no trial'}")
        if self._plan.is_box:
            self._show_box(outcome)
            return
        best = outcome.best if isinstance(outcome.best, list) else [outcome.best] if outcome.best else []
        for row in best[:SHOWN]:
            self._say(f"  best        trial {row['number']}, run {row['run_id']}: {self._measured(row['values'])}")
            for key, value in row["params"].items():
                self._say(f"              {key}={_short(value)}")
        self._say(f"  folder      {outcome.folder}")
        self._say(f"  plots       {outcome.folder}/plots/index.html")
        if best:
            self._say(f"  go on       asp rerun {best[0]['run_id']}      init_from=sweep:{sweep_id}@best")
        self._say(f"  look at it  asp ui      lineage  asp lineage {sweep_id}")

    def _show_box(self, outcome: SweepOutcome) -> None:
        """Show the table of an evaluation box."""
        from asparagus.cli.eval_box import rich_table
        from asparagus.driver.eval_box import folder_of_results
        from asparagus.record.eval_box import collect

        paths = self._plan.last.spec.paths
        self._console.print(rich_table(collect(Path(paths.models), outcome.sweep_id)))
        self._say(f"  folder      {outcome.folder}")
        self._say(f"  table       {folder_of_results(paths.results, outcome.sweep_id)}")
        self._say(f"  again       asp eval-box collect {outcome.sweep_id}      lineage  asp lineage {outcome.sweep_id}")

    def _measured(self, values: list[float] | None, params: dict[str, Any] | None = None) -> str:
        metrics = (self._plan.monitor_at(params),) if self._plan.is_box and params else self._plan.metrics
        return measured(metrics, values)

    def _on_sweep(self, event: Any) -> None:
        self._say(f"###RUN-ID={event['run_id']}### {event['folder']}")
        if event["attempt"] > 1:
            self._say(f"attempt {event['attempt']}: goes on where it was left")

    def _on_trial_started(self, event: Any) -> None:
        number = event["number"]
        self._rows[number] = Row(number, params=event["values"])

    def _on_trial_epoch(self, event: Any) -> None:
        row = self._rows.setdefault(event["number"], Row(event["number"]))
        row.run_id, row.epoch, row.values = event["run_id"], event["epoch"], event["values"]
        row.state = self._plan.names[event["stage"]] if self._plan.runs_per_trial > 1 else "training"

    def _on_trial_lost(self, event: Any) -> None:
        self._say(f"trial {event['number']}: its worker was lost; it goes on from its last checkpoint")

    def _on_trial_over(self, event: Any) -> None:
        row = self._rows.pop(event["number"], Row(event["number"]))
        row.run_id, row.state, row.values = event["run_id"], event["outcome"], event["values"] or row.values
        row.params = event["params"]
        self._over[row.state] = self._over.get(row.state, 0) + 1
        if row.state == "finished" and row.values and self._is_better(row.values[0]):
            self._best = row
        told = self._measured(row.values, row.params)
        self._say(trial_line(event, told, f"{sum(self._over.values())}/{self._plan.trials}"))

    def _on_draining(self, _: Any) -> None:
        self._say("no new trials; those that are trained now finish. Ctrl-C again stops them at their next checkpoint")

    def _on_stopping(self, _: Any) -> None:
        self._say("stopping at the next checkpoint of each trial; the same command goes on from there")

    def _on_drawing(self, _: Any) -> None:
        self._say("drawing the plots")

    def _is_better(self, value: float) -> bool:
        if self._plan.is_box:
            return False
        best = self._best.values[0] if self._best and self._best.values else None
        return best is None or (value > best if self._plan.modes[0] == "max" else value < best)

    def _drawn(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for name in ("trial", "run", "state", "epoch", ", ".join(self._plan.metrics), "parameters"):
            table.add_column(name)
        if self._best is not None:
            self._add(table, self._best, "best")
        for row in list(self._rows.values())[:SHOWN]:
            self._add(table, row, row.state)
        return Group(table, self._line())

    def _add(self, table: Table, row: Row, state: str) -> None:
        params = " ".join(f"{key}={_short(value)}" for key, value in row.params.items())
        values = " ".join(f"{value:.4g}" for value in row.values or ())
        table.add_row(str(row.number), str(row.run_id or ""), state, str(row.epoch or ""), values, params)

    def _line(self) -> str:
        """Return how far it is, and for how long it will go on at this pace."""
        over, seconds = sum(self._over.values()), time.monotonic() - self._started
        counts = ", ".join(f"{count} {state}" for state, count in self._over.items() if count)
        left = f", about {_duration(seconds / over * (self._plan.trials - over))} left" if over else ""
        return f"{over} of {self._plan.trials} trials in {_duration(seconds)}{left}" + (f": {counts}" if counts else "")


def trial_line(event: Any, measured: str, count: str) -> str:
    """Return what is said of a trial that is over: its number, how many are, how it ended, what was measured."""
    cause = f": {event['error'].splitlines()[0]}" if event["error"] and event["outcome"] != "finished" else ""
    params = " ".join(f"{key}={_short(value)}" for key, value in event["params"].items())
    return f"trial {event['number']:>3}  {count}  {event['outcome']:<9} {measured}  {params}{cause}"


def measured(metrics: Sequence[str], values: Sequence[float] | None) -> str:
    """Return the values of metrics in words; nothing for a trial that measured none."""
    return "  ".join(f"{name} {value:.4g}" for name, value in zip(metrics, values or (), strict=False))


def _counts(outcome: SweepOutcome) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in outcome.trials:
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    return counts


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
