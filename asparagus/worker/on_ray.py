"""What Ray Train calls on each worker. Light: the driver has to name this function, and only workers need torch."""

from __future__ import annotations

import os
import traceback
from typing import Any

from asparagus.secrets import hide, references
from asparagus.spec import Assignment


def train_loop(config: dict[str, Any]) -> dict[str, Any]:
    """Be one Ray Train worker. What rank 0 returns is the outcome of the run."""
    # By hand and not by Ray's runtime environment, which it shows to everyone.
    os.environ.update(config["secrets"].values)
    from asparagus.worker.ray_ranks import OnRay
    from asparagus.worker.work import work

    assignment = Assignment.from_dict(config["assignment"])
    names = set(references(assignment.spec.to_dict()))
    try:
        return work(assignment, OnRay())
    except Exception as error:
        if not names:
            raise
        # Ray writes what is raised here into logs of its own, which outlive the run.
        text = hide(f"{type(error).__name__}: {error}", names)
        story = hide("".join(traceback.format_exception(error)), names)
    raise RuntimeError(f"{text}\n{story}")
