"""`asp logs`, `asp stop`, `asp runs --jobs`: runs that are under way, here or on a cluster."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from asparagus.errors import RecordError, SubmitError

if TYPE_CHECKING:
    from asparagus.record.run_folder import RunFolder
    from asparagus.submit.jobs import Cluster, Job

PAUSE_S = 0.3
STOP_S = 150.0
ADDRESS_HELP = "of the cluster's dashboard; else RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265"


def logs(arguments: Sequence[str]) -> int:
    """Run `asp logs JOB_OR_RUN`."""
    parser = argparse.ArgumentParser(
        "asp logs",
        description="What a job or a run said. -f goes on until it is over, and ends with its exit status.",
        epilog="example: asp logs 12 --rank 3 --attempt 2",
    )
    parser.add_argument("name", metavar="JOB_OR_RUN", help="asp-20260101-..., or a run's number")
    parser.add_argument("--follow", "-f", action="store_true", help="show what comes, until it is over")
    parser.add_argument("--rank", type=int, metavar="R", help="of one worker; 0 unless said, where --attempt is given")
    parser.add_argument("--attempt", type=int, metavar="A", help="of one attempt; the newest unless said")
    parser.add_argument("--address", help=ADDRESS_HELP)
    options = parser.parse_args(arguments)
    of_worker = options.rank is not None or options.attempt is not None
    here = None if options.address else _here(options.name)
    if here is not None:
        file = worker_log(here.path, options.rank or 0, options.attempt) if of_worker else here.log
        return _print(file, here, follow=options.follow)
    cluster = _cluster(options.address)
    job = cluster.find(options.name)
    if of_worker:
        return _print_from_afar(cluster, job, options)
    from asparagus.cli.submit import Screen, follow

    screen = Screen(sys.stdout)
    if options.follow:
        return follow(cluster, job.job_id, screen)
    for line in cluster.log(job.job_id).splitlines():
        screen.show(line)
    return 0


def stop(arguments: Sequence[str]) -> int:
    """Run `asp stop JOB_OR_RUN`."""
    parser = argparse.ArgumentParser(
        "asp stop",
        description="End a job or a run as Ctrl-C does: its record says so, and the same command goes on from its last "
        "checkpoint.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("name", metavar="JOB_OR_RUN", nargs="?", help="asp-20260101-..., or a run's number")
    what.add_argument("--ray", action="store_true", help="end the Ray that site=local-warm keeps up on this machine")
    parser.add_argument("--address", help=ADDRESS_HELP)
    parser.add_argument("--no-wait", action="store_true", help="do not wait until it has ended")
    options = parser.parse_args(arguments)
    if options.ray:
        return _stop_ray()
    here = None if options.address else _here(options.name)
    if here is not None and (process := _process_of(here)) is not None:
        os.kill(process, signal.SIGINT)
        return _wait(options, f"run {options.name}", lambda: not _is_running(here))
    cluster = _cluster(options.address)
    job = cluster.find(options.name)
    if job.is_over or not cluster.stop(job.job_id):
        print(f"job {job.job_id} is over already: {job.status.lower()}", file=sys.stderr)
        return 0
    return _wait(options, f"job {job.job_id}", lambda: cluster.job(job.job_id).is_over)


def _stop_ray() -> int:
    from asparagus.driver import warm
    from asparagus.paths import load_environment

    load_environment()
    head = warm.end()
    if head is None:
        print("no Ray of site=local-warm is up", file=sys.stderr)
    else:
        print(f"the Ray of site=local-warm has ended (process {head.process})", file=sys.stderr)
    return 0


def list_jobs(address: str | None, *, as_json: bool) -> int:
    """Run `asp runs --jobs`."""
    found = _cluster(address).jobs()
    if as_json:
        print(json.dumps([job.to_dict() for job in found]))
        return 0
    if not found:
        print("No job of ours is on this cluster. Submit one: asp-launch CONFIG --submit", file=sys.stderr)
        return 0
    head = ("job", "runs", "state", "experiment", "task", "who", "started")
    rows = [head, *(_row(job) for job in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def worker_log(folder: Path, rank: int, attempt: int | None) -> Path:
    """Return the log of one worker in a run's folder.

    Raises:
        RecordError: There is none; those that are there are named.
    """
    attempts = sorted((folder / "logs").glob("attempt=*"), key=lambda path: int(path.name.partition("=")[2]))
    wanted = folder / "logs" / f"attempt={attempt}" if attempt is not None else (attempts or [folder / "logs"])[-1]
    file = wanted / f"rank={rank}.log"
    if not file.is_file():
        there = ", ".join(str(path.relative_to(folder / "logs")) for path in sorted((folder / "logs").glob("*/*.log")))
        raise RecordError(f"{file}: there is no such log. There are: {there or 'none'}.")
    return file


def _row(job: Job) -> tuple[str, ...]:
    from asparagus.submit.jobs import EXPERIMENT, TASK, WHO

    started = datetime.fromtimestamp(job.started, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
    said = (job.metadata.get(name, "-") for name in (EXPERIMENT, TASK, WHO))
    return (job.job_id, ",".join(map(str, job.runs)) or "-", job.status.lower(), *said, started)


def _cluster(address: str | None) -> Cluster:
    from asparagus.paths import load_environment
    from asparagus.submit.address import address_of
    from asparagus.submit.jobs import Cluster

    load_environment()
    return Cluster(address_of(address))


def _here(name: str) -> RunFolder | None:
    """Return the folder of a run that can be seen from here; None for a job, and for a run that is elsewhere."""
    if not name.isdigit():
        return None
    from asparagus.paths import get_paths, load_environment
    from asparagus.record.numbers import find_folder
    from asparagus.record.run_folder import RunFolder

    load_environment()
    try:
        folder = find_folder(Path(get_paths().models), int(name))
    except RecordError:
        return None
    return RunFolder(folder, folder.parent.name)


def _process_of(folder: RunFolder) -> int | None:
    """Return the process that trains a run on this machine."""
    from asparagus.record.run_folder import driver_of

    who = driver_of(folder) if _is_running(folder) else {}
    return int(who["pid"]) if who.get("host") == socket.gethostname() else None


def _is_running(folder: RunFolder) -> bool:
    from asparagus.record.run_folder import is_running

    return is_running(folder)


def _wait(options: argparse.Namespace, what: str, is_over: Callable[[], bool]) -> int:
    print(f"{what} is asked to end", file=sys.stderr, flush=True)
    end = time.monotonic() + STOP_S
    while not options.no_wait and not is_over():
        if time.monotonic() > end:
            raise SubmitError(f"{what} has not ended within {STOP_S:.0f} s. Look: asp logs {options.name} -f")
        time.sleep(PAUSE_S)
    if not options.no_wait:
        print("it has ended; the same command goes on from its last checkpoint", file=sys.stderr)
    return 0


def _print(file: Path, run: RunFolder, *, follow: bool) -> int:
    """Print a file, and with `follow` what is added to it for as long as its run is trained."""
    with file.open(encoding="utf-8", errors="replace") as log:
        while True:
            last = not follow or not _is_running(run)
            for line in log:
                print(line, end="")
            sys.stdout.flush()
            if last:
                return 0
            time.sleep(PAUSE_S)


def _print_from_afar(cluster: Cluster, job: Job, options: argparse.Namespace) -> int:
    """Have the cluster print a worker's log: it lies in the run's folder, which is not seen from here."""
    from asparagus.submit.jobs import LOG_BEGINS, print_worker_log

    if job.folder is None:
        raise SubmitError(f"job {job.job_id} has not begun a run yet. What it says: asp logs {job.job_id}")
    command = print_worker_log(job.folder, options.rank or 0, options.attempt, follow=options.follow)
    name = f"asp-look-{secrets.token_hex(6)}"
    cluster.look(command, name)
    try:
        lines = _printed_after(LOG_BEGINS, f"Running entrypoint for job {name}:")
        next(lines)
        ended = cluster.follow(name, lines.send)
    finally:
        cluster.forget(name)
    if ended.exit_status != 0:
        attempt = "any attempt" if options.attempt is None else f"attempt {options.attempt}"
        raise RecordError(f"{job.folder}/logs: has no log of rank {options.rank or 0} of {attempt}.")
    return 0


def _printed_after(first: str, but: str) -> Generator[None, str, None]:
    """Take lines, and print those that come after the first one of these words, but those that begin like Ray's own."""
    while (yield) != first:
        pass
    while True:
        line = yield
        if not line.startswith(but):
            print(line, flush=True)
