"""One sweep carried out: its own run, its desk, its study, and Tune; then what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from asparagus.driver.desk import Planner
from asparagus.driver.eval_box import weights_must_fit, write_table
from asparagus.driver.on_ray import chatter_to, connected, secrets_of
from asparagus.driver.one_run import Watcher, complete
from asparagus.driver.own_ray import LOCAL
from asparagus.driver.sweep_again import begun_before
from asparagus.driver.sweep_outcome import SweepOutcome, draw, make_room, measured, outcome_of
from asparagus.errors import RecordError, RunError
from asparagus.journal import Journal, JournalReader
from asparagus.record.numbers import find_folder, of_sweep
from asparagus.record.run_folder import FAILED, FINISHED, INTERRUPTED, RunFolder, mark
from asparagus.record.sweeps import REQUEST, SWEEP, storage_of, study_name, study_of
from asparagus.secrets import Sealed, WithoutSecrets
from asparagus.sweep_plan import SweepPlan

if TYPE_CHECKING:
    from asparagus.sweep.limits import Limits
    from asparagus.sweep.search import Proposals
    from asparagus.sweep.study import Study
    from asparagus.sweep.trial import Terms

DESK_THREADS = 64
TUNE = ".tune"
GROUP = 128
"""More trials than hyperband compares at once."""

log = logging.getLogger("asparagus")


def drive_sweep(plan: SweepPlan, planner: Planner, watcher: Watcher) -> SweepOutcome:
    """Carry out a sweep, go on with the one that was begun, or show the finished one.

    Raises:
        RequestError: The store cannot be reached, or a trial can never run; nothing was trained.
        RunError: It ended without a result; the record says so.
        KeyboardInterrupt: It was interrupted; the same command goes on.
    """
    found = begun_before(plan)
    if found is not None and found.finished:
        study = _study(plan, found.folder)
        if study.counted() >= plan.trials:
            complete(plan.last, [found.run_id, *of_sweep(Path(plan.last.spec.paths.models), found.run_id)])
            return dataclasses.replace(outcome_of(study, found.run_id, found.folder, found.facts), repeated=False)
        mark(found.folder, INTERRUPTED)  # more is asked of it
    if plan.is_box:
        weights_must_fit(plan)
    with connected(dataclasses.replace(plan.last, workers=1), at_once=_cpus(plan)), _desk(plan, planner) as desk:
        return _search(plan, desk, watcher)


def _cpus(plan: SweepPlan) -> float | None:
    """Return the CPUs of a Ray of our own: nothing else holds schedulers back that need many trials at once."""
    if plan.options.concurrency is None:
        return None
    return plan.options.concurrency * sum(bundle.get("CPU", 0) for bundle in plan.bundles)


@contextmanager
def _desk(plan: SweepPlan, planner: Planner) -> Iterator[Any]:
    """Start the desk: a process beside this one, on its node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from asparagus.driver.desk import Desk

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    spec = plan.last.spec
    made = ray.remote(Desk).options(num_cpus=0, max_concurrency=DESK_THREADS, scheduling_strategy=here)
    yield made.remote(
        planner,
        str(spec.site.tracking_uri),
        spec.paths.results,
        spec.paths.models,
        Sealed({**_secrets(plan), **_tracking()}),
        str(Path.cwd()),
        sys.argv,
    )


def _secrets(plan: SweepPlan) -> dict[str, str]:
    found: dict[str, str] = {}
    for stage in plan.stages:
        found |= secrets_of(stage.spec)
    return found


def _tracking() -> dict[str, str]:
    """Return the variables that the store is reached by."""
    return {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}


def _study(plan: SweepPlan, folder: RunFolder) -> Study:
    from asparagus.compose.constraints import holds
    from asparagus.sweep.study import Study

    storage = storage_of(folder.path, plan.options.storage)
    options = dataclasses.replace(plan.options, metric=list(plan.metrics), mode=list(plan.modes))
    name = study_name(int(folder.path.name.removeprefix("run_id=")), plan.identity)
    return Study.open(storage, name, plan.space, options, holds=holds, concurrency=plan.concurrency or 2)


def _search(plan: SweepPlan, desk: Any, watcher: Watcher) -> SweepOutcome:
    """Search, and say in words if the desk is lost.

    Raises:
        RunError: It is, or the sweep ended without a result.
    """
    from ray.exceptions import RayActorError

    try:
        return _searched(plan, desk, watcher)
    except RayActorError as error:
        raise RunError(
            "the sweep's desk is gone, the process that begins and ends its runs: was it killed, or memory short? "
            f"Nothing is lost; the same command goes on. Ray says: {str(error).splitlines()[0]}"
        ) from error


