"""One suite, two stores: a sqlite file and an `mlflow server`. Real ones."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from pathlib import Path

import pytest

from asparagus.checkpoint.folder import STATE, WRITING, Manifest, digest_of, seal
from asparagus.data.card import write_card
from asparagus.data.digits import make_digits
from asparagus.data.layout import fingerprint, read_task
from asparagus.data.split import make_split
from asparagus.errors import RecordError
from asparagus.journal import Journal
from asparagus.record.asked import Asked
from asparagus.record.query import lineage, list_runs
from asparagus.record.reader import open_reader
from asparagus.record.recorder import Recorder, RunRecord
from asparagus.record.run_folder import create
from asparagus.record.store import Store
from asparagus.spec import Parent, Paths, Spec
from tests.counts import within
from tests.helpers import mlflow_server


@pytest.fixture(scope="module")
def server_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(server_folder):
    with mlflow_server(server_folder) as uri:
        yield uri


@pytest.fixture(params=["sqlite", "server"], scope="module")
def uri(request, tmp_path_factory):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    return request.getfixturevalue("server")


@pytest.fixture
def recorder(uri, tmp_path):
    with Recorder(uri, tmp_path / "artifacts", tmp_path) as recorder:
        yield recorder


def a_run(tmp_path: Path, run_id: int, *, stage="pretrain", parent=None, **changes):
    spec = Spec(stage=stage, task="Task9_X", paths=Paths(models=str(tmp_path)))
    folder = create(tmp_path, spec, run_id, "{}")
    folder.log.write_text("hello\n")
    record = RunRecord(
        run_id, stage, "Task9_X", str(folder.path), f"{stage}-{run_id}", {"a.b": "1"}, parent=parent,
        tags={"asparagus.monitor": "val/x"}, **changes,
    )  # fmt: skip
    return folder, record


def a_checkpoint(folder, *, step=10) -> Parent:
    writing = folder.checkpoints / f"{WRITING}x"
    writing.mkdir(parents=True)
    (writing / STATE).write_bytes(b"weights")
    digest = digest_of(writing / STATE)
    path = seal(
        writing, Manifest(f"epoch=0-step={step}", 0, step, {"val/x": 1.0}, digest, 7, monitor="val/x", mode="max")
    )
    return Parent(str(path), digest, int(folder.path.name.partition("=")[2]), str(folder.path), step)


def history(uri, mlflow_run_id, key):
    return [(metric.step, metric.value) for metric in Store(uri).client.get_metric_history(mlflow_run_id, key)]


def test_metrics_arrive_once_each_whatever_an_attempt_repeats(uri, recorder, tmp_path):
    folder, record = a_run(tmp_path, 101)
    mlflow_run_id = recorder.open(record)
    journal = Journal(folder.journal)
    for step in (1, 2, 3, 2, 3, 4):  # the worker was lost after step 3 and went on from a checkpoint at step 1
        journal.append("metrics", step=step, epoch=0, values={"train/loss": 1.0 / step})
    journal.close()
    assert recorder.close(101, state="finished")
    assert history(uri, mlflow_run_id, "train/loss") == [(1, 1.0), (2, 1 / 2), (3, 1 / 3), (4, 1 / 4)]


EPOCHS, STEPS, SHORT_S = 8, 23, 0.3
"""Of a small training, whose epochs are shorter than the second for which news are held."""


def test_a_run_asks_the_server_little(server, server_folder, tmp_path):
    folder, record = a_run(tmp_path, 111)

    def asked() -> list[str]:
        return re.findall(r'"([A-Z]+ /\S*api/\S+) HTTP', (server_folder / "log").read_text())

    with Recorder(server, tmp_path / "artifacts", tmp_path) as recorder:
        before = len(asked())
        recorder.open(record)
        opened, journal = len(asked()), Journal(folder.journal)
        for epoch in range(EPOCHS):
            for step in range(epoch * STEPS, (epoch + 1) * STEPS):
                journal.append("metrics", flush=False, step=step, epoch=epoch, values={"train/loss": 1.0, "lr": 1e-3})
            journal.append("metrics", step=step, epoch=epoch, values={f"val/metric_{i}": 0.5 for i in range(9)})
            time.sleep(SHORT_S)
        wait_until(lambda: written(folder) == folder.journal.stat().st_size)
        trained = len(asked())
        a_checkpoint(folder)
        journal.close()
        assert recorder.close(111, state="finished")
    every = asked()
    within("requests to MLflow per epoch of 0.3 s", (trained - opened) / EPOCHS, "\n".join(every[opened:trained]))
    outside = every[before:opened] + every[trained:]
    within("requests to MLflow per run, beside its epochs", len(outside), "\n".join(outside))


def written(folder) -> int:
    """Return how much of its journal the store is known to have."""
    return json.loads(folder.written.read_text())["offset"] if folder.written.is_file() else 0


def wait_until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_odd_names_long_values_nan_and_many_points_are_taken(uri, recorder, tmp_path):
    folder, record = a_run(tmp_path, 102)
    record.params.update({"x[0]=": "v" * 9000, **{f"p{index}": "1" for index in range(150)}})
    mlflow_run_id = recorder.open(record)
    journal = Journal(folder.journal)
    journal.append("metrics", step=1, epoch=0, values={"odd[name]=1%": math.nan, "up": math.inf})
    for step in range(2500):
        journal.append("metrics", flush=False, step=step, epoch=0, values={"many": float(step)})
    journal.close()
    assert recorder.close(102, state="finished")
    assert len(history(uri, mlflow_run_id, "many")) == 2500
    run = Store(uri).client.get_run(mlflow_run_id)
    assert math.isnan(run.data.metrics["odd_name__1_"])
    assert run.data.params["p149"] == "1"


def test_the_data_are_an_input_with_their_fingerprint(uri, recorder, tmp_path, data_root):
    _folder, record = a_run(tmp_path, 109)
    expected = fingerprint(read_task(data_root, "Task001_Digits"), "split_80_20")
    data = {"data_root": str(data_root), "data_split": "split_80_20", "fingerprint": expected}
    record = dataclasses.replace(record, task="Task001_Digits", **data)
    run = Store(uri).client.get_run(recorder.open(record))
    recorder.close(109, state="finished")
    assert run.data.tags["asparagus.data.fingerprint"] == expected
    assert run.inputs.dataset_inputs[0].dataset.digest == expected[:36]


def test_the_card_of_the_data_goes_with_the_run(uri, recorder, tmp_path):
    task = make_digits(tmp_path / "data", cases=10)
    make_split(tmp_path / "data", task.name, "split_80_20")
    write_card(tmp_path / "data", task.name)
    _folder, record = a_run(tmp_path, 110)
    data = {"data_root": str(tmp_path / "data"), "data_split": "split_80_20", "fingerprint": "0" * 64}
    mlflow_run_id = recorder.open(dataclasses.replace(record, task=task.name, **data))
    recorder.close(110, state="finished")
    client = Store(uri).client
    profile = json.loads(client.get_run(mlflow_run_id).inputs.dataset_inputs[0].dataset.profile)
    assert (profile["cases"], profile["n_classes"]) == (10, 10)
    assert "card.html" in {file.path for file in client.list_artifacts(mlflow_run_id)}


def test_a_run_is_recorded_with_its_files_state_and_checkpoints(uri, recorder, tmp_path):
    folder, record = a_run(tmp_path, 103)
    mlflow_run_id = recorder.open(record)
    a_checkpoint(folder)
    assert recorder.close(103, state="failed")
    client = Store(uri).client
    run = client.get_run(mlflow_run_id)
    assert (run.info.status, run.data.tags["asparagus.state"]) == ("FAILED", "failed")
    assert run.data.tags["asparagus.checkpoint.last"] == "epoch=0-step=10"
    files = {file.path for file in client.list_artifacts(mlflow_run_id)}
    assert {"config.yaml", "plan.json", "environment.json", "pretrain.log"} <= files
    assert len(run.outputs.model_outputs) == 1


def test_the_edge_from_parent_to_child_is_in_mlflows_own_terms_and_in_tags(uri, recorder, tmp_path):
    folder, record = a_run(tmp_path, 104)
    parent_run = recorder.open(record)
    parent = a_checkpoint(folder)
    _, child = a_run(tmp_path, 105, stage="finetune_seg", parent=parent)  # while the parent is still training
    child_run = recorder.open(child)
    recorder.close(105, state="finished")
    recorder.close(104, state="finished")

    client = Store(uri).client
    model = client.get_logged_model(client.get_run(child_run).inputs.model_inputs[0].model_id)
    assert model.source_run_id == parent_run
    assert model.tags["asparagus.checkpoint"] == parent.checkpoint
    assert [output.model_id for output in client.get_run(parent_run).outputs.model_outputs] == [model.model_id]
    tags = client.get_run(child_run).data.tags
    assert (tags["asparagus.init_from.run_id"], tags["asparagus.init_from.checkpoint"]) == ("104", parent.checkpoint)

    found = lineage(open_reader(uri), 105)
    assert [(relative.run.run_id, relative.checkpoint) for relative in found.ancestors] == [(104, parent.checkpoint)]
    assert [relative.run.run_id for relative in lineage(open_reader(uri), 104).descendants] == [105]


def test_lineage_goes_over_generations_both_ways_and_names_a_foreign_origin(uri, recorder, tmp_path):
    folder, record = a_run(tmp_path, 106, parent=Parent("/weights/of/someone.ckpt"))
    recorder.open(record)
    middle, second = a_run(tmp_path, 107, stage="finetune_seg", parent=a_checkpoint(folder))
    recorder.open(second)
    _, third = a_run(tmp_path, 108, stage="finetune_cls", parent=a_checkpoint(middle))
    recorder.open(third)
    for run_id in (106, 107, 108):
        recorder.close(run_id, state="finished")
    reader = open_reader(uri)
    assert [relative.run.run_id for relative in lineage(reader, 108).ancestors] == [107, 106]
    assert lineage(reader, 108).origin == "/weights/of/someone.ckpt"
    assert [(relative.run.run_id, relative.distance) for relative in lineage(reader, 106).descendants] == [
        (107, 1),
        (108, 2),
    ]
    assert [run.run_id for run in list_runs(reader, Asked(stage="finetune_cls"))] == [108]


def test_the_largest_number_is_known(uri, recorder, tmp_path):
    _, record = a_run(tmp_path, 900)
    recorder.open(record)
    recorder.close(900, state="finished")
    assert recorder.largest_number() == 900


def test_when_the_driver_is_gone_its_open_runs_are_closed_with_all_they_wrote(uri, tmp_path, capfd):
    """The driver's end is the end of a pipe, as it is when the driver is killed."""
    folder, record = a_run(tmp_path, 901)
    with Recorder(uri, tmp_path / "artifacts", tmp_path) as recorder:
        mlflow_run_id = recorder.open(record)
        journal = Journal(folder.journal)
        journal.append("metrics", step=1, epoch=0, values={"loss": 1.0})
    assert history(uri, mlflow_run_id, "loss") == [(1, 1.0)]
    assert Store(uri).client.get_run(mlflow_run_id).info.status == "KILLED"
    assert "run 901: its launch ended without a word" in capfd.readouterr().err


def test_a_run_that_is_not_recorded_is_said_so(uri):
    with pytest.raises(RecordError, match="asp runs lists"):
        lineage(open_reader(uri), 123456)
