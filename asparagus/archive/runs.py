"""A run's checkpoint as an archive, or as a model of MLflow's: what `asp model export` writes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import nn

from asparagus.archive.archivable import Archivable
from asparagus.archive.artifacts import Artifact
from asparagus.archive.container import must_be_free
from asparagus.archive.kept import Kept
from asparagus.archive.layout import RUN, SUFFIX, Index
from asparagus.archive.lineage import lineage_of
from asparagus.archive.rebuild import FACTS, task_of
from asparagus.archive.save import save, save_kept
from asparagus.checkpoint.folder import Manifest, best_of, is_whole, manifests, pick
from asparagus.checkpoint.transfer import read_weights
from asparagus.data.layout import read_task
from asparagus.errors import DataError, RecordError
from asparagus.python_file import MODEL_OF
from asparagus.record.pyfunc_model import save_pyfunc
from asparagus.record.run_files import RunFiles, read_run
from asparagus.secrets import reveal
from asparagus.stages import STAGES
from asparagus.stages.build import build_module
from asparagus.targets import locate, parameters_of

LOADER = "asparagus.archive.pyfunc"
"""The module that MLflow loads an archive with."""


def save_run(run_folder: Path | str, path: Path | str, checkpoint: str | None = None) -> Index:
    """Write a checkpoint of a run as an archive; returns its index.

    Args:
        run_folder: `<MODELS>/<task>/<stage>/run_id=<N>`.
        path: Of the archive; nothing may be there.
        checkpoint: `best`, `last`, or its name; the best unless none was measured, which is the last.

    Raises:
        RecordError: Something is there, or the run has no such checkpoint, or not as it was written.
        DataError: The run's task is not here, which says how many channels and classes its network has.
    """
    path = must_be_free(Path(path))
    run = read_run(Path(run_folder).absolute())
    if not run.spec:
        raise RecordError(f"{run.folder.config}: missing or not readable, and it says how the model is built.")
    folder, manifest = _chosen(run.folder.checkpoints, checkpoint)
    weights, lineage = read_weights(folder), lineage_of(run.folder.path, manifest)
    module = _archivable(run)
    if module is not None:
        return save(module, path, lineage, weights=weights)
    return save_kept(_kept(run), path, lineage, weights)


def export_to_mlflow(run_folder: Path | str, folder: Path | str, checkpoint: str | None = None) -> Index:
    """Write a checkpoint of a run as a folder that `mlflow models serve` and `mlflow.pyfunc.load_model` take.

    Args:
        run_folder: `<MODELS>/<task>/<stage>/run_id=<N>`.
        folder: Of the model; nothing may be there.
        checkpoint: As for `save_run`.

    Raises:
        RequestError: As for `save_run`.
    """
    folder = must_be_free(Path(folder))
    with tempfile.TemporaryDirectory(prefix="asparagus-") as inside:
        archive = Path(inside) / f"model{SUFFIX}"
        index = save_run(run_folder, archive, checkpoint)
        about = {key: index.lineage.get(key) for key in ("run_id", "mlflow_run_id", "stage", "task")}
        save_pyfunc(archive, folder, loader=LOADER, about={**about, "digest": index.digest})
    return index


def _chosen(checkpoints: Path, which: str | None) -> tuple[Path, Manifest]:
    default = "last" if best_of(manifests(checkpoints)) is None else "best"
    folder, manifest = pick(checkpoints, which or default)
    if not is_whole(folder, manifest):
        others = ", ".join(other.name for other in manifests(checkpoints) if other.name != manifest.name)
        raise RecordError(
            f"{folder}: is not as it was written (its digest differs), and is not exported. "
            + (f"Take another one: --checkpoint {others}." if others else "The run has no other one.")
        )
    return folder, manifest


def _kept(run: RunFiles) -> Kept:
    """Return the config of a run as its archive has it, and the files that its network is built from."""
    spec = run.spec
    config = {
        "stage": spec["stage"],
        "task": {"name": spec["task"], **_facts(spec)},
        "seed": spec["seed"],
        "model": spec["model"],
        "optim": spec["optim"],
        "loss": spec["loss"],
        "patch_size": spec["data"].get("patch_size"),
        "run": {"data": _without_places(spec["data"]), "trainer": spec["trainer"], "transfer": spec["transfer"]},
    }
    kept = Kept(OmegaConf.create(config), kind=RUN)
    for key, section in _python_files(config["model"], "model"):
        OmegaConf.update(kept.cfg, f"{key}.home", None)
        kept.register(f"{key}.file", Artifact(Path(section["file"])))
    return kept


def _facts(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the data say of the network's sizes; nothing where a data module of one's own needs no task."""
    try:
        task = read_task(spec["data"].get("root") or spec["paths"]["data"], spec["task"])
    except DataError:
        if "task" in parameters_of(locate(spec["data"]["_target_"], key="data")):
            raise
        return {}
    facts = {name: getattr(task, name) for name in FACTS}
    return {name: list(fact) if isinstance(fact, tuple) else fact for name, fact in facts.items()}


def _without_places(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != "root"}


def _python_files(section: Mapping[str, Any], key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the sections of networks that a Python file builds: the file travels with the weights."""
    if section.get("_target_") == MODEL_OF:
        yield key, section
    for name, part in section.items():
        if isinstance(part, Mapping):
            yield from _python_files(part, f"{key}.{name}")


def _archivable(run: RunFiles) -> nn.Module | None:
    """Return the module of a run whose module is archivable itself: its artifacts travel then; else None."""
    spec = run.spec
    target = (spec["model"].get("module") or {}).get("_target_")
    found: Any = locate(target, key="model.module") if target else None
    if not (isinstance(found, type) and issubclass(found, Archivable)):
        return None
    task = task_of({"task": {"name": spec["task"], **_facts(spec)}})
    built = reveal({part: spec[part] for part in ("model", "optim", "loss")})
    module: nn.Module = build_module(
        STAGES[spec["stage"]], **built, task=task, patch_size=spec["data"].get("patch_size"), seed=spec["seed"]
    )
    return module
