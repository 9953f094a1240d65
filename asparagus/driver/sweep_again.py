"""Which sweep a launch goes on with, and how the one of `sweep.resume=N` differs from what is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from asparagus.errors import ConfigError, RecordError
from asparagus.identity import deciding
from asparagus.plan import Plan
from asparagus.record.differences import of_specs, text
from asparagus.record.numbers import find_folder
from asparagus.record.run_folder import RunFolder, read_state
from asparagus.record.standing import Standing, standing
from asparagus.record.sweeps import REQUEST, SWEEP, asked_of
from asparagus.spec import Spec
from asparagus.sweep_plan import SweepPlan

OPTIONS = {"sampler": "sampler", "scheduler": "scheduler", "seed": "seed", "warm_start": "from"}
"""What decides which points are tried and how far, besides the space; and how users call it."""

SWEEPS = "All sweeps: asp runs --stage sweep"


def begun_before(plan: SweepPlan) -> Standing | None:
    """Return the sweep that a launch goes on with or shows; None if a new one is begun.

    Raises:
        ConfigError: `sweep.resume` is the number of another search, or of no sweep.
    """
    wanted = plan.parent.spec.run.id
    if wanted is None:
        return standing(plan.parent.spec, plan.identity)
    found = _numbered(plan, wanted)
    if _identity(found) != plan.identity:
        raise ConfigError(_refusal(plan, found))
    return found


def _numbered(plan: SweepPlan, wanted: int) -> Standing:
    """Return the sweep of that number.

    Raises:
        ConfigError: There is none.
    """
    try:
        path = find_folder(Path(plan.last.spec.paths.models), wanted)
    except RecordError as error:
        raise ConfigError(f"sweep.resume: {wanted} is no sweep here: {error} {SWEEPS}") from error
    folder = RunFolder(path, path.parent.name)
    if folder.stage != SWEEP:
        sweep_id = _record(folder).get("sweep_id")
        advice = f"It is a trial of sweep {sweep_id}: sweep.resume={sweep_id}" if sweep_id else SWEEPS
        raise ConfigError(f"sweep.resume: {wanted} is a run of {folder.stage}, and no sweep. {advice}")
    return Standing(wanted, folder, read_state(folder))


def _record(folder: RunFolder) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(folder.record.read_text(encoding="utf-8"))
    except FileNotFoundError:  # lost before it was whole
        return {}
    return record


def _identity(found: Standing) -> str | None:
    return _record(found.folder).get("identity")


def _refusal(plan: SweepPlan, found: Standing) -> str:
    try:
        told = "; ".join(_differences(asked_of(found.folder.path), plan))
    except RecordError:
        told = f"what was asked of it is not there any more: {found.folder.path / REQUEST}"
    return (
        f"sweep.resume: sweep {found.run_id} is another search than the one that is asked now: "
        f"{told or 'it began from other weights or data'}. Ask for the same as before, or begin another sweep: "
        f"sweep.resume=false (it may learn from that one: sweep.from={found.run_id})."
    )


def _differences(before: Mapping[str, Any], plan: SweepPlan) -> Iterator[str]:
    """Yield what was asked otherwise, most telling first."""
    from asparagus.sweep.opening import difference  # Optuna takes a while

    now = json.loads(json.dumps(plan.to_dict(), default=str))  # spelled as what was kept
    if said := difference(before["space"], now["space"]):
        yield said
    for name, called in OPTIONS.items():
        was, is_now = before["options"].get(name), now["options"].get(name)
        if was != is_now:
            yield f"sweep.{called} was {_spelled(was)}, and is {_spelled(is_now)} now"
    for name in ("metric", "mode"):
        was, is_now = before[f"{name}s"], now[f"{name}s"]
        if was != is_now:
            yield f"sweep.{name} was {', '.join(was)}, and is {', '.join(is_now)} now"
    every = (*before["space"]["dimensions"], *now["space"]["dimensions"])
    searched = {dimension["key"].rpartition(":")[2] for dimension in every}
    if before["names"] != now["names"]:
        yield f"the stages were {' -> '.join(before['names'])}, and are {' -> '.join(now['names'])} now"
        return
    for was, stage in zip(before["stages"], plan.stages, strict=True):
        yield from _of_stage(was, stage, searched)


def _of_stage(was: Mapping[str, Any], stage: Plan, searched: set[str]) -> Iterator[str]:
    """Yield in what all trials of a stage differ: not in what is searched."""
    for row in of_specs(deciding(Spec.from_dict(was["spec"])), deciding(stage.spec)):
        if row.key not in searched and row.key.partition(".")[0] not in searched:
            yield f"{row.key} was {text(row.left)}, and is {text(row.right)} now"


def _spelled(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={part}" for key, part in value.items())
    return text(value)
