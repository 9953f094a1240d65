"""The desk of a sweep: begins and ends the runs of its trials, which train elsewhere. One per sweep, beside its driver.

It has the sweep's one recorder, and holds the runs that are being trained, as the driver of a single run does.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Protocol

from asparagus.checkpoint.folder import manifests
from asparagus.checkpoint.holds import child, hold
from asparagus.driver.begin import Begun, Surroundings, begun, looking
from asparagus.errors import RecordError, RequestError
from asparagus.plan import Plan
from asparagus.record.numbers import enter
from asparagus.record.recorder import Recorder
from asparagus.record.run_folder import FINISHED, INTERRUPTED, is_running, mark, write_json
from asparagus.record.standing import Standing, standing
from asparagus.secrets import Sealed, hide, references, reveal
from asparagus.spec import Exploit, TrialOf

WAIT_S = 0.5
CLOSE_S = 300.0
EXPLOIT = "exploit.json"
"""In the folder of a run that went on from another one's state: which, and after which checkpoint of its own."""
OPTIM = "optim."

log = logging.getLogger("asparagus")


class Planner(Protocol):
    """Plans the run of one stage of one trial."""

    stages: int

    def plan(self, stage: int, values: Mapping[str, Any], *, parent: int | None) -> Plan:
        """Return the plan of a stage with the values of a trial, started from the run before.

        Raises:
            RequestError: These values do not make an experiment.
        """


