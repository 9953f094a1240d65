"""The seam between Optuna's study and Tune, by itself: real study, real Tune trials, no Ray is started.

`Tune` below does to `Proposals` what Tune's controller does: it asks for trials, reports epochs, and says how they end.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.train._internal.storage import StorageContext
from ray.tune import PlacementGroupFactory
from ray.tune.experiment import Trial as TuneTrial

from asparagus.space import Choice, Dimension, Interval, Space
from asparagus.sweep.limits import CAPPED, HOPELESS, INTERRUPTED, Limits
from asparagus.sweep.search import WRONG, InTune, Proposals
from asparagus.sweep.study import Study
from asparagus.sweep.trial import RecycledError, Terms
from tests.test_samplers import opened

LINE = Space((Dimension("optim.lr", Interval(1e-5, 1e-1, log=True)),))
THREE = Space((Dimension("optim.lr", Choice((0.1, 0.2, 0.3))),))
METRIC = "val/acc"
LOST = RayActorError()


class Nothing(tune.Trainable):
    """Trains nothing: Tune's own part is played by the test."""


@dataclass
class Experiment:
    spec: dict[str, Any]


@dataclass
class Tune:
    """Plays Tune: what was told of trials is in `told`, which runs were ended in `ended`."""

    folder: Path
    study: Study
    limits: Limits = field(default_factory=Limits)
    trials: int = 20
    concurrency: int | None = 1
    spare: int = 0
    attempts: int = 2
    stages: int = 1
    metrics: tuple[str, ...] = (METRIC,)
    ended: list[tuple[int, str, dict[str, float]]] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        tune.register_trainable("nothing", Nothing)
        self.proposals = Proposals(
            self.study,
            trials=self.trials,
            concurrency=self.concurrency,
            spare=self.spare,
            limits=self.limits,
            terms=Terms(sweep_id=7, stages=self.stages, metrics=self.metrics),
            attempts=self.attempts,
            end_run=lambda *said: self.ended.append(said),
            tell=self.told.append,
        )
        storage = StorageContext(str(self.folder / "tune"), experiment_dir_name="sweep")
        places = PlacementGroupFactory([{"CPU": 1}])
        spec = {"run": "nothing", "resources_per_trial": places, "storage": storage}
        self.proposals.add_configurations([Experiment(spec)])

    def ask(self) -> InTune:
        trial = self.proposals.next_trial()
        assert isinstance(trial, InTune)
        return trial

    def epoch(self, trial: InTune, epoch: int, value: float, **others: Any) -> None:
        self.proposals.on_trial_result(trial.trial_id, result(trial, value, epoch=epoch, **others))

    def end(self, trial: InTune, outcome: str, value: float | None = None, error: str = "") -> None:
        """The trial says that it is over."""
        facts = result(trial, value, outcome=outcome, error=error)
        self.proposals.on_trial_complete(trial.trial_id, facts)

    def stop(self, trial: InTune, epoch: int, value: float) -> None:
        """The scheduler stops it at an epoch, of which nobody is told but with that."""
        self.proposals.on_trial_complete(trial.trial_id, result(trial, value, epoch=epoch))

    def lose(self, trial: InTune, cause: BaseException) -> None:
        trial.init_local_path()
        trial.handle_error(cause)
        self.proposals.on_trial_complete(trial.trial_id, error=True)

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.told]

    def outcomes(self) -> dict[int, str]:
        return {event["number"]: event["outcome"] for event in self.told if event["kind"] == "trial_over"}

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.study.optuna.get_trials(deepcopy=False)]


def number_of(trial: InTune) -> int:
    return int(trial.trial_id.partition("_")[0])


def result(trial: InTune, value: float | None, **others: Any) -> dict[str, Any]:
    """What a trial of ours sends to Tune."""
    metrics = {} if value is None else {METRIC: value}
    values = {} if value is None else {"values": [value], "value": value}
    facts = {"stage": 0, "run_id": 100 + number_of(trial), "params": json.dumps(trial.config["values"])}
    return {**facts, "metrics": json.dumps(metrics), **values, **others}


