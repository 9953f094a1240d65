"""Ray Train's worker, who imports what it will need while it is still being told what to do."""

from __future__ import annotations

import threading

from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker


class EagerWorker(RayTrainWorker):
    """Torch and Lightning are seconds on the way to the first step, and start-up waits for answers meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        threading.Thread(target=_import_lightning, daemon=True).start()


def be_ready() -> None:
    """Import all that a training needs, in a process that waits for one."""
    threading.Thread(target=_import_work, daemon=True).start()


def _import_lightning() -> None:
    import pytorch_lightning  # noqa: F401 - for its imports


def _import_work() -> None:
    import asparagus.worker.on_ray
    import asparagus.worker.ray_ranks
    import asparagus.worker.work  # noqa: F401 - for their imports
