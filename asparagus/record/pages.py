"""What people find in the MLflow UI beside figures: descriptions, curves, plots, and the page of a run's lineage."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from asparagus.checkpoint.folder import manifests
from asparagus.errors import RecordError
from asparagus.record import curves, timing_page
from asparagus.record.lineage_page import page
from asparagus.record.presentation import NOTE, description, experiment_description, files_to_attach, merged, run_page
from asparagus.record.query import lineage
from asparagus.record.reader import open_reader
from asparagus.record.recorder import RunRecord
from asparagus.record.run_folder import RunFolder
from asparagus.record.store import Store

LINEAGE = "lineage.html"
RELATIVES = 200
"""So many are drawn on the page of a run; `asp lineage` draws all."""

log = logging.getLogger(__name__)


def describe_experiment(store: Store, experiment_id: str, task: str) -> None:
    """Tell how to find one's way in the experiment that holds a task's runs; what people wrote there stays."""
    if NOTE not in store.client.get_experiment(experiment_id).tags:
        store.client.set_experiment_tag(experiment_id, NOTE, experiment_description(task))


def opening(store: Store, record: RunRecord) -> dict[str, str]:
    """Return the description of a run that starts, as a tag."""
    return {NOTE: _opening(store, record)}


def result(store: Store, run: Run, record: RunRecord, folder: RunFolder) -> dict[str, str]:
    """Attach a run's curves and plots, and return its description with the result added, as a tag."""
    try:
        if record.sweep_id is None:  # of many trials, what counts is how they compare: the sweep's own plots
            curves.draw(folder)
            timing_page.write(folder)
    except OSError as error:  # a full disk, or a folder that is not ours to write
        log.warning("run %d: its curves could not be drawn (%s)", record.run_id, error)
    for file, place in files_to_attach(folder):
        store.client.log_artifact(run.info.run_id, str(file), place)
    parent_page = _parent_page(store, record)
    now = description(record, parent_page=parent_page, checkpoints=manifests(folder.checkpoints))
    before = description(record, parent_page=parent_page)
    return {NOTE: merged(run.data.tags.get(NOTE, ""), before, now)}


def attach_lineage(store: Store, record: RunRecord, models: Path) -> None:
    """Draw the lineage of a run onto a page of its own and of each ancestor: they have one descendant more."""
    reader = open_reader(store.uri)
    try:
        found = lineage(reader, record.run_id, models=models, limit=RELATIVES)
        concerned = [
            found,
            *(lineage(reader, one.run.run_id, models=models, limit=RELATIVES) for one in found.ancestors),
        ]
    except RecordError as error:
        log.warning("run %d: its lineage could not be drawn (%s)", record.run_id, error)
        return
    for one in concerned:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / LINEAGE
            file.write_text(page(one, tracking_uri=store.uri), encoding="utf-8")
            try:
                store.client.log_artifact(one.run.mlflow_run_id, str(file))
            except MlflowException:  # an ancestor that was deleted, or is not recorded here
                log.warning("run %d: its page of lineage could not be renewed", one.run.run_id)


def _opening(store: Store, record: RunRecord) -> str:
    return description(record, parent_page=_parent_page(store, record))


def _parent_page(store: Store, record: RunRecord) -> str | None:
    number = record.parent.run_id if record.parent else None
    found: Run | None = store.run_of(number) if number is not None else None
    return run_page(found.info.experiment_id, found.info.run_id) if found else None
