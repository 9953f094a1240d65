"""The record survives its database: runs, metrics, files and edges come back from the run folders."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

import asparagus
from asparagus.record.backlog import put_off, waiting
from asparagus.record.recorder import NumberTakenError, Recorder, RunRecord
from asparagus.record.run_folder import create
from asparagus.record.store import RUN_ID, Store
from asparagus.spec import Paths, Spec
from tests.conftest import ASP
from tests.helpers import living_in

DIGITS = "experiment/digits"
ONE = "trainer.max_epochs=1"


def books(home) -> dict[str, dict]:
    """All that the store says of each run, with other runs and models named by what they are."""
    copy = Path(tempfile.mkdtemp(dir=home)) / "mlflow.db"  # MLflow keeps a file open that is deleted under it
    shutil.copyfile(home / "results/mlflow.db", copy)
    store = Store(f"sqlite:///{copy}")
    return {run.data.tags[RUN_ID]: _told(store.client, store.client.get_run(run.info.run_id)) for run in store.runs()}


def _told(client, run) -> dict:
    def digests(models):
        return sorted(client.get_logged_model(model.model_id).tags["asparagus.digest"] for model in models)

    mlflow_run_id = run.info.run_id
    return {
        "info": (run.info.status, run.info.start_time, run.info.end_time, run.info.run_name, run.info.user_id),
        "tags": {
            key: re.sub(r"runs/\w{32}", "runs/...", value)  # a link in the description
            for key, value in run.data.tags.items()
            if key != "asparagus.init_from.model_id"
        },
        "params": run.data.params,
        "metrics": {
            key: [(point.step, point.value, point.timestamp) for point in client.get_metric_history(mlflow_run_id, key)]
            for key in run.data.metrics
        },
        "inputs": digests(run.inputs.model_inputs),
        "outputs": digests(run.outputs.model_outputs),
        "data": [(given.dataset.name, given.dataset.digest) for given in run.inputs.dataset_inputs],
        "files": sorted(file.path for file in client.list_artifacts(mlflow_run_id)),
    }


@pytest.fixture(scope="module")
def lived(tmp_path_factory, data_root):
    """A home with a run, a finetuning of it, and one that failed."""
    home = tmp_path_factory.mktemp("lived")
    with living_in(home, data_root):
        asparagus.launch(DIGITS, [ONE])
        asparagus.launch(DIGITS, [ONE, "stage=finetune_cls", "init_from=run:1/best"])
        with pytest.raises(asparagus.errors.RunError):
            asparagus.launch(DIGITS, [ONE, "+callbacks.boom={_target_: tests.fakes.Boom}"])
    return home


@pytest.fixture
def here(lived, data_root):
    with living_in(lived, data_root):
        yield lived


@pytest.fixture
def rebuild(here):
    """Run `asp record rebuild` in a process of its own."""
    return lambda *words: subprocess.run(
        [str(ASP / "asp"), "record", "rebuild", *words], cwd=here, capture_output=True, text=True, check=False
    )


def test_a_store_that_was_deleted_is_restored_as_it_was(here, rebuild):
    before = books(here)
    assert set(before) == {"1", "2", "3"}
    assert before["2"]["inputs"]
    shutil.rmtree(here / "results")
    done = rebuild()
    assert done.returncode == 0, done.stderr
    assert "ok   run 2      restored as " in done.stdout
    assert books(here) == before
    assert [one["ok"] for one in json.loads(rebuild("--json").stdout)] == [True, True, True]
    assert books(here) == before  # nothing twice
    assert "kept" in rebuild().stdout  # under the ids of the new store
    thrown = subprocess.run([str(ASP / "asp"), "rm", "3"], cwd=here, capture_output=True, text=True, check=False)
    assert thrown.returncode == 0, thrown.stderr
    assert "3" not in books(here)
    assert rebuild().returncode == 0  # what was thrown away is neither missed nor recorded anew
    assert "3" not in books(here)
    brought = subprocess.run([str(ASP / "asp"), "rm", "--restore", "3"], cwd=here, capture_output=True, check=False)
    assert brought.returncode == 0


def test_a_run_that_lost_its_own_account_is_said_so_and_the_others_are_restored(here, rebuild):
    kept = here / "models/Task001_Digits/train_cls/run_id=1/record.json"
    moved = kept.rename(kept.with_suffix(".away"))
    try:
        done = rebuild()
    finally:
        moved.rename(kept)
    said = done.stdout
    assert done.returncode == 2
    assert "bad  run 1 " in said
    assert "record.json: cannot be read" in said
    assert "ok   run 3 " in said


def test_what_a_store_could_not_be_told_is_told_while_the_next_run_is_recorded(here):
    """As after a server that was away for longer than the end of a run waits."""
    before = books(here)
    shutil.rmtree(here / "results")
    models, uri = here / "models", f"sqlite:///{here}/results/mlflow.db"
    put_off(models, 1, uri)
    put_off(models, 77, uri)  # nobody knows of it
    asparagus.launch(DIGITS, ["trainer.max_epochs=3", "+callbacks.slow={_target_: tests.fakes.Slow, seconds: 0.05}"])
    assert waiting(models, uri) == []
    assert books(here)["1"] == before["1"]


def test_a_number_that_another_machine_recorded_is_given_up(tmp_path):
    """Two models folders and one store: both draw the same number at once."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with Recorder(uri, tmp_path / "artifacts", tmp_path) as recorder:
        for place in ("here", "there"):
            folder = create(tmp_path / place, Spec("pretrain", "T", paths=Paths(models=str(tmp_path))), 5, "{}")
            record = RunRecord(5, "pretrain", "T", str(folder.path), "pretrain-5", {})
            if place == "here":
                recorder.open(record)
                continue
            with pytest.raises(NumberTakenError, match=r"run.id: 5 is taken in .* by .*here"):
                recorder.open(record)
        recorder.close(5, state="finished")
    assert [run.data.tags["asparagus.folder"] for run in Store(uri).with_number(5)] == [
        str(tmp_path / "here" / "T/pretrain/run_id=5")
    ]


