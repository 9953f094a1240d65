"""The jobs of a Ray cluster, through the one port of its dashboard: send, list, follow, stop."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asparagus.errors import SubmitError
from asparagus.ray_job import FOLDER, RUNS
from asparagus.submit.address import VARIABLES, explained, must_answer, use_token_if_there_is_one

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

OURS = "asparagus."
"""What our metadata begin with."""
EXPERIMENT, TASK, WHO = "asparagus.experiment", "asparagus.task", "asparagus.who"
SUCCEEDED, FAILED, STOPPED = "SUCCEEDED", "FAILED", "STOPPED"
OVER = (SUCCEEDED, FAILED, STOPPED)
INTERRUPTED = 130
FAILURE = 3
REQUEST_S = 120.0
SILENCE_S = 45.0
"""After so long without a word the connection may be dead: it is made anew."""
LOST_S = 90.0
"""How long a cluster may be away before we stop following."""
PAUSE_S = 0.5
LOG_BEGINS = "### the log begins"
"""What comes before it is Ray's own. Ray also says that it starts the command, before this or after it."""
STOP_S = 120
"""How long a job that is stopped may take to write its checkpoint and its record."""
STOPPING = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}
"""Ray's variables: what `stop` sends to the job, and how long it then waits."""


class LostError(SubmitError):
    """A cluster does not answer any more."""

    exit_status = FAILURE


@dataclass(frozen=True)
class Job:
    """A job as the cluster lists it."""

    job_id: str
    status: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    exit_code: int | None = None
    message: str = ""
    started: float = 0.0
    """Seconds since 1970."""
    ended: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in OVER

    @property
    def runs(self) -> list[int]:
        """The numbers of its runs, as far as it has come."""
        return [int(number) for number in self.metadata.get(RUNS, "").split(",") if number]

    @property
    def folder(self) -> str | None:
        """Of its newest run, as the cluster sees it."""
        return self.metadata.get(FOLDER)

    @property
    def exit_status(self) -> int:
        """What the command would have ended with here."""
        if self.status == STOPPED:
            return INTERRUPTED
        if self.exit_code is not None:
            return self.exit_code
        return 0 if self.status == SUCCEEDED else FAILURE

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "job_id": self.job_id,
            "status": self.status,
            "runs": self.runs,
            "folder": self.folder,
            "experiment": self.metadata.get(EXPERIMENT),
            "task": self.metadata.get(TASK),
            "who": self.metadata.get(WHO),
            "started": self.started,
            "ended": self.ended,
            "exit_status": self.exit_status if self.is_over else None,
        }


