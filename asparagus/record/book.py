"""One run in the tracking store: opened or found again, kept up with its journal, closed. Safe to do twice."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException

from asparagus import __version__
from asparagus.attempts import LOGS, POST_MORTEM
from asparagus.checkpoint.folder import best_of, manifests
from asparagus.data.layout import CARD_FILE, CARD_PAGE, read_task
from asparagus.errors import DataError
from asparagus.journal import Event, JournalReader
from asparagus.record.backlog import put_off, told
from asparagus.record.pages import attach_lineage, describe_experiment, opening, result
from asparagus.record.presentation import nesting
from asparagus.record.recorder import NumberTakenError, RunRecord
from asparagus.record.run_folder import FINISHED, INTERRUPTED, PRUNED, RunFolder, read_state, write_json
from asparagus.record.store import RUN_ID, TAG, Store
from asparagus.record.system_metrics import SystemReader, reached

RETRY_S = 2.0
HOLD_S = 1.0
"""How long what is new waits for more: the store is told of all of it in one call."""
BATCH = {"metrics": 1000, "params": 100}
"""MLflow's own limits for one call."""
STATUS = {FINISHED: "FINISHED", INTERRUPTED: "KILLED", PRUNED: "KILLED"}
DIGEST_LENGTH = 36
"""What MLflow keeps of a data set's digest; the whole one is a tag."""
LOCK = ".record.lock"
LEAVE_S = 60.0
ODD_CHARACTERS = re.compile(r"[^\w\-. :/]")

AWAY = (MlflowException, RequestException, OSError)
"""What a store that is away, or a disk that is full, raises."""

log = logging.getLogger(__name__)


