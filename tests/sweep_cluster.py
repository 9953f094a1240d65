"""A Ray cluster of several simulated machines: each is a raylet of its own, which can be lost at any moment."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ASP
from tests.e2e.test_exactly_once import below, kill
from tests.helpers import free_port, wait_for_port

START_S = 60.0
NODE = {
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_health_check_initial_delay_ms": "1000",  # a lost machine is known to be lost after 3 s, not 30
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass
class Machine:
    """One machine of the cluster."""

    process: subprocess.Popen[bytes]

    def lose_its_raylet(self) -> None:
        """Kill the process that makes it part of the cluster; what it trains is left to find that out."""
        (raylet,) = [pid for pid in below(self.process.pid) if command_of(pid).startswith("raylet")]
        kill([raylet])

    def lose_its_power(self) -> None:
        """Kill everything on it at once."""
        kill(below(self.process.pid))


@dataclass
class Cluster:
    """Machines that share a head, on ports of their own."""

    folder: Path
    port: int = field(default_factory=free_port)
    machines: list[Machine] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Where its head listens."""
        return f"127.0.0.1:{self.port}"

    def add(self, cpus: int) -> Machine:
        """Start another machine; the first is the head. Returns when it is part of the cluster."""
        head = not self.machines
        role = ["--head", f"--port={self.port}", "--include-dashboard=false"] if head else [f"--address={self.address}"]
        command = [str(ASP / "ray"), "start", "--block", "--disable-usage-stats", f"--num-cpus={cpus}", *role]
        with (self.folder / f"node{len(self.machines)}.log").open("w") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **NODE}, start_new_session=True
            )
        self.machines.append(Machine(process))
        if head:
            wait_for_port(self.port, START_S)
        return self.machines[-1]

    def alive(self) -> list[str]:
        """Return the ids of the machines that the head takes for alive."""
        return self._asked("[node['NodeID'] for node in ray.nodes() if node['Alive']]")

    def reserved(self) -> list[str]:
        """Return the ids of the placement groups that hold resources, or wait for them."""
        return self._asked("[one for one, of in ray.util.placement_group_table().items() if of['state'] != 'REMOVED']")

    def free_cpus(self) -> float:
        """Return the CPUs that nobody has."""
        return float(*self._asked("[ray.available_resources().get('CPU', 0)]"))

    def _asked(self, expression: str) -> list[str]:
        """Ask the head from a process of its own; a test's own Ray is left alone."""
        asked = "import ray, sys; ray.init(sys.argv[1], logging_level='error', log_to_driver=False);"
        command = [str(ASP / "python"), "-c", f"{asked} print(*{expression})", self.address]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=START_S)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def wait_for(self, machines: int) -> None:
        """Wait until so many machines are alive."""
        end = time.monotonic() + START_S
        while len(self.alive()) != machines:
            assert time.monotonic() < end, f"{machines} machines are not alive: {self.alive()}"

    def shutdown(self) -> None:
        """End every machine, the head last."""
        for machine in reversed(self.machines):
            machine.lose_its_power()
            machine.process.wait(timeout=START_S)


def command_of(pid: int) -> str:
    """Return the name of a process's program."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Have an empty cluster for a while: the first machine that is added is its head."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Cluster(folder)
    try:
        yield made
    finally:
        made.shutdown()
