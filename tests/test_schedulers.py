"""Tune's schedulers as a sweep uses them: made anew, held to so many at a time, and when trials end; no Ray."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray import tune
from ray.train._internal.storage import StorageContext
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from asparagus.errors import ConfigError
from asparagus.space import Dimension, Interval, Space, SweepOptions
from asparagus.sweep.reminding import measured, remind
from asparagus.sweep.schedulers import ByStage, build_scheduler
from asparagus.sweep.search import InTune
from tests.test_samplers import opened

RATE = Space((Dimension("optim.lr", Interval(1e-3, 1e-1)),))
MAX = (("value", "max"),)
GOOD = {number: dict.fromkeys(range(1, 10), 0.9 + number / 100) for number in range(8)}
"""Eight trials that all were good from their first epoch."""


class New:
    """A trial that runs."""

    trial_id, status = "new", "RUNNING"


def scheduler(name="asha", modes=MAX, **arguments):
    options = SweepOptions(scheduler={"name": name, **arguments})
    return build_scheduler(options, RATE, epochs=9, modes=modes)


def decisions(made, values, stage=0):
    """What it says to a new trial that measures this, up to where it is stopped."""
    trial = New()
    controller = SimpleNamespace(get_live_trials=lambda: [trial], get_trials=lambda: [trial])
    made.on_trial_add(controller, trial)
    said = []
    for epoch, value in enumerate(values, 1):
        said.append(made.on_trial_result(controller, trial, {"epoch": epoch, "value": value, "stage": stage}))
        if said[-1] != "CONTINUE":
            break
    return said


@pytest.mark.parametrize("name", ["asha", "median"])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_scheduler_that_is_made_anew_stops_what_is_worse_than_those_that_had_ended(name, mode):
    sign = 1 if mode == "max" else -1
    ended = {number: {epoch: sign * value for epoch, value in values.items()} for number, values in GOOD.items()}
    fresh, reminded = (scheduler(name, modes=(("value", mode),)) for _ in range(2))
    remind(reminded, ended)
    assert decisions(fresh, [sign * 0.1] * 3) == ["CONTINUE"] * 3
    assert decisions(reminded, [sign * 0.1] * 3) == ["STOP"]
    better = scheduler(name, modes=(("value", mode),))
    remind(better, ended)
    assert decisions(better, [sign * 0.99] * 9) == ["CONTINUE"] * 9


def test_each_rung_has_those_that_got_there():
    reminded = scheduler("asha", grace_period=1, reduction_factor=3)
    remind(reminded, {0: {1: 0.5}, 1: {1: 0.6, 2: 0.7, 3: 0.8}, 2: {}})
    rungs = {milestone: sorted(recorded.values()) for milestone, recorded in reminded._brackets[0]._rungs}
    assert rungs == {9: [], 3: [0.8], 1: [0.5, 0.6]}


def test_of_a_pipeline_the_last_stage_is_reminded():
    made = scheduler(modes=(("monitor", "min"), ("value", "max")))
    assert isinstance(made, ByStage)
    remind(made, GOOD)
    assert decisions(made, [0.1], stage=1) == ["STOP"]


@pytest.mark.parametrize("name", ["hyperband", "pbt", "none"])
def test_those_that_compare_living_trials_alone_are_told_nothing(name):
    made = scheduler(name)
    remind(made, GOOD)
    if name != "none":
        assert made._trial_info == {} if name == "hyperband" else made._trial_state == {}


def test_the_study_remembers_what_was_measured_of_trials_that_count(tmp_path):
    study = opened(tmp_path, RATE, sampler="random")
    for number, (outcome, values) in enumerate(
        [("finished", [0.3, 0.2]), ("pruned", [0.9]), ("failed", [0.8]), ("capped", [])]
    ):
        assert study.ask().number == number
        for epoch, value in enumerate(values, 1):
            study.report(number, epoch, value)
        study.tell(number, outcome, values[-1:])
    study.report(study.ask().number, 1, 0.7)  # goes on, and tells again by itself
    assert measured(study.optuna.trials) == {0: {1: 0.3, 2: 0.2}, 1: {1: 0.9}, 3: {}}
    (tmp_path / "other").mkdir()
    heir = opened(tmp_path / "other", RATE, sampler="random")
    heir.inherit(f"journal:{tmp_path}/study.log", "sweep-7")
    assert measured(heir.optuna.trials) == {}  # another sweep's may be of another length


# So many at a time ---------------------------------------------------------------------------------------------------


class Tuned:
    """What a scheduler asks Tune's controller for."""

    search_alg = None

    def __init__(self, *trials):
        self.trials = trials

    def get_live_trials(self):
        return set(self.trials)

    get_trials = get_live_trials


def tune_trial(number, status, tmp_path, *, waits=False):
    tune.register_trainable("nothing", tune.Trainable)
    storage = StorageContext(str(tmp_path), experiment_dir_name="sweep")
    made = InTune("nothing", config={"values": {}}, trial_id=f"{number:05d}", storage=storage)
    made.set_status(status)
    made.waits = waits
    return made


