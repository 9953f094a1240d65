"""What the ranks of a run have said, try by try: from its folder, as it grows, also when the node is gone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from asparagus.attempts import attempts, log_of, ranks
from asparagus.errors import RecordError

BLOCK = 1 << 16
POLL_S = 0.3


@dataclass(frozen=True)
class RankLog:
    """One rank's log of one try."""

    attempt: int
    rank: int
    path: Path

    @property
    def bytes(self) -> int:
        """How much it has said so far."""
        return self.path.stat().st_size


def rank_logs(folder: Path) -> list[RankLog]:
    """Return all logs of the run in a folder: by try, then by rank."""
    return [
        RankLog(attempt, rank, log_of(folder, attempt, rank))
        for attempt in attempts(folder)
        for rank in ranks(folder, attempt)
    ]


def find_log(folder: Path, *, rank: int = 0, attempt: int | None = None) -> RankLog:
    """Return the log of a rank.

    Args:
        folder: The run's.
        rank: Whose.
        attempt: Of which try; None: the newest in which there is one of that rank.

    Raises:
        RecordError: There is none; the message says which there are.
    """
    found = rank_logs(folder)
    asked = [log for log in found if log.rank == rank and attempt in (None, log.attempt)]
    if asked:
        return asked[-1]
    what = f"rank {rank}" if attempt is None else f"rank {rank} in attempt {attempt}"
    there = "; ".join(
        f"attempt {number}: ranks {_spans([log.rank for log in found if log.attempt == number])}"
        for number in sorted({log.attempt for log in found})
    )
    raise RecordError(f"{folder}: no log of {what}. There are: {there or 'none; no worker has started yet'}.")


def read_log(log: RankLog, *, last: int | None = None) -> list[str]:
    """Return the lines of a log.

    Args:
        log: Which.
        last: Only so many at its end; a long log is read from there.
    """
    if last is None:
        return log.path.read_text(encoding="utf-8", errors="replace").splitlines()
    return _tail(log.path, last)


def follow_log(log: RankLog, is_over: Callable[[], bool]) -> Iterator[str]:
    """Yield the lines of a log as they come, until it is over and all is read.

    Args:
        log: Which.
        is_over: Tells whether nobody writes it any more.
    """
    with log.path.open(encoding="utf-8", errors="replace") as file:
        half = ""
        while True:
            last = is_over()
            *lines, half = (half + file.read()).split("\n")
            yield from lines
            if last:
                yield from [half] if half else []
                return
            time.sleep(POLL_S)


def _tail(path: Path, last: int) -> list[str]:
    with path.open("rb") as file:
        position, text = file.seek(0, os.SEEK_END), b""
        while position and text.count(b"\n") <= last:
            step = min(BLOCK, position)
            position = file.seek(position - step)
            text = file.read(step) + text
    return text.decode(errors="replace").splitlines()[-last:] if last else []


def _spans(numbers: list[int]) -> str:
    """Return `0-3, 7` for 0, 1, 2, 3, 7."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    return ", ".join(str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)
