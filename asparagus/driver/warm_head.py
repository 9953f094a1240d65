"""The process that keeps a Ray up for `site=local-warm`, until nobody has used it for a while. Ray ends with it."""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import psutil

from asparagus.driver.own_ray import start_own
from asparagus.driver.warm import Head, Place, in_use, write_head
from asparagus.spec import Site

LOOK_S = 0.5
TIMEOUT_S = 10.0
IDLE = "ray::IDLE"
"""How a worker process calls itself that has nothing to do."""


def main(folder: str, asked: str) -> None:
    """Start a Ray, keep it up, and end it."""
    place, wanted = Place(Path(folder)), json.loads(asked)
    signal.signal(signal.SIGTERM, _leave)
    with place.lock("alive") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        address = _start(wanted)
        signal.signal(signal.SIGTERM, _leave)  # in place of Ray's
        write_head(place, Head(os.getpid(), address, wanted, time.time()))
        try:
            _keep(place, wanted["idle_minutes"] * 60)
        finally:
            place.head.unlink(missing_ok=True)
            _shutdown()


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _start(wanted: dict[str, Any]) -> str:
    # Processes that are ready are large, which is what they are for; those that are not asked for any more go at once.
    os.environ.update(RAY_num_workers_soft_limit="0", RAY_idle_worker_killing_memory_threshold_bytes=str(1 << 50))
    return start_own(Site(cpus_per_node=wanted["cpus"], gpus_per_node=wanted["gpus"]), {})


def _shutdown() -> None:
    import ray

    ray.shutdown()


def _keep(place: Place, idle_s: float) -> None:
    """Return when nobody has used it for so long, with the door held: who comes now finds it gone."""
    since, ready = time.monotonic(), _Ready(idle_s)
    while True:
        time.sleep(LOOK_S)
        if not place.path.is_dir():  # removed with its home: nobody will find it any more
            return
        door = place.lock("door")
        if not _may_enter(door) or in_use(place):
            since = time.monotonic()
        elif time.monotonic() - since > idle_s:
            return
        elif place.wanted.is_file():
            since = time.monotonic()  # of a launch that came and went between two looks, maybe
            wanted = json.loads(place.wanted.read_text(encoding="utf-8"))
            place.wanted.unlink()
            ready.make(wanted["variables"], wanted["workers"])
        door.close()


def _may_enter(door: TextIO) -> bool:
    try:
        fcntl.flock(door, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Ready:
    """Worker processes that belong to no launch yet, and wait for the next one.

    Args:
        keep_s: How long one waits.
    """

    def __init__(self, keep_s: float) -> None:
        self._keep_s, self._variables = keep_s, ""

    def make(self, variables: dict[str, str], workers: int) -> None:
        """Have so many that have started with these variables, and no others."""
        idle = [process for process in psutil.Process().children(recursive=True) if _is_idle(process)]
        # In Ray's own spelling: a process is handed on by the hash of this text.
        asked = json.dumps({"env_vars": variables}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if asked != self._variables:
            for process in idle:
                process.terminate()
            self._variables, idle = asked, []
        if len(idle) < workers:
            _start_workers(asked, workers - len(idle), self._keep_s)


def _is_idle(process: psutil.Process) -> bool:
    try:
        command: list[str] = process.cmdline()
        return command[:1] == [IDLE]
    except psutil.Error:
        return False


def _start_workers(runtime_env: str, number: int, keep_s: float) -> None:
    """Have Ray start worker processes. Only its own protocol has words for that."""
    import ray
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated.common_pb2 import Language
    from ray.core.generated.node_manager_pb2 import PrestartWorkersRequest
    from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub

    node = next(node for node in ray.nodes() if node["Alive"])
    asked = PrestartWorkersRequest(
        language=Language.PYTHON, keep_alive_duration_secs=math.ceil(keep_s), num_workers=number
    )
    asked.runtime_env_info.serialized_runtime_env = runtime_env
    with init_grpc_channel(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}") as channel:
        NodeManagerServiceStub(channel).PrestartWorkers(asked, timeout=TIMEOUT_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
