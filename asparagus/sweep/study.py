"""Optuna's study of a sweep, asked and told: the truth about what was tried, which survives whoever asks."""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from asparagus.errors import ConfigError
from asparagus.space import Space, SweepOptions, Values, one_or_more
from asparagus.sweep import ranking
from asparagus.sweep.grid import EveryPoint
from asparagus.sweep.opening import existing, must_compare_alike, of_this_search, spelling
from asparagus.sweep.parameters import Parameters
from asparagus.sweep.ranking import DIVERGED, FAILURES, FINISHED, OUT_OF_MEMORY, STATES, UNCOUNTED, Ranked
from asparagus.sweep.samplers import Need, build_sampler, remark_on
from asparagus.sweep.storage import close_storage, open_existing, open_storage, quiet
from asparagus.sweep.trial_table import ERROR, INFEASIBLE, INHERITED, OUTCOME, RUN_ID, Row, outcome, rows

ORIGIN = "asparagus.origin"
"""Attribute of a trial that was taken over: the study and the number that it comes from."""
OUT_OF_BOUNDS = "constraints:finite"
"""Where Optuna keeps by how much a trial breaks a constraint: above 0, TPE takes it for worse than any other."""
MODES = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
FROM_SAMPLER = 10
"""So many points are the sampler's own, as long as each breaks a constraint; the next is drawn at random."""
DRAWS = 5000
"""So many are drawn to find one that breaks none."""
WAITING = (TrialState.WAITING,)
LONGEST = 8000
"""An error's text is cut there: some databases hold no more."""
ENOUGH = 8
"""Trials that were trained to their end, for saying which parameters matter."""
TOP, TOP_TRIALS = 0.1, 5
"""What is common to so many of the best, in part and in number, makes a parameter matter."""

Holds = Callable[[str, Mapping[str, Any]], bool]

log = logging.getLogger("asparagus")


@dataclass(frozen=True)
class Proposal:
    """A point that is to be trained."""

    number: int
    """Of the trial, from 0."""
    values: Values


@dataclass(frozen=True)
class Inherited:
    """What was taken over from another sweep."""

    taken: int
    """Now and before."""
    skipped: int
    """Trials that do not lie in this space."""


