"""What Ray Train calls on each worker. Light: the driver has to name this function, and only workers need torch."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from asparagus.attempts import last_words_of
from asparagus.errors import AsparagusError
from asparagus.failure import death_of, write_death
from asparagus.failure_policy import halved
from asparagus.secrets import hide, references
from asparagus.spec import Assignment
from asparagus.stopwatch import WATCH, Phase
from asparagus.worker.here import HERE

if TYPE_CHECKING:
    from pytorch_lightning import Callback


def train_loop(config: dict[str, Any]) -> dict[str, Any]:
    """Be one Ray Train worker. What rank 0 returns is the outcome of the run."""
    WATCH.start()
    # By hand and not by Ray's runtime environment, which it shows to everyone.
    os.environ.update(config["secrets"].values)
    look_in(os.environ.get("PYTHONPATH", ""))
    from asparagus.worker.ray_ranks import OnRay
    from asparagus.worker.work import work

    WATCH.lap(Phase.IMPORTS)
    assignment = Assignment.from_dict(config["assignment"])
    names = HERE.secrets = set(references(assignment.spec.to_dict()))
    try:
        return work(
            replace(assignment, spec=halved(assignment.spec, HERE.halvings)),
            OnRay(_gate(config["desk"], assignment)),
        )
    except Exception as error:
        _last_words(error, names)
        if not names or isinstance(error, AsparagusError):
            raise
        # Ray writes what is raised here into logs of its own, which outlive the run.
        text = hide(f"{type(error).__name__}: {error}", names)
        story = hide("".join(traceback.format_exception(error)), names)
    raise RuntimeError(f"{text}\n{story}")


def look_in(python_path: str) -> None:
    """Look for code where the launch does: this process may have been started by another one."""
    places = [place for place in python_path.split(os.pathsep) if place and place not in sys.path]
    sys.path[:0] = places


def _gate(desk: Any, assignment: Assignment) -> list[Callback]:
    """Return what waits for a sweep after each epoch, if there is one."""
    if desk is None:
        return []
    from asparagus.worker.turn import AtTheDesk

    return [AtTheDesk(desk, assignment.run_id, assignment.attempt)]


def _last_words(error: BaseException, secrets: set[str]) -> None:
    """Say why this rank ends, in its log and for the post-mortem: Ray tells of some ranks, later, and not when."""
    node = ray.get_runtime_context().get_node_id()
    death = death_of(error, rank=HERE.rank, step=HERE.step, host=socket.gethostname(), node=node)
    death = replace(death, told=hide(death.told, secrets), story=hide(death.story, secrets))
    write_death(last_words_of(Path(HERE.folder), HERE.attempt, HERE.rank), death)
    sys.stderr.write(death.story)  # this rank's log
