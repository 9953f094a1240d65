"""A process that has imported all that a training needs, and forks Ray's workers: N of them import it once.

It begins before Ray does, so its imports run beside Ray's start instead of after it. It ends with the launch that
started it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any

from asparagus.worker.ray_process import whose_worker

HEARING_S = 5.0
CUDA = "libcuda.so"
OOM = "/proc/{}/oom_score_adj"


def main(listening: int) -> None:
    """Import, then fork a worker for each who asks, until standard input ends.

    Args:
        listening: The descriptor of a socket.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    import asparagus.worker.work  # noqa: F401 - torch and Lightning; Ray has to wait

    variables = sys.stdin.readline()
    if not variables:
        return
    os.environ.update(json.loads(variables))  # Ray's library reads whose worker it is as it is loaded
    _import_ray()
    if _may_fork():
        with socket.socket(fileno=listening) as server:
            _serve(server)


def _import_ray() -> None:
    """Import Ray Train, without Ray drawing an id: its generator, once begun, would go on alike in all workers."""
    import ray.actor

    theirs = ray.actor.ActorClassID
    ray.actor.ActorClassID = _ActorClassIds
    try:
        from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker  # noqa: F401

        import asparagus.worker.eager
        import asparagus.worker.on_ray
        import asparagus.worker.ray_ranks  # noqa: F401 - for their imports
    finally:
        ray.actor.ActorClassID = theirs


class _ActorClassIds:
    """Ids of the actors that Ray's own modules define, from the system's generator instead of Ray's."""

    @staticmethod
    def from_random() -> Any:
        """Return a new one."""
        from ray._raylet import ActorClassID

        return ActorClassID(os.urandom(ActorClassID.size()))


def _serve(server: socket.socket) -> None:
    gc.freeze()  # what is here is shared with the workers for as long as nobody writes to it
    while True:
        ready, _, _ = select.select([server, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        connection, _ = server.accept()
        with connection:
            request = _asked(connection)
            if request is not None and os.fork() == 0:
                server.close()
                _be_worker(request, connection)
                sys.exit()
            for file in request["files"] if request else ():
                os.close(file)


def _may_fork() -> bool:
    """Tell whether a fork is as good as a new process.

    No thread is in the middle of something, no GPU was touched, and Ray's generator of ids has not begun.
    """
    is_alone = threading.active_count() == 1
    return is_alone and CUDA not in Path("/proc/self/maps").read_text(encoding="utf-8") and _draws() != _draws()


def _draws() -> bytes:
    """Return the first id that a fork of this process draws."""
    from ray._raylet import UniqueID

    there, here = os.pipe()
    if os.fork() == 0:
        os.write(here, UniqueID.from_random().binary())
        os._exit(0)
    os.close(here)
    with os.fdopen(there, "rb") as drawn:
        return drawn.read()


def _asked(connection: socket.socket) -> dict[str, Any] | None:
    """Return what somebody wants to be forked; None for one who has gone, and started by himself."""
    connection.settimeout(HEARING_S)
    files: list[int] = []
    try:
        connection.sendall(whose_worker().encode())
        _, files, _, _ = socket.recv_fds(connection, 1, 3)
        with connection.makefile("rb") as stream:
            line = stream.readline()
        if len(files) == 3 and line.endswith(b"\n"):  # noqa: PLR2004 - input, output, errors
            return {**json.loads(line), "files": files}
    except OSError:
        pass
    for file in files:
        os.close(file)
    return None


def _be_worker(request: dict[str, Any], connection: socket.socket) -> None:
    """Be the Ray worker that somebody was to start, in his place; he waits until the connection closes."""
    import numpy as np

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, file in enumerate(request["files"]):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    _stand_for(connection)
    np.random.seed()  # noqa: NPY002 - the global generator, which would be the same in all workers
    worker, *_ = sys.argv = request["words"]
    sys.path[0] = str(Path(worker).parent)
    runpy.run_path(worker, run_name="__main__")


def _stand_for(connection: socket.socket) -> None:
    """Be in the process group of the process at the other end, as nice, and as readily killed where memory runs out.

    Ray gives each worker a group, and ends the group with the worker: loader processes must not outlive it.
    """
    os.setpgid(0, 0)
    other, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    with contextlib.suppress(OSError):  # gone meanwhile, and Ray with it
        os.setpgid(0, os.getpgid(other))
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, other))
        Path(OOM.format("self")).write_text(Path(OOM.format(other)).read_text(encoding="utf-8"), encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]))
