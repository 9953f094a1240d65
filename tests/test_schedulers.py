"""Tune's schedulers as a sweep asks for them: what they do when a trial ends, is not validated, or is through."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from asparagus.errors import ConfigError
from asparagus.space import Dimension, Interval, Space, SweepOptions
from asparagus.sweep.schedulers import MONITOR, VALUE, build_scheduler

SPACE = Space((Dimension("optim.lr", Interval(1e-4, 1e-1, log=True)),))
EPOCHS = 9


NOBODY = SimpleNamespace(search_alg=None)
"""A controller that must not be asked for anything."""


def built(setting, *, modes=((VALUE, "max"),)):
    return build_scheduler(SweepOptions(scheduler=setting), SPACE, epochs=EPOCHS, modes=modes)


def a_trial(number):
    trial = Trial("Trial", trial_id=f"{number}", stub=True)
    trial.set_status(Trial.RUNNING)
    return trial


def at(epoch, value):
    return {"epoch": epoch, VALUE: value}


def test_the_median_rule_stops_what_is_worse_also_after_a_trial_that_failed():
    rule = built("median")
    for number, value in enumerate((0.9, 0.8, 0.7)):
        rule.on_trial_result(NOBODY, a_trial(number), at(1, value))
    failed = a_trial(3)
    rule.on_trial_result(NOBODY, failed, at(1, 0.2))
    rule.on_trial_complete(NOBODY, failed, {"outcome": "failed"})  # of no epoch
    assert rule.on_trial_result(NOBODY, a_trial(4), at(1, 0.1)) == TrialScheduler.STOP
    assert rule.on_trial_result(NOBODY, a_trial(5), at(1, 0.95)) == TrialScheduler.CONTINUE


def test_hyperband_lets_who_has_trained_to_the_end_finish():
    groups = built("hyperband")
    trials = [a_trial(number) for number in range(3)]  # the first group: three whole trainings
    for trial in trials:
        groups.on_trial_add(NOBODY, trial)
    assert {groups.on_trial_result(NOBODY, trial, at(EPOCHS, 0.5)) for trial in trials} == {TrialScheduler.CONTINUE}


def test_hyperband_puts_trials_aside_until_their_group_is_there_and_goes_on_with_the_best_third():
    stopped = []
    controller = SimpleNamespace(search_alg=None, stop_trial=stopped.append)
    groups = built("hyperband")
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
    scheduler, trial = built(name), a_trial(0)
    scheduler.on_trial_add(NOBODY, trial)
    assert scheduler.on_trial_result(NOBODY, trial, {"epoch": 1, "run_id": 2}) == TrialScheduler.CONTINUE


def test_nobody_takes_over_anothers_state_when_no_epoch_is_left():
    population = built("pbt")
    trials = [a_trial(number) for number in range(4)]
    for trial in trials:
        population.on_trial_add(NOBODY, trial)
    for place, trial in enumerate(trials):  # without a controller, an exploit would be an error
        assert population.on_trial_result(NOBODY, trial, at(EPOCHS, 0.1 * place)) == TrialScheduler.CONTINUE


def test_each_stage_of_a_pipeline_is_compared_by_what_it_measures_itself():
    stages = built("asha", modes=((MONITOR, "min"), (VALUE, "max")))
    good, bad = a_trial(0), a_trial(1)
    for trial in (good, bad):
        stages.on_trial_add(NOBODY, trial)
    assert stages.on_trial_result(NOBODY, good, {"stage": 0, "epoch": 1, MONITOR: 0.1}) == TrialScheduler.CONTINUE
    assert stages.on_trial_result(NOBODY, bad, {"stage": 0, "epoch": 1, MONITOR: 0.9}) == TrialScheduler.STOP


def test_an_argument_that_a_scheduler_does_not_have_is_named():
    with pytest.raises(ConfigError, match=r"sweep.scheduler.grace: asha does not take it.*grace_period"):
        built({"name": "asha", "grace": 2})
