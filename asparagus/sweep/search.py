"""The search itself: Optuna's study says what is tried, Tune where and for how long, and each hears of the other."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import OutOfMemoryError, RayTaskError
from ray.tune import PlacementGroupFactory, Stopper
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import HyperBandScheduler, TrialScheduler
from ray.tune.search import SearchAlgorithm

from asparagus.paths import variables_set
from asparagus.sweep.limits import INTERRUPTED, Limits
from asparagus.sweep.reminding import measured, remind
from asparagus.sweep.study import Proposal, Study
from asparagus.sweep.trial import LOST, RecycledError, Terms, Trial

SETTINGS_NOW = "asparagus.settings"
"""A trial's values, where they are others than those that it began with (population based training)."""
WRONG = "wrong"
"""Why a sweep ends that was asked for something that does not exist."""
SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the record is ours
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # ours names what is reported
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune is never restored: the study and the runs are the truth
    "TUNE_WARN_THRESHOLD_S": "10",
    "RAY_AIR_NEW_OUTPUT": "0",
}

EndRun = Callable[[int, str, dict[str, float]], None]
"""End whatever run of a trial is held: its number, the run's state, what it measured."""
Tell = Callable[[dict[str, Any]], None]

log = logging.getLogger("asparagus")


class InTune(TuneTrial):
    """A trial as Tune has it, that remembers what it was lost by, and whether it is to wait."""

    cause: BaseException | None = None
    waits = False
    """Whether it was handed out to be put aside at once; who starts it takes that back."""

    def handle_error(self, exc: Any = None) -> None:
        """Take note."""
        self.cause = exc
        super().handle_error(exc)


@dataclass
class Live:
    """A trial that is being trained."""

    proposal: Proposal
    tune_trial: InTune
    run_id: int | None = None
    stage: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


