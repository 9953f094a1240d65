"""What an archive knows of its ancestry: the run that wrote the weights, and the runs that it started from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from asparagus import __version__
from asparagus.archive.layout import INDEX, Index
from asparagus.checkpoint.folder import Manifest
from asparagus.errors import RecordError
from asparagus.record.run_files import NUMBERED, RunFiles, read_run
from asparagus.record.run_folder import RunFolder

OF_RECORD = ("name", "identity", "fingerprint", "data_split", "code", "started", "rerun_of", "sweep_id", "tags")
RUN_FOLDER = re.compile(rf"{NUMBERED}\d+")


def lineage_of(folder: Path, manifest: Manifest | None) -> dict[str, Any]:
    """Return a run and its ancestors as plain values, without places on this machine.

    Args:
        folder: Of the run.
        manifest: Of the checkpoint that the weights are; None for weights of a training that goes on.
    """
    run = read_run(folder)
    checkpoint = {"name": manifest.name, "epoch": manifest.epoch, "step": manifest.step} if manifest else {}
    if manifest:
        checkpoint |= {"digest": manifest.digest, "metrics": dict(manifest.metrics)}
    told = {key: run.record[key] for key in OF_RECORD if run.record.get(key) is not None}
    return {
        **_named(run),
        **told,
        "state": run.state.get("state"),
        "metrics": dict(run.metrics),
        "asparagus": __version__,
        "checkpoint": checkpoint,
        "ancestors": ancestors_of(run),
    }


def ancestors_of(run: RunFiles) -> list[dict[str, Any]]:
    """Return the runs that a run came from, the nearest first; those that came in an archive too."""
    found: list[dict[str, Any]] = []
    parent, seen = run.record.get("parent"), {run.folder.path}
    while parent:
        told = {
            "checkpoint": Path(parent["checkpoint"]).name,
            "digest": parent.get("digest"),
            "step": parent.get("step"),
        }
        if parent.get("run_id") is None:
            return [*found, *_imported(parent, told)]
        folder = Path(parent["folder"])
        there = folder.is_dir() and folder not in seen
        older = read_run(folder) if there else None
        found.append({**(_named(older) if older else {"run_id": parent["run_id"]}), "checkpoint": told})
        seen.add(folder)
        parent = older.record.get("parent") if older else None
    return found


def run_folder_of(model: Any) -> Path | None:
    """Return the folder of the run that trains a module right now; None for one that no run of ours trains."""
    trainer = getattr(model, "_trainer", None)
    root = getattr(trainer, "default_root_dir", None)
    if root is None or not RUN_FOLDER.fullmatch(Path(root).name):
        return None
    folder = Path(root)
    return folder if RunFolder(folder, folder.parent.name).record.is_file() else None


def lines(lineage: dict[str, Any]) -> list[str]:
    """Return an ancestry as a person reads it: one line for the run, one for each ancestor."""
    if not lineage:
        return ["of no run that is known"]
    return [_line(lineage), *(f"  from {_line(ancestor)}" for ancestor in lineage["ancestors"])]


def _line(run: dict[str, Any]) -> str:
    known = [run[key] for key in ("stage", "task") if run.get(key)]
    checkpoint = (run.get("checkpoint") or {}).get("name") or (run.get("checkpoint") or {}).get("checkpoint")
    mlflow = [f"mlflow {run['mlflow_run_id']}"] if run.get("mlflow_run_id") else []
    number = f"run {run['run_id']}" if run.get("run_id") is not None else "a file"
    return " · ".join([number, *known, *([checkpoint] if checkpoint else []), *mlflow])


def _named(run: RunFiles) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "mlflow_run_id": run.state.get("mlflow_run_id"),
        "stage": run.record.get("stage") or run.folder.stage,
        "task": run.record.get("task") or run.folder.path.parent.parent.name,
    }


def _imported(parent: dict[str, Any], told: dict[str, Any]) -> list[dict[str, Any]]:
    """Return whose weights a file is: of an archive that was imported, with its own ancestors; else unknown."""
    beside = Path(parent["checkpoint"]).with_name(INDEX)
    try:
        lineage = Index.from_json(beside.read_text(encoding="utf-8"), beside).lineage
    except (OSError, RecordError):
        return [{"run_id": None, "checkpoint": told}]
    if not lineage:
        return [{"run_id": None, "checkpoint": told}]
    nearest = {key: lineage.get(key) for key in ("run_id", "mlflow_run_id", "stage", "task", "checkpoint")}
    return [{**nearest, "imported": True}, *lineage["ancestors"]]
