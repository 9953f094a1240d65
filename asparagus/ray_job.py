"""The Ray job that this process was started by, if it was: its id, and what the job's list says of it."""

from __future__ import annotations

import dataclasses
import json
import logging
import os

CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray's own variable: set in the entrypoint of a job, and not in its workers."""
RUNS = "asparagus.runs"
"""Metadata of a job: the numbers of its runs, separated by commas."""
FOLDER = "asparagus.folder"
"""Metadata of a job: the folder of its newest run, where the cluster sees it."""
WAIT_S = 10

log = logging.getLogger("asparagus")


def job_id() -> str | None:
    """Return the id of the job whose entrypoint this process is; None outside of one."""
    metadata = json.loads(os.environ.get(CONFIG) or "{}").get("metadata") or {}
    found: str | None = metadata.get("job_submission_id")
    return found


def note_run(run_id: int, folder: str) -> None:
    """Have the job's entry say which run it carries, so that it is found by the run's number from any machine.

    Nothing that is trained depends on it: where it cannot be written, that is said and no more.
    """
    mine = job_id()
    if mine is None:
        return
    import asyncio

    from ray.exceptions import RayError

    try:
        asyncio.run(_note(mine, str(run_id), folder))
    except (RayError, OSError, RuntimeError) as error:
        log.warning("job %s cannot be told that it carries run %d (%s)", mine, run_id, error)


async def _note(mine: str, run_id: str, folder: str) -> None:
    """Change the entry. Ray has no public way for it; its own client of the store is what the dashboard uses."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # not in its stubs
    from ray.dashboard.modules.job.common import JobInfoStorageClient

    entries = JobInfoStorageClient(GcsClient(address=os.environ["RAY_ADDRESS"]))
    entry = await entries.get_info(mine, timeout=WAIT_S)
    if entry is None:
        return
    known = dict(entry.metadata or {})
    runs = [*filter(None, known.get(RUNS, "").split(",")), run_id]
    changed = {**known, RUNS: ",".join(dict.fromkeys(runs)), FOLDER: folder}
    await entries.put_info(mine, dataclasses.replace(entry, metadata=changed), timeout=WAIT_S)