def _searched(plan: SweepPlan, desk: Any, watcher: Watcher) -> SweepOutcome:
    import ray
    from ray.exceptions import RayTaskError

    try:
        sweep = ray.get(desk.open.remote(plan.parent.to_dict()))
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from None
    folder = RunFolder(Path(sweep["folder"]), SWEEP)
    watcher(
        {
            "kind": "sweep",
            "run_id": sweep["run_id"],
            "folder": str(folder.path),
            "attempt": sweep["attempt"],
            "trials": plan.trials,
            "metrics": plan.metrics,
        }
    )
    state, metrics, reason = FAILED, {}, None
    study = None
    try:
        study = _study(plan, folder)
        _inherit(plan, study)
        (folder.path / REQUEST).write_text(json.dumps(plan.to_dict(), indent=2, default=str) + "\n", encoding="utf-8")
        state, reason = _run(plan, desk, study, sweep, watcher)
        metrics = measured(study, plan.metrics)
    except KeyboardInterrupt:
        state = INTERRUPTED
        raise
    finally:
        try:
            if study is not None and state != INTERRUPTED:
                watcher({"kind": "drawing"})
                _draw(plan, study, sweep["run_id"], folder)
        finally:
            ray.get(desk.close.remote(state, metrics))
    if state == INTERRUPTED:
        raise KeyboardInterrupt
    if state == FAILED:
        raise RunError(f"sweep {sweep['run_id']} ended without a result: {reason}\nThe whole story: {folder.log}")
    outcome = outcome_of(study, sweep["run_id"], folder, {"state": state, "mlflow_run_id": sweep["mlflow_run_id"]})
    return dataclasses.replace(outcome, reason=reason)


def _draw(plan: SweepPlan, study: Study, sweep_id: int, folder: RunFolder) -> None:
    if plan.is_box:
        write_table(sweep_id, folder, plan.last.spec.paths)
    else:
        draw(study, folder, plan.metrics)


def _run(
    plan: SweepPlan, desk: Any, study: Study, sweep: dict[str, Any], watcher: Watcher
) -> tuple[str, str | None]:  # fmt: skip
    """Let Tune train; returns the state that it ended in, and what ended it early."""
    import ray

    from asparagus.sweep.limits import HOPELESS
    from asparagus.sweep.limits import INTERRUPTED as STOPPED
    from asparagus.sweep.schedulers import PAUSING, scheduler_of
    from asparagus.sweep.search import WRONG, Proposals

    folder = RunFolder(Path(sweep["folder"]), SWEEP)
    terms, limits = _terms(plan, sweep["run_id"]), _limits(plan, folder)
    many = scheduler_of(plan.options) in PAUSING
    with _account(plan, folder, limits, watcher, study) as tell:
        proposals = Proposals(
            study,
            trials=plan.trials,
            concurrency=plan.options.concurrency if many else plan.concurrency or _held_here(plan),
            spare=_spare(plan),
            limits=limits,
            terms=terms,
            attempts=plan.last.spec.run.max_failures + 1,
            end_run=lambda number, state, metrics: ray.get(desk.end_trial.remote(number, state, metrics)),
            tell=tell,
        )
        with (
            _interrupts(proposals, limits, watcher),
            chatter_to(folder.log, WithoutSecrets(plan.last.spec.to_dict())),
        ):
            limits.look(lambda: _folders(plan, sweep["run_id"]))
            proposals.count()
            if limits.kind is None:  # else what ended it before would end it again, with trials that have just begun
                _tune(plan, proposals, limits, desk, folder.path / TUNE / f"attempt{sweep['attempt']}")
            proposals.close()
    if limits.kind == STOPPED or (proposals.draining and study.counted() < plan.trials):
        return INTERRUPTED, limits.reason
    return (FAILED if limits.kind in (HOPELESS, WRONG) else FINISHED), limits.reason


def _spare(plan: SweepPlan) -> int:
    """Return how many trials are drawn to wait for a place: of whole groups, or one to change places with."""
    from asparagus.sweep.schedulers import HYPERBAND, PAUSING, scheduler_of

    name = scheduler_of(plan.options)
    return min(plan.trials, GROUP) if name == HYPERBAND else int(name in PAUSING)


def _terms(plan: SweepPlan, sweep_id: int) -> Terms:
    from asparagus.sweep.schedulers import PBT, scheduler_of
    from asparagus.sweep.trial import Terms

    return Terms(
        sweep_id=sweep_id,
        stages=plan.runs_per_trial,
        metrics=plan.metrics,
        secrets=Sealed(_secrets(plan)),
        nested=_nested if plan.nested else None,
        keeps_pointers=scheduler_of(plan.options) == PBT,
        recycle_after=plan.options.recycle_after,
    )


