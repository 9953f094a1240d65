"""Identity: the hash of all that decides a run's weights. Two runs of one identity are the same run, done twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from asparagus.data import CASE_DATA
from asparagus.python_file import MODEL_OF
from asparagus.spec import Spec

PARTS = ("stage", "task", "seed", "model", "data", "optim", "loss", "trainer", "callbacks", "plugins", "script")
"""The sections that decide. The others say where it runs, how it is called, what is kept and who is told."""
WITHOUT = {
    "trainer": {
        *("accelerator", "devices", "num_nodes", "strategy", "precision", "sync_batchnorm", "benchmark"),
        *("log_every_n_steps", "enable_progress_bar", "enable_model_summary", "enable_checkpointing", "profiler"),
        *("default_root_dir", "detect_anomaly", "barebones", "logger"),
    },
    "model": {"compile_mode"},
    "data": {"test_split"},
}
"""Hardware, what only watches, and what is looked at when the weights are there (SEEDS A40)."""
OF_LOADERS = {"num_workers", "pin_memory", "pin_memory_device", "persistent_workers", "prefetch_factor"}
"""How loaders fetch, at any depth of `data`."""


def identity(spec: Spec, *, parent_digest: str | None = None, fingerprint: str | None = None) -> str:
    """Return the identity of what a spec asks for, 64 hex digits.

    It is the same for any order of keys, spelling of numbers (`1e-3`, `0.001`), machine, site, and set of devices.

    Args:
        spec: What was asked, before attributes of the machine are filled in.
        parent_digest: SHA-256 of the weights that it starts from; None where it starts from none.
        fingerprint: Of the data and their split; None where they cannot be known from here.
    """
    content = {**deciding(spec), "weights": parent_digest, "fingerprint": fingerprint}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def deciding(spec: Spec) -> dict[str, Any]:
    """Return what of a spec decides the weights, as plain values with one spelling each."""
    kept = {name: getattr(spec, name) for name in PARTS}
    for section, keys in WITHOUT.items():
        kept[section] = {key: value for key, value in kept[section].items() if key not in keys}
    kept["data"] = _without(kept["data"], OF_LOADERS)
    run, is_ours = spec.run, spec.data.get("_target_") == CASE_DATA
    if is_ours:  # whose data are known by their fingerprint, not their place
        kept["data"].pop("root", None)
    if "test_split" in spec.data and (run.mode == "test" or not is_ours):  # it decides the outcome, or who knows what
        kept["data"]["test_split"] = spec.data["test_split"]
    kept["run"] = {"mode": run.mode, "resume_from_checkpoint": run.resume_from_checkpoint}
    if run.mode == "test" and run.save_predictions:  # a test that has written none is to be done again
        kept["run"]["save_predictions"] = True
    told = {key: value for key, value in dataclasses.asdict(spec.transfer).items() if value not in ([], {})}
    kept["transfer"] = told if spec.init_from else None
    plain: dict[str, Any] = _plain(kept)
    return plain


def _without(node: Any, keys: set[str]) -> Any:
    if isinstance(node, Mapping):
        return {key: _without(value, keys) for key, value in node.items() if key not in keys}
    return [_without(value, keys) for value in node] if isinstance(node, list) else node


def _plain(node: Any) -> Any:
    """Return a value with one spelling: whole floats are integers, tuples are lists, a Python file is its digest."""
    if isinstance(node, Mapping):
        if node.get("_target_") == MODEL_OF:
            node = {key: value for key, value in node.items() if key not in {"file", "home"}}
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node]
    if isinstance(node, float) and node.is_integer():
        return int(node)
    return node
