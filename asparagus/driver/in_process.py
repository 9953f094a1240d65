"""A training in this process, tried again where that can help; what it leaves behind when it cannot."""

from __future__ import annotations

import gc
import logging
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from asparagus.driver import post_mortem
from asparagus.driver.one_run import failure
from asparagus.driver.post_mortem import PostMortem
from asparagus.errors import LeftError, RunError
from asparagus.failure import Death, Kind, death_of
from asparagus.failure_policy import Decision, decide, halved, what_to_lower
from asparagus.secrets import references
from asparagus.spec import Assignment
from asparagus.stopwatch import WATCH, Phase
from asparagus.worker.here import HERE, facts

HOPELESS_HERE = (Kind.HARDWARE, Kind.LOST, Kind.COLLATERAL)
"""What a process does not recover from: a CUDA context is broken for good."""

log = logging.getLogger("asparagus")


def train_here(assignment: Assignment) -> dict[str, Any]:
    """Train in this process; returns what `work` does.

    Raises:
        RunError: It failed, as often as it was tried.
        LeftError: It was told to leave.
    """
    from asparagus.worker.ranks import InProcess
    from asparagus.worker.work import work

    before: list[Death] = []
    decision = Decision(again=True, why="")
    while True:
        spec = halved(assignment.spec, decision.halvings)
        try:
            return work(replace(assignment, spec=spec), InProcess())
        except LeftError:
            raise
        except Exception as error:
            death = death_of(error, rank=0, step=HERE.step, host=socket.gethostname())
            decision = _decide(assignment, before, death, decision.halvings)
            _write(assignment, death, decision)
            if not decision.again:
                raise _ended(assignment, error, death) from error
        HERE.news = f"{death.kind}: {death.told.splitlines()[0]} ({decision.why})"
        before.append(death)
        _free_memory()
        WATCH.lap(Phase.LOST)


def _decide(assignment: Assignment, before: list[Death], death: Death, halvings: int) -> Decision:
    if death.kind in HOPELESS_HERE:
        return Decision(again=False, why="this process cannot recover from it", halvings=halvings)
    return decide(assignment.spec, before, death, halvings=halvings)


def _write(assignment: Assignment, death: Death, decision: Decision) -> None:
    nodes = {} if decision.again else {death.host: post_mortem.node_state()}
    mortem = PostMortem(HERE.attempt, 1, death, {0: death}, decision, {0: facts()}, nodes)
    post_mortem.write(Path(assignment.folder), mortem, references(assignment.spec.to_dict()))


def _ended(assignment: Assignment, error: Exception, death: Death) -> RunError:
    hint = what_to_lower(assignment.spec, death) if death.kind is Kind.OUT_OF_MEMORY else ""
    return failure(assignment, error, hint=hint)


def _free_memory() -> None:
    """Let go of what the try before held, on the GPU too."""
    gc.collect()
    if "torch" in sys.modules:
        import torch

        torch.cuda.empty_cache()