class Cluster:
    """A Ray cluster, reached through its dashboard.

    Args:
        address: Of the dashboard.

    Raises:
        SubmitError: Nobody answers there, somebody else does, or we are not let in.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        must_answer(address)
        with explained(address):
            self._client = _client(address)
        self.ray_version: str = str(self._client._server_ray_version)  # noqa: SLF001 - asked for just now

    def send(
        self,
        package: Path,
        entrypoint: str,
        *,
        job_id: str,
        environment: Mapping[str, Any],
        metadata: Mapping[str, str],
    ) -> None:
        """Submit a job, once: a connection that breaks meanwhile does not make two of it.

        Args:
            package: A zip file, its working directory.
            entrypoint: What is run.
            job_id: What it is called.
            environment: Ray's runtime environment beside the working directory; everybody may see it.
            metadata: What is said of it; everybody may see it.
        """
        variables = {**environment.get("env_vars", {}), **STOPPING}
        runtime = {**environment, "working_dir": str(package), "env_vars": variables}
        with explained(self.address):
            try:
                self._client.submit_job(
                    entrypoint=entrypoint, runtime_env=runtime, metadata=dict(metadata), submission_id=job_id
                )
            except Exception:
                if not self._has(job_id):
                    raise

    def look(self, entrypoint: str, job_id: str) -> None:
        """Have the cluster say something that only it can see."""
        with explained(self.address):
            self._client.submit_job(entrypoint=entrypoint, submission_id=job_id)

    def forget(self, job_id: str) -> None:
        """Stop a job, wait for its end, and take it from the list."""
        with explained(self.address):
            self._client.stop_job(job_id)
            end = time.monotonic() + STOP_S
            while not self.job(job_id).is_over and time.monotonic() < end:
                time.sleep(PAUSE_S)
            self._client.delete_job(job_id)

    def leave(self, name: str, values: Mapping[str, str]) -> None:
        """Leave values in the memory of the cluster for the job that knows the name; they wait ten minutes for it.

        Nothing that the dashboard serves shows them, or gives them out.
        """
        with explained(self.address):
            self._client._package_exists(f"gcs://{name}")  # noqa: SLF001 - asking sets the ten minutes
            # Ray's error, should it have no room, shows the first bytes of what it was sent.
            content = b" " * 64 + json.dumps(dict(values)).encode()
            answer = self._client._do_request("PUT", f"/api/packages/gcs/{name}", data=content)  # noqa: SLF001
            if answer.status_code != 200:  # noqa: PLR2004 - as HTTP says it
                raise SubmitError(f"{self.address} does not take the values of .env (HTTP {answer.status_code}).")

    def job(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            SubmitError: There is none of that name.
        """
        with explained(self.address, job_id):
            return _job(self._client.get_job_info(job_id))

    def jobs(self) -> list[Job]:
        """Return the jobs that are runs of ours, newest first."""
        with explained(self.address):
            found = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        ours = [job for job in found if any(key.startswith(OURS) for key in job.metadata)]
        return sorted(ours, key=lambda job: -job.started)

    def find(self, name: str) -> Job:
        """Return a job by its id, or by the number of a run that it carries: the one under way, else the newest.

        Raises:
            SubmitError: There is none.
        """
        if not name.isdigit():
            return self.job(name)
        found = [job for job in self.jobs() if int(name) in job.runs]
        if not found:
            raise SubmitError(f"run {name}: no job at {self.address} carries it. All of them: asp runs --jobs")
        return next((job for job in found if not job.is_over), found[0])

    def log(self, job_id: str) -> str:
        """Return all that a job has said."""
        with explained(self.address, job_id):
            said: str = self._client.get_job_logs(job_id)
        return said

    def stop(self, job_id: str) -> bool:
        """Ask a job to end. Returns whether it was running."""
        with explained(self.address, job_id):
            return bool(self._client.stop_job(job_id))

    def follow(self, job_id: str, show: Callable[[str], None]) -> Job:
        """Show each line of a job's log as it comes, until the job is over; connections may break meanwhile.

        Raises:
            LostError: The cluster is away for good.
        """
        return asyncio.run(self._follow(job_id, _Lines(show)))

    async def _follow(self, job_id: str, lines: _Lines) -> Job:
        while True:
            ended = await self._tail(job_id, lines)
            job = self._job_in_time(job_id)
            if job.is_over and ended:
                lines.close()
                return job
            await asyncio.sleep(PAUSE_S)

    async def _tail(self, job_id: str, lines: _Lines) -> bool:
        """Read the log from its beginning, past what was shown; returns whether it ended by itself."""
        import aiohttp

        lines.again()
        stream = self._client.tail_job_logs(job_id)
        try:
            while True:
                lines.take(await asyncio.wait_for(anext(stream), SILENCE_S))
        except StopAsyncIteration:
            return True
        except (TimeoutError, RuntimeError, OSError, aiohttp.ClientError):
            return False

    def _job_in_time(self, job_id: str) -> Job:
        """Return a job from a cluster that may be away for a while."""
        end = time.monotonic() + LOST_S
        while True:
            try:
                return self.job(job_id)
            except SubmitError as error:
                if time.monotonic() > end:
                    raise LostError(
                        f"{self.address} has not answered for {LOST_S:.0f} s, and job {job_id} may go on: asp logs "
                        f"{job_id} -f --address {self.address} follows it again.\n{error}"
                    ) from error
            time.sleep(2 * PAUSE_S)

    def _has(self, job_id: str) -> bool:
        try:
            self.job(job_id)
        except SubmitError:
            return False
        return True


class _Lines:
    """Cuts what comes into lines, and leaves out what was shown before a connection broke."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show, self._rest = show, ""
        self._taken = self._passed = 0

    def again(self) -> None:
        """Begin at the beginning of the log."""
        self._passed = 0

    def take(self, text: str) -> None:
        """Take the next piece of the log."""
        known = min(len(text), max(0, self._taken - self._passed))
        self._passed += len(text)
        self._taken = max(self._taken, self._passed)
        *whole, self._rest = (self._rest + text[known:]).split("\n")
        for line in whole:
            self._show(line)

    def close(self) -> None:
        """Show what is left of a last line without an end."""
        if self._rest:
            self._show(self._rest)
        self._rest = ""


def print_worker_log(folder: str, rank: int, attempt: int | None, *, follow: bool) -> str:
    """Return the command with which a cluster prints `LOG_BEGINS`, the log of one worker, and what is added to it.

    Args:
        folder: Of the run, as the cluster sees it.
        rank: Of the worker.
        attempt: None for the newest.
        follow: Go on until it is stopped.
    """
    logs, which = shlex.quote(f"{folder}/logs"), "*" if attempt is None else str(attempt)
    begin = f"echo {shlex.quote(LOG_BEGINS)}"
    newest = f"$(ls -1dv {logs}/attempt={which}/rank={rank}.log 2>/dev/null | tail -n 1)"
    return f'{begin}; exec tail -n +1 {"-F " if follow else ""}"{newest}" 2>/dev/null'


def _job(details: Any) -> Job:
    return Job(
        job_id=str(details.submission_id or details.job_id),
        status=str(getattr(details.status, "value", details.status)),
        metadata=details.metadata or {},
        exit_code=details.driver_exit_code,
        message=details.message or "",
        started=(details.start_time or 0) / 1000,
        ended=details.end_time / 1000 if details.end_time else None,
    )


def _client(address: str) -> JobSubmissionClient:
    """Return Ray's client; one that does not wait for ever."""
    use_token_if_there_is_one()
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # it tells of each connection's end

    class Client(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            return super()._do_request(method, endpoint, **{"timeout": REQUEST_S, **options})

    kept = {name: os.environ.pop(name) for name in VARIABLES if name in os.environ}  # they would win over `address`
    try:
        return Client(address)
    finally:
        os.environ.update(kept)