class Desk:
    """Begins and ends runs. Its methods may be called from many threads.

    Args:
        planner: Plans each trial's runs.
        tracking_uri: Of the store, as the experiment writes it.
        results: Where a local store keeps artifacts.
        models: The folder of all runs.
        attempts: How often one launch trains a run that is lost.
        secrets: Environment variables, sealed.
        home: Where the driver stands.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - over the wire
        self,
        planner: Planner,
        tracking_uri: str,
        results: str,
        models: str,
        attempts: int,
        secrets: Sealed,
        home: str,
    ) -> None:
        os.environ.update(secrets.values)
        os.chdir(home)
        self._planner, self._models, self._attempts = planner, Path(models), attempts
        with looking() as seen:
            self._recorder = Recorder(str(reveal(tracking_uri)), Path(results) / "mlartifacts", self._models)
            self._seen: Future[Surroundings] = Future()
            self._seen.set_result(seen.result())
        self._closing = ThreadPoolExecutor(1, thread_name_prefix="close")
        self._shared = threading.Lock()
        self._changed = threading.Condition()
        self._held: dict[int, tuple[Begun, ExitStack]] = {}
        self._of_trial: dict[tuple[int, int], tuple[int, Any]] = {}
        self._tries: Counter[tuple[int, int]] = Counter()
        self._told_end: dict[int, Future[None]] = {}
        self._sweep_id = 0

    def open(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Begin the sweep's own run, or go on with it; returns `run_id`, `folder`, `mlflow_run_id`, `attempt`."""
        made = self._hold(Plan.from_dict(plan))
        self._sweep_id = made.run_id
        return {
            "run_id": made.run_id,
            "folder": str(made.folder.path),
            "mlflow_run_id": made.mlflow_run_id,
            "attempt": made.attempt,
            "offset": made.offset,
        }

    def begin(
        self,
        number: int,
        stage: int,
        values: dict[str, Any],
        *,
        parent: int | None = None,
        trainer: Any = None,
        pointer: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Begin the run of a stage of a trial, go on with it, or tell how it ended before.

        Args:
            number: Of the trial.
            stage: Place in the pipeline.
            values: Of the trial.
            parent: The run of the stage before.
            trainer: The actor that asks; one that had the run before is told to leave it.
            pointer: The state of another trial to go on from.

        Returns:
            `run_id`, `folder`, `monitor`, `over`, then `metrics` or `assignment` and `plan`; or `refused`, `outcome`.
        """
        try:
            return self._begin(number, stage, values, parent=parent, trainer=trainer, pointer=pointer)
        except RequestError as error:
            return {"refused": str(error), "outcome": "failed"}

    def _begin(
        self,
        number: int,
        stage: int,
        values: dict[str, Any],
        *,
        parent: int | None,
        trainer: Any,
        pointer: dict[str, Any] | None,
    ) -> dict[str, Any]:
        self._leave_behind(number, stage, trainer)
        last = stage == self._planner.stages - 1
        plan = self._planner.plan(stage, values, parent=parent)
        plan = dataclasses.replace(plan, trial=TrialOf(self._sweep_id, number, stage, last))
        if self._tries[number, stage] > self._attempts:
            return {
                "refused": f"trial {number}: its worker was lost {self._attempts + 1} times (run.max_failures)",
                "outcome": "lost",
            }
        made = self._hold_or_find(plan)
        if isinstance(made, Standing):
            ended = {"over": True, "metrics": made.facts.get("metrics", {})}
            return self._told(made.run_id, plan, str(made.folder.path)) | ended
        self._tries[number, stage] += 1
        self._of_trial[number, stage] = made.run_id, trainer
        exploit = self._exploit(made, values, pointer)
        assignment = dataclasses.replace(made.assignment, exploit=exploit)
        return self._told(made.run_id, plan, str(made.folder.path)) | {
            "over": False,
            "assignment": assignment.to_dict(),
            "plan": plan.to_dict(),
        }

    def end(self, run_id: int, state: str, metrics: dict[str, float], *, story: str = "") -> None:
        """End a run: its folder says so when this returns, the tracking store soon after."""
        with self._changed:
            held = self._held.pop(run_id, None)
        if held is None:
            return
        made, stack = held
        try:
            made.write_state(state, metrics)
            if story:
                with made.folder.log.open("a", encoding="utf-8") as file:
                    file.write(hide(story, set(references(made.plan.spec.to_dict()))))
            if state == FINISHED and made.plan.trial is not None and made.plan.trial.last:
                # Over, it is a run like any other: who asks for the same is shown it.
                enter(self._models, run_id, {"identity": made.plan.identity})
        except OSError as error:
            log.warning("run %d: its end cannot be written (%s): it counts as unfinished", run_id, error.strerror)
        stack.close()
        with self._changed:
            self._told_end[run_id] = self._closing.submit(self._close, run_id, state)
            self._changed.notify_all()

    def end_trial(self, number: int, state: str, metrics: dict[str, float]) -> None:
        """End whatever run of a trial is held."""
        for (trial, _), (run_id, _trainer) in list(self._of_trial.items()):
            if trial == number:
                self.end(run_id, state, metrics)

    def close(self, state: str, metrics: dict[str, float]) -> bool:
        """End all that is held, the sweep's own run last. Returns whether the store was told everything."""
        for run_id in [run_id for run_id in list(self._held) if run_id != self._sweep_id]:
            self.end(run_id, INTERRUPTED, {})
        self.end(self._sweep_id, state, metrics)
        self._closing.shutdown(wait=True)
        self._recorder.__exit__(None, None, None)
        return True

    def _close(self, run_id: int, state: str) -> None:
        """Tell the tracking store; on a thread of its own, one after another."""
        try:
            if not self._recorder.close(run_id, state=state):
                log.warning("run %d: the tracking store is away; asp record rebuild tells it later", run_id)
        except RecordError as error:
            log.warning("%s", error)

    def _hold_or_find(self, plan: Plan) -> Begun | Standing:
        """Begin a run or go on with it, unless it has ended by itself; one that another trial trains is waited for."""
        assert plan.trial is not None
        while True:
            with nullcontext() if plan.trial.last else self._shared:
                found = standing(plan.spec, plan.identity, trial=plan.trial)
                if found is not None and found.finished:
                    return found
                taken = found is not None and (found.run_id in self._held or is_running(found.folder))
                if plan.trial.last or not taken:
                    return self._hold(plan)
            with self._changed:
                self._changed.wait(WAIT_S)

    def _hold(self, plan: Plan) -> Begun:
        """Begin a run, and keep it."""
        stack = ExitStack()
        made = stack.enter_context(begun(plan, self._recorder, self._seen))
        self._held[made.run_id] = made, stack
        return made

    def _leave_behind(self, number: int, stage: int, trainer: Any) -> None:
        """End the attempt of a worker that was lost, or that holds a paused trial."""
        run_id, before = self._of_trial.pop((number, stage), (0, None))
        if run_id not in self._held:
            return
        if before is not None and before != trainer:
            _abandon(before)
        self.end(run_id, INTERRUPTED, {})
        self._told_end[run_id].result(timeout=CLOSE_S)  # the store knows one attempt of a run at a time

    def _exploit(self, made: Begun, values: dict[str, Any], pointer: dict[str, Any] | None) -> Exploit | None:
        """Return the other one's state to go on from: asked for now, or by an attempt that came to nothing."""
        noted, own = made.folder.path / EXPLOIT, manifests(made.folder.checkpoints)
        newest = own[-1].name if own else None
        if pointer is None:
            before = json.loads(noted.read_text(encoding="utf-8")) if noted.is_file() else {}
            return Exploit(**before["exploit"]) if before and before["after"] == newest else None
        changed = {
            key.removeprefix(OPTIM): (float(pointer["values"][key]), float(value))
            for key, value in values.items()
            if key.startswith(OPTIM) and pointer["values"].get(key) != value
        }
        exploit = Exploit(pointer["checkpoint"], pointer["run_id"], changed)
        hold(Path(exploit.checkpoint), child(made.run_id))
        write_json(noted, {"exploit": dataclasses.asdict(exploit), "after": newest})
        return exploit

    @staticmethod
    def _told(run_id: int, plan: Plan, folder: str) -> dict[str, Any]:
        return {"run_id": run_id, "folder": folder, "monitor": plan.spec.checkpoint.monitor or ""}


def _abandon(trainer: Any) -> None:
    """Have the actor that had a trial end its training, if it is still there."""
    import ray
    from ray.exceptions import RayError

    try:
        ray.get(trainer.abandon.remote(), timeout=CLOSE_S)
    except RayError:  # it is gone, and its training with it
        return


def reopened(found: Standing) -> None:
    """Let a finished sweep go on: more is asked of it."""
    mark(found.folder, INTERRUPTED)
