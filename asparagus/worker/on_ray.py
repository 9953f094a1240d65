"""What Ray Train calls on each worker. Light: the driver has to name this function, and only workers need torch."""

from __future__ import annotations

import os
from typing import Any

from asparagus.spec import Assignment


def train_loop(config: dict[str, Any]) -> dict[str, Any]:
    """Be one Ray Train worker. What rank 0 returns is the outcome of the run."""
    # By hand and not by Ray's runtime environment, which it shows to everyone.
    os.environ.update(config["secrets"].values)
    from asparagus.worker.ray_ranks import OnRay
    from asparagus.worker.work import work

    return work(Assignment.from_dict(config["assignment"]), OnRay())
