"""What a sweep's own folder tells of it: what was asked, and which of its trials is the best. Standard library only."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asparagus.errors import RecordError
from asparagus.journal import JournalReader
from asparagus.record.numbers import find_folder
from asparagus.record.run_folder import RunFolder
from asparagus.space import MONITOR

SWEEP = "sweep"
"""The stage of a sweep's own run."""
REQUEST = "sweep.json"
"""What was asked: space, options, the plan of each stage at one point."""
STUDY = "study.db"
"""Optuna's study, where the sweep names no other storage."""


@dataclass(frozen=True)
class TrialRow:
    """A trial that is over."""

    number: int
    run_id: int | None
    outcome: str
    values: list[float] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


def asked_of(folder: Path) -> dict[str, Any]:
    """Return what a sweep was asked.

    Raises:
        RecordError: The folder is no sweep's.
    """
    try:
        asked: dict[str, Any] = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        told = f"{folder} is no sweep's: there is no {REQUEST} in it. Sweeps: asp runs --stage sweep"
        raise RecordError(told) from error
    return asked


def study_name(sweep_id: int, identity: str) -> str:
    """Return what a study is called: a storage may be shared by many models folders, each with a sweep 1."""
    return f"sweep-{sweep_id}-{identity[:8]}"


def storage_of(folder: Path, named: str | None) -> str:
    """Return the URL of a sweep's study: the one that the sweep names, else a file in its folder."""
    return named or f"sqlite:///{folder / STUDY}"


def study_of(folder: Path) -> tuple[str, str]:
    """Return where the study of a sweep is kept, and what it is called there.

    Raises:
        RecordError: The folder is no sweep's.
    """
    asked = asked_of(folder)
    sweep_id = int(folder.name.removeprefix("run_id="))
    return storage_of(folder, asked["options"]["storage"]), study_name(sweep_id, asked["identity"])


def trials_of(folder: Path) -> list[TrialRow]:
    """Return the trials of a sweep that are over, in the order in which they ended."""
    events = JournalReader(RunFolder(folder, SWEEP).journal).read()
    rows: dict[int, TrialRow] = {}
    for event in events:
        if event["kind"] == "trial_over":
            fact: dict[str, Any] = dict(event)
            rows[fact["number"]] = TrialRow(
                fact["number"], fact["run_id"], fact["outcome"], fact["values"], fact["params"], fact["error"]
            )
    return list(rows.values())


def best_run(models: Path, sweep_id: int) -> int:
    """Return the run of the best trial of a sweep: of those that were trained to their end.

    Raises:
        RecordError: It is no sweep, compares several metrics, or none of its trials has ended.
    """
    folder = find_folder(models, sweep_id)
    asked = asked_of(folder)
    if len(asked["metrics"]) > 1:
        raise RecordError(
            f"sweep {sweep_id} compares {', '.join(asked['metrics'])}: no single trial is the best. "
            f"Take one: init_from=run:<id>/best (asp show {sweep_id})."
        )
    if MONITOR in asked["metrics"]:
        raise RecordError(
            f"sweep {sweep_id} is an evaluation box: its runs are of several kinds, and none of them is the best. "
            f"Take one: init_from=run:<id>/best (asp eval-box collect {sweep_id})."
        )
    ended = [
        row
        for row in trials_of(folder)
        if row.outcome == "finished" and row.values and row.run_id is not None and math.isfinite(row.values[0])
    ]
    if not ended:
        raise RecordError(f"sweep {sweep_id}: none of its trials has ended yet. How it stands: asp show {sweep_id}")
    sign = -1 if asked["modes"][0] == "max" else 1
    best = min(ended, key=lambda row: (sign * (row.values or [0.0])[0], row.number))
    assert best.run_id is not None
    return best.run_id
