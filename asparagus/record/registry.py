"""The model registry, which is MLflow's: checkpoints become versions of named models, and aliases point to them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)

from asparagus.checkpoint.folder import Manifest, best_of, is_whole, manifests, pick
from asparagus.checkpoint.holds import hold, registered, release
from asparagus.errors import RecordError
from asparagus.record.model_names import check_alias, check_name
from asparagus.record.promoted import Promotion, note, promotions
from asparagus.record.run_folder import RunFolder
from asparagus.record.store import Store
from asparagus.record.tracking import CHECKPOINT, DIGEST, RUN_ID, SQLITE
from asparagus.secrets import without_passwords

PAGE = 100
VARIABLE = "MLFLOW_TRACKING_URI"
NO_SUCH_ALIAS = [ErrorCode.Name(code) for code in (RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE)]


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    version: str
    aliases: list[str]
    run_id: int | None
    mlflow_run_id: str
    checkpoint: str
    """Where the checkpoint's folder was when it was promoted."""
    digest: str
    created: float
    """Seconds since the epoch."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `asp model list --json` prints of it."""
        return {**asdict(self), "is_there": Path(self.checkpoint).is_dir()}


def promote(
    store: Store, folder: RunFolder, run_id: int, *, name: str, alias: str | None = None, which: str | None = None
) -> Promotion:
    """Make a checkpoint of a run a version of a registered model; the same one again is the same version.

    Args:
        store: Where the run is recorded, and the registry is.
        folder: The run's.
        run_id: Its number.
        name: The model's, which is made if it is not there.
        alias: Points to this version from now on; it points to one version at a time.
        which: The checkpoint: `best`, `last` or its name; the best unless none was measured, which is the last.

    Raises:
        RequestError: The name or alias is not allowed, there is no such checkpoint, or it is not as it was written.
        RecordError: The run is not recorded, or the registry cannot be used.
    """
    check_name(name)
    if alias is not None:
        check_alias(alias)
    checkpoint, manifest = pick(folder.checkpoints, which or _default(folder))
    try:
        wanted = Promotion(name, alias, "", checkpoint.name, manifest.digest)
        promotion, is_new = _register(store, checkpoint, manifest, run_id=run_id, wanted=wanted)
    except MlflowException as error:
        raise RecordError(f"model {name}: the registry at {without_passwords(store.uri)} refuses: {error}") from error
    if is_new:
        note(folder, promotion)
    return promotion


def remove(store: Store, name: str, version: str) -> Path:
    """Take a version back; its checkpoint is not held for it any more. Returns that checkpoint.

    Raises:
        RecordError: There is no such version.
    """
    found = next((one for one in _versions_of(store, name) if str(one.version) == version), None)
    if found is None:
        raise RecordError(f"model {name}/{version}: there is no such version. asp model list lists them.")
    aliases = next((known.get(version, []) for model, known in _names(store) if model == name), [])
    store.client.delete_model_version(name, version)
    checkpoint = Path(found.tags.get(CHECKPOINT, ""))
    for alias in (f"v{version}", *aliases):
        release(checkpoint, registered(name, alias))
    folder = RunFolder(checkpoint.parents[1], checkpoint.parents[2].name)
    if folder.path.is_dir():
        note(folder, Promotion(name, None, version, checkpoint.name, found.tags.get(DIGEST, ""), removed=True))
    return checkpoint


def restore(store: Store, runs: Iterable[tuple[int, RunFolder]]) -> list[str]:
    """Promote anew what the folders of runs say was promoted, in the order in which it was.

    Args:
        store: Its registry has lost them.
        runs: Numbers and folders of runs, which are recorded in the store.

    Returns:
        What could not be restored, and why.
    """
    noted = [(promotion, run_id, folder) for run_id, folder in runs for promotion in promotions(folder)]
    problems = []
    for promotion, run_id, folder in sorted(noted, key=lambda one: one[0].time):
        checkpoint = folder.checkpoints / promotion.checkpoint
        try:
            _, manifest = pick(folder.checkpoints, promotion.checkpoint)
            now, _ = _register(store, checkpoint, manifest, run_id=run_id, wanted=promotion)
            if now.version != promotion.version:
                problems.append(f"model {promotion.name}/{promotion.version}: is version {now.version} now")
        except (RecordError, MlflowException) as error:
            problems.append(f"model {promotion.label}, version {promotion.version}: {error}")
    return problems


def versions(store: Store) -> list[Version]:
    """Return every version of every registered model, by name, the newest first."""
    return [
        _version(found, aliases=aliases.get(str(found.version), []))
        for name, aliases in _names(store)
        for found in sorted(_versions_of(store, name), key=lambda one: int(one.version), reverse=True)
    ]


def _default(folder: RunFolder) -> str:
    return "best" if best_of(manifests(folder.checkpoints)) else "last"


