"""Devices, nodes and GPUs as other launchers count them, turned into workers and what each of them has."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

from asparagus.compose.tree import Tree, get, pop, put
from asparagus.errors import one_of

log = logging.getLogger("asparagus")

HARDWARE = {
    "accelerator": "trainer.accelerator",
    "num_nodes": "trainer.num_nodes",
    "num_devices": "trainer.devices",
    "precision": "trainer.precision",
    "strategy": "trainer.strategy",
    "compile_mode": "model.compile_mode",
    "num_workers": "data.num_workers",  # of the node: shared by its devices
}
"""Keys of the group `hardware` (SEEDS A26), and which of ours each one sets."""
ALL_GPUS = -1


def hardware(tree: Tree, problems: list[str]) -> None:
    """The group `hardware` (SEEDS A26): devices and nodes become workers, loader processes are per worker (A21)."""
    hardware = pop(tree, "hardware")
    if hardware is None:
        return
    if not isinstance(hardware, dict):
        problems.append(f"hardware: {hardware!r} given, but this is a section with keys: {', '.join(HARDWARE)}.")
        return
    problems += [one_of(f"hardware.{key}", key, HARDWARE) for key in hardware if key not in HARDWARE]
    for key, ours in HARDWARE.items():
        if key != "num_workers" and hardware.get(key) is not None:
            put(tree, ours, hardware[key])
    devices, processes = get(tree, "trainer.devices"), hardware.get("num_workers")
    if isinstance(processes, int) and not isinstance(processes, bool):
        each = devices if isinstance(devices, int) and devices > 0 else 1
        put(tree, "data.num_workers", processes // each)
    elif processes is not None:
        problems.append(f"hardware.num_workers: {processes!r} is no number of loader processes.")


def outdone(key: str, value: Any, gpus: Any) -> Iterator[tuple[str, Any]]:
    """Yield which settings of other launchers give way where a key of ours is typed, and to what (SEEDS D16).

    Args:
        key: As typed.
        value: As typed.
        gpus: What `run.gpus` says in a file.
    """
    yield from ((f"hardware.{name}", None) for name, ours in HARDWARE.items() if ours == key)
    if key == "trainer.num_nodes":
        yield "run.num_nodes", None
    elif key == "trainer.devices":
        yield "run.gpus", value
    elif key == "trainer.accelerator" and (number_of(gpus) == 0) != (value == "cpu"):
        yield "run.gpus", None


def run_gpus(tree: Tree, problems: list[str]) -> None:
    """`run.gpus` (SEEDS D8): a number, ids, or all of them; none of them is the CPU."""
    nodes = pop(tree, "run.num_nodes")
    if nodes is not None:
        put(tree, "trainer.num_nodes", nodes)
    for key in ("run.gpus", "trainer.gpus"):
        if not isinstance(section := tree.get(key.partition(".")[0]), dict) or "gpus" not in section:
            continue
        gpus = section.pop("gpus")
        count = number_of(gpus)
        if count is None and gpus is not None:
            problems.append(f"{key}: {gpus!r} is no number of GPUs, list of ids or -1 (all of them).")
        elif count:
            put(tree, "trainer.accelerator", "gpu")
            put(tree, "trainer.devices", count)
        elif gpus == 0 or get(tree, "trainer.accelerator") in (None, "auto"):
            put(tree, "trainer.accelerator", "cpu")
            if get(tree, "trainer.strategy") == "ddp":  # of GPUs, and there are none (SEEDS D9)
                tree["trainer"].pop("strategy")


def devices_to_workers(tree: Tree, gpus: int, problems: list[str]) -> None:
    """`trainer.devices`, `num_nodes`, `accelerator` (SEEDS B1, B2): one device is the Trainer's, more are workers."""
    trainer = tree.get("trainer")
    if not isinstance(trainer, dict) or not {"devices", "num_nodes"} & trainer.keys():
        return
    devices, nodes = trainer.pop("devices", 1), trainer.pop("num_nodes", 1)
    on_gpu = trainer.get("accelerator") in ("gpu", "cuda") or (
        trainer.get("accelerator") in (None, "auto") and gpus > 0
    )
    count = (gpus if on_gpu else 1) if devices == "auto" else number_of(devices)
    if count is None or not isinstance(nodes, int) or isinstance(nodes, bool) or nodes < 1:
        problems.append(
            f"trainer.{'devices' if count is None else 'num_nodes'}: {devices!r} on {nodes!r} node(s) is no number of "
            "devices. Give a number, a list of ids or -1 (all of them), or resources.workers and "
            "resources.gpus_per_worker."
        )
        return
    each = gpus if count == ALL_GPUS else count
    asked = get(tree, "resources.workers")
    if each * nodes <= 1:
        if not each and on_gpu:
            trainer["accelerator"] = "cpu"
        elif isinstance(devices, list) and on_gpu and not asked:
            trainer["devices"] = devices  # which one
        return
    if asked not in (None, 0, each * nodes):
        problems.append(
            f"trainer.devices: {devices!r} on {nodes} node(s) are {each * nodes} processes, but resources.workers is "
            f"{asked}. Give one of them."
        )
    put(tree, "resources.workers", each * nodes)
    if on_gpu and not get(tree, "resources.gpus_per_worker"):
        put(tree, "resources.gpus_per_worker", 1)
    _leave_to_ray(trainer)


def without_dp(tree: Tree) -> None:
    """Take SESEMI's `run.accelerator: dp` out where there is one device, and so nothing to divide (SEEDS D9).

    Lightning knows it no more; on several devices it stays, and is refused.
    """
    if (get(tree, "resources.workers") or 0) <= 1 and get(tree, "trainer.strategy") == "dp":
        tree["trainer"].pop("strategy")
        log.warning("run.accelerator: 'dp' is gone from Lightning, and is left out on one device. On several: ddp.")


def _leave_to_ray(trainer: Tree) -> None:
    """Take the accelerator out: workers train on what Ray gives them. One that is none stays, for the check to see."""
    if trainer.get("accelerator") in (None, "auto", "cpu", "gpu", "cuda"):
        trainer.pop("accelerator", None)


def number_of(devices: Any) -> int | None:
    """Return how many devices a setting means: `2`, `[0, 2]`, `"0,1"`; -1 for all, 0 for none, None for nonsense.

    A text of digits with a comma is a list of ids, one without is a number.
    """
    if devices is None:
        return 0
    if isinstance(devices, str) and "," in devices:
        ids = [part.strip() for part in devices.split(",") if part.strip()]
        return len(ids) if all(part.isdigit() for part in ids) else None
    if isinstance(devices, list):
        return len(devices) if all(isinstance(item, int) for item in devices) else None
    if isinstance(devices, str) and re.fullmatch(r"\s*-?\d+\s*", devices):
        devices = int(devices)
    valid = isinstance(devices, int) and not isinstance(devices, bool) and devices >= ALL_GPUS
    return devices if valid else None
