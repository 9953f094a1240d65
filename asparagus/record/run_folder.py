"""The folder of one run: what lies in it, and how it comes to be. Standard library and YAML only."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from asparagus import __version__
from asparagus.python_file import MODEL_OF
from asparagus.record.numbers import folder_name
from asparagus.spec import Spec

FINISHED = "finished"
FAILED = "failed"
INTERRUPTED = "interrupted"
RUNNING = "running"


@dataclass(frozen=True)
class RunFolder:
    """Paths in `<MODELS>/<task>/<stage>/run_id=<N>/`."""

    path: Path
    stage: str

    @property
    def config(self) -> Path:
        """The exact spec: a rerun needs nothing else."""
        return self.path / "config.yaml"

    @property
    def plan(self) -> Path:
        """The plan that was carried out."""
        return self.path / "plan.json"

    @property
    def journal(self) -> Path:
        """What happened, event by event."""
        return self.path / "journal.jsonl"

    @property
    def log(self) -> Path:
        """What was said while it ran."""
        return self.path / f"{self.stage}.log"

    @property
    def state(self) -> Path:
        """How it ended: the mark of a finished run."""
        return self.path / "run.json"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints."""
        return self.path / "checkpoints"

    @property
    def transfer(self) -> Path:
        """Which weights came over from the parent."""
        return self.path / "transfer.json"


def create(models: Path, spec: Spec, run_id: int, plan_json: str) -> RunFolder:
    """Make the run's folder with its config and plan. The number is fresh, so nothing can be there yet."""
    folder = RunFolder(models / folder_name(spec.task, spec.stage, run_id), spec.stage)
    folder.path.mkdir(parents=True, exist_ok=False)
    header = f"# The exact experiment of run {run_id}. Repeat it: asp-launch {folder.config}\n"
    header += f"# Of asparagus {__version__}.\n"
    # Its own number is taken: whoever repeats it gets the next one.
    again = dataclasses.replace(
        spec, run=dataclasses.replace(spec.run, id=None), model=_with_copies(spec.model, folder.path)
    )
    body = yaml.safe_dump(again.to_dict(), sort_keys=False)
    folder.config.write_text(header + body, encoding="utf-8")
    folder.plan.write_text(plan_json + "\n", encoding="utf-8")
    return folder


def _with_copies(section: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Keep the Python file that builds a network, so that the run repeats when the original has moved on."""
    if section.get("_target_") != MODEL_OF or not Path(section["file"]).is_file():
        return {key: _with_copies(part, folder) if isinstance(part, dict) else part for key, part in section.items()}
    original = Path(section["file"])
    shutil.copyfile(original, folder / original.name)
    return {**section, "file": str(folder / original.name), "home": section.get("home") or str(original.parent)}


def write_state(folder: RunFolder, **facts: Any) -> None:
    """Replace `run.json`, whole or not at all."""
    writing = folder.state.with_suffix(".writing")
    writing.write_text(json.dumps({**facts, "updated": time.time()}, indent=2) + "\n", encoding="utf-8")
    writing.replace(folder.state)


def mark(folder: RunFolder, state: str) -> None:
    """Change the state in `run.json`, whatever else it says."""
    facts = json.loads(folder.state.read_text(encoding="utf-8")) if folder.state.is_file() else {}
    write_state(folder, **{**facts, "state": state})


def note_child(parent: Path, *, run_id: int, folder: Path) -> None:
    """Append one line to the parent's `derived_models.log`: `<run id>, <run folder>` (SEEDS A33).

    One `write` of an append-mode file: two children at once leave two whole lines.
    """
    handle = os.open(parent / "derived_models.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
    try:
        os.write(handle, f"{run_id}, {folder}\n".encode())
    finally:
        os.close(handle)