class Study:
    """What is asked, reported and told of one sweep, which is the only one who does.

    Every call is in the storage when it returns; all of them may be repeated after a crash.

    Args:
        study: Optuna's.
        parameters: What is searched.
        need: What its samplers have to serve.
    """

    def __init__(self, study: optuna.Study, parameters: Parameters, need: Need) -> None:
        self.optuna = study
        self.objectives = len(study.directions)
        self._storage: BaseStorage = study._storage  # noqa: SLF001 - values of a step, several at once, have no other way
        self._parameters, self._need = parameters, need
        self._sampler = study.sampler
        self._tally = Counter(outcome(trial) for trial in self._trials() if trial.state.is_finished())
        self._live: dict[int, tuple[int, set[int]]] = {}

    @classmethod
    def open(
        cls, storage: str, name: str, space: Space, options: SweepOptions, *, concurrency: int,
        holds: Holds | None = None,
    ) -> Study:  # fmt: skip
        """Open the study of a sweep, or make it.

        Args:
            storage: A URL as SQLAlchemy spells it, or `journal:` and a file.
            name: Of the study.
            space: What is searched.
            options: Sampler, seed, modes, metrics, trials, and the points to try first.
            concurrency: How many trials are trained at a time.
            holds: Tells whether a point meets a constraint of the space.

        Raises:
            ConfigError: The study is another search's, or the options do not fit the space; nothing was changed.
            RecordError: The storage cannot be opened.
        """
        parameters = Parameters(space)
        points = [parameters.fixed(point) for point in options.points]
        metrics, directions = one_or_more(options.metric), _directions(options)
        assert holds is not None or not space.constraints
        need = Need(
            parameters,
            objectives=len(directions),
            concurrency=concurrency,
            seed=options.seed,
            trials=options.trials,
            feasible=lambda values: holds is None or all(holds(constraint, values) for constraint in space.constraints),
        )
        build_sampler(options.sampler, need)  # refuses before anything is written
        opened = open_storage(storage)
        with quiet():
            study = of_this_search(opened, name, parameters, directions)
            if len(metrics) == len(directions):
                study.set_metric_names(list(metrics))
            need = Need(**{**vars(need), "asked": len(study.get_trials(deepcopy=False))})
            study.sampler = build_sampler(options.sampler, need)
            for point in points:
                study.enqueue_trial(point, skip_if_exists=True)
        if not need.asked and (remark := remark_on(options.sampler, need)):
            log.warning("%s", remark)
        return cls(study, parameters, need)

    def close(self) -> None:
        """Let go of the storage."""
        close_storage(self._storage)

    def resumed(self) -> list[Proposal]:
        """Return the trials that nobody has told the end of, each with all of its values.

        A process that was killed while it asked leaves a trial with some of them: the rest is chosen now.
        """
        proposals = []
        for frozen in self._trials((TrialState.RUNNING,)):
            trial = optuna.Trial(self.optuna, frozen._trial_id)  # noqa: SLF001 - as Optuna makes them
            proposal = self._proposal(trial, reported={*frozen.intermediate_values})
            proposals += [proposal] if proposal else []
        return proposals

    def ask(self) -> Proposal | None:
        """Return a point to train, those that were asked for first before others; None: every point was proposed.

        Raises:
            ConfigError: No point that meets the constraints can be found.
        """
        for attempt in itertools.count():
            if self._is_exhausted():
                if self.counted() or self.running():
                    return None
                raise _nearly_empty(self._parameters.space, "no point meets them all")
            if attempt % FROM_SAMPLER == FROM_SAMPLER - 1:
                self.optuna.enqueue_trial(self._drawn())
            if (proposal := self._proposal(self.optuna.ask(), reported=set())) is not None:
                return proposal
        raise AssertionError

    def report(self, number: int, step: int, value: float) -> None:
        """Say what a trial has measured after a step; said again, or after its end, it is not heard.

        Optuna has no such values where several metrics are compared: they are left to the record.
        """
        live = self._alive(number)
        if live is None or step in live[1] or self.objectives > 1:
            return
        try:
            self._storage.set_trial_intermediate_value(live[0], int(step), float(value))
        except UpdateFinishedTrialError:
            return
        live[1].add(step)

    def tell(
        self, number: int, outcome: str, values: list[float] | None = None, *, error: str | None = None,
        run_id: int | None = None,
    ) -> None:  # fmt: skip
        """Say how a trial ended; the first word counts.

        Args:
            number: Of the trial.
            outcome: finished, pruned, capped, diverged, out_of_memory, failed or lost.
            values: Of the metrics, of a trial that has finished; without a finite one for each it has diverged.
            error: What went wrong.
            run_id: Of the run of its last stage.
        """
        if (live := self._alive(number)) is None:
            return
        finite = values is not None and len(values) == self.objectives and all(map(math.isfinite, values))
        if outcome == FINISHED and not finite:
            outcome = DIVERGED
        if outcome in (DIVERGED, OUT_OF_MEMORY):
            self._keep_away(number, live, outcome)
        facts = {RUN_ID: run_id, ERROR: error and error[:LONGEST], OUTCOME: outcome}
        self._over(number, STATES[outcome], values if outcome == FINISHED else None, facts)

    def note(self, number: int, **facts: Any) -> None:
        """Keep plain facts about a trial; one that is over stays as it is."""
        if (live := self._alive(number)) is not None:
            for key, value in facts.items():
                self._storage.set_trial_user_attr(live[0], key, value)

    def facts(self, number: int) -> dict[str, Any]:
        """Return what was noted and told of a trial."""
        return dict(self._frozen(number).user_attrs)

    def counted(self) -> int:
        """Return how many trials are over and count: not those that broke a constraint, nor another sweep's."""
        return sum(count for name, count in self._tally.items() if name not in UNCOUNTED)

    def failures(self) -> int:
        """Return how many trials failed, of themselves or with their machine."""
        return sum(self._tally[name] for name in FAILURES)

    def running(self) -> int:
        """Return how many trials nobody has told the end of."""
        return len(self._trials((TrialState.RUNNING,)))

    def tally(self) -> dict[str, int]:
        """Return how many trials are over, by outcome."""
        return dict(self._tally)

    def best(self) -> Ranked | None:
        """Return the best trial that was trained to its end; of several metrics, by the first."""
        found = ranking.best(self._trials(), self.optuna.directions)
        return self._ranked(found) if found else None

    def front(self) -> list[Ranked]:
        """Return the trials that no other one beats in every metric."""
        return [self._ranked(trial) for trial in ranking.front(self._trials(), self.optuna.directions)]

    def ranking(self) -> list[Ranked]:
        """Return all trials that count, the best first, then those that were stopped, then those that failed."""
        return [self._ranked(trial) for trial in ranking.in_order(self._trials(), self.optuna.directions)]

    def table(self) -> list[Row]:
        """Return all trials in rows for people."""
        return rows(self.optuna)

    def without_better(self) -> int:
        """Return how many trials have ended since the best one did."""
        return ranking.without_better(self._trials(), self.optuna.directions)

    def inherit(self, storage: str, name: str) -> Inherited:
        """Let the sampler learn from another sweep's trials, as far as they lie in this space; each is taken once.

        Raises:
            ConfigError: That sweep compared other metrics.
            RecordError: There is no such study.
        """
        opened = open_existing(storage)
        try:
            with quiet():
                return self._inherit(existing(opened, storage, name))
        finally:
            close_storage(opened)

    def importance(self) -> dict[str, float]:
        """Return how much each parameter matters, most first; empty until enough trials were trained to their end.

        By PED-ANOVA: how far the best trials' values differ from all trials'. It knows conditions and several metrics.
        """
        from optuna.importance import PedAnovaImportanceEvaluator  # scikit-learn takes a second

        complete = self._trials((TrialState.COMPLETE,))
        if len(complete) < ENOUGH or len({tuple(trial.values) for trial in complete}) == 1:
            return {}
        quantile = max(TOP, TOP_TRIALS / len(complete))
        with quiet():
            return optuna.importance.get_param_importances(
                self.optuna, evaluator=PedAnovaImportanceEvaluator(target_quantile=quantile)
            )

    def _proposal(self, trial: optuna.Trial, *, reported: set[int]) -> Proposal | None:
        """Have all values of a trial chosen; None for a point that breaks a constraint, which is over with that."""
        values = self._parameters.suggest(trial)
        self._live[trial.number] = trial._trial_id, reported  # noqa: SLF001 - as Optuna finds it
        if self._need.feasible(values):
            return Proposal(trial.number, values)
        self._over(trial.number, TrialState.FAIL, None, {OUTCOME: INFEASIBLE})
        return None

    def _drawn(self) -> dict[str, Any]:
        """Return a point at random that breaks no constraint.

        Raises:
            ConfigError: None is found.
        """
        space, asked = self._parameters.space, len(self._trials())
        chance = random.Random(f"{self._need.seed}:{asked}")  # noqa: S311 - no secret
        for _ in range(DRAWS):
            if self._need.feasible(values := self._parameters.drawn(chance)):
                return self._parameters.point(values)
        raise _nearly_empty(space, f"of {DRAWS} points at random none meets them all")

    def _is_exhausted(self) -> bool:
        every = self._sampler
        return isinstance(every, EveryPoint) and every.is_exhausted(self.optuna) and not self._trials(WAITING)

    def _over(self, number: int, state: TrialState, values: list[float] | None, facts: Mapping[str, Any]) -> None:
        for key, value in facts.items():
            if value is not None:
                self._storage.set_trial_user_attr(self._live[number][0], key, value)
        self.optuna.tell(number, values, state)
        self._tally[facts[OUTCOME]] += 1
        self._live.pop(number, None)

    def _keep_away(self, number: int, live: tuple[int, set[int]], outcome: str) -> None:
        """Have the samplers stay away from what gave no number, or does not fit into memory.

        TPE ranks stopped trials by how far they got: it takes a late NaN for good among trials that were stopped early,
        unless it is told that a constraint is broken.
        """
        if self.objectives == 1 and outcome == DIVERGED:
            reported = self._frozen(number).intermediate_values
            if not any(map(math.isnan, reported.values())):
                self.report(number, max(reported, default=-1) + 1, math.nan)
        if isinstance(self._sampler, TPESampler):
            self._storage.set_trial_system_attr(live[0], OUT_OF_BOUNDS, 1.0)

    def _alive(self, number: int) -> tuple[int, set[int]] | None:
        """Return the id of a trial, and the steps that it has reported; None if it is over."""
        if number not in self._live:
            frozen = self._frozen(number)
            if frozen.state.is_finished():
                return None
            self._live[number] = frozen._trial_id, {*frozen.intermediate_values}  # noqa: SLF001
        return self._live[number]

    def _frozen(self, number: int) -> FrozenTrial:
        return self._storage.get_trial(self._id(number))

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self.optuna._study_id, number)  # noqa: SLF001

    def _trials(self, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False, states=states)

    def _ranked(self, trial: FrozenTrial) -> Ranked:
        return ranking.ranked(trial, self._parameters.values)

    def _inherit(self, other: optuna.Study) -> Inherited:
        must_compare_alike(self.optuna, other)
        spelled = spelling(other)
        known = {trial.user_attrs.get(ORIGIN) for trial in self._trials()}
        taken = skipped = 0
        for trial in other.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
            origin = trial.user_attrs.get(ORIGIN) or f"{other.study_name}:{trial.number}"
            if origin not in known:
                try:
                    params = self._parameters.point(spelled(trial.params))
                except ValueError:
                    skipped += 1
                    continue
                self._take_over(trial, params, origin)
            taken += 1
        return Inherited(taken, skipped)

    def _take_over(self, trial: FrozenTrial, params: dict[str, Any], origin: str) -> None:
        domains: dict[str, BaseDistribution] = {
            one.name: one.distribution for one in self._parameters if one.name in params
        }
        broken = {OUT_OF_BOUNDS: trial.system_attrs[OUT_OF_BOUNDS]} if OUT_OF_BOUNDS in trial.system_attrs else {}
        run_id = {RUN_ID: trial.user_attrs[RUN_ID]} if RUN_ID in trial.user_attrs else {}
        copy = optuna.trial.create_trial(
            state=trial.state,
            values=trial.values,
            params=params,
            distributions=domains,
            user_attrs={**run_id, OUTCOME: INHERITED, ORIGIN: origin},
            system_attrs=broken,
            intermediate_values=trial.intermediate_values,
        )
        self.optuna.add_trial(copy)
        self._tally[INHERITED] += 1


def _directions(options: SweepOptions) -> list[StudyDirection]:
    modes = one_or_more(options.mode)
    if not modes or any(mode not in MODES for mode in modes):
        raise ConfigError(f"sweep.mode: {options.mode!r} is not known. Write min or max, one for each metric.")
    return [MODES[mode] for mode in modes]


def _nearly_empty(space: Space, found: str) -> ConfigError:
    told = "; ".join(space.constraints) or "none"
    return ConfigError(f"sweep.constraints: the space is contradictory or nearly empty: {found} ({told}). Loosen them.")
