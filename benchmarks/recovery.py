"""How long a training stands still when a worker or a node is killed: by Ray Train as documented, and by ours."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import BIN, RIVALS, Asked, Failed, digits_home, with_rivals
from benchmarks.figures import Measured, Row

SLOW_S, EPOCHS = 0.02, 400
"""Of a step, and how many epochs there are: more than it takes."""
STEPS_BEFORE = 40
"""Taken before the kill: checkpoints are there to go on from."""
PATIENCE_S = 300.0
REPEATS = 3


@dataclass(frozen=True)
class Step:
    """One step of one process."""

    time: float
    pid: int
    rank: int
    step: int


def steps_in(file: Path) -> list[Step]:
    """Return the steps that were told so far."""
    if not file.is_file():
        return []
    lines = (line.split() for line in file.read_text().splitlines())
    return [Step(float(at), int(pid), int(rank), int(step)) for at, pid, rank, step in lines]


@contextmanager
def cluster() -> Iterator[tuple[str, list[int]]]:
    """Have a head without places and three nodes with one each; yields the address, and the raylets of the nodes."""
    from ray.cluster_utils import Cluster

    quiet = {"include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **quiet})
    try:
        nodes = [made.add_node(wait=True, num_cpus=1) for _ in range(3)]
        yield made.address, [node.all_processes["raylet"][0].process.pid for node in nodes]
    finally:
        with contextlib.suppress(Exception):  # one of its nodes is dead, and that is the point
            made.shutdown()


def ours(file: Path, address: str) -> list[str]:
    """Return our command."""
    told = f"+callbacks.told={{_target_: steps.Steps, file: {file}, seconds: {SLOW_S}}}"
    words = ["experiment/digits", f"trainer.max_epochs={EPOCHS}", "resources.workers=2", "run.resume=false", told]
    return [str(BIN / "asp-launch"), *words, "run.max_failures=3", f"site.address={address}", "site.nodes=null"]


def documented(file: Path, address: str) -> list[str]:  # noqa: ARG001 - it reads RAY_ADDRESS
    """Return the command of Ray's way."""
    return [sys.executable, str(RIVALS / "ray_recovers.py"), str(file), str(SLOW_S), str(EPOCHS)]


def still(make, what: str, environment: dict[str, str]) -> float:
    """Return the seconds from the kill of a worker or a node to the first step of a process that came after it."""
    with tempfile.TemporaryDirectory() as folder, cluster() as (address, raylets):
        file = Path(folder) / "steps"
        with (Path(folder) / "log").open("w") as log:
            process = subprocess.Popen(
                make(file, address),
                env={**environment, "RAY_ADDRESS": address},
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=folder,
            )
            try:
                before = waited(process, lambda: [s for s in steps_in(file) if s.step >= STEPS_BEFORE])
                worker = before[-1].pid
                victim = worker if what == "worker" else raylet_of(worker, raylets)
                os.kill(victim, signal.SIGKILL)
                killed = time.time()
                known = {step.pid for step in steps_in(file)}
                (first, *_) = waited(process, lambda: [s for s in steps_in(file) if s.pid not in known])
                return first.time - killed
            except TimeoutError:
                said = (Path(folder) / "log").read_text()[-6000:]
                raise Failed(f"{make.__name__}, {what}: no step in time\n{said}") from None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def raylet_of(worker: int, raylets: list[int]) -> int:
    """Return the raylet that started a worker."""
    parent = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    if parent not in raylets:
        raise Failed(f"worker {worker} is none of these nodes': {raylets}")
    return parent


def waited(process: subprocess.Popen, look):
    """Wait until something is there."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        if found := look():
            return found
        time.sleep(0.05)
    raise TimeoutError


def measure(asked: Asked) -> Measured:
    """Kill a worker, and a node, under both."""
    repeats = asked.turns(REPEATS)
    rows: list[Row] = []
    with digits_home(**with_rivals(), OMP_NUM_THREADS="1", RAY_TRAIN_V2_ENABLED="1") as (_, environment):
        for what in ("worker", "node"):
            taken: dict[str, list[float]] = {}
            for _ in range(repeats):
                for make in (documented, ours):
                    taken.setdefault(make.__name__, []).append(still(make, what, environment))
                    print(json.dumps({what: taken}), flush=True)
            stock, own = (statistics.median(taken[make.__name__]) for make in (documented, ours))
            name = f"a {what} killed, Ray Train as documented"
            rows += [Row(f"a {what} killed, asparagus", own, "s", name, own / stock), Row(name, stock, "s")]
    about = (
        "Two workers on two of three one-CPU nodes of this machine, the digits training. Seconds from the SIGKILL of a "
        f"worker, or of a node's raylet, to the first step of a process that came after it; medians of {repeats}."
    )
    return Measured(about, tuple(rows))