@pytest.mark.slow
def test_a_run_that_goes_on_into_a_store_where_its_number_is_anothers_is_refused_and_nothing_is_lost(home, monkeypatch):
    fuse = f"+callbacks.fuse={{_target_: tests.fakes.Fuse, mark: {home}/blown, epoch: 1}}"
    words = ["trainer.max_epochs=2", fuse]
    with pytest.raises(asparagus.errors.RunError):
        asparagus.launch(DIGITS, words)
    folder = home / "models/Task001_Digits/train_cls/run_id=1"
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/shared.db")
    monkeypatch.setenv("ASPARAGUS_MODELS", str(home / "another"))
    asparagus.launch(DIGITS, [ONE])  # number 1 of the other store
    monkeypatch.delenv("ASPARAGUS_MODELS")
    with pytest.raises(asparagus.errors.RecordError, match="was begun with another tracking store"):
        asparagus.launch(DIGITS, words)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == kept
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert asparagus.launch(DIGITS, words).run_id == 1


@pytest.mark.slow
def test_folders_that_lie_there_keep_their_numbers_when_the_register_is_lost(home):
    first = asparagus.launch(DIGITS, [ONE])
    shutil.rmtree(home / "models/.asparagus")
    shutil.rmtree(home / "results")
    second = asparagus.launch(DIGITS, [ONE])
    assert (first.run_id, second.run_id) == (1, 2)
    assert Path(first.checkpoint).exists()


@pytest.mark.slow
def test_two_models_folders_and_one_store_never_share_a_number(home, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/shared.db")
    first = asparagus.launch(DIGITS, [ONE])
    monkeypatch.setenv("ASPARAGUS_MODELS", str(home / "another"))
    second = asparagus.launch(DIGITS, [ONE])
    assert (first.run_id, second.run_id) == (1, 2)
    with pytest.raises(asparagus.errors.RecordError, match=r"run.id: 1 is taken in"):
        asparagus.launch(DIGITS, [ONE, "run.id=1", "run.resume=false"])
    assert not (Path(home) / "another/Task001_Digits/train_cls/run_id=1").exists()