@pytest.fixture
def tuned(tmp_path, monkeypatch):
    """Return what plays Tune, over a study in a file; made again over the same file, it is the next launch."""
    # Tune writes errors below the session of a Ray that runs.
    monkeypatch.setattr("ray.train._internal.storage._get_ray_train_session_dir", lambda: str(tmp_path / "session"))

    def make(space: Space = LINE, *, sampler: str = "random", **options: Any) -> Tune:
        study = opened(tmp_path, space, sampler=sampler, mode="max", metric=METRIC)
        return Tune(tmp_path, study, **options)

    return make


def test_as_many_trials_are_out_as_are_wanted_at_a_time_and_in_all(tuned):
    search = tuned(trials=3, concurrency=2)
    first, second = search.ask(), search.ask()
    assert (number_of(first), number_of(second)) == (0, 1)
    assert first.config["values"] == {"optim.lr": search.study.optuna.trials[0].params["optim.lr"]}
    assert search.proposals.next_trial() is None  # two are out
    search.end(first, "finished", 0.5)
    third = search.ask()
    search.end(second, "finished", 0.6)
    assert search.proposals.next_trial() is None  # three in all
    assert not search.proposals.is_finished()
    search.end(third, "finished", 0.7)
    assert search.proposals.is_finished()
    assert search.states() == ["COMPLETE"] * 3
    assert search.study.best().values == (0.7,)
    assert search.ended == []  # they had ended their runs by themselves


def test_a_trial_that_is_put_aside_makes_room_for_another_one(tuned):
    search = tuned(trials=3, concurrency=1)
    first = search.ask()
    first.set_status(TuneTrial.PAUSED)
    assert number_of(search.ask()) == 1


def test_one_more_than_are_trained_at_a_time_waits_for_schedulers_that_compare_with_it(tuned):
    search = tuned(trials=9, concurrency=2, spare=1)
    trained = [search.ask(), search.ask()]
    waiting = search.ask()
    assert [trial.status for trial in (*trained, waiting)] == ["PENDING", "PENDING", "PAUSED"]
    assert search.proposals.next_trial() is None
    trained[0].set_status(TuneTrial.PAUSED)  # put aside: the one that waits has its place, and another one waits
    following = search.ask()
    assert following.waits
    assert search.proposals.next_trial() is None
    waiting.waits = False
    waiting.set_status(TuneTrial.RUNNING)
    assert search.proposals.next_trial() is None


def test_epochs_reach_the_study_as_they_come(tuned):
    search = tuned()
    trial = search.ask()
    search.epoch(trial, 1, 0.25)
    search.epoch(trial, 2, 0.5)
    search.epoch(trial, 2, 0.9)  # replayed after a crash: the first word counts
    assert search.study.optuna.trials[0].intermediate_values == {1: 0.25, 2: 0.5}
    search.end(trial, "finished", 0.5)
    assert search.told[-1] == {
        "kind": "trial_over",
        "number": 0,
        "run_id": 100,
        "outcome": "finished",
        "values": [0.5],
        "error": None,
        "params": trial.config["values"],
    }


def test_a_trial_that_the_scheduler_stops_is_pruned_with_all_of_its_values(tuned):
    search = tuned()
    trial = search.ask()
    search.epoch(trial, 1, 0.25)
    search.stop(trial, 2, 0.3)
    frozen = search.study.optuna.trials[0]
    assert (frozen.state.name, frozen.intermediate_values) == ("PRUNED", {1: 0.25, 2: 0.3})
    assert search.ended == [(0, "pruned", {METRIC: 0.3})]
    assert search.outcomes() == {0: "pruned"}
    assert search.study.best() is None


@pytest.mark.parametrize(
    ("outcome", "state", "failures"),
    [("failed", "FAIL", 1), ("diverged", "PRUNED", 0), ("out_of_memory", "PRUNED", 1)],
)
def test_a_trial_that_ends_badly_by_itself_is_not_tried_again(tuned, outcome, state, failures):
    search = tuned()
    search.end(search.ask(), outcome, error="what went wrong")
    assert search.states()[0] == state
    assert search.study.facts(0)["asparagus.error"] == "what went wrong"
    assert search.study.failures() == failures
    assert number_of(search.ask()) == 1


