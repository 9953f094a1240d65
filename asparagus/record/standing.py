"""What there is already of an experiment that is asked for: the identical run to go on with, or why it is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from asparagus.checkpoint.folder import manifests
from asparagus.errors import ConfigError
from asparagus.identity import deciding
from asparagus.record.differences import describe, of_specs
from asparagus.record.numbers import folder_name, is_taken, of_trial, with_identity, with_name
from asparagus.record.run_folder import FINISHED, RunFolder, is_running, read_state
from asparagus.spec import Spec, TrialOf
from asparagus.storage import kept


@dataclass(frozen=True)
class Standing:
    """An identical run, and how it stands."""

    run_id: int
    folder: RunFolder
    facts: dict[str, Any]
    """What its `run.json` says; nothing if it was lost before that was written."""

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.facts.get("state") == FINISHED

    @property
    def attempt(self) -> int:
        """Which attempt was the last one."""
        return int(self.facts.get("attempt", 1))

    def describe(self) -> str:
        """Say what a launch would do about it."""
        state = str(self.facts.get("state", "lost before it began"))
        if self.finished:
            return f"run {self.run_id} is identical and finished: it is shown, not repeated (run.resume=false does)"
        if is_running(self.folder):
            return f"run {self.run_id} is identical and is being trained now (run.resume=false trains a second one)"
        found = manifests(self.folder.checkpoints)
        start = f"from {found[-1].name}" if found else "from its start"
        return f"run {self.run_id} is identical and {state}: it goes on {start} (run.resume=false starts a new one)"


def standing(spec: Spec, identity: str, *, trial: TrialOf | None = None) -> Standing | None:
    """Return the newest identical run that a launch goes on with, or shows; `None` if a new one is begun.

    Args:
        spec: What is asked.
        identity: Its hash.
        trial: Whose run it is in a sweep. The last stage's is the trial's own, however many others are identical.

    Raises:
        ConfigError: The number or the name is another run's.
    """
    models = Path(spec.paths.models)
    kept.see_register(models)
    if trial is not None and trial.last:
        return next((found for run_id in of_trial(models, trial) if (found := _at(spec, run_id))), None)
    identical = with_identity(models, identity) if identity else []
    _must_be_free(spec, identical)
    if not spec.run.resume:
        return None
    if spec.run.id is not None:
        identical = [run_id for run_id in identical if run_id == spec.run.id]
    return next((found for run_id in identical if (found := _at(spec, run_id))), None)


def _at(spec: Spec, run_id: int) -> Standing | None:
    folder = RunFolder(Path(spec.paths.models) / folder_name(spec.task, spec.stage, run_id), spec.stage)
    kept.see_run(folder.path)
    return Standing(run_id, folder, read_state(folder)) if folder.path.is_dir() else None


def _must_be_free(spec: Spec, identical: list[int]) -> None:
    """Refuse a number or a name that stands for something else: nothing is ever continued in silence.

    Raises:
        ConfigError: It is, and how the two differ.
    """
    models, run = Path(spec.paths.models), spec.run
    advice = "Leave run.id out to get the next free number."
    if run.id is not None and is_taken(models, run.id):
        folder = RunFolder(models / folder_name(spec.task, spec.stage, run.id), spec.stage)
        kept.see_run(folder.path)
        unfinished = folder.path.is_dir() and read_state(folder).get("state") != FINISHED
        if run.id not in identical or not (run.resume and unfinished):
            raise ConfigError(f"run.id: {run.id} is taken{_by(folder, spec)}. {advice}")
    if run.name is None:
        return
    for run_id in with_name(models, spec.task, spec.stage, run.name):
        folder = RunFolder(models / folder_name(spec.task, spec.stage, run_id), spec.stage)
        kept.see_run(folder.path)
        if folder.path.is_dir() and run_id not in identical and _name_of(folder) == run.name:
            raise ConfigError(
                f"run.name: {run.name!r} is run {run_id}'s{_by(folder, spec)}. Give this one a name of its own "
                "(run.name=...), or ask for the same as before."
            )


def _name_of(folder: RunFolder) -> str | None:
    """Return the name that a run was given; others were only called so."""
    ran = _ran(folder)
    return ran.run.name if ran else None


def _ran(folder: RunFolder) -> Spec | None:
    """Return what ran; nothing where the run was lost before it was written down."""
    try:
        return Spec.from_dict(yaml.safe_load(folder.config.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, TypeError, KeyError):
        return None


def _by(folder: RunFolder, spec: Spec) -> str:
    """Say how what ran differs from what is asked, in one line: an error's first line is the one that is read."""
    ran = _ran(folder)
    if ran is None:
        return ""
    found = of_specs(deciding(ran), deciding(spec))
    if not found:
        return ", with other weights, data or code of a network to start from" if ran.init_from else ""
    told = describe(found).replace("spec: ", "").replace("\n", "; ")
    return f", which was another experiment (what ran -> what is asked: {told})"
