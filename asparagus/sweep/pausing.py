"""Schedulers that put trials aside for others, held to so many at a time."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import HyperBandScheduler, PopulationBasedTraining, TrialScheduler

OUT = (TuneTrial.PENDING, TuneTrial.RUNNING)


class Bounded(TrialScheduler):
    """Starts no more trials than are wanted at a time; Tune itself starts all that the cluster holds.

    These schedulers compare a trial with others that wait, so one more is always there (`Proposals` hands it out put
    aside): without it, population based training puts nobody aside, and Hyperband halves brackets of a few.
    """

    most: int | None = None

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Take one that was handed out to wait, then whom the scheduler takes; nobody where enough are out."""
        live = tune_controller.get_live_trials()
        out = sum(trial.status in OUT for trial in live)
        if self.most is not None and out >= self.most:
            chosen = super().choose_trial_to_run(tune_controller)
            return chosen if chosen is not None and chosen.status == TuneTrial.PENDING else None
        waiting = [trial for trial in live if getattr(trial, "waits", False)]
        if not waiting:
            return super().choose_trial_to_run(tune_controller)
        waiting[0].waits = False
        return waiting[0]


class Bands(Bounded, HyperBandScheduler):
    """Hyperband; an epoch in which nothing was validated is let pass."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Compare what can be compared."""
        if self._metric not in result:
            return str(self.CONTINUE)
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return decision


class Population(Bounded, PopulationBasedTraining):
    """Population based training, up to a trial's last epoch: a state that is taken over then is trained no more."""

    epochs: int | None = None

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Let who has trained to its end end as it is."""
        if self.epochs is not None and result.get(self._time_attr, 0) >= self.epochs:
            return str(self.CONTINUE)
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return decision
