"""A laptop: a machine of its own, to which the cluster is one address with one open port.

It is a network namespace without any interface to the outside. What stands for the open port is a pair of forwarders
that meet at a Unix socket. The folders of the cluster are hidden from it too. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ADDRESS, PORT = "10.77.0.1", 8265
URL = f"http://{ADDRESS}:{PORT}"
READY_S = 30


def can_have_one() -> bool:
    """Tell whether namespaces can be made here."""
    tools = all(shutil.which(name) for name in ("unshare", "nsenter", "ip", "mount"))
    if not tools or os.geteuid() != 0:
        return False
    return subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False).returncode == 0


@dataclass(frozen=True)
class Laptop:
    """Where commands can be run."""

    process: int
    home: Path

    def command(self, words: Sequence[str]) -> list[str]:
        """Return the command that runs another one there."""
        return ["nsenter", "-t", str(self.process), "--net", "--mount", f"--wdns={self.home}", "--", *words]


@contextlib.contextmanager
def laptop(home: Path, dashboard: int, *, hidden: Sequence[Path]) -> Iterator[Laptop]:
    """Have a laptop for a while.

    Args:
        home: Its working directory.
        dashboard: The port of this machine that it reaches, as `URL`.
        hidden: Folders that it does not see.
    """
    home.mkdir(parents=True, exist_ok=True)
    meeting = home.parent / f"{home.name}.sock"
    outside = socket.socket(socket.AF_UNIX)
    outside.bind(str(meeting))
    outside.listen()
    _serve(outside, lambda: socket.create_connection(("127.0.0.1", dashboard)))
    words = [sys.executable, __file__, str(meeting), *map(str, hidden)]
    process = subprocess.Popen(["unshare", "--net", "--mount", *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Laptop(process.pid, home)
    finally:
        process.kill()
        process.wait(timeout=READY_S)
        outside.close()


def _serve(door: socket.socket, connect: Callable[[], socket.socket]) -> None:
    """Forward whatever comes in at a door, on threads of their own."""

    def take() -> None:
        with contextlib.suppress(OSError):  # the door is closed
            while True:
                ours, _ = door.accept()
                theirs = connect()
                for source, sink in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=_pour, args=(source, sink), daemon=True).start()

    threading.Thread(target=take, daemon=True).start()


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _inside(meeting: str, hidden: Sequence[str]) -> None:
    """Be the laptop: bring up its network, hide what is the cluster's, forward its one port."""
    commands = [["ip", "link", "set", "lo", "up"], ["ip", "addr", "add", f"{ADDRESS}/32", "dev", "lo"]]
    commands += [["mount", "-t", "tmpfs", "none", folder] for folder in hidden]
    for command in commands:
        subprocess.run(command, check=True)

    def connect() -> socket.socket:
        there = socket.socket(socket.AF_UNIX)
        there.connect(meeting)
        return there

    _serve(socket.create_server((ADDRESS, PORT)), connect)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        time.sleep(READY_S)


if __name__ == "__main__":
    _inside(sys.argv[1], sys.argv[2:])
