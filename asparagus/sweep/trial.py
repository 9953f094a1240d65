"""What Tune calls a trainable: a warm worker that trains one run after another, and stops where its sweep says.

Light to import: the driver has to name the class, and only workers need torch.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import ray
from ray.exceptions import LocalRayletDiedError, NodeDiedError, ObjectLostError, RayActorError, RaySystemError
from ray.tune import Trainable

from asparagus.checkpoint.folder import manifests
from asparagus.checkpoint.holds import child, hold, release
from asparagus.errors import AsparagusError, NanLossError, RecordError
from asparagus.failure import is_out_of_memory
from asparagus.journal import Event, JournalReader
from asparagus.secrets import hide
from asparagus.space import MONITOR
from asparagus.spec import Assignment
from asparagus.stopwatch import WATCH, Phase

if TYPE_CHECKING:
    from asparagus.sweep.gate import Gate

POINTER = "pointer.json"
FOLLOW_S = 0.1
WAIT_S = 2.0
"""How long at most between two questions to the desk."""
ABANDON_S = 600.0
"""How long an epoch may take that a stopped trial is in the middle of."""

LOST = (RayActorError, NodeDiedError, LocalRayletDiedError, ObjectLostError, RaySystemError)
"""What a process, its machine or the way to it being gone is told as; an error of the task itself is another one."""

Nested = Callable[[dict[str, Any], Assignment, Any, Any], dict[str, Any]]
"""Trains an assignment on workers of its own, given plan, places and desk; returns what `work` does."""


@dataclass(frozen=True)
class Terms:
    """What holds for every trial of a sweep."""

    sweep_id: int
    stages: int
    """Runs that one trial consists of."""
    metrics: tuple[str, ...]
    secrets: Any = None
    """Environment variables that its experiments refer to, sealed."""
    nested: Nested | None = None
    """None where a trial trains in its own process."""
    keeps_pointers: bool = False
    """Whether trials go on from one another's checkpoints."""
    recycle_after: int | None = None
    """Trials after which a worker is replaced."""
    recycle_growth: float = 2e9
    """Bytes by which a worker may grow."""


class RecycledError(Exception):
    """This process is replaced by a fresh one; the trial has not begun."""


@dataclass
class Over:
    """How a trial ended."""

    outcome: str
    metrics: dict[str, float] = field(default_factory=dict)
    error: str = ""


