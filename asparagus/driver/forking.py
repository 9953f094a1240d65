"""How a Ray of our own gets its worker processes: by our script, forked from a process that has imported everything."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from asparagus.paths import variables_set
from asparagus.worker import ray_process

THREADS = "OMP_NUM_THREADS"
"""What Ray sets for a worker when it has its work: too late for libraries that are imported by then."""
MODULE = "asparagus.worker.fork_server"


@contextmanager
def fork_server(environment: Mapping[str, str]) -> Iterator[Callable[[], None]]:
    """Have a fork server while the body runs; a Ray that starts in it has its workers from there.

    Args:
        environment: The variables that it starts with: those of the workers, as far as they count at an import.

    Yields:
        What tells it of the Ray that this process has started.
    """
    with (
        tempfile.TemporaryDirectory(prefix="asp-", ignore_cleanup_errors=True) as folder,
        socket.socket(socket.AF_UNIX) as listening,
    ):
        place = Path(folder) / "fork"
        try:
            listening.bind(str(place))
        except OSError:  # a path that is too long for a socket
            yield lambda: None
            return
        listening.listen(socket.SOMAXCONN)
        server = subprocess.Popen(
            [sys.executable, "-m", MODULE, str(listening.fileno())],
            pass_fds=[listening.fileno()],
            stdin=subprocess.PIPE,  # it ends with this process, however that ends
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # what cannot be imported, the workers say themselves
            env=dict(environment),
            process_group=0,  # Ctrl-C is the driver's to handle; in its session, for the workers' groups
        )
        listening.close()  # so that nobody waits for a server that is gone
        try:
            with variables_set({ray_process.SERVER: str(place)}):
                yield lambda: _tell_raylet(server)
        finally:
            _end(server)


def _tell_raylet(server: subprocess.Popen[bytes]) -> None:
    """Tell it whose workers it will fork, as Ray tells them."""
    import ray
    from ray._private import ray_constants, worker

    node = worker._global_node  # noqa: SLF001 - Ray keeps its processes to itself
    assert node is not None
    (raylet,) = node.all_processes["raylet"]
    variables = {
        "RAY_RAYLET_PID": str(raylet.process.pid),
        "RAY_JOB_ID": ray.get_runtime_context().get_job_id(),
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
    }
    assert server.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # what it could not import, the workers say themselves
        server.stdin.write(json.dumps(variables).encode() + b"\n")
        server.stdin.flush()


def _end(server: subprocess.Popen[bytes]) -> None:
    assert server.stdin is not None
    server.stdin.close()
    server.kill()  # it may be importing still
    server.wait()


@contextmanager
def our_script() -> Iterator[None]:
    """Have Ray start its workers by our script, for as long as it lives, if it is started in the body."""
    from ray._private import ray_constants

    before, ray_constants.SETUP_WORKER_FILENAME = ray_constants.SETUP_WORKER_FILENAME, ray_process.__file__
    try:
        yield
    finally:
        ray_constants.SETUP_WORKER_FILENAME = before
