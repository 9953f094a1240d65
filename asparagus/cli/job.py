"""What a submitted job does on the cluster: check again with the cluster's eyes, carry out, and say how it ended."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from asparagus.submit.cargo import Errand


def main(folder: str) -> NoReturn:
    """Be the process of a job.

    Args:
        folder: Where what the job brought lies.
    """
    from asparagus.cli.main import be

    be(carry_out_job, [folder])


def carry_out_job(arguments: Sequence[str]) -> int:
    """Carry out what a job was told."""
    from asparagus.cli.submit import OUTCOME
    from asparagus.submit import cargo

    folder = Path(arguments[0])
    errand = cargo.Errand.read(folder)
    sys.argv[:] = errand.command  # the record says what was typed
    cargo.settle(errand)
    cargo.unseal(errand.sealed)
    outcome = _runs(errand) if errand.stages else _sweep(errand, folder)
    print(f"{OUTCOME}{json.dumps(outcome, default=str)}", flush=True)
    return 0


def _runs(errand: Errand) -> dict[str, Any]:
    """Carry out one run, or the stages of a pipeline in turn."""
    from asparagus.cli.launch import carry_out
    from asparagus.pipelines import run_specs
    from asparagus.submit.cargo import settled

    stages = [(stage.name, stage.source, settled(stage.spec, errand.home)) for stage in errand.stages]
    _say_where(stages[0][2].paths.models, str(stages[0][2].site.tracking_uri))
    outcomes = {name: outcome.to_dict() for name, outcome in run_specs(stages, carry_out)}
    *_, last = outcomes.values()
    return last if len(outcomes) == 1 else {**last, "stages": outcomes}


def _sweep(errand: Errand, folder: Path) -> dict[str, Any]:
    from asparagus.cli.sweep import carry_out_sweep
    from asparagus.submit.cargo import request_of
    from asparagus.sweeps import plan_sweep

    plan, planner = plan_sweep(request_of(errand, folder))
    _say_where(plan.last.spec.paths.models, str(plan.last.spec.site.tracking_uri))
    return carry_out_sweep(plan, planner).to_dict()


def _say_where(models: str, uri: str) -> None:
    """Say where the cluster keeps what comes of it: it may be another place than here."""
    from asparagus.secrets import without_passwords

    print(f"on {os.uname().nodename}: runs under {models}, recorded in {without_passwords(uri)}", file=sys.stderr)
