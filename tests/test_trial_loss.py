"""A trial whose desk or machine is gone says so, and tells nobody that it failed: it is tried again elsewhere."""

from __future__ import annotations

import gc

import pytest
from ray.exceptions import ActorDiedError, LocalRayletDiedError, RayTaskError

from asparagus.sweep.gate import DivergedError, Gate, StoppedError
from asparagus.sweep.trial import Terms, Trial


class Failing(Trial):
    """A trial whose training ends with an error."""

    def __init__(self, error, *, desk_is_gone=False):
        self.error, self.desk_is_gone, self.told = error, desk_is_gone, []
        self._terms = Terms(1, 1, ("val/loss",))
        self._done, self._tired, self._memory, self._run_id = 0, False, 0, None

    def _stages(self, gate, me):
        raise self.error

    def _lost(self, outcome, error):
        if self.desk_is_gone:
            raise ActorDiedError
        return super()._lost(outcome, error)


def carried_out(trial):
    gate = Gate()
    trial._carry_out(gate, None)
    return gate.reports.get(timeout=1)


@pytest.mark.parametrize("error", [ActorDiedError(), LocalRayletDiedError()])
def test_what_is_gone_is_raised_to_who_tries_it_again(error):
    assert carried_out(Failing(error)) is error


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("a fault"), "failed"),
        (RayTaskError("begin", "told", TypeError("a fault at the desk")), "failed"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "out_of_memory"),
        (DivergedError("val/loss is no number"), "diverged"),
    ],
)
def test_what_it_has_done_itself_is_its_end(error, outcome):
    trial = Failing(error)
    assert carried_out(trial).outcome == outcome
    assert trial._tired == (outcome != "diverged")


def test_a_failure_that_nobody_can_be_told_of_is_a_loss_and_no_silence():
    assert isinstance(carried_out(Failing(ValueError("a fault"), desk_is_gone=True)), ActorDiedError)


def test_who_is_stopped_says_nothing_more():
    trial, gate = Failing(StoppedError()), Gate()
    trial._carry_out(gate, None)
    assert gate.reports.empty()


def test_what_stays_between_trials_is_not_looked_through_again():
    trial, before = Failing(StoppedError()), gc.get_freeze_count()
    try:
        assert not trial._worn()
        assert gc.get_freeze_count() == before  # nothing is there yet that stays
        trial._done, trial._memory = 1, 10**12
        assert not trial._worn()
        frozen = gc.get_freeze_count()
        assert frozen > before
        trial._done = 2
        cycle = []
        cycle.append(cycle)
        del cycle
        assert not trial._worn()
        assert gc.get_freeze_count() <= frozen  # what came since can still be collected
    finally:
        gc.unfreeze()
