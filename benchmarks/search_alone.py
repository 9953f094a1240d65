"""A long search in this process whose trials train nothing: what study, proposals and Tune cost; prints it as JSON.

python -m benchmarks.search_alone TRIALS
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.many_trials import resident_of


def main(trials: int) -> None:  # noqa: C901 - with a trial inside, which needs Tune
    """Carry out a search whose trials train nothing, in this process; prints what was seen as JSON."""
    import ray
    from ray import tune

    from asparagus.space import Dimension, Interval, Space, SweepOptions
    from asparagus.sweep.limits import Limits
    from asparagus.sweep.schedulers import build_scheduler
    from asparagus.sweep.search import Proposals, search
    from asparagus.sweep.study import Study
    from asparagus.sweep.trial import Terms

    class Trivial(tune.Trainable):
        """Measures one number twice, and is over."""

        def setup(self, config: dict) -> None:
            self.reset_config(config)

        def reset_config(self, new_config: dict) -> bool:
            self.rate, self.epochs = new_config["values"]["optim.lr"], 0
            return True

        def step(self) -> dict:
            self.epochs += 1
            value = 1 - (self.rate - 0.01) ** 2
            facts = {"stage": 0, "run_id": 1, "params": json.dumps({"optim.lr": self.rate}), "metrics": "{}"}
            facts |= {"epoch": self.epochs, "value": value, "values": [value]}
            return facts | ({"outcome": "finished", "done": True} if self.epochs > 2 else {})

        def save_checkpoint(self, checkpoint_dir: str) -> None: ...

        def load_checkpoint(self, checkpoint: str) -> None: ...

    seen: list[tuple[float, float, int]] = []

    def tell(event: dict) -> None:
        if event["kind"] == "trial_over":
            seen.append((time.time(), time.process_time(), resident_of(os.getpid())))

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    with tempfile.TemporaryDirectory() as name:
        space = Space((Dimension("optim.lr", Interval(1e-4, 1e-1, log=True)),))
        options = SweepOptions(trials=trials, sampler="tpe", scheduler="asha", mode="max", metric="val/acc")
        study = Study.open(f"sqlite:///{name}/study.db", "sweep-1", space, options, concurrency=2)
        limits = Limits()
        proposals = Proposals(
            study,
            trials=trials,
            concurrency=2,
            limits=limits,
            terms=Terms(sweep_id=1, stages=1, metrics=("val/acc",)),
            attempts=1,
            end_run=lambda *_: None,
            tell=tell,
        )
        search(
            proposals,
            build_scheduler(options, space, epochs=3, modes=(("value", "max"),)),
            trainable=Trivial,
            bundles=[{"CPU": 1}],
            limits=limits,
            look=lambda: None,
            folder=Path(name) / ".tune/attempt1",
            reuse=True,
            pending=1,
        )
        if study.counted() != trials:
            sys.exit(f"{study.counted()} of {trials} trials are over")
    print(json.dumps(seen))


if __name__ == "__main__":
    main(int(sys.argv[1]))