def test_a_lost_worker_gives_the_same_trial_once_more_before_any_new_one(tuned):
    search = tuned(concurrency=2)
    first, second = search.ask(), search.ask()
    search.epoch(first, 1, 0.25)
    search.lose(first, LOST)
    assert search.states() == ["RUNNING", "RUNNING"]  # nobody is told
    assert search.ended == []  # and its run goes on
    again = search.ask()
    assert number_of(again) == 0
    assert again.trial_id != first.trial_id
    assert again.config == first.config
    search.end(again, "finished", 0.5)
    search.end(second, "finished", 0.4)
    assert search.states() == ["COMPLETE"] * 2
    assert search.kinds().count("trial_lost") == 1


def test_a_trial_whose_worker_is_lost_too_often_is_lost(tuned):
    search = tuned(attempts=2)
    for _ in range(2):
        trial = search.ask()
        search.epoch(trial, 1, 0.25)
        search.lose(trial, LOST)
    assert search.states() == ["FAIL"]
    assert search.outcomes() == {0: "lost"}
    assert "lost 2 times (run.max_failures)" in search.study.facts(0)["asparagus.error"]
    assert search.ended == [(0, "failed", {METRIC: 0.25})]


def test_a_worker_that_wants_to_be_replaced_costs_no_attempt(tuned):
    search = tuned(attempts=1)
    for _ in range(3):
        trial = search.ask()
        search.lose(trial, RayTaskError("step", "told", RecycledError()))
    search.end(search.ask(), "finished", 0.5)
    assert search.states() == ["COMPLETE"]
    assert "trial_lost" not in search.kinds()


@pytest.mark.parametrize(
    ("cause", "outcome", "told"),
    [
        (OutOfMemoryError("killed by the memory monitor"), "out_of_memory", "OutOfMemoryError: killed by"),
        (RayTaskError("step", "told", TypeError("a fault")), "failed", "TypeError: a fault"),
    ],
    ids=["memory", "fault"],
)
def test_what_would_only_come_again_is_not_tried_again(tuned, cause, outcome, told):
    search = tuned()
    search.lose(search.ask(), cause)
    assert search.outcomes() == {0: outcome}
    assert told in search.study.facts(0)["asparagus.error"]
    assert search.ended == [(0, "failed", {})]


def test_a_cap_ends_the_search_and_stopped_trials_say_why(tuned):
    search = tuned(concurrency=2)
    trial = search.ask()
    search.epoch(trial, 1, 0.25)
    search.limits.end(CAPPED, "sweep.time: 60 s of 60 s are used")
    assert search.proposals.is_finished()
    assert search.proposals.next_trial() is None
    search.proposals.close()  # Tune ends it, and tells nobody
    assert search.states() == ["PRUNED"]
    assert search.outcomes() == {0: "capped"}
    assert search.ended == [(0, "pruned", {METRIC: 0.25})]
    assert search.study.facts(0)["asparagus.error"] == "sweep.time: 60 s of 60 s are used"


def test_an_interrupted_trial_is_nobodys_end_and_the_next_launch_goes_on_with_it(tuned):
    search = tuned()
    trial = search.ask()
    search.epoch(trial, 1, 0.25)
    search.limits.end(INTERRUPTED, "interrupted")
    search.stop(trial, 2, 0.3)
    assert search.states() == ["RUNNING"]
    assert search.ended == [(0, "interrupted", {METRIC: 0.3})]
    again = tuned().ask()
    assert (number_of(again), again.config) == (0, trial.config)


def test_the_next_launch_goes_on_with_the_settings_that_a_trial_had_last(tuned):
    search = tuned()
    trial = search.ask()
    mutated = {"optim.lr": 0.012}
    search.epoch(trial, 1, 0.25, params=json.dumps(mutated))
    assert tuned().ask().config["values"] == mutated


