"""`load_model = "latest" | "best"` of a training config in Python: whose weights it begins with (SEEDS E16, E19).

They are those of the newest run of the same task, stage and model name that has a whole checkpoint. If that run is the
same experiment and was interrupted, nothing is loaded: it goes on by itself, with its optimizer, step and epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asparagus.checkpoint.folder import best_of, is_whole, manifests, newest_whole
from asparagus.data.layout import fingerprint, read_task
from asparagus.errors import ConfigError, RequestError
from asparagus.identity import identity
from asparagus.record.numbers import folder_name, with_identity, with_name
from asparagus.record.run_files import RunFiles, read_run
from asparagus.record.run_folder import FINISHED
from asparagus.spec import Spec

if TYPE_CHECKING:
    from omegaconf import DictConfig

LATEST, BEST = "latest", "best"

log = logging.getLogger("asparagus")


@dataclass(frozen=True)
class Loaded:
    """What `load_model` comes to."""

    init_from: str | None
    note: str


def with_weights(config: DictConfig, which: str, wanted: str) -> DictConfig:
    """Fill `init_from` of a composed config.

    Args:
        config: Of a training config in Python, overrides included.
        which: `latest` or `best`.
        wanted: The name of the model whose weights are wanted.
    """
    from omegaconf import OmegaConf

    from asparagus.compose.experiment import spec_of

    try:
        spec = spec_of(config)
    except ConfigError:  # whoever resolves the config next says what is wrong with it
        return config
    if spec.init_from is not None or spec.run.resume_from_checkpoint is not None:
        log.warning("load_model is not used: init_from or run.resume_from_checkpoint says what the run starts from")
        return config
    loaded = load(spec, which, wanted)
    log.warning("load_model: %s", loaded.note)
    OmegaConf.update(config, "init_from", loaded.init_from)
    return config


def load(spec: Spec, which: str, wanted: str) -> Loaded:
    """Return what a run begins with.

    Args:
        spec: The experiment, without weights to start from.
        which: `latest` or `best`.
        wanted: The name of the model whose weights are wanted.
    """
    models = Path(spec.paths.models)
    runs = list(_runs(models, spec, wanted))
    if runs and _goes_on(models, spec, runs[0]):
        newest = runs[0]
        return Loaded(
            newest.spec.get("init_from"),
            f"run {newest.run_id} is the same experiment and was not finished, so it goes on",
        )
    for run in runs:
        checkpoint = _whole(run.folder.checkpoints, which)
        if checkpoint is not None:
            named = f"run:{run.run_id}/{checkpoint.name}"
            return Loaded(named, f"the {which} weights of {wanted!r} are those of {named}")
    there = f"{spec.stage} of {spec.task}"
    return Loaded(None, f"no run of {there} is called {wanted!r} and has a checkpoint: the weights are fresh")


def _runs(models: Path, spec: Spec, name: str) -> Iterator[RunFiles]:
    """Yield the runs of a model that are there, the newest first."""
    for run_id in with_name(models, spec.task, spec.stage, name):
        folder = models / folder_name(spec.task, spec.stage, run_id)
        if folder.is_dir():
            yield read_run(folder)


def _goes_on(models: Path, spec: Spec, run: RunFiles) -> bool:
    """Tell whether a run is unfinished and what is asked for, weights to start from apart."""
    if run.state.get("state") == FINISHED or not run.spec:
        return False
    parent: dict[str, Any] = run.state.get("init_from") or {}
    asked = replace(spec, init_from=run.spec.get("init_from"))
    same = identity(asked, parent_digest=parent.get("digest"), fingerprint=_fingerprint(spec))
    return run.run_id in with_identity(models, same)


def _fingerprint(spec: Spec) -> str | None:
    try:
        return fingerprint(read_task(spec.data_root, spec.task), spec.data["split"])
    except (RequestError, KeyError):  # not visible from here, or no data of ours
        return None


def _whole(checkpoints: Path, which: str) -> Path | None:
    """Return the newest or best checkpoint that is as it was written."""
    if which == LATEST:
        return newest_whole(checkpoints)
    left = manifests(checkpoints)
    while (best := best_of(left)) is not None:
        if is_whole(checkpoints / best.name, best):
            return checkpoints / best.name
        left.remove(best)
    return None
