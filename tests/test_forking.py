"""Ray's workers, forked from a process that has imported everything: each is what it would have been without."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asparagus.driver.forking import fork_server
from asparagus.spec import Site
from asparagus.worker import ray_process

SCRIPT = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['GIVEN'], os.getppid()]))"


@pytest.fixture
def ours() -> Iterator[None]:
    """A Ray of our own with a fork server."""
    import ray

    from asparagus.driver.own_ray import start_own

    with fork_server({**os.environ, "OMP_NUM_THREADS": "1"}) as tell:
        start_own(Site(), {"env_vars": {"GIVEN": "by Ray"}})
        try:
            tell()
            yield
        finally:
            ray.shutdown()


def worker_type() -> Any:
    """Return an actor that tells of its process; made here, so that workers need not find this file."""
    import ray

    class Telling:
        def about(self) -> dict[str, Any]:
            import numpy as np
            from ray._raylet import UniqueID

            niceness = os.getpriority(os.PRIO_PROCESS, 0)
            readiness = Path("/proc/self/oom_score_adj").read_text(encoding="utf-8").strip()
            return {
                "pid": os.getpid(),
                "parent": os.getppid(),
                "group": os.getpgid(0),
                "ranked": [niceness, int(readiness)],
                "lightning": "pytorch_lightning" in sys.modules,
                "given": os.environ.get("GIVEN"),
                "id": UniqueID.from_random().hex(),
                "random": float(np.random.random()),  # noqa: NPY002 - what it is about
            }

        def loader(self) -> int:
            return subprocess.Popen(["sleep", "600"]).pid

    return ray.remote(num_cpus=0)(Telling)


@pytest.mark.ray
@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_workers_are_forked_and_end_each_by_itself(ours: None) -> None:
    import ray

    kind = worker_type()
    actors = [kind.remote(), kind.remote()]
    one, two = (ray.get(actor.about.remote()) for actor in actors)
    assert one["lightning"]
    assert two["lightning"]
    assert one["parent"] == two["parent"]  # the server
    assert one["given"] == "by Ray"
    assert one["random"] != two["random"]
    assert one["id"] != two["id"]  # Ray ends a process that is given two tasks of one id
    assert one["ranked"] == [15, 1000]  # as Ray has its workers
    assert len({one["group"], two["group"], os.getpgid(one["parent"])}) == 3

    loader = ray.get(actors[0].loader.remote())
    os.kill(one["pid"], signal.SIGKILL)
    _ends(loader)  # Ray ends what a worker that is lost has started
    _ends(one["pid"])
    assert ray.get(actors[1].about.remote())["pid"] == two["pid"]
    assert ray.get(kind.remote().about.remote())["parent"] == two["parent"]


def _ends(process: int) -> None:
    deadline = time.monotonic() + 20
    while Path(f"/proc/{process}").exists() and _state(process) != "Z":
        assert time.monotonic() < deadline, f"process {process} goes on"
        time.sleep(0.1)


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def started(folder: Path, server: str = "") -> list[Any]:
    """Return what a worker says that is started by our script, as Ray would."""
    worker = folder / "default_worker.py"
    worker.write_text(SCRIPT, encoding="utf-8")
    context = json.dumps({"env_vars": {"GIVEN": "in ${FOLDER}${NOWHERE}"}})
    words = [str(worker), "--node-id=1", "--language=PYTHON", f"--serialized-runtime-env-context={context}"]
    done = subprocess.run(
        [sys.executable, ray_process.__file__, *words],
        env={**os.environ, "FOLDER": "a", ray_process.SERVER: server},
        capture_output=True,
        text=True,
        check=True,
    )
    told: list[Any] = json.loads(done.stdout)
    return told


def test_without_a_server_it_becomes_the_worker(tmp_path: Path) -> None:
    assert started(tmp_path) == [["--node-id=1"], "in a", os.getpid()]


def test_with_a_server_that_is_gone_it_becomes_the_worker(tmp_path: Path) -> None:
    assert started(tmp_path, str(tmp_path / "nobody"))[1:] == ["in a", os.getpid()]


def test_a_server_of_another_ray_is_not_asked(tmp_path: Path) -> None:
    place, heard = str(tmp_path / "fork"), []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place)
        server.listen()

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"123 02000000\n")
                heard.append(connection.recv(1))

        thread = threading.Thread(target=answer)
        thread.start()
        assert started(tmp_path, place)[1:] == ["in a", os.getpid()]
        thread.join()
    assert heard == [b""]
