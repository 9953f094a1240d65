"""The driver's end of the record: a process beside the training that alone speaks to MLflow.

Importing MLflow takes a second and every call to it milliseconds; in a process of its own that costs the training
nothing. It reads the run's journal, so a tracking server that is away delays nothing and loses nothing, and it
outlives a killed driver just long enough to write down the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from asparagus.errors import RecordError, StoreAwayError
from asparagus.secrets import without_passwords
from asparagus.spec import Parent

CLOSE_TIMEOUT_S = 120.0
"""How long the end of a run waits for the tracking store; the journal keeps what is not written by then."""


@dataclass(frozen=True)
class RunRecord:
    """What is known of a run when it starts; as `record.json` in its folder, so that it can be recorded anew."""

    run_id: int
    stage: str
    task: str
    folder: str
    name: str
    params: dict[str, str]
    tags: dict[str, str] = field(default_factory=dict)
    parent: Parent | None = None
    data_root: str = ""
    data_split: str | None = None
    fingerprint: str | None = None
    """Of the data and their split; `None` for a data module that knows no splits of ours."""
    command: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.time)
    """Seconds since the epoch."""
    identity: str = ""
    rerun_of: int | None = None
    """The run that this one repeats."""
    sweep_id: int | None = None
    code: dict[str, str] = field(default_factory=dict)
    """`commit`, `branch` and `diff_digest` of the repository that it was started in."""
    machine: dict[str, Any] = field(default_factory=dict)
    """`host`, `user`, `system`, `python`, `cpus`, `gpus`, `packages`."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Rebuild a record from its `asdict`."""
        parent = Parent(**values["parent"]) if values["parent"] else None
        return cls(**{**values, "parent": parent})

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values."""
        return dataclasses.asdict(self)


class NumberTakenError(RecordError):
    """The store knows another run of this number: two machines with a models folder each drew it at once."""


class Recorder:
    """Start the recording process; use as a context manager.

    Args:
        tracking_uri: Of the MLflow store.
        artifacts: Where artifacts go when the store is a local one.
        models: The folder of all runs.
    """

    def __init__(self, tracking_uri: str, artifacts: Path, models: Path) -> None:
        self.tracking_uri = tracking_uri
        self._asking = threading.Lock()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        screen = os.dup(sys.__stderr__.fileno()) if sys.__stderr__ else os.open(os.devnull, os.O_WRONLY)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "asparagus.record.writer", str(artifacts), str(models), str(screen)],
            pass_fds=[screen],  # for its last words, should this process be gone without any
            env={**os.environ, "MLFLOW_TRACKING_URI": tracking_uri},  # an argument would be everybody's to read
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # Ctrl-C is the driver's to handle: the record is closed after it
        )
        os.close(screen)

    def largest_number(self) -> int:
        """Return the largest run number that the store knows, 0 for an empty one.

        Raises:
            RecordError: The store cannot be reached.
        """
        return int(self._ask({"do": "largest"})["largest"])

    def open(self, record: RunRecord, *, mlflow_run_id: str | None = None, attempt: int = 1) -> str:
        """Record that a run starts, or goes on; returns its MLflow run id.

        Args:
            record: What is known of it; for one that goes on, what was known when it first started.
            mlflow_run_id: Of the run that goes on, if it is known.
            attempt: From the second on, an MLflow run of its folder is looked for before one is made.

        Raises:
            NumberTakenError: Its number is another run's, of another models folder.
            RecordError: The store cannot be reached or refuses.
        """
        asked = {"do": "open", "record": record.to_dict(), "mlflow_run_id": mlflow_run_id, "attempt": attempt}
        answer = self._ask(asked)
        if "taken" in answer:
            raise NumberTakenError(without_passwords(str(answer["taken"])))
        return str(answer["mlflow_run_id"])

    def close(self, run_id: int, *, state: str) -> bool:
        """Record how a run ended, after everything in its journal. Returns whether all was written."""
        return bool(
            self._ask({"do": "close", "run_id": run_id, "state": state, "timeout_s": CLOSE_TIMEOUT_S})["complete"]
        )

    def complete(self, run_ids: Iterable[int]) -> list[str]:
        """Tell the store what it lacks of runs that were over before; returns why not, of one that it was not."""
        return [str(problem) for problem in self._ask({"do": "complete", "run_ids": list(run_ids)})["late"]]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):  # it ended before us: whoever asked it something has been told
                self._process.stdin.close()
        self._process.wait(timeout=CLOSE_TIMEOUT_S)
        if self._process.stdout:
            self._process.stdout.close()
        self._errors.close()

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("opened with pipes")
        with self._asking:  # a sweep asks from many threads
            try:
                self._process.stdin.write(json.dumps(command) + "\n")
                self._process.stdin.flush()
                answer = self._process.stdout.readline()
            except BrokenPipeError:
                answer = ""
        if not answer:
            raise RecordError(
                without_passwords(
                    f"tracking: the recorder of {self.tracking_uri} ended unexpectedly:\n{self._last_words()}"
                )
            )
        reply: dict[str, Any] = json.loads(answer)
        if "error" in reply:
            raise StoreAwayError(without_passwords(reply["error"]))
        return reply

    def _last_words(self) -> str:
        self._errors.seek(0)
        return "\n".join(self._errors.read().decode(errors="replace").splitlines()[-15:])


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested sections as dotted names with their values as text: MLflow's params."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
