"""How a run looks while it runs: a live line in a terminal, plain lines elsewhere. Fed by the journal's events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from asparagus.cli.screen import Screen
from asparagus.plan import Plan

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from asparagus.driver import Outcome

HIDDEN = ("optim/",)
SHOWN = 5
"""Metrics in one line; the rest are in MLflow."""


class RunLines(Screen):
    """Shows a run's events as lines."""

    def _on_run(self, event: Any) -> None:
        self._say(f"###RUN-ID={event['run_id']}### {event['folder']}")

    def _on_attempt(self, event: Any) -> None:
        self._say(f"attempt {event['attempt']}" + (", and what is otherwise now:" if event["news"] else ""))
        for line in event["news"].splitlines():
            self._say(f"  {line}")

    def _on_retry(self, event: Any) -> None:
        self._say(f"attempt {event['attempt']} of the training: {event['news']}")

    def _on_transfer(self, event: Any) -> None:
        self._say(event["text"])

    def _on_test_set(self, event: Any) -> None:
        if event["text"]:
            self._say(event["text"])

    def _on_start(self, event: Any) -> None:
        more = "" if event["step"] == 0 else f", going on at epoch {event['epoch']}, step {event['step']}"
        self._say(f"training {event['parameters']:,} weights on {event['world_size']} x {event['device']}{more}")

    def _on_epoch(self, event: Any) -> None:
        self._say(f"epoch {event['epoch'] + 1:>3}  step {event['step']:>6}  {_line(event['values'])}")


class Progress(RunLines):
    """Show a run's events as they come.

    Args:
        plan: What is being carried out.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def _greet(self) -> None:
        self._say(f"starting {self._plan.spec.stage} of {self._plan.spec.task}")
        site = self._plan.spec.site
        if site.stays_up and self._plan.workers:
            left = f"{site.idle_minutes:g} min after the last launch"
            self._say(f"site={site.name}: Ray stays up until {left}; asp stop --ray ends it")

    def summary(self, outcome: Outcome) -> None:
        """Say how it ended, and what to do with it next."""
        seconds = time.monotonic() - self._started
        if outcome.repeated:
            self._say(f"run {outcome.run_id} {outcome.state} after {seconds:.1f} s: {_line(outcome.metrics)}")
        else:
            self._say(f"###RUN-ID={outcome.run_id}### {outcome.folder}")
            self._say(f"run {outcome.run_id} is identical and finished before: {_line(outcome.metrics)}")
            self._say("  again       run.resume=false trains it once more, under a new number")
        self._say(f"  folder      {outcome.folder}")
        if outcome.checkpoint:
            self._say(f"  checkpoint  {outcome.checkpoint}")
        self._say(f"  look at it  asp ui      lineage  asp lineage {outcome.run_id}")

    def _go_live(self) -> Bar:
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
        bar = RichProgress(*columns, console=self._console, transient=True, refresh_per_second=4)
        bar.start()
        self._bar, self._task = bar, bar.add_task(f"{self._plan.spec.stage}: starting", total=None)
        return bar

    def _on_start(self, event: Any) -> None:
        super()._on_start(event)
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task, total=event["steps"], completed=event["step"], description=self._plan.spec.stage
            )

    def _on_metrics(self, event: Any) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=event["step"], description=f"epoch {event['epoch'] + 1}")


def _line(metrics: dict[str, float]) -> str:
    """Return the main metrics; those of single classes (`val/dice/ball`) are in MLflow."""
    main = sorted((key for key in metrics if key.count("/") <= 1 and not key.startswith(HIDDEN)), key=_importance)
    return "  ".join(f"{key} {metrics[key]:.4g}" for key in main[:SHOWN]) or "nothing was measured"


def _importance(key: str) -> tuple[bool, str]:
    """Validation before training."""
    return (not key.startswith("val/"), key)
