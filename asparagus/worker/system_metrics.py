"""What a node is busy with: GPUs, CPU, memory, disk and network, under MLflow's names, measured beside the training.

One thread per node, in its first rank's process. It writes into the run folder; the recorder tells MLflow.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil

from asparagus.attempts import system_of
from asparagus.spec import Assignment
from asparagus.worker.here import HERE

MB = 1e6
Measure = Callable[[], dict[str, float]]


@contextmanager
def measured(assignment: Assignment) -> Iterator[None]:
    """Measure this node while the body runs, if this is its first rank and it is asked for."""
    every = assignment.spec.run.system_metrics_s
    if every is None or not HERE.first_on_node:
        yield
        return
    over = threading.Event()
    file = system_of(Path(assignment.folder), HERE.attempt, HERE.node or 0)
    thread = threading.Thread(target=_measure, args=(over, file, every), name="system metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=5)


def _measure(over: threading.Event, path: Path, every: float) -> None:
    with contextlib.suppress(OSError):  # a disk that is full must not end a training
        path.parent.mkdir(parents=True, exist_ok=True)
        measures = [_cpu_and_memory, _disk, _network(), _training(), *_gpus()]
        psutil.cpu_percent()  # counts from here
        with path.open("a", encoding="utf-8") as file:
            while not over.wait(every):
                _write(file, {key: value for measure in measures for key, value in measure().items()})


def _write(file: IO[str], values: dict[str, float]) -> None:
    line: dict[str, Any] = {"time": time.time(), "node": HERE.node}
    file.write(json.dumps({**line, "values": {key: round(value, 1) for key, value in values.items()}}) + "\n")
    file.flush()


def _cpu_and_memory() -> dict[str, float]:
    memory = psutil.virtual_memory()
    return {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / MB,
        "system_memory_usage_percentage": memory.used / memory.total * 100,
    }


def _disk() -> dict[str, float]:
    usage = psutil.disk_usage(os.sep)
    return {
        "disk_usage_percentage": usage.percent,
        "disk_usage_megabytes": usage.used / MB,
        "disk_available_megabytes": usage.free / MB,
    }


def _network() -> Measure:
    """Return what measures the megabytes over the network, and to and from disks, since now."""
    network, disks = psutil.net_io_counters(), psutil.disk_io_counters()

    def measure() -> dict[str, float]:
        now, disks_now = psutil.net_io_counters(), psutil.disk_io_counters()
        told = {
            "network_receive_megabytes": (now.bytes_recv - network.bytes_recv) / MB,
            "network_transmit_megabytes": (now.bytes_sent - network.bytes_sent) / MB,
        }
        if disks is not None and disks_now is not None:  # none in some containers
            told["disk_read_megabytes"] = (disks_now.read_bytes - disks.read_bytes) / MB
            told["disk_write_megabytes"] = (disks_now.write_bytes - disks.write_bytes) / MB
        return told

    return measure


def _training() -> Measure:
    """Return what measures this process and those that load its data."""
    me = psutil.Process()

    def measure() -> dict[str, float]:
        used = 0
        for process in (me, *me.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                used += process.memory_info().rss
        return {"training_memory_usage_megabytes": used / MB}

    return measure


def _gpus() -> list[Measure]:
    """Return what measures each of the GPUs that NVIDIA's library knows of."""
    try:
        import pynvml

        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except Exception:  # noqa: BLE001 - no library, no driver, no GPU: nothing to measure
        return []
    return [_gpu(pynvml, index) for index in range(count)]


def _gpu(nvml: Any, index: int) -> Measure:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def measure() -> dict[str, float]:
        told: dict[str, float] = {}
        with contextlib.suppress(nvml.NVMLError):
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            told[f"gpu_{index}_memory_usage_percentage"] = memory.used / memory.total * 100
            told[f"gpu_{index}_memory_usage_megabytes"] = memory.used / MB
        with contextlib.suppress(nvml.NVMLError):
            told[f"gpu_{index}_utilization_percentage"] = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
        with contextlib.suppress(nvml.NVMLError):
            watts, most = nvml.nvmlDeviceGetPowerUsage(handle), nvml.nvmlDeviceGetEnforcedPowerLimit(handle)
            told[f"gpu_{index}_power_usage_watts"] = watts / 1000
            told[f"gpu_{index}_power_usage_percentage"] = watts / most * 100
        return told

    return measure
