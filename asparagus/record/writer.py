"""The recording process: journals in, MLflow out; the one writer. Started by `recorder`, ends with its driver."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, Metric, Param
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException

from asparagus import __version__
from asparagus.checkpoint.folder import best_of, manifests
from asparagus.data.layout import fingerprint, read_task
from asparagus.errors import AsparagusError, RecordError
from asparagus.journal import Event, JournalReader
from asparagus.record.environment import Code, Machine, read_code
from asparagus.record.recorder import RunRecord
from asparagus.record.run_folder import FINISHED, INTERRUPTED, RunFolder, mark
from asparagus.record.store import RUN_ID, TAG, Store

POLL_S = 0.25
RETRY_S = 2.0
BATCH = {"metrics": 1000, "params": 100}
"""MLflow's own limits for one call."""
STATUS = {FINISHED: "FINISHED", INTERRUPTED: "KILLED"}
DIGEST_LENGTH = 36
"""What MLflow keeps of a data set's digest; the whole one is a tag."""
ODD_CHARACTERS = re.compile(r"[^\w\-. :/]")

AWAY = (MlflowException, RequestException, OSError)
"""What a store that is away, or a disk that is full, raises."""

log = logging.getLogger(__name__)


class Book:
    """One run as it is being recorded."""

    def __init__(self, store: Store, record: RunRecord) -> None:
        self.store = store
        self.record = record
        self.folder = RunFolder(Path(record.folder), record.stage)
        self._journal = JournalReader(self.folder.journal)
        self._pending: list[Metric] = []
        self._reached: dict[str, int] = {}
        self._not_before = 0.0
        self.mlflow_run_id = self._open()

    def _open(self) -> str:
        record, client = self.record, self.store.client
        code, machine = read_code(Path.cwd()), Machine()
        run = client.create_run(
            self.store.experiment_id(record.task), tags=_tags(record, code, machine), run_name=record.name
        )
        run_id = str(run.info.run_id)
        try:
            self._describe(run_id, code, machine)
        except BaseException:  # nobody will close what was never opened
            client.set_terminated(run_id, "FAILED")
            raise
        return run_id

    def _describe(self, run_id: str, code: Code, machine: Machine) -> None:
        """Write all that is known of the run before it starts."""
        record, client = self.record, self.store.client
        params = [Param(_name(key), value) for key, value in record.params.items()]
        for start in range(0, len(params), BATCH["params"]):
            client.log_batch(run_id, params=params[start : start + BATCH["params"]])
        self._log_inputs(run_id)
        client.log_artifact(run_id, str(self.folder.config))
        client.log_artifact(run_id, str(self.folder.plan))
        client.log_dict(run_id, {"command": record.command, **dataclasses.asdict(machine)}, "environment.json")
        if code.diff:
            client.log_text(run_id, code.diff, "uncommitted.diff")

    def _log_inputs(self, run_id: str) -> None:
        """Record the data and, for a run that starts from another's weights, the lineage edge."""
        record = self.record
        datasets, models = [], []
        if record.data_split is not None:
            task = read_task(record.data_root, record.task)
            found = fingerprint(task, record.data_split)
            source = json.dumps({"uri": str(task.folder), "split": record.data_split})
            data = Dataset(record.task, found[:DIGEST_LENGTH], source_type="local", source=source)
            datasets.append(DatasetInput(data, tags=[InputTag("mlflow.data.context", "training")]))
            self.store.client.set_tag(run_id, f"{TAG}data.fingerprint", found)
        parent = self.store.parent_model(record.parent) if record.parent else None
        if parent is not None:
            models.append(LoggedModelInput(parent.model_id))
            self.store.client.set_tag(run_id, f"{TAG}init_from.model_id", parent.model_id)
        if datasets or models:
            self.store.client.log_inputs(run_id, datasets=datasets, models=models)

    def catch_up(self) -> bool:
        """Write what is new in the journal; returns whether nothing is left. A store that is away is tried again."""
        for event in self._journal.read():
            self._take(event)
        if not self._pending or time.monotonic() < self._not_before:
            return not self._pending
        try:
            while self._pending:
                block = self._pending[: BATCH["metrics"]]
                self.store.client.log_batch(self.mlflow_run_id, metrics=block)
                del self._pending[: len(block)]
        except AWAY as error:
            log.warning("run %d: the tracking store did not take metrics (%s); trying again", self.record.run_id, error)
            self._not_before = time.monotonic() + RETRY_S
        return not self._pending

    def _take(self, event: Event) -> None:
        """Queue the metrics of an event, each step of each metric once: a restarted attempt repeats some."""
        if event["kind"] != "metrics":
            return
        step, stamp = event["step"], int(event["time"] * 1000)
        for key, value in {"epoch": float(event["epoch"]), **event["values"]}.items():
            if step > self._reached.get(key, -1):
                self._reached[key] = step
                self._pending.append(Metric(_name(key), value, stamp, step))

    def close(self, state: str, timeout_s: float) -> bool:
        """Write the rest, the files, the checkpoints that are left, and the end. Returns whether all was written."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if self.catch_up():
                    self._end(state)
                    return True
            except AWAY as error:
                log.warning("run %d: its end is not recorded yet (%s); trying again", self.record.run_id, error)
            if time.monotonic() > deadline:
                return False
            time.sleep(RETRY_S)

    def _end(self, state: str) -> None:
        """Write what comes last; all of it may be written again."""
        client = self.store.client
        for file in (self.folder.log, self.folder.transfer):
            if file.is_file():
                client.log_artifact(self.mlflow_run_id, str(file))
        self._log_checkpoints()
        client.set_tag(self.mlflow_run_id, f"{TAG}state", state)
        client.set_terminated(self.mlflow_run_id, STATUS.get(state, "FAILED"))

    def _log_checkpoints(self) -> None:
        found = manifests(self.folder.checkpoints)
        if not found:
            return
        run, best = self.store.client.get_run(self.mlflow_run_id), best_of(found)
        tags = {"checkpoint.last": found[-1].name}
        if best is not None:
            tags |= {"checkpoint.best": best.name, "best": str(best.metrics[best.monitor or ""])}
        for name, value in tags.items():
            self.store.client.set_tag(self.mlflow_run_id, f"{TAG}{name}", value)
        for manifest in found:
            self.store.checkpoint_model(run, self.folder.checkpoints / manifest.name, manifest)


class Desk:
    """Answers the driver's commands, and keeps the open books."""

    def __init__(self, uri: str, artifacts: Path) -> None:
        self._reach = lambda: Store(uri, artifacts)
        self._store: Store | None = None
        self._books: dict[int, Book] = {}
        with contextlib.suppress(RecordError):  # ahead of the first question; a store that is away is that one's answer
            self._store = self._reach()

    @property
    def store(self) -> Store:
        """The store; reached anew for as long as it could not be."""
        self._store = self._store or self._reach()
        return self._store

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command."""
        match command["do"]:
            case "largest":
                return {"largest": self.store.largest_number()}
            case "open":
                book = Book(self.store, RunRecord.from_dict(command["record"]))
                self._books[book.record.run_id] = book
                return {"mlflow_run_id": book.mlflow_run_id}
            case "close":
                book = self._books.pop(command["run_id"])
                return {"complete": book.close(command["state"], command["timeout_s"])}
            case unknown:
                raise AssertionError(f"unknown command {unknown}")

    def catch_up(self) -> None:
        """Let every open book read on."""
        for book in self._books.values():
            book.catch_up()

    def leave(self) -> None:
        """The driver is gone: close what it left open."""
        for book in self._books.values():
            mark(book.folder, INTERRUPTED)
            book.close(INTERRUPTED, timeout_s=30)


def main(arguments: list[str]) -> None:
    """Serve commands from standard input, one JSON object per line, until it ends."""
    (artifacts,), uri = arguments, os.environ["MLFLOW_TRACKING_URI"]
    logging.basicConfig(level=logging.WARNING)
    replies, sys.stdout = (
        sys.stdout,
        sys.stderr,
    )  # MLflow prints where it likes; replies have their channel to themselves
    desk = Desk(uri, Path(artifacts))
    commands: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin, commands), daemon=True).start()
    while True:
        try:
            line = commands.get(timeout=POLL_S)
        except queue.Empty:
            desk.catch_up()
            continue
        if not line:
            desk.leave()
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
    except AsparagusError as error:
        return {"error": str(error)}
    except AWAY as error:
        return {"error": f"tracking: MLflow refused to {command['do']} the record: {error}"}


def _tags(record: RunRecord, code: Code, machine: Machine) -> dict[str, str]:
    tags = {
        RUN_ID: str(record.run_id),
        f"{TAG}stage": record.stage,
        f"{TAG}task": record.task,
        f"{TAG}folder": record.folder,
        f"{TAG}state": "running",
        f"{TAG}version": __version__,
        "mlflow.user": machine.user,
        "mlflow.source.name": " ".join(record.command) or "asparagus",
        "mlflow.source.type": "LOCAL",
        **record.tags,
    }
    if code.commit:
        tags |= {"mlflow.source.git.commit": code.commit, "mlflow.source.git.branch": code.branch}
        tags[f"{TAG}git.dirty"] = str(bool(code.diff)).lower()
    if record.parent is not None:
        parent = record.parent
        known = {"run_id": parent.run_id, "checkpoint": parent.checkpoint, "digest": parent.digest, "step": parent.step}
        tags |= {f"{TAG}init_from.{key}": str(value) for key, value in known.items() if value is not None}
    return tags


def _name(key: str) -> str:
    """Return a metric's or param's name with what MLflow refuses replaced by `_`, and cut to its 250 characters."""
    return ODD_CHARACTERS.sub("_", key)[:250]


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(0)  # everything is written; taking MLflow apart would keep the driver waiting for half a second
