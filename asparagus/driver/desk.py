"""The desk of a sweep: begins and ends the runs of its trials, which train elsewhere. One per sweep, beside its driver.

It has the sweep's one recorder, and holds the runs that are being trained, as the driver of a single run does.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Protocol

from asparagus.checkpoint.folder import manifests
from asparagus.checkpoint.holds import child, hold
from asparagus.driver.begin import Begun, Surroundings, begun, looking
from asparagus.errors import RecordError, RequestError, StoreAwayError
from asparagus.plan import Plan
from asparagus.record.backlog import waiting
from asparagus.record.numbers import enter, of_sweep
from asparagus.record.recorder import Recorder
from asparagus.record.run_folder import FINISHED, INTERRUPTED, is_running, write_json
from asparagus.record.standing import Standing, standing
from asparagus.secrets import Sealed, hide, references, reveal
from asparagus.spec import Exploit, TrialOf
from asparagus.stopwatch import Stopwatch

AWAY_S = 600.0
"""How long a trial waits for a tracking store that is away."""
CLOSE_S = 300.0
EXPLOIT = "exploit.json"
"""In the folder of a run that went on from another one's state: which, and after which checkpoint of its own."""
OPTIM = "optim."

log = logging.getLogger("asparagus")


class Planner(Protocol):
    """Plans the run of one stage of one trial."""

    @property
    def stages(self) -> int:
        """Runs that one trial consists of."""

    def plan(self, stage: int, values: Mapping[str, Any], *, before: Sequence[int] | None) -> Plan:
        """Return the plan of a stage with the values of a trial, started from a run before it.

        Raises:
            RequestError: These values do not make an experiment.
        """


@dataclasses.dataclass
class Turn:
    """How far the workers of an attempt of a trial are, and how far they may go."""

    attempt: int
    arrived: int = -1
    let: int = -1


