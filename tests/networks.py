"""Nodes with networks of their own: a bridge, a namespace for each node, and a cable to it that can be pulled."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import ASP
from tests.helpers import free_port

BRIDGE, SUBNET = "asp-br", "10.231.77"
HEAD = f"{SUBNET}.1"


def ip(*words: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def can_have_networks() -> bool:
    """Tell whether this process may make namespaces."""
    if os.geteuid() != 0:
        return False
    made = subprocess.run(["ip", "netns", "add", "asp-probe"], check=False, capture_output=True)
    subprocess.run(["ip", "netns", "del", "asp-probe"], check=False, capture_output=True)
    return made.returncode == 0


class Networks:
    """A head on a bridge, and nodes behind cables.

    Args:
        folder: For logs.
        cpus: Of the head.
    """

    def __init__(self, folder: Path, cpus: int) -> None:
        self.folder, self.port = folder, free_port()
        self.address = f"{HEAD}:{self.port}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._spaces: list[str] = []
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", f"{HEAD}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        head = ["--head", f"--port={self.port}", "--include-dashboard=false"]
        self._start("head", [*head, f"--node-ip-address={HEAD}", f"--num-cpus={cpus}"])
        wait_for_port_at(HEAD, self.port)

    def add(self, name: str, number: int, cpus: int) -> None:
        """Start a node with an address of its own; one that is there already gets a new raylet."""
        space, cable, there = f"asp-{name}", f"asp-{name}", f"asp-{name}-n"
        if space not in self._spaces:
            ip("netns", "add", space)
            self._spaces.append(space)
            ip("link", "add", cable, "type", "veth", "peer", "name", there)
            ip("link", "set", there, "netns", space)
            ip("link", "set", cable, "master", BRIDGE)
            ip("link", "set", cable, "up")
            ip("-n", space, "addr", "add", f"{SUBNET}.{number}/24", "dev", there)
            ip("-n", space, "link", "set", there, "up")
            ip("-n", space, "link", "set", "lo", "up")
        words = [f"--address={self.address}", f"--node-ip-address={SUBNET}.{number}", f"--num-cpus={cpus}"]
        self._start(name, words, "ip", "netns", "exec", space)

    def pull(self, name: str) -> float:
        """Pull a node's cable; returns when."""
        ip("link", "set", f"asp-{name}", "down")
        return time.time()

    def plug(self, name: str) -> None:
        """Put it back."""
        ip("link", "set", f"asp-{name}", "up")

    def _start(self, name: str, words: list[str], *before: str) -> None:
        command = [*before, str(ASP / "ray"), "start", "--block", "--disable-usage-stats", *words]
        environment = {**os.environ, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        self._processes[name] = process

    def end(self) -> None:
        """End all of it."""
        for process in reversed(self._processes.values()):
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        for space in self._spaces:  # the cable bears the same name, and would go a moment after its namespace
            subprocess.run(["ip", "link", "del", space], check=False)
            subprocess.run(["ip", "netns", "del", space], check=False)
        subprocess.run(["ip", "link", "del", BRIDGE], check=False)


def wait_for_port_at(host: str, port: int) -> None:
    """Wait until somebody listens there."""
    import socket

    end = time.monotonic() + 60
    while time.monotonic() < end:
        with socket.socket() as door:
            door.settimeout(1)
            if door.connect_ex((host, port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError(host)


@contextmanager
def networks(folder: Path, *, cpus: int = 1) -> Iterator[Networks]:
    """Have nodes with networks of their own for a while."""
    made = Networks(folder, cpus)
    try:
        yield made
    finally:
        made.end()