def _register(
    store: Store, checkpoint: Path, manifest: Manifest, *, run_id: int, wanted: Promotion
) -> tuple[Promotion, bool]:
    """Return what the checkpoint is now, and whether it was not before.

    Args:
        store: Whose registry.
        checkpoint: The checkpoint.
        manifest: Its manifest.
        run_id: The run that wrote it.
        wanted: The name and alias, and the number of the version where it had one before.
    """
    name, alias = wanted.name, wanted.alias
    if not is_whole(checkpoint, manifest):
        raise RecordError(f"{checkpoint}: is not as it was written (its digest differs). Promote another checkpoint.")
    run = store.run_of(run_id)
    if run is None:
        raise RecordError(
            f"run {run_id}: is not recorded in {without_passwords(store.uri)}. "
            "asp record rebuild records it from its folder."
        )
    model = store.checkpoint_model(run, checkpoint, manifest)
    known = _version_of(store, name, model)
    if known is None and wanted.version:
        _skip_to(store, name, model, int(wanted.version))
    version = known or _create(store, name, model, run_id, manifest)
    try:
        _hold(checkpoint, registered(name, f"v{version.version}"))  # `v3` is no alias that MLflow allows
        if alias is not None:
            _hold(checkpoint, registered(name, alias))
    except RecordError:
        if known is None:  # nobody could start from it
            store.client.delete_model_version(name, str(version.version))
        raise
    has_moved = alias is not None and _point(store, name, alias, version, checkpoint)
    promotion = Promotion(name, alias, str(version.version), checkpoint.name, manifest.digest)
    return promotion, known is None or has_moved


def _version_of(store: Store, name: str, model: LoggedModel) -> ModelVersion | None:
    same = [found for found in _versions_of(store, name) if found.source == f"models:/{model.model_id}"]
    return same[0] if same else None


def _make(store: Store, name: str) -> None:
    """Have a model of this name."""
    try:
        store.client.create_registered_model(name, description="Checkpoints promoted by asp model promote.")
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def _create(store: Store, name: str, model: LoggedModel, run_id: int, manifest: Manifest) -> ModelVersion:
    _make(store, name)
    checkpoint = model.tags[CHECKPOINT]
    with _as_default(store.uri):
        return store.client.create_model_version(
            name,
            source=f"models:/{model.model_id}",
            run_id=model.source_run_id,
            model_id=model.model_id,
            description=f"Run {run_id}, checkpoint {manifest.name}: `{checkpoint}`. Start from it: "
            f"`init_from=model:{name}/<version>`. Where it comes from: `asp lineage {run_id}`.",
            tags={RUN_ID: str(run_id), CHECKPOINT: checkpoint, DIGEST: manifest.digest},
            await_creation_for=0,  # it has no files to wait for
        )


def _point(store: Store, name: str, alias: str, version: ModelVersion, checkpoint: Path) -> bool:
    """Let an alias point to a version, and give up the hold on the checkpoint before. Returns whether it moved."""
    before = _pointed(store, name, alias)
    if before is not None and before.version == version.version:
        return False
    store.client.set_registered_model_alias(name, alias, str(version.version))
    old = Path(before.tags.get(CHECKPOINT, "")) if before is not None else Path()
    if old.name and old != checkpoint and old.is_dir():
        release(old, registered(name, alias))
    return True


def _pointed(store: Store, name: str, alias: str) -> ModelVersion | None:
    try:
        return store.client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in NO_SUCH_ALIAS:
            return None
        raise


def _hold(checkpoint: Path, reason: str) -> None:
    try:
        hold(checkpoint, reason)
    except OSError as error:
        raise RecordError(
            f"{checkpoint}: cannot be held ({error.strerror}), so it could be removed by its run's rule of retention. "
            "Let who owns the run promote it."
        ) from error


def _skip_to(store: Store, name: str, model: LoggedModel, version: int) -> None:
    """Let the registry count on to just before a version: those in between were taken back, or their runs are gone."""
    largest = max((int(found.version) for found in _versions_of(store, name)), default=0)
    _make(store, name)
    with _as_default(store.uri):
        for _ in range(largest + 1, version):
            made = store.client.create_model_version(name, source=f"models:/{model.model_id}", await_creation_for=0)
            store.client.delete_model_version(name, str(made.version))


@contextlib.contextmanager
def _as_default(uri: str) -> Iterator[None]:
    """MLflow's own sqlite registry looks a model up in the default store, whichever it is itself."""
    if not uri.startswith(SQLITE):
        yield
        return
    before, variable = mlflow.get_tracking_uri(), os.environ.get(VARIABLE)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # which sets the variable too
        if variable is None:
            del os.environ[VARIABLE]


def _names(store: Store) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Yield the name of each registered model with the aliases of its versions."""
    token = None
    while True:
        page = store.client.search_registered_models(max_results=PAGE, order_by=["name ASC"], page_token=token)
        for model in page:
            aliases: dict[str, list[str]] = {}
            for alias, version in sorted(model.aliases.items()):
                aliases.setdefault(str(version), []).append(alias)
            yield model.name, aliases
        token = page.token
        if not token:
            return


def _versions_of(store: Store, name: str) -> list[ModelVersion]:
    return list(store.client.search_model_versions(f"name='{name}'"))


def _version(found: ModelVersion, *, aliases: list[str]) -> Version:
    number = found.tags.get(RUN_ID, "")
    return Version(
        name=found.name,
        version=str(found.version),
        aliases=aliases,
        run_id=int(number) if number.isdigit() else None,
        mlflow_run_id=found.run_id or "",
        checkpoint=found.tags.get(CHECKPOINT, ""),
        digest=found.tags.get(DIGEST, ""),
        created=found.creation_timestamp / 1000,
    )