def test_drained_it_asks_for_nothing_new_but_goes_on_with_what_was_lost(tuned):
    search = tuned(concurrency=2)
    first, second = search.ask(), search.ask()
    search.proposals.draining = True
    search.end(first, "finished", 0.5)
    assert search.proposals.next_trial() is None
    assert not search.proposals.is_finished()
    search.lose(second, LOST)
    again = search.ask()
    assert number_of(again) == 1
    search.end(again, "finished", 0.5)
    assert search.proposals.is_finished()
    assert search.states() == ["COMPLETE"] * 2


def test_a_hopeless_sweep_ends(tuned):
    search = tuned(limits=Limits(max_failures=2))
    for _ in range(2):
        search.end(search.ask(), "failed", error="a fault")
    assert (search.limits.kind, search.limits.reason) == (
        HOPELESS,
        "sweep.max_failures: 2 trials have failed by themselves",
    )
    assert search.proposals.next_trial() is None


def test_a_sweep_that_gets_no_better_ends(tuned):
    search = tuned(limits=Limits(patience=2))
    for value in (0.5, 0.9, 0.8, 0.7):
        search.end(search.ask(), "finished", value)
    assert search.limits.kind == CAPPED
    assert search.limits.reason == "sweep.patience: 2 trials without a better one"


def test_every_point_of_a_grid_and_then_no_more(tuned):
    search = tuned(THREE, sampler="grid", trials=9, concurrency=2)
    seen = []
    while (trial := search.proposals.next_trial()) is not None:
        seen.append(trial.config["values"]["optim.lr"])
        search.end(trial, "finished", seen[-1])
    assert seen == [0.1, 0.2, 0.3]
    assert search.proposals.is_finished()


def test_a_metric_that_is_not_measured_ends_the_sweep_and_those_that_are_are_named(tuned):
    search = tuned()
    trial = search.ask()
    facts = {key: value for key, value in result(trial, None, epoch=1).items() if key != "values"}
    trained = {**facts, "metrics": json.dumps({"train/loss": 1.0})}
    search.proposals.on_trial_result(trial.trial_id, trained)
    assert search.limits.kind is None  # an epoch without validation
    measured = {**facts, "metrics": json.dumps({"train/loss": 1.0, "val/accuracy": 0.5})}
    search.proposals.on_trial_result(trial.trial_id, measured)
    assert search.limits.kind == WRONG
    assert search.limits.reason == ("sweep.metric: val/acc is not reported. Reported are: train/loss, val/accuracy.")


def test_the_metric_of_a_stage_before_the_last_is_not_the_studys(tuned):
    search = tuned(stages=2)
    trial = search.ask()
    search.epoch(trial, 1, 0.9)
    assert search.study.optuna.trials[0].intermediate_values == {}
    search.epoch(trial, 1, 0.4, stage=1)
    assert search.study.optuna.trials[0].intermediate_values == {1: 0.4}


def test_a_finish_without_the_metric_is_a_failure_that_ends_the_sweep(tuned):
    search = tuned()
    search.end(search.ask(), "finished")
    assert search.outcomes() == {0: "failed"}
    assert search.limits.reason == "sweep.metric: val/acc was never reported. Reported are: none."


def test_c25_the_whole_search_proposes_the_same_twenty_points_twice(tmp_path):
    def proposed(place: str, seed: int) -> list[dict[str, Any]]:
        (tmp_path / place).mkdir()
        study = opened(tmp_path / place, LINE, sampler="tpe", seed=seed, mode="max", metric="val/acc", trials=20)
        search, found = Tune(tmp_path / place, study, trials=20), []
        while (trial := search.proposals.next_trial()) is not None:
            found.append(trial.config["values"])
            rate = found[-1]["optim.lr"]
            search.epoch(trial, 1, 1 - rate)
            search.end(trial, "finished", 1 - (rate - 0.01) ** 2)
        return found

    first = proposed("one", 12345)
    assert len(first) == 20
    assert proposed("other", 12345) == first
    assert proposed("of another seed", 1) != first