@pytest.mark.parametrize("name", ["pbt", "hyperband"])
def test_a_scheduler_that_pauses_starts_no_more_than_are_wanted_at_a_time(name, tmp_path):
    made = build_scheduler(SweepOptions(scheduler=name, concurrency=2), RATE, epochs=9, modes=MAX)
    running = tune_trial(0, "RUNNING", tmp_path)
    other = tune_trial(1, "RUNNING", tmp_path)
    waiting = tune_trial(2, "PAUSED", tmp_path, waits=True)
    for trial in (running, other, waiting):
        made.on_trial_add(Tuned(running, other, waiting), trial)
    assert made.choose_trial_to_run(Tuned(running, other, waiting)) is None
    assert made.choose_trial_to_run(Tuned(running, waiting)) is waiting
    assert not waiting.waits
    waiting.set_status("PENDING")
    assert made.choose_trial_to_run(Tuned(running, waiting)) is waiting  # it still waits for its process
    assert made.choose_trial_to_run(Tuned(running, other, waiting)) is waiting


def test_population_based_training_takes_whom_it_put_aside_where_there_is_room(tmp_path):
    made = build_scheduler(SweepOptions(scheduler="pbt", concurrency=1), RATE, epochs=9, modes=MAX)
    aside, running = tune_trial(0, "PAUSED", tmp_path), tune_trial(1, "RUNNING", tmp_path)
    for trial in (aside, running):
        made.on_trial_add(Tuned(aside, running), trial)
    assert made.choose_trial_to_run(Tuned(aside, running)) is None
    running.set_status("PAUSED")
    made._trial_state[running].last_train_time = 1
    assert made.choose_trial_to_run(Tuned(aside, running)) is aside


def test_population_based_training_takes_nothing_over_after_the_last_epoch(tmp_path):
    def decided(epoch: int) -> list[str]:
        made = scheduler("pbt")  # of trainings of nine epochs
        trials = [tune_trial(number, "PAUSED" if number else "RUNNING", tmp_path) for number in range(2)]
        controller = Tuned(*trials)
        for trial in trials:
            made.on_trial_add(controller, trial)
            made._trial_state[trial].last_score = 0.9
        return made.on_trial_result(controller, trials[0], {"epoch": epoch, "value": 0.1})

    assert decided(8) != "CONTINUE"
    assert decided(9) == "CONTINUE"


# Ends ----------------------------------------------------------------------------------------------------------------

NOBODY = SimpleNamespace(search_alg=None)
"""A controller that must not be asked for anything."""


def a_trial(number):
    trial = Trial("Trial", trial_id=f"{number}", stub=True)
    trial.set_status(Trial.RUNNING)
    return trial


def at(epoch, value):
    return {"epoch": epoch, "value": value}


def test_the_median_rule_stops_what_is_worse_also_after_a_trial_that_failed():
    rule = scheduler("median")
    for number, value in enumerate((0.9, 0.8, 0.7)):
        rule.on_trial_result(NOBODY, a_trial(number), at(1, value))
    failed = a_trial(3)
    rule.on_trial_result(NOBODY, failed, at(1, 0.2))
    rule.on_trial_complete(NOBODY, failed, {"outcome": "failed"})  # of no epoch
    assert rule.on_trial_result(NOBODY, a_trial(4), at(1, 0.1)) == TrialScheduler.STOP
    assert rule.on_trial_result(NOBODY, a_trial(5), at(1, 0.95)) == TrialScheduler.CONTINUE


def test_hyperband_lets_who_has_trained_to_the_end_finish():
    groups = scheduler("hyperband")
    trials = [a_trial(number) for number in range(3)]  # the first group: three whole trainings
    for trial in trials:
        groups.on_trial_add(NOBODY, trial)
    assert {groups.on_trial_result(NOBODY, trial, at(9, 0.5)) for trial in trials} == {TrialScheduler.CONTINUE}


def test_hyperband_puts_trials_aside_until_their_group_is_there_and_goes_on_with_the_best_third():
    stopped = []
    controller = SimpleNamespace(search_alg=None, stop_trial=stopped.append)
    groups = scheduler("hyperband")
    trials = [a_trial(number) for number in range(8)]
    for trial in trials:
        groups.on_trial_add(controller, trial)
    second = trials[3:]  # five that are compared after three epochs
    for place, trial in enumerate(second[:-1]):
        assert groups.on_trial_result(controller, trial, at(3, 0.1 * place)) == TrialScheduler.PAUSE
        trial.set_status(Trial.PAUSED)
    assert groups.on_trial_result(controller, second[-1], at(3, 0.9)) == TrialScheduler.CONTINUE
    assert [trial.trial_id for trial in stopped] == ["3", "4", "5"]


@pytest.mark.parametrize("name", ["asha", "hyperband", "median", "pbt"])
def test_an_epoch_without_validation_is_let_pass(name):
    made, trial = scheduler(name), a_trial(0)
    made.on_trial_add(NOBODY, trial)
    assert made.on_trial_result(NOBODY, trial, {"epoch": 1, "run_id": 2}) == TrialScheduler.CONTINUE


def test_each_stage_of_a_pipeline_is_compared_by_what_it_measures_itself():
    stages = scheduler("asha", modes=(("monitor", "min"), ("value", "max")))
    good, bad = a_trial(0), a_trial(1)
    for trial in (good, bad):
        stages.on_trial_add(NOBODY, trial)
    assert stages.on_trial_result(NOBODY, good, {"stage": 0, "epoch": 1, "monitor": 0.1}) == TrialScheduler.CONTINUE
    assert stages.on_trial_result(NOBODY, bad, {"stage": 0, "epoch": 1, "monitor": 0.9}) == TrialScheduler.STOP


def test_an_argument_that_a_scheduler_does_not_have_is_named():
    with pytest.raises(ConfigError, match=r"sweep.scheduler.grace: asha does not take it.*grace_period"):
        scheduler("asha", grace=2)
