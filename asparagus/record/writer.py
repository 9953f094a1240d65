"""The recording process: journals in, MLflow out; the one writer. Started by `recorder`, ends with its driver."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # MLflow needs pandas for tables alone, takes it for not installed, and is there a third sooner. No table is logged.
    sys.modules["pandas"] = None  # type: ignore[assignment]

from asparagus.errors import AsparagusError, RecordError, StoreError
from asparagus.record.backlog import waiting, waits
from asparagus.record.book import AWAY, Book
from asparagus.record.reader import Reader, open_reader
from asparagus.record.rebuild import bring_up_to_date
from asparagus.record.recorder import NumberTakenError, RunRecord
from asparagus.record.run_folder import INTERRUPTED, OVER, end_of, mark, read_state
from asparagus.record.store import Store
from asparagus.storage import kept

POLL_S = 0.25

log = logging.getLogger(__name__)


class Desk:
    """Answers the driver's commands, and keeps the open books."""

    def __init__(self, uri: str, artifacts: Path, models: Path) -> None:
        self._models = models
        self._tried: set[int] = set()
        self._reach = lambda: Store(uri, artifacts)
        self._store: Store | None = None
        self._reader: Reader | None = None
        self._books: dict[int, Book] = {}
        with contextlib.suppress(RecordError):  # ahead of the first question; a store that is away is that one's answer
            self._store = self._reach()

    @property
    def store(self) -> Store:
        """The store; reached anew for as long as it could not be."""
        self._store = self._store or self._reach()
        return self._store

    @property
    def reader(self) -> Reader:
        """The store, for questions: MLflow's own way would fetch whole runs, for each trial of a sweep."""
        self._reader = self._reader or open_reader(self.store.uri)
        return self._reader

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command."""
        match command["do"]:
            case "largest":
                return {"largest": self.reader.largest_number()}
            case "open":
                record, known = RunRecord.from_dict(command["record"]), command["mlflow_run_id"]
                book = Book(self.store, record, mlflow_run_id=known, attempt=command["attempt"])
                self._books[record.run_id] = book
                return {"mlflow_run_id": book.mlflow_run_id}
            case "close":
                book = self._books.pop(command["run_id"])
                return {"complete": book.close(command["state"], command["timeout_s"])}
            case "complete":
                return {"late": list(self._complete(command["run_ids"]))}
            case unknown:
                raise AssertionError(f"unknown command {unknown}")

    def catch_up(self) -> None:
        """Let every open book read on; then there is time for what earlier runs could not be told."""
        idle = [book.catch_up() for book in self._books.values()]
        if not (idle and all(idle)):
            return
        known = self._tried | self._books.keys()
        late = [run_id for run_id in waiting(self._models, self.store.uri) if run_id not in known][:1]
        self._tried.update(late)  # once each: one that cannot be told must not hold up the run that is being trained
        for problem in self._complete(late):
            log.warning("%s", problem)

    def _complete(self, run_ids: Iterable[int]) -> Iterator[str]:
        """Tell the store what it lacks of runs that were recorded here; yields why not, of the first that it is not."""
        for run_id in run_ids:
            if not waits(self._models, run_id, self.store.uri):
                continue
            try:
                found = bring_up_to_date(self.store, self._models, run_id)
            except Exception as error:  # noqa: BLE001 - of another run: it must not end the record of this one
                found = f"run {run_id}: {type(error).__name__}: {error}"
            if waits(self._models, run_id, self.store.uri):
                yield found
                return

    def leave(self, screen: int) -> None:
        """The driver is gone: close what it left open, and say so where it spoke."""
        lost = [book for book in self._books.values() if read_state(book.folder).get("state") not in OVER]
        for book in lost:
            told = f"run {book.record.run_id}: its launch ended without a word: it was killed, or its Ray was.\n"
            with contextlib.suppress(OSError):  # whoever read there is gone too
                os.write(screen, f"{told}  The same command goes on from its last checkpoint.\n".encode())
        for book in lost:
            mark(book.folder, INTERRUPTED)
            with contextlib.suppress(StoreError):
                kept.put(book.folder.state)
        for book in self._books.values():
            book.close(end_of(book.folder), timeout_s=30)


def main(arguments: list[str]) -> None:
    """Serve commands from standard input, one JSON object per line, until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they are for the driver; when that is gone, our input ends
        signal.signal(number, signal.SIG_IGN)
    (artifacts, models, screen), uri = arguments, os.environ["MLFLOW_TRACKING_URI"]
    logging.basicConfig(level=logging.WARNING)
    replies, sys.stdout = (
        sys.stdout,
        sys.stderr,
    )  # MLflow prints where it likes; replies have their channel to themselves
    desk = Desk(uri, Path(artifacts), Path(models))
    commands: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin, commands), daemon=True).start()
    while True:
        try:
            line = commands.get(timeout=POLL_S)
        except queue.Empty:
            desk.catch_up()
            continue
        if not line:
            desk.leave(int(screen))
            return
        replies.write(json.dumps(_answer(desk, json.loads(line))) + "\n")
        replies.flush()


def _listen(source: Iterable[str], commands: queue.SimpleQueue[str]) -> None:
    for line in source:
        commands.put(line)
    commands.put("")


def _answer(desk: Desk, command: dict[str, Any]) -> dict[str, Any]:
    try:
        return desk.answer(command)
    except NumberTakenError as error:
        return {"taken": str(error)}
    except AsparagusError as error:
        return {"error": str(error)}
    except AWAY as error:
        return {"error": f"tracking: MLflow refused to {command['do']} the record: {error}"}


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(0)  # everything is written; taking MLflow apart would keep the driver waiting for half a second