class Desk:
    """Begins and ends runs. Its methods may be called from many threads.

    Args:
        planner: Plans each trial's runs.
        tracking_uri: Of the store, as the experiment writes it.
        results: Where a local store keeps artifacts.
        models: The folder of all runs.
        secrets: Environment variables, sealed.
        home: Where the driver stands.
        command: What was typed: the record of every run says it.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - over the wire
        self,
        planner: Planner,
        tracking_uri: str,
        results: str,
        models: str,
        secrets: Sealed,
        home: str,
        command: list[str],
    ) -> None:
        sys.argv[:] = command
        os.environ.update(secrets.values)
        os.chdir(home)
        self._planner, self._models = planner, Path(models)
        with looking() as seen:
            self._recorder = Recorder(str(reveal(tracking_uri)), Path(results) / "mlartifacts", self._models)
            self._seen: Future[Surroundings] = Future()
            self._seen.set_result(seen.result())
        self._closing = ThreadPoolExecutor(1, thread_name_prefix="close")
        self._planning = threading.Lock()  # Hydra has one state for a whole process
        self._shared = threading.Lock()
        self._held: dict[int, tuple[Begun, ExitStack]] = {}
        self._of_trial: dict[tuple[int, int], tuple[int, Any]] = {}
        self._turns: dict[int, Turn] = {}
        self._plans: dict[int, tuple[Any, Plan]] = {}
        self._away: dict[int, float] = {}
        self._busy: dict[str, int] = {}  # an actor -> the trial that it took last
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
        }

    def begin(
        self,
        number: int,
        stage: int,
        values: dict[str, Any],
        *,
        before: Sequence[int] = (),
        trainer: tuple[str, Any] | None = None,
        pointer: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Begin the run of a stage of a trial, go on with it, or tell how it ended before.

        Args:
            number: Of the trial.
            stage: Place in the pipeline.
            values: Of the trial.
            before: The runs of the stages before.
            trainer: The actor that asks, and its id; one that had the run before is told to leave it.
            pointer: The state of another trial to go on from.

        Returns:
            `run_id`, `folder`, `monitor`, `over`, then `metrics` or `assignment` and `plan`; or `refused`, `outcome`;
            or `wait`, why it is to be asked again in a while: no thread of the desk waits for another trial.
        """
        try:
            begun = self._begin(number, stage, values, before=before, trainer=trainer, pointer=pointer)
        except StoreAwayError as error:
            if number not in self._away:
                log.warning("trial %d waits for the tracking store, up to %d min: %s", number, AWAY_S / 60, error)
            away = time.monotonic() - self._away.setdefault(number, time.monotonic())
            return {"wait": str(error)} if away < AWAY_S else {"refused": str(error), "outcome": "failed"}
        except RequestError as error:
            return {"refused": str(error), "outcome": "failed"}
        self._away.pop(number, None)
        return begun

    def _begin(
        self,
        number: int,
        stage: int,
        values: dict[str, Any],
        *,
        before: Sequence[int],
        trainer: tuple[str, Any] | None,
        pointer: dict[str, Any] | None,
    ) -> dict[str, Any]:
        taken = self._of_trial.get((number, stage))
        if taken is not None and trainer is not None and taken[0] in self._held:
            self._leave_behind(number, taken[1], trainer)
        if trainer is not None:
            self._busy[trainer[0]] = number
        last = stage == self._planner.stages - 1
        plan = self._planned(number, stage, values, before)
        plan = dataclasses.replace(plan, trial=TrialOf(self._sweep_id, number, stage, last))
        ours = taken is not None and taken[0] in self._held
        made = self._again(taken[0], plan) if taken and ours else self._hold_or_find(plan)
        if made is None:
            return {"wait": "another trial trains what this one starts from"}
        self._plans.pop(number, None)
        if isinstance(made, Standing):
            ended = {"over": True, "metrics": made.facts.get("metrics", {})}
            return self._told(made.run_id, plan, str(made.folder.path)) | ended
        self._of_trial[number, stage] = made.run_id, trainer
        self._turns[made.run_id] = Turn(made.attempt)
        exploit = self._exploit(made, values, pointer)
        assignment = dataclasses.replace(made.assignment, exploit=exploit)
        return self._told(made.run_id, plan, str(made.folder.path)) | {
            "over": False,
            "assignment": assignment.to_dict(),
            "plan": plan.to_dict(),
        }

    def _again(self, run_id: int, plan: Plan) -> Begun:
        """Let a run go on that we hold: its worker was lost, or it was put aside, or has other settings now."""
        made, stack = self._held[run_id]
        made = dataclasses.replace(made, plan=plan, attempt=made.attempt + 1)
        self._held[run_id] = made, stack
        return made

    def arrive(self, run_id: int, attempt: int, epoch: int) -> bool:
        """Take note that the workers of a trial have ended an epoch; tells whether they go on.

        Those of an attempt that is over are about to end, and wait for it.
        """
        turn = self._turns[run_id]
        if turn.attempt != attempt:
            return False
        turn.arrived = max(turn.arrived, epoch)
        return epoch <= turn.let

    def arrived(self, run_id: int) -> int:
        """Return the last epoch that the workers of a trial have ended in this attempt, -1 before the first."""
        return self._turns[run_id].arrived

    def let(self, run_id: int, epoch: int) -> None:
        """Let the workers of a trial go on after an epoch."""
        turn = self._turns[run_id]
        turn.let = max(turn.let, epoch)

    def end(self, run_id: int, state: str, metrics: dict[str, float], *, story: str = "") -> None:
        """End a run: its folder says so when this returns, the tracking store soon after."""
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
        self._closing.submit(self._close, run_id, state)

    def end_trial(self, number: int, state: str, metrics: dict[str, float]) -> None:
        """End whatever run of a trial is held."""
        for (trial, _), (run_id, _trainer) in list(self._of_trial.items()):
            if trial == number:
                self.end(run_id, state, metrics)

    def close(self, state: str, metrics: dict[str, float]) -> None:
        """End all that is held, the sweep's own run last; what the store could not be told is in the log."""
        for run_id in [run_id for run_id in list(self._held) if run_id != self._sweep_id]:
            self.end(run_id, INTERRUPTED, {})
        self.end(self._sweep_id, state, metrics)
        self._closing.shutdown(wait=True)
        self._complete()
        self._recorder.__exit__(None, None, None)

    def _complete(self) -> None:
        """Tell the tracking store of trials that ended before, when all was killed at that moment."""
        late = set(waiting(self._models, self._recorder.tracking_uri))
        if not late or not (late := late & set(of_sweep(self._models, self._sweep_id))):
            return
        try:
            problems = self._recorder.complete(late)
        except RecordError as error:
            problems = [str(error)]
        for problem in problems:
            log.warning("the tracking store lacks the end of a trial, until the next launch: %s", problem)

    def _close(self, run_id: int, state: str) -> None:
        """Tell the tracking store; on a thread of its own, one after another."""
        try:
            if not self._recorder.close(run_id, state=state):
                log.warning("run %d: the tracking store is away; the next launch tells it", run_id)
        except RecordError as error:
            log.warning("%s", error)

    def _planned(self, number: int, stage: int, values: dict[str, Any], before: Sequence[int]) -> Plan:
        """Plan once for a trial that asks again and again."""
        asked = (stage, json.dumps(values, sort_keys=True, default=str), tuple(before))
        known = self._plans.get(number)
        if known is not None and known[0] == asked:
            return known[1]
        with self._planning:
            plan = self._planner.plan(stage, values, before=before)
        self._plans[number] = asked, plan
        return plan

    def _hold_or_find(self, plan: Plan) -> Begun | Standing | None:
        """Begin a run or go on with it, unless it has ended by itself; None while another trial trains it."""
        assert plan.trial is not None
        with nullcontext() if plan.trial.last else self._shared:
            found = standing(plan.spec, plan.identity, trial=plan.trial)
            if found is not None and found.finished:
                return found
            taken = found is not None and (found.run_id in self._held or is_running(found.folder))
            return self._hold(plan) if plan.trial.last or not taken else None

    def _hold(self, plan: Plan) -> Begun:
        """Begin a run, and keep it."""
        stack = ExitStack()
        made = stack.enter_context(begun(plan, self._recorder, self._seen, Stopwatch()))
        self._held[made.run_id] = made, stack
        return made

    def _leave_behind(self, number: int, before: tuple[str, Any] | None, trainer: tuple[str, Any]) -> None:
        """Have the actor that held the trial let go of it, unless it has gone on to another one."""
        if before is not None and before[0] != trainer[0] and self._busy.get(before[0]) == number:
            _abandon(before[1])

    def _exploit(self, made: Begun, values: dict[str, Any], pointer: dict[str, Any] | None) -> Exploit | None:
        """Return the other one's state to go on from: asked for now, or by an attempt that came to nothing."""
        noted, own = made.folder.path / EXPLOIT, manifests(made.folder.checkpoints)
        newest = own[-1].name if own else None
        if pointer is None:
            before = json.loads(noted.read_text(encoding="utf-8")) if noted.is_file() else {}
            return Exploit(**before) if before and before["after"] == newest else None
        changed = {
            key.removeprefix(OPTIM): (float(pointer["values"][key]), float(value))
            for key, value in values.items()
            if key.startswith(OPTIM) and pointer["values"].get(key) != value
        }
        exploit = Exploit(pointer["checkpoint"], pointer["run_id"], changed, newest)
        hold(Path(exploit.checkpoint), child(made.run_id))
        write_json(noted, dataclasses.asdict(exploit))
        return exploit

    @staticmethod
    def _told(run_id: int, plan: Plan, folder: str) -> dict[str, Any]:
        paths = plan.spec.paths
        place = {"folder": folder, "models": paths.models, "store": paths.stores.get("models")}
        return {"run_id": run_id, **place, "monitor": plan.spec.checkpoint.monitor or ""}


def _abandon(trainer: Any) -> None:
    """Have the actor that had a trial end its training, if it is still there."""
    import ray
    from ray.exceptions import RayError

    try:
        ray.get(trainer.abandon.remote(), timeout=CLOSE_S)
    except RayError:  # it is gone, and its training with it
        return
