"""What was recorded, for notebooks and scripts: runs, curves, lineage, a trained module, a sweep's study."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from asparagus.errors import RecordError
from asparagus.paths import get_paths, get_tracking_uri, load_environment
from asparagus.record.asked import LIMIT, RUN, Asked, Bound

if TYPE_CHECKING:
    from collections.abc import Iterable

    import optuna
    import pytorch_lightning as pl

    from asparagus.record.query import Lineage
    from asparagus.record.summary import RunSummary


def runs(
    *,
    stage: str | None = None,
    task: str | None = None,
    state: str | None = None,
    metrics: Iterable[str] = (),
    sort: str = RUN,
    limit: int | None = LIMIT,
) -> list[RunSummary]:
    """Return recorded runs: what `asp runs` lists.

    ```python
    asparagus.runs(stage="pretrain", metrics=["val/loss<0.3"], sort="best")
    pandas.DataFrame([run.to_dict() for run in asparagus.runs()])
    ```

    Args:
        stage: Only of this stage.
        task: Only of this task.
        state: Only in this state, e.g. `finished`.
        metrics: Only where these hold, e.g. `val/loss<0.3`.
        sort: `run`, `started`, `best` (by its own monitor) or a metric; the newest, latest, best or largest first.
        limit: No more than so many; None for all.

    Raises:
        RecordError: The store cannot be read, or a condition cannot.
    """
    from asparagus.record.reader import open_reader

    bounds = tuple(Bound.parse(text) for text in metrics)
    asked = Asked(stage=stage, task=task, state=state, metrics=bounds, sort=sort, limit=limit)
    return open_reader(_tracking_uri()).runs(asked)


def lineage(run_id: int) -> Lineage:
    """Return what a run came from, and what came from it: what `asp lineage` draws.

    ```python
    print(asparagus.lineage(1).describe())
    ```

    Args:
        run_id: The run's number.

    Raises:
        RecordError: No such run is recorded.
    """
    from asparagus.record.query import lineage as find
    from asparagus.record.reader import open_reader

    uri = _tracking_uri()
    return find(open_reader(uri), run_id, models=Path(get_paths().models))


def metric_history(run_id: int) -> dict[str, list[tuple[int, float]]]:
    """Return the value of each metric by step, from the run's folder: its curves.

    ```python
    steps, values = zip(*asparagus.metric_history(12)["val/loss"])
    ```

    Args:
        run_id: The run's number; it may still be training.

    Raises:
        RecordError: The folder of the run is not under the models folder.
    """
    from asparagus.record.curves import curves_of
    from asparagus.record.run_folder import RunFolder

    folder = _folder_of(run_id)
    return curves_of(RunFolder(folder, folder.parent.name))


def load_run(run_id: int, checkpoint: str = "best") -> tuple[pl.Trainer, pl.LightningModule, pl.LightningDataModule]:
    """Build what a run trained, in this process, with the weights of one of its checkpoints: to look at, to predict.

    ```python
    trainer, module, datamodule = asparagus.load_run(12)
    datamodule.setup("validate")
    logits = module(next(iter(datamodule.val_dataloader()))["image"])
    ```

    Args:
        run_id: The run's number.
        checkpoint: `best`, `last`, or its name, e.g. `epoch=4-step=115`; the last where `best` was never measured.

    Returns:
        Trainer, module (in evaluation mode), data module. Nothing of what they do is recorded.

    Raises:
        RecordError: There is no such run or checkpoint, or not as it was written.
        DataError: The run's task is not here.
    """
    from asparagus.checkpoint.folder import best_of, is_whole, manifests, pick
    from asparagus.checkpoint.transfer import read_weights
    from asparagus.record.run_files import read_run
    from asparagus.spec import Spec
    from asparagus.worker.notebook import objects_of

    run = read_run(_folder_of(run_id))
    if not run.spec:
        raise RecordError(f"{run.folder.config}: missing or not readable, and it says how the model is built.")
    checkpoints = run.folder.checkpoints
    measured = best_of(manifests(checkpoints)) is not None
    folder, manifest = pick(checkpoints, "last" if checkpoint == "best" and not measured else checkpoint)
    if not is_whole(folder, manifest):
        raise RecordError(f"{folder}: is torn or was changed (its digest differs). asp show {run_id} lists the others.")
    spec = dataclasses.replace(Spec.from_dict(run.spec), paths=get_paths())
    trainer, module, datamodule = objects_of(spec, None)
    module.load_state_dict(dict(read_weights(folder)))
    return trainer, module.eval(), datamodule


def load_study(sweep_id: int) -> optuna.Study:
    """Return the Optuna study of a sweep, for Optuna's own plots and questions; the sweep may be running.

    ```python
    optuna.visualization.plot_optimization_history(asparagus.load_study(7))
    ```

    Args:
        sweep_id: The sweep's number.

    Raises:
        RecordError: It is no sweep, or its study is not there.
    """
    import optuna

    from asparagus.record.sweeps import study_of
    from asparagus.sweep.storage import open_existing, quiet

    url, name = study_of(_folder_of(sweep_id))
    with quiet():
        return optuna.load_study(study_name=name, storage=open_existing(url))


def _tracking_uri() -> str:
    load_environment()
    return get_tracking_uri(get_paths())


def _folder_of(run_id: int) -> Path:
    from asparagus.record.numbers import find_folder

    load_environment()
    return find_folder(Path(get_paths().models), run_id)
