"""The MLflow store: reached by explicit URI and run ids, never the fluent API; opened safely by many at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock

from asparagus.checkpoint.folder import Manifest, manifests
from asparagus.errors import RecordError
from asparagus.record.sql_engine import newest_schema, schema_of
from asparagus.record.tracking import SCHEMA, unreachable
from asparagus.spec import Parent

# A store that is away is said so within seconds; whoever records retries by itself, from the journal.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Experiment, LoggedModel, LoggedModelOutput, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

SQLITE = "sqlite:///"
TAG = "asparagus."
RUN_ID = f"{TAG}run_id"
PAGE = 1000
CHECKPOINT = "checkpoint"
NOT_THERE = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


class Store:
    """One MLflow tracking store.

    Args:
        uri: Absolute tracking URI.
        artifacts: Where a local store keeps artifacts; a server decides for itself.

    Raises:
        RecordError: It cannot be reached.
    """

    def __init__(self, uri: str, artifacts: Path | None = None) -> None:
        self.uri = uri
        self._artifacts = artifacts
        self._numbered: dict[int, str] = {}
        self.described: dict[str, str] = {}
        """Experiments that were found in order: by name, their ids."""
        try:
            if uri.startswith(SQLITE):
                self.client = _open_sqlite(uri)
            else:
                self.client = MlflowClient(uri)
                self.client.search_experiments(max_results=1)
        except Exception as error:
            raise RecordError(unreachable(uri, error)) from error

    def experiment_id(self, name: str) -> str:
        """Return the id of the experiment of this name, which is made if it is not there."""
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                location = (
                    (self._artifacts / name).as_uri() if self._artifacts and self.uri.startswith(SQLITE) else None
                )
                return str(self.client.create_experiment(name, artifact_location=location))
            except MlflowException:  # made by another launch since we looked
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def experiments(self) -> list[Experiment]:
        """Return all experiments."""
        found, token = [], None
        while True:
            page = self.client.search_experiments(max_results=PAGE, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def runs(self, filter_string: str = f"tags.`{RUN_ID}` != ''") -> Iterator[Run]:
        """Yield runs of ours that match, newest first."""
        ids, token = [experiment.experiment_id for experiment in self.experiments()], None
        while ids:
            page = self.client.search_runs(
                ids, filter_string, max_results=PAGE, order_by=["start_time DESC"], page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def run_of(self, run_id: int) -> Run | None:
        """Return the MLflow run that records our run of this number."""
        return next(self.runs(f"tags.`{RUN_ID}` = '{run_id}'"), None)

    def get(self, mlflow_run_id: str) -> Run | None:
        """Return an MLflow run, also a deleted one; `None` if this store has none of that id."""
        try:
            return self.client.get_run(mlflow_run_id)
        except MlflowException as error:
            if error.error_code == NOT_THERE:
                return None
            raise

    def with_number(self, run_id: int) -> list[Run]:
        """Return all MLflow runs that have, or had, this number."""
        ids = [experiment.experiment_id for experiment in self.experiments()]
        if not ids:
            return []
        return list(self.client.search_runs(ids, f"tags.`{RUN_ID}` = '{run_id}'", run_view_type=ViewType.ALL))

    def points(self, run_id: int) -> list[tuple[str, int]]:
        """Return the metric values of the run of this number by name and step, each as often as it is there."""
        if (run := self.run_of(run_id)) is None:
            return []
        told = {name: self.client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        return [(name, point.step) for name, points in told.items() for point in points]

    def numbered(self, run_id: int | None) -> dict[int, str]:
        """Return the MLflow run id of the run of this number, if there is one; asked once, for a sweep has many."""
        if run_id is not None and run_id not in self._numbered and (run := self.run_of(run_id)):
            self._numbered[run_id] = str(run.info.run_id)
        return self._numbered

    def fetch(self, run_id: int, name: str, folder: Path) -> Path | None:
        """Fetch a file that was recorded with a run of this number into a folder; `None` if there is none."""
        for run in self.with_number(run_id):
            if any(file.path == name for file in self.client.list_artifacts(run.info.run_id)):
                return Path(self.client.download_artifacts(run.info.run_id, name, str(folder)))
        return None

    def checkpoint_model(self, run: Run, checkpoint: Path, manifest: Manifest) -> LoggedModel:
        """Return the logged model that stands for a checkpoint of `run`; made, as the run's output, if not there."""
        return self.checkpoint_models(run, checkpoint.parent, [manifest])[0]

    def checkpoint_models(self, run: Run, checkpoints: Path, found: Sequence[Manifest]) -> list[LoggedModel]:
        """Return the logged models that stand for checkpoints of `run`; made, as its outputs, where not there.

        Args:
            run: Theirs.
            checkpoints: The folder that they lie in.
            found: Their manifests.
        """
        there = self._models([run.info.experiment_id], run.info.run_id)
        known = {model.tags.get(f"{TAG}digest"): model for model in there}
        models = [known.get(one.digest) or self._create_model(run, checkpoints / one.name, one) for one in found]
        # Who was killed in between has made the model, and not told that it is the run's output.
        linked = {output.model_id for output in run.outputs.model_outputs} if run.outputs else set()
        outputs = [
            LoggedModelOutput(model.model_id, step=one.step)
            for model, one in zip(models, found, strict=True)
            if model.model_id not in linked
        ]
        if outputs:
            self.client.log_outputs(run.info.run_id, outputs)
        return models

    def _create_model(self, run: Run, checkpoint: Path, manifest: Manifest) -> LoggedModel:
        model = self.client.create_logged_model(
            run.info.experiment_id,
            name=manifest.name.replace("=", "-"),
            source_run_id=run.info.run_id,
            model_type=CHECKPOINT,
            params={
                "epoch": str(manifest.epoch),
                "step": str(manifest.step),
                **{k: str(v) for k, v in manifest.metrics.items()},
            },
            tags={f"{TAG}checkpoint": str(checkpoint), f"{TAG}digest": manifest.digest},
        )
        return self.client.finalize_logged_model(model.model_id, "READY")

    def parent_model(self, parent: Parent) -> LoggedModel | None:
        """Return the logged model of a parent's checkpoint, or `None` for a file that no run here wrote."""
        run = self.run_of(parent.run_id) if parent.run_id is not None else None
        if run is None:
            return None
        checkpoint = Path(parent.checkpoint)
        found = [manifest for manifest in manifests(checkpoint.parent) if manifest.name == checkpoint.name]
        return self.checkpoint_model(run, checkpoint, found[0]) if found else None

    def _models(self, experiment_ids: Iterable[str], source_run: str) -> list[LoggedModel]:
        return list(self.client.search_logged_models(list(experiment_ids), f"source_run_id='{source_run}'"))


def upgrade(uri: str) -> None:
    """Bring a store of an older MLflow up to the installed one's tables."""
    from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(uri)
    _upgrade_db(engine)
    engine.dispose()


def _open_sqlite(uri: str) -> MlflowClient:
    """Open a sqlite store with its schema in place.

    The first client to open a fresh file makes its tables, and stock MLflow lets several try at once: 7 of 8 crash.
    Under the lock one makes them and the others find them there. They are made in a file beside it that takes its place
    when it is whole: a process that is killed meanwhile leaves no half of a store, which MLflow could never open.
    """
    path = Path(uri.removeprefix(SQLITE))
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            making = path.with_name(f".{path.name}.making")
            making.unlink(missing_ok=True)
            MlflowClient(f"{SQLITE}{making}").search_experiments(max_results=1)
            making.rename(path)
        if schema_of(path) not in (None, newest_schema()):  # MLflow would upgrade some of them, in place and unasked
            raise RecordError(SCHEMA)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    return client
