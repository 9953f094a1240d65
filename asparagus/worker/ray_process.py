"""The script with which a Ray of our own starts its worker processes, instead of Ray's, which imports Ray for it.

It asks the fork server (fork_server.py) for a worker and lives as long as that one; where there is no such server, or
none that can, it becomes the worker itself. A script and no module: it imports next to nothing, and nothing of ours.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from pathlib import Path

SERVER = "ASPARAGUS_FORK_SERVER"
"""The environment variable that holds the path of the fork server's socket."""
PATIENCE_S = 30.0
"""How long that may take; Ray waits for a worker twice as long."""
LANGUAGE, CONTEXT = "--language=", "--serialized-runtime-env-context="
WORKER = "default_worker.py"


def main(arguments: list[str]) -> None:
    """Be a Ray worker, as far as Ray can tell."""
    options = [word for word in arguments if word.startswith((LANGUAGE, CONTEXT))]
    words = [word for word in arguments if word not in options]
    context = next((word.removeprefix(CONTEXT) for word in options if word.startswith(CONTEXT)), "{}")
    asked = json.loads(context or "{}")
    if not _is_plain(asked, words):
        _be(["-m", "ray._private.workers.setup_worker", *arguments])
    os.environ.update({name: _expanded(value) for name, value in (asked.get("env_vars") or {}).items()})
    if not _forked(words, os.environ.pop(SERVER, "")):
        _be(words)


def _is_plain(asked: dict[str, object], words: list[str]) -> bool:
    """Tell whether a worker is this Python with other environment variables, and nothing else."""
    another = asked.get("py_executable") not in (None, sys.executable)
    special = another or asked.get("command_prefix") or asked.get("override_worker_entrypoint")
    return not special and bool(words) and words[0].endswith(WORKER)


def _expanded(value: str) -> str:
    """Return a value with the variables in it filled in, as Ray does."""
    return re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(value))


def _forked(words: list[str], server: str) -> bool:
    """Have the server fork the worker and wait for its end; returns whether it did."""
    if not server:
        return False
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.settimeout(PATIENCE_S)
            connection.connect(server)
            if connection.makefile().readline() != whose_worker():
                return False
            request = {"words": words, "environment": dict(os.environ), "folder": str(Path.cwd())}
            socket.send_fds(connection, [b"\n"], [0, 1, 2])
            connection.sendall(json.dumps(request).encode() + b"\n")
        except OSError:  # it is gone; what it was not asked for in whole, it does not do
            return False
        connection.settimeout(None)
        connection.recv(1)  # the worker holds the other end
        return True


def whose_worker() -> str:
    """Return what a Ray worker has to have in common with the process that it is forked from, as a line."""
    return f"{os.environ.get('RAY_RAYLET_PID')} {os.environ.get('RAY_JOB_ID')}\n"


def _be(words: list[str]) -> None:
    os.execv(sys.executable, [sys.executable, *words])  # noqa: S606  # nosec B606 - it is to be this process


if __name__ == "__main__":
    main(sys.argv[1:])