def _tune(plan: SweepPlan, proposals: Proposals, limits: Limits, desk: Any, scratch: Path) -> None:
    """Build what Tune is given, and let it run; what it keeps meanwhile is of no use afterwards."""
    from ray import tune

    from asparagus.sweep.schedulers import MONITOR, VALUE, build_scheduler
    from asparagus.sweep.search import search
    from asparagus.sweep.trial import Trial

    sweep_id = proposals.terms.sweep_id  # Tune pickles what looks: no open file may hang on it
    modes = [(MONITOR, str(stage.spec.checkpoint.mode or "min")) for stage in plan.stages[: plan.runs_per_trial - 1]]
    epochs = plan.last.spec.trainer.get("max_epochs")
    scheduler = build_scheduler(
        plan.options,
        plan.space,
        epochs=epochs if isinstance(epochs, int) and epochs > 0 else None,
        modes=(*modes, (VALUE, plan.modes[0])),
    )
    search(
        proposals,
        scheduler,
        trainable=tune.with_parameters(Trial, desk=desk, terms=proposals.terms),
        bundles=plan.bundles,
        limits=limits,
        look=lambda: limits.look(lambda: _folders(plan, sweep_id)),
        folder=scratch,
        reuse=not plan.nested,
        pending=min(plan.trials, GROUP),
    )
    shutil.rmtree(scratch.parent, ignore_errors=True)


def _folders(plan: SweepPlan, sweep_id: int) -> Iterator[Path]:
    """Yield the folders of a sweep's runs that are there."""
    models = Path(plan.last.spec.paths.models)
    for run_id in of_sweep(models, sweep_id):
        with contextlib.suppress(RecordError):  # moved, or thrown away meanwhile
            yield find_folder(models, run_id)


def _held_here(plan: SweepPlan) -> int | None:
    """Return how many trials a Ray of our own holds; a cluster may grow, if there is a trial that waits for a place."""
    import ray

    if plan.last.spec.site.address != LOCAL:
        return None
    return max(1, plan.held_by([node["Resources"] for node in ray.nodes() if node["Alive"]]) or 1)


def _nested(plan: dict[str, Any], assignment: Any, placement_group: Any, desk: Any) -> dict[str, Any]:
    """Train one stage of a trial on Ray Train's workers, in the places that Tune has reserved."""
    from asparagus.driver.on_ray import fit
    from asparagus.plan import Plan

    return fit(Plan.from_dict(plan), assignment, placement_group=placement_group, desk=desk)


def _limits(plan: SweepPlan, folder: RunFolder) -> Limits:
    from asparagus.compose.sweep_section import disk_of, seconds_of
    from asparagus.sweep.limits import Limits

    options = plan.options
    events: list[dict[str, Any]] = [dict(event) for event in JournalReader(folder.journal).read()]
    spent = [event["used"] for event in events if "used" in event]
    before = spent[-1] if spent else (0.0, 0.0)
    return Limits(
        seconds=None if options.time is None else seconds_of(options.time),
        gpu_seconds=None if options.gpu_hours is None else options.gpu_hours * 3600,
        disk_bytes=None if options.disk is None else disk_of(options.disk),
        patience=options.patience,
        max_failures=options.max_failures,
        spent=(float(before[0]), float(before[1])),
        gpus=sum(bundle.get("GPU", 0) for bundle in plan.bundles),
    )


@contextmanager
def _account(
    plan: SweepPlan, folder: RunFolder, limits: Limits, watcher: Watcher, study: Study
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Write the sweep's own journal, show what happens, and make room after each trial."""
    journal = Journal(folder.journal)

    def tell(event: dict[str, Any]) -> None:
        watcher(event)  # type: ignore[arg-type]
        if event["kind"] == "trial_epoch":
            return  # in the trial's own journal
        fields = {key: value for key, value in event.items() if key != "kind"}
        journal.append(event["kind"], used=limits.used(), **fields)
        if event["kind"] == "trial_over":
            over = study.counted()
            journal.append("metrics", step=over, epoch=over, values=measured(study, plan.metrics))
            if plan.options.keep_best is not None:
                make_room(study, folder, plan.options.keep_best)

    try:
        yield tell
    finally:
        journal.append("pause", used=limits.used(), reason=limits.reason)
        journal.close()


@contextmanager
def _interrupts(proposals: Proposals, limits: Limits, watcher: Watcher) -> Iterator[None]:
    """Ctrl-C once: no new trials. Twice, or a SIGTERM: what is trained ends at its next checkpoint. Then: at once."""
    from asparagus.sweep.limits import INTERRUPTED as STOPPED

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_terminate(_number: int, _frame: FrameType | None) -> None:
        proposals.draining = True
        if limits.kind is None:
            limits.end(STOPPED, "a SIGTERM")
            watcher({"kind": "stopping"})

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        if not proposals.draining:
            proposals.draining = True
            watcher({"kind": "draining"})
        elif limits.kind is None:
            limits.end(STOPPED, "interrupted")
            watcher({"kind": "stopping"})
        else:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, on_interrupt)
    signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _inherit(plan: SweepPlan, study: Study) -> None:
    """Let the sampler learn from an earlier sweep."""
    if plan.options.warm_start is None:
        return
    other = find_folder(Path(plan.last.spec.paths.models), plan.options.warm_start)
    study.inherit(*study_of(other))
