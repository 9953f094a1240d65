"""How a launch looks in a notebook or a script that asks for it: the lines that the command prints."""

from __future__ import annotations

from functools import cache
from typing import Any

from asparagus.cli.progress import RunLines
from asparagus.cli.sweep import measured, trial_line


def print_progress(event: Any) -> None:
    """Print what the command says of an event, on standard error; for `launch` and `launch_sweep`.

    ```python
    asparagus.launch("experiment/digits", watcher=asparagus.print_progress)
    ```

    Args:
        event: Of a run or a sweep; not every one is for the screen.
    """
    _lines().show(event)


@cache
def _lines() -> Lines:
    return Lines()


class Lines(RunLines):
    """Shows the events of runs and of one sweep after another as lines."""

    def __init__(self) -> None:
        super().__init__()
        self._over, self._trials, self._metrics = 0, 0, ("",)

    def _on_sweep(self, event: Any) -> None:
        self._over, self._trials, self._metrics = 0, event["trials"], event["metrics"]
        self._say(f"###RUN-ID={event['run_id']}### {event['folder']}")

    def _on_trial_over(self, event: Any) -> None:
        self._over += 1
        self._say(trial_line(event, measured(self._metrics, event["values"]), f"{self._over}/{self._trials}"))

    def _on_drawing(self, _: Any) -> None:
        self._say("drawing the plots")
