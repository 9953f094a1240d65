"""What everything that shows a launch has in common: events come in, lines and one live part go to standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from rich.console import Console


class Live(Protocol):
    """A part of the screen that moves until it is stopped."""

    def stop(self) -> None:
        """Leave the screen."""


class Screen:
    """Shows events by the method that is called after their kind (`_on_epoch`); a context manager.

    Everything goes to standard error, so that standard output holds results alone.
    """

    def __init__(self) -> None:
        from rich.console import Console

        self._console: Console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._greet()
        if self._console.is_terminal:
            self._live = self._go_live()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, event: Any) -> None:
        """Show one event; not every one is for the screen."""
        shown = getattr(self, f"_on_{event['kind']}", None)
        if shown is not None:
            shown(event)

    def _greet(self) -> None:
        """Say what begins."""

    def _go_live(self) -> Live | None:
        """Start the part that moves; called on a terminal alone."""

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show that something is done whose length nobody knows: a line that moves in a terminal, nothing elsewhere."""
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what to call with (done, in all): a bar in a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        shown = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(shown, completed=done, total=total)