class Book:
    """One run as it is being recorded.

    Args:
        store: Where.
        record: What is known of it.
        mlflow_run_id: Of a run that was opened before.
        attempt: From the second on, an MLflow run that an earlier one may have made is looked for, as it is where
            `mlflow_run_id` is given and this store has none of that id.
        patience_s: How long another recorder of this run is waited for, in seconds.

    Raises:
        NumberTakenError: Another run has the number.
        Timeout: Another recorder is at it.
    """

    def __init__(
        self,
        store: Store,
        record: RunRecord,
        *,
        mlflow_run_id: str | None = None,
        attempt: int = 1,
        patience_s: float = LEAVE_S,
    ) -> None:
        self.store = store
        self.record = record
        self.folder = RunFolder(Path(record.folder), record.stage)
        self._journal = JournalReader(self.folder.journal)
        self._pending: list[tuple[int, Metric]] = []
        self._reached: dict[str, int] = {}
        self._written = 0
        self._not_before = self._held_until = 0.0
        # The recorder of a driver that was killed may still be writing its end; what it wrote is then to be seen here.
        self._lock = FileLock(self.folder.path / LOCK)
        self._lock.acquire(timeout=patience_s)
        self._system = SystemReader(self.folder.path, record.started)
        self._of_nodes: list[Metric] = []
        again = attempt > 1 or mlflow_run_id is not None
        try:
            # From now on the store is to be told of its end, whoever is killed meanwhile.
            put_off(self._models, record.run_id, store.uri)
            known = self._known(mlflow_run_id) if again else None
            self.mlflow_run_id = self._go_on(known, attempt) if known else self._open()
        except BaseException as error:
            if isinstance(error, NumberTakenError):
                told(self._models, record.run_id, store.uri)
            self._lock.release()
            raise

    @property
    def _models(self) -> Path:
        """The folder of all runs."""
        return self.folder.path.parents[2]

    def _known(self, mlflow_run_id: str | None) -> Run | None:
        """Return the MLflow run that an earlier attempt made, if this store has it."""
        record = self.record
        if mlflow_run_id is not None and (run := self.store.get(mlflow_run_id)) is not None:
            return run
        numbered = self.store.with_number(record.run_id)
        return next((run for run in numbered if run.data.tags.get(f"{TAG}folder") == record.folder), None)

    def _go_on(self, run: Run, attempt: int) -> str:
        """Let a run that ended run again."""
        run_id = str(run.info.run_id)
        if run.info.lifecycle_stage == "deleted":
            self.store.client.restore_run(run_id)
        if f"{TAG}described" not in run.data.tags:
            self._describe(run_id)
        self.store.client.update_run(run_id, status="RUNNING")
        self.store.client.set_tag(run_id, f"{TAG}state", "running")
        if attempt > 1:
            self.store.client.set_tag(run_id, f"{TAG}attempts", str(attempt))
        self._written = _offset(self.folder, run_id)
        self._system = SystemReader(self.folder.path, self.record.started, reached(run.data))
        return run_id

    def _open(self) -> str:
        record, client = self.record, self.store.client
        run = client.create_run(
            self._experiment(),
            tags=_tags(record) | nesting(record, self.store.numbered(record.sweep_id)) | opening(self.store, record),
            run_name=record.name,
            start_time=int(record.started * 1000),
        )
        run_id = str(run.info.run_id)
        others = [other for other in self.store.with_number(record.run_id) if other.info.run_id != run_id]
        if others:  # another machine may look at the same moment: whoever sees another gives way, so nobody stays twice
            client.set_tag(run_id, RUN_ID, "")
            client.delete_run(run_id)
            taken = others[0].data.tags.get(f"{TAG}folder", "a run without a folder")
            raise NumberTakenError(f"run.id: {record.run_id} is taken in {self.store.uri} by {taken}.")
        self._describe(run_id)
        return run_id

    def _experiment(self) -> str:
        """Return the experiment that holds the runs of this task, described; looked at once, for a sweep has many."""
        known, task = self.store.described, self.record.task
        if task not in known:
            experiment_id = self.store.experiment_id(task)
            describe_experiment(self.store, experiment_id, task)
            known[task] = experiment_id
        return known[task]

    def _describe(self, run_id: str) -> None:
        """Write all that is known of the run before it starts; may be done again."""
        record, client = self.record, self.store.client
        self._log_inputs(run_id)
        for file in (
            self.folder.config,
            self.folder.plan,
            self.folder.record,
            self.folder.diff,
            _card(record, CARD_PAGE),
        ):
            if file.is_file():
                client.log_artifact(run_id, str(file))
        client.log_dict(run_id, {"command": record.command, **record.machine}, "environment.json")
        params = [Param(recorded_name(key), value) for key, value in record.params.items()]
        last = max(0, (len(params) - 1) // BATCH["params"] * BATCH["params"])
        for start in range(0, last, BATCH["params"]):
            client.log_batch(run_id, params=params[start : start + BATCH["params"]])
        client.log_batch(run_id, params=params[last:], tags=[RunTag(f"{TAG}described", "true")])

    def _log_inputs(self, run_id: str) -> None:
        """Record the data and, for a run that starts from another's weights, the lineage edge."""
        record = self.record
        datasets, models = [], []
        if record.fingerprint is not None:
            source = json.dumps({"uri": _data_folder(record), "split": record.data_split})
            digest, about = record.fingerprint[:DIGEST_LENGTH], _profile(record)
            data = Dataset(record.task, digest, source_type="local", source=source, profile=about)
            datasets.append(DatasetInput(data, tags=[InputTag("mlflow.data.context", "training")]))
        parent = self.store.parent_model(record.parent) if record.parent else None
        if parent is not None:
            models.append(LoggedModelInput(parent.model_id))
            self.store.client.set_tag(run_id, f"{TAG}init_from.model_id", parent.model_id)
        if datasets or models:
            self.store.client.log_inputs(run_id, datasets=datasets, models=models)

    def catch_up(self, *, at_once: bool = False) -> bool:
        """Write what is new in the journal; returns whether nothing is left. A store that is away is tried again.

        Args:
            at_once: Without waiting whether more comes.
        """
        if not (self._pending or self._of_nodes):
            self._held_until = time.monotonic() + HOLD_S
        for end, event in self._journal.numbered():
            self._take(end, event)
        self._of_nodes += self._system.read()
        is_held = not at_once and len(self._pending) < BATCH["metrics"] and time.monotonic() < self._held_until
        if not (self._pending or self._of_nodes) or is_held or time.monotonic() < self._not_before:
            return not (self._pending or self._of_nodes)
        try:
            while self._pending:
                block = self._pending[: BATCH["metrics"]]
                self.store.client.log_batch(self.mlflow_run_id, metrics=[metric for _, metric in block])
                del self._pending[: len(block)]
                self._note_written(block[-1][0])
            while self._of_nodes:
                self.store.client.log_batch(self.mlflow_run_id, metrics=self._of_nodes[: BATCH["metrics"]])
                del self._of_nodes[: BATCH["metrics"]]
        except AWAY as error:
            log.warning("run %d: the tracking store did not take metrics (%s); trying again", self.record.run_id, error)
            self._not_before = time.monotonic() + RETRY_S
        return not (self._pending or self._of_nodes)

    def _take(self, end: int, event: Event) -> None:
        """Queue the metrics of an event, each step of each metric once: a restarted attempt repeats some.

        What the store is known to have is passed over, but counted. Whether the last batch arrived may be unknown; it
        is sent again, and the store recognises points that it has by name, step, time and value.
        """
        if event["kind"] != "metrics":
            return
        step, stamp = event["step"], int(event["time"] * 1000)
        for key, value in {"epoch": float(event["epoch"]), **event["values"]}.items():
            if step > self._reached.get(key, -1):
                self._reached[key] = step
                if end > self._written:
                    self._pending.append((end, Metric(recorded_name(key), value, stamp, step)))

    def _note_written(self, end: int) -> None:
        """Remember how far the store has the journal; a line is done when the batch after its last metric begins."""
        done = end if not self._pending or self._pending[0][0] > end else self._written
        if done > self._written:
            self._written = done
            write_json(self.folder.written, {"mlflow_run_id": self.mlflow_run_id, "offset": done})

    def close(self, state: str, timeout_s: float, *, ended: float | None = None) -> bool:
        """Write the rest, the files, the checkpoints that are left, and the end. Returns whether all was written."""
        deadline = time.monotonic() + timeout_s
        try:
            while not (whole := self._try_to_end(state, ended)) and time.monotonic() < deadline:
                time.sleep(RETRY_S)
            if whole:
                told(self._models, self.record.run_id, self.store.uri)
        finally:
            self._lock.release()
        return whole

    def _try_to_end(self, state: str, ended: float | None) -> bool:
        try:
            if self.catch_up(at_once=True):
                self._end(state, ended)
                return True
        except AWAY as error:
            log.warning("run %d: its end is not recorded yet (%s); trying again", self.record.run_id, error)
        return False

    def _end(self, state: str, ended: float | None) -> None:
        """Write what comes last; all of it may be written again."""
        client = self.store.client
        for file in (self.folder.log, self.folder.transfer):
            if file.is_file():
                client.log_artifact(self.mlflow_run_id, str(file))
        for place in (LOGS, POST_MORTEM):
            if (self.folder.path / place).is_dir():
                client.log_artifacts(self.mlflow_run_id, str(self.folder.path / place), place)
        run = client.get_run(self.mlflow_run_id)
        tags = self._log_checkpoints(run) | result(self.store, run, self.record, self.folder)
        tags |= {f"{TAG}state": state}
        if sizes := _world_sizes(self.folder):
            tags[f"{TAG}world_sizes"] = sizes
        if digest := _test_set(self.folder):
            tags[f"{TAG}test_set"] = digest
        client.log_batch(self.mlflow_run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        facts = read_state(self.folder)
        stamp = ended or facts.get("updated") or time.time()
        client.set_terminated(self.mlflow_run_id, STATUS.get(state, "FAILED"), end_time=int(stamp * 1000))
        if self.record.sweep_id is None:  # a trial is on its sweep's page, once for all of them
            attach_lineage(self.store, self.record, self._models)

    def _log_checkpoints(self, run: Run) -> dict[str, str]:
        """Record the checkpoints that are there; returns the tags that say which is which."""
        found = manifests(self.folder.checkpoints)
        if not found:
            return {}
        self.store.checkpoint_models(run, self.folder.checkpoints, found)
        tags, best = {f"{TAG}checkpoint.last": found[-1].name}, best_of(found)
        if best is not None:
            tags |= {f"{TAG}checkpoint.best": best.name, f"{TAG}best": str(best.metrics[best.monitor or ""])}
        return tags


def _world_sizes(folder: RunFolder) -> str:
    """Return how many workers trained, one number for each time that it began; nothing where it never changed."""
    starts = [event for event in JournalReader(folder.journal).read() if event["kind"] == "start"]
    sizes = [str(start.get("world_size")) for start in starts]
    return ", ".join(sizes) if len(set(sizes)) > 1 else ""


def _test_set(folder: RunFolder) -> str:
    """Return the digest of what was tested on last; nothing where no data module told."""
    tested = [event.get("digest", "") for event in JournalReader(folder.journal).read() if event["kind"] == "test_set"]
    return str(tested[-1]) if tested else ""


def _offset(folder: RunFolder, mlflow_run_id: str) -> int:
    """Return how far the journal is in this MLflow run, as far as is known: nothing of it in one that is new."""
    try:
        noted = json.loads(folder.written.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it is only a shortcut: what was sent is recognised when it is sent again
        return 0
    return int(noted["offset"]) if noted.get("mlflow_run_id") == mlflow_run_id else 0


def _data_folder(record: RunRecord) -> str:
    """Return where the task lies; data that moved since are named by where they were."""
    try:
        return str(read_task(record.data_root, record.task).folder)
    except DataError:
        return f"{record.data_root}/{record.task}"


def _card(record: RunRecord, file: str) -> Path:
    """Return where the task's card is, if it has one."""
    return Path(_data_folder(record)) / file


def _profile(record: RunRecord) -> str | None:
    """Return what the task's card says of the data, in numbers; none where there is no card to be seen."""
    try:
        card = json.loads(_card(record, CARD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return json.dumps({key: value for key, value in card.items() if key not in ("failed", "splits")})


def _tags(record: RunRecord) -> dict[str, str]:
    machine, code = record.machine, record.code
    tags = {
        RUN_ID: str(record.run_id),
        f"{TAG}stage": record.stage,
        f"{TAG}task": record.task,
        f"{TAG}folder": record.folder,
        f"{TAG}state": "running",
        f"{TAG}version": __version__,
        "mlflow.user": str(machine.get("user", "")),
        "mlflow.source.name": " ".join(record.command) or "asparagus",
        "mlflow.source.type": "LOCAL",
        **record.tags,
        **dict(_edges(record)),
    }
    if code.get("commit"):
        tags |= {"mlflow.source.git.commit": code["commit"], "mlflow.source.git.branch": code.get("branch", "")}
        tags[f"{TAG}git.dirty"] = str(bool(code.get("diff_digest"))).lower()
    return tags


def _edges(record: RunRecord) -> Iterator[tuple[str, str]]:
    """Yield the tags that say what the run is, and what it came from."""
    known: dict[str, Any] = {
        "identity": record.identity or None,
        "data.fingerprint": record.fingerprint,
        "rerun_of": record.rerun_of,
        "sweep_id": record.sweep_id,
    }
    if record.parent is not None:
        parent = record.parent
        known |= {"init_from.run_id": parent.run_id, "init_from.checkpoint": parent.checkpoint}
        known |= {"init_from.digest": parent.digest, "init_from.step": parent.step}
    yield from ((f"{TAG}{key}", str(value)) for key, value in known.items() if value is not None)


def recorded_name(key: str) -> str:
    """Return a metric's or param's name with what MLflow refuses replaced by `_`, and cut to its 250 characters."""
    return ODD_CHARACTERS.sub("_", key)[:250]