class Proposals(SearchAlgorithm):
    """What Tune asks for trials, and tells how they go.

    Args:
        study: The truth.
        trials: How many are to be trained.
        concurrency: How many at a time; None: as many as Tune can start, and one that waits for a place.
        spare: How many more are handed out to wait, for schedulers that compare trials with those that do.
        limits: When it is enough.
        terms: Of the trials.
        attempts: How often one launch tries a trial whose worker is lost.
        end_run: Called when a trial is over that has not ended its run by itself.
        tell: Called with what happens.
    """

    def __init__(  # noqa: PLR0913 - the seam between two libraries
        self,
        study: Study,
        *,
        trials: int,
        concurrency: int | None,
        spare: int = 0,
        limits: Limits,
        terms: Terms,
        attempts: int,
        end_run: EndRun,
        tell: Tell,
    ) -> None:
        self._study, self._trials, self._concurrency, self._spare = study, trials, concurrency, spare
        self._limits, self.terms, self._end_run, self._tell = limits, terms, end_run, tell
        self._waiting = [_as_it_was(study, proposal) for proposal in study.resumed()]
        self._live: dict[str, Live] = {}
        self._attempts, self._losses = attempts, Counter[int]()
        self._exhausted = False
        self.draining = False
        """No new trials; those that are being trained end by themselves."""
        self._spec: dict[str, Any] = {}

    def remind(self, scheduler: TrialScheduler) -> None:
        """Tell a scheduler of the trials that were over before it was made."""
        remind(scheduler, measured(self._study.optuna.get_trials(deepcopy=False)))

    @property
    def total_samples(self) -> int:
        """Return how many are to be trained."""
        return self._trials

    def add_configurations(self, experiments: Any) -> None:
        """Take the one experiment."""
        self._spec = experiments[0].spec

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Take nothing: the study knows."""
        return True

    def next_trial(self) -> TuneTrial | None:
        """Return one more trial, if one is wanted now."""
        self._limits.running(self._running())
        beyond = 0 if self._concurrency is None else self._out() - self._concurrency
        if self._limits.kind or (self._concurrency is not None and beyond >= self._spare):
            return None
        proposal = self._next()
        if proposal is None:
            return None
        made = InTune(
            self._spec["run"],
            config={"values": proposal.values},
            trial_id=f"{proposal.number:05d}_{TuneTrial.generate_id()}",
            experiment_tag=str(proposal.number),
            placement_group_factory=self._spec["resources_per_trial"],
            storage=self._spec["storage"],
            max_failures=0,  # what is tried again is ours to say
        )
        if self._concurrency is not None and beyond >= 0:
            made.waits = True
            made.set_status(TuneTrial.PAUSED)
        self._live[made.trial_id] = Live(proposal, made)
        self._tell({"kind": "trial_started", "number": proposal.number, "values": proposal.values})
        return made

    def _out(self) -> int:
        """Return how many are trained, or wait to be started for the first time."""
        tune_trials = (live.tune_trial for live in self._live.values())
        return sum(one.waits or one.status != TuneTrial.PAUSED for one in tune_trials)

    def _running(self) -> int:
        """Return how many are being trained at this moment."""
        return sum(live.tune_trial.status == TuneTrial.RUNNING for live in self._live.values())

    def _next(self) -> Proposal | None:
        if self._waiting:
            return self._waiting.pop(0)
        if self.draining or self._exhausted or self._study.counted() + len(self._live) >= self._trials:
            return None
        proposal = self._study.ask()
        self._exhausted = proposal is None
        return proposal

    def is_finished(self) -> bool:
        """Tell whether no trial will be asked for any more."""
        if self._limits.kind:
            return True
        if self._waiting:
            return False
        enough = self._study.counted() + len(self._live) >= self._trials
        return (self.draining or self._exhausted or enough) and not self._live

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take note of an epoch."""
        self._limits.running(self._running())
        live = self._live.get(trial_id)
        if live is not None and "outcome" not in result:
            self._note(live, result)

    def _note(self, live: Live, result: dict[str, Any]) -> None:
        live.run_id, live.stage, live.metrics = result["run_id"], result["stage"], json.loads(result["metrics"])
        number, params = live.proposal.number, json.loads(result["params"])
        if params != live.proposal.values:  # it goes on from another one's state, with settings of its own
            live.proposal = Proposal(number, params)
            self._study.note(number, **{SETTINGS_NOW: params})
        if live.stage == self.terms.stages - 1:
            if "values" in result and len(self.terms.metrics) == 1:
                self._study.report(number, result["epoch"], result["values"][0])
            elif "values" not in result:
                self._must_be_reported(live.metrics)
        facts = {"kind": "trial_epoch", "number": number, "stage": live.stage, "run_id": live.run_id}
        self._tell(facts | {"epoch": result["epoch"], "values": result.get("values"), "metrics": live.metrics})

    def _must_be_reported(self, metrics: dict[str, float]) -> None:
        """End the sweep if what it compares is not measured; an epoch without validation measures less."""
        if not any(name.startswith("val/") for name in metrics):
            return
        lacking = [name for name in self.terms.metrics if name not in metrics]
        known = ", ".join(sorted(metrics)) or "none"
        self._limits.end(WRONG, f"sweep.metric: {', '.join(lacking)} is not reported. Reported are: {known}.")

    def on_trial_complete(  # Tune's signature
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,
        error: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        """Take note of how a trial ended."""
        live = self._live.pop(trial_id, None)
        if live is None:
            return
        if error:
            self._lost(live)
        elif result and "outcome" in result:
            self._ended(live, result)
        else:
            if result and "epoch" in result:  # of the epoch that it was stopped at, Tune tells here alone
                self._note(live, result)
            self._stopped(live)
        self.count()
        self._limits.running(self._running())

    def close(self) -> None:
        """Take note of the trials that were cut off when the search was ended: Tune tells of those to nobody."""
        for trial_id in list(self._live):
            self._stopped(self._live.pop(trial_id))

    def _ended(self, live: Live, result: dict[str, Any]) -> None:
        """Take note of a trial that ended by itself, one way or the other."""
        outcome = str(result["outcome"])
        values = result.get("values")
        if outcome == "finished" and values is None:
            self._limits.end(WRONG, _never(self.terms.metrics, json.loads(result["metrics"])))
            outcome = "failed"
        self._over(live, outcome, values, result.get("error") or None, run_id=result.get("run_id"))

    def _stopped(self, live: Live) -> None:
        """Take note of a trial that was stopped: by the scheduler, a cap, or the user."""
        number = live.proposal.number
        if self._limits.kind == INTERRUPTED:
            self._end_run(number, "interrupted", live.metrics)
            self._tell({"kind": "trial_interrupted", "number": number, "run_id": live.run_id})
            return
        self._end_run(number, "pruned", live.metrics)
        self._over(live, "capped" if self._limits.kind else "pruned", None, self._limits.reason)

    def _lost(self, live: Live) -> None:
        """Try a trial again whose worker was lost; a fault of ours, or memory that ran out, would only come again."""
        cause = live.tune_trial.cause
        if isinstance(cause, RayTaskError):
            cause = cause.cause
        if isinstance(cause, RecycledError):
            self._waiting.insert(0, live.proposal)
            return
        number = live.proposal.number
        if cause is None or isinstance(cause, LOST):
            self._losses[number] += 1
            if self._losses[number] >= self._attempts:
                self._end_run(number, "failed", live.metrics)
                told = f"its worker was lost {self._attempts} times (run.max_failures): {cause}"
                self._over(live, "lost", None, told)
                return
            log.warning("trial %d: its worker was lost; it is tried again", number)
            self._tell({"kind": "trial_lost", "number": number, "run_id": live.run_id})
            self._waiting.insert(0, live.proposal)
            return
        self._end_run(number, "failed", live.metrics)
        outcome = "out_of_memory" if isinstance(cause, OutOfMemoryError) else "failed"
        self._over(live, outcome, None, f"{type(cause).__name__}: {cause}")

    def _over(
        self, live: Live, outcome: str, values: list[float] | None, error: str | None, *, run_id: int | None = None
    ) -> None:
        number, run_id = live.proposal.number, run_id or live.run_id
        self._study.tell(number, outcome, values, error=error, run_id=run_id)
        self._tell(
            {
                "kind": "trial_over",
                "number": number,
                "run_id": run_id,
                "outcome": outcome,
                "values": values,
                "error": error,
                "params": live.proposal.values,
            }
        )

    def count(self) -> None:
        """See whether too many have failed, or too many were no better."""
        self._limits.count(failures=self._study.failures(), without_better=self._study.without_better())


class Enough(Stopper):
    """Ends the search when its limits say so."""

    def __init__(self, limits: Limits, look: Callable[[], None]) -> None:
        self._limits, self._look = limits, look

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002 - Tune's signature
        """Stop no single trial."""
        return False

    def stop_all(self) -> bool:
        """Tell whether it is enough."""
        self._look()
        return self._limits.kind is not None


def search(  # noqa: PLR0913 - what Tune is told
    proposals: Proposals,
    scheduler: TrialScheduler,
    *,
    trainable: type[Trial],
    bundles: list[dict[str, float]],
    limits: Limits,
    look: Callable[[], None],
    folder: Path,
    reuse: bool,
    pending: int,
) -> None:
    """Let Tune run all trials; returns when the proposals are used up or a limit is reached.

    Args:
        proposals: The trials.
        scheduler: Which of them are stopped early.
        trainable: What trains one, with its terms bound.
        bundles: Resources of a trial: one bundle for a trial in its own process, else an empty one and one per worker.
        limits: When it is enough.
        look: Looks at time and disk.
        folder: Where Tune keeps what it needs for the while.
        reuse: Whether a worker trains one trial after another.
        pending: Trials that are drawn before there is a place for them, if the scheduler compares whole groups.
    """
    proposals.remind(scheduler)
    with _settings(pending if isinstance(scheduler, HyperBandScheduler) else None):
        tune.run(
            trainable,
            name=folder.name,
            storage_path=str(folder.parent),
            search_alg=proposals,
            scheduler=scheduler,
            resources_per_trial=PlacementGroupFactory(bundles),
            reuse_actors=reuse,
            stop=Enough(limits, look),
            raise_on_failed_trial=False,
            verbose=0,
        )


@contextmanager
def _settings(pending: int | None) -> Iterator[None]:
    # Hyperband halves a group when all that it knows of it have come so far: it has to know them from the start.
    wanted = SETTINGS if pending is None else {**SETTINGS, "TUNE_MAX_PENDING_TRIALS_PG": str(pending)}
    # It looks for files that Tune's own loggers would have written.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    with variables_set(wanted):
        yield


def _as_it_was(study: Study, proposal: Proposal) -> Proposal:
    """Return a trial that goes on with the settings that it had last."""
    return Proposal(proposal.number, study.facts(proposal.number).get(SETTINGS_NOW, proposal.values))


def _never(metrics: tuple[str, ...], reported: dict[str, float]) -> str:
    known = ", ".join(sorted(reported)) or "none"
    return f"sweep.metric: {', '.join(metrics)} was never reported. Reported are: {known}."