class Trial(Trainable):
    """One trial: the run of each stage in turn, trained in a thread that waits after each epoch."""

    def setup(self, config: dict[str, Any], desk: Any = None, terms: Terms | None = None) -> None:
        """Take the first trial; Tune calls it in a new process."""
        assert terms is not None
        self._desk, self._terms = desk, terms
        self._done, self._tired, self._memory = 0, False, 0
        if terms.secrets is not None:
            os.environ.update(terms.secrets.values)
        self._placement_group = ray.util.get_current_placement_group()
        self._prepare(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial, or the same one with other settings."""
        self.abandon()
        self._prepare(new_config)
        return True

    def _prepare(self, config: dict[str, Any]) -> None:
        # Not from the config: that of an exploited trial is copied from another one.
        self._number, self._values = int(self.trial_id.partition("_")[0]), dict(config["values"])
        self._pointer: dict[str, Any] | None = None
        self._thread: threading.Thread | None = None
        self._gate: Gate | None = None
        self._run_id: int | None = None
        self._folder: Path | None = None
        self._stage, self._compared = 0, ""
        self._held: Path | None = None

    def step(self) -> dict[str, Any]:
        """Train until the next epoch's end, or until all is over."""
        if self._gate is None:
            self._start()
        else:
            self._gate.go_on()
        assert self._gate is not None
        report = self._gate.reports.get()
        if isinstance(report, BaseException):
            raise report
        facts: dict[str, Any] = {"stage": self._stage, "run_id": self._run_id, "params": json.dumps(self._values)}
        if isinstance(report, Over):
            ended = {"outcome": report.outcome, "error": report.error, "done": True}
            return {**facts, **self._measured(report.metrics), **ended}
        epoch, metrics = report
        return {**facts, "epoch": epoch + 1, **self._measured(metrics)}

    def _measured(self, metrics: dict[str, float]) -> dict[str, Any]:
        """Return the metrics; where they hold what is compared, that under names of its own: schedulers look there."""
        values = [metrics[name] for name in self._names if name in metrics]
        whole = len(values) == len(self._terms.metrics)
        monitor = {"monitor": metrics[self._compared]} if self._compared in metrics else {}
        told = json.dumps(metrics)  # Tune would take a section apart
        return {"metrics": told, **({"values": values, "value": values[0]} if whole else {}), **monitor}

    @property
    def _names(self) -> tuple[str, ...]:
        """What is compared, as this run calls it."""
        return tuple(self._compared if name == MONITOR else name for name in self._terms.metrics)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write down where this trial's state lies; the state itself is in its run's folder."""
        found = manifests(self._folder / "checkpoints") if self._folder else []
        if not found or self._folder is None:
            Path(checkpoint_dir, POINTER).write_text("{}", encoding="utf-8")
            return
        checkpoint = self._folder / "checkpoints" / found[-1].name
        if self._terms.keeps_pointers:
            self._hold(checkpoint)
        facts = {
            "number": self._number,
            "run_id": self._run_id,
            "checkpoint": str(checkpoint),
            "values": self._values,
        }
        Path(checkpoint_dir, POINTER).write_text(json.dumps(facts), encoding="utf-8")

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from another trial's state; a trial's own is found in its run's folder."""
        facts = json.loads(Path(checkpoint, POINTER).read_text(encoding="utf-8"))
        self._pointer = facts if facts and facts["number"] != self._number else None

    def cleanup(self) -> None:
        """Leave nothing behind that writes."""
        self.abandon()

    def abandon(self) -> None:
        """End what is being trained, at the end of its epoch; returns when it has ended."""
        if self._gate is not None:
            self._gate.stop()
        if self._thread is not None and self._terms.nested is None:
            self._thread.join(timeout=ABANDON_S)
        self._thread = None

    def _hold(self, checkpoint: Path) -> None:
        with contextlib.suppress(RecordError):  # tidied at this moment: the next one is
            hold(checkpoint, child(self._terms.sweep_id))
        if self._held is not None and self._held != checkpoint:
            release(self._held, child(self._terms.sweep_id))
        self._held = checkpoint

    def _start(self) -> None:
        """Begin the thread.

        Raises:
            RecycledError: This process is to be replaced first.
        """
        if self._worn():
            raise RecycledError
        from asparagus.data.datasets import keep_cases
        from asparagus.sweep.gate import Gate

        keep_cases()
        self._gate = Gate()
        context = ray.get_runtime_context()
        me = (context.get_actor_id(), context.current_actor)
        self._thread = threading.Thread(target=self._carry_out, args=(self._gate, me), name="trial", daemon=True)
        self._thread.start()

    def _worn(self) -> bool:
        """Tell whether this process has failed, has grown, or has done enough."""
        if not self._done:
            return False
        gc.collect()  # a GPU holds what the last trial left in cycles
        if self._done == 1:
            gc.freeze()  # torch and all else that stays: looked through after each trial, it took 0.15 s
        grown = _resident_bytes() - self._memory > self._terms.recycle_growth
        return self._tired or grown or self._done == self._terms.recycle_after

    def _carry_out(self, gate: Gate, me: Any) -> None:
        """Train the run of each stage; on the thread."""
        from asparagus.sweep.gate import StoppedError

        try:
            over = self._ended(gate, me)
        except StoppedError:
            return
        except BaseException as error:  # noqa: BLE001 - the thread that waits has to hear of it
            gate.reports.put(error)
            return
        self._done += 1
        self._memory = self._memory or _resident_bytes()
        gate.reports.put(over)

    def _ended(self, gate: Gate, me: Any) -> Over:
        """Train, and return how that ended; who is lost with its machine, or has lost the desk, has not ended."""
        from asparagus.sweep.gate import DivergedError, StoppedError

        try:
            return self._stages(gate, me)
        except (StoppedError, *LOST):
            raise
        except (DivergedError, NanLossError) as error:
            return self._lost("diverged", error)
        except Exception as error:  # noqa: BLE001 - of whatever kind: told, recorded, and this process is replaced
            self._tired = True
            return self._lost("out_of_memory" if is_out_of_memory(error) else "failed", error)

    def _stages(self, gate: Gate, me: Any) -> Over:
        before: list[int] = []
        metrics: dict[str, float] = {}
        for place in range(self._terms.stages):
            begun = self._begun(gate, place, before, me)
            if "refused" in begun:
                return Over(begun["outcome"], error=begun["refused"])
            self._stage, self._run_id, self._folder = place, begun["run_id"], _folder_of(begun)
            self._compared = begun["monitor"]
            self._replay(gate)
            metrics = begun["metrics"] if begun["over"] else self._train(gate, begun)
            before.append(begun["run_id"])
        return Over("finished", metrics)

    def _begun(self, gate: Gate, place: int, before: list[int], me: Any) -> dict[str, Any]:
        """Ask the desk to begin a stage, again and again while it has to wait."""
        from asparagus.sweep.gate import StoppedError

        pause = FOLLOW_S
        while True:
            asked = self._desk.begin.remote(
                self._number, place, self._values, before=before, trainer=me, pointer=self._pointer
            )
            begun: dict[str, Any] = ray.get(asked)
            if "wait" not in begun:
                return begun
            if gate.stopped.wait(pause):
                raise StoppedError
            pause = min(2 * pause, WAIT_S)

    def _replay(self, gate: Gate) -> None:
        """Tell again what was measured before: whoever compares may have forgotten it."""
        assert self._folder is not None
        known = {
            event["epoch"]: event["values"]
            for event in JournalReader(self._folder / "journal.jsonl").read()
            if event["kind"] == "epoch"
        }
        for epoch in sorted(known):
            gate.report(epoch, known[epoch])

    def _train(self, gate: Gate, begun: dict[str, Any]) -> dict[str, float]:
        assignment = Assignment.from_dict(begun["assignment"])
        if self._terms.nested is not None:
            measured = self._train_on_workers(gate, begun["plan"], assignment)
        else:
            WATCH.start()
            from asparagus.sweep.gate import TrialRanks
            from asparagus.worker.work import work

            WATCH.lap(Phase.IMPORTS)
            measured = work(assignment, TrialRanks(gate, self._names))
        metrics: dict[str, float] = measured["metrics"]
        ray.get(self._desk.end.remote(self._run_id, "finished", metrics))
        return metrics

    def _train_on_workers(self, gate: Gate, plan: dict[str, Any], assignment: Assignment) -> dict[str, Any]:
        """Have Ray Train's workers train; they wait after each epoch until the sweep has heard of it."""
        from asparagus.sweep.gate import StoppedError, must_be_numbers

        assert self._terms.nested is not None
        reader = JournalReader(Path(assignment.folder) / "journal.jsonl", begun_at(assignment))
        trained = _apart(self._terms.nested, plan, assignment, self._placement_group, self._desk)
        measured: list[Event] = []
        while True:
            over, _ = wait([trained], timeout=FOLLOW_S)
            measured += [event for event in reader.read() if event["kind"] == "epoch"]
            arrived = ray.get(self._desk.arrived.remote(assignment.run_id)) if measured and not over else math.inf
            while measured and measured[0]["epoch"] <= arrived:
                event = measured.pop(0)
                gate.report(event["epoch"], event["values"])
                must_be_numbers(event["epoch"], event["values"], self._names)
                ray.get(self._desk.let.remote(assignment.run_id, event["epoch"]))
            if gate.stopped.is_set():
                raise StoppedError  # this process ends, and its workers with it
            if over:
                outcome: dict[str, Any] = trained.result()
                return outcome

    def _lost(self, outcome: str, error: BaseException) -> Over:
        """Write down a training that failed."""
        story = "".join(traceback.format_exception(error))
        text = str(error) if isinstance(error, AsparagusError) else f"{type(error).__name__}: {error}"
        if self._run_id is not None:
            ray.get(self._desk.end.remote(self._run_id, "failed", {}, story=story))
        return Over(outcome, error=hide(text, set(self._terms.secrets.values)) if self._terms.secrets else text)


def _apart(call: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Call something on a thread that does not keep the process alive, as one of a pool would."""
    future: Future[Any] = Future()

    def carry_out() -> None:
        try:
            future.set_result(call(*arguments))
        except BaseException as error:  # noqa: BLE001 - whoever waits has to hear of it
            future.set_exception(error)

    threading.Thread(target=carry_out, name="workers", daemon=True).start()
    return future


def _folder_of(begun: dict[str, Any]) -> Path:
    """Return a run's folder on this machine, brought up to the store's where there is one."""
    if begun["store"] is None:
        return Path(begun["folder"])
    from asparagus.storage.kept import see_run
    from asparagus.worker.stored import home_of

    folder = home_of(begun["folder"], begun["models"], begun["store"])
    see_run(folder, at_least=0)
    return folder


def begun_at(assignment: Assignment) -> int:
    """Return where this attempt's events begin in the run's journal."""
    journal = Path(assignment.folder) / "journal.jsonl"
    return journal.stat().st_size if journal.is_file() else 0


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)
