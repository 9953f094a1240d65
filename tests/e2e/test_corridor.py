"""The tour of all hops, as a user walks it: pretrain on Ray, finetune from that run, ask the record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from asparagus.data.split import make_split
from asparagus.data.synthetic import make_synthetic_cls, make_synthetic_pretrain, make_synthetic_seg
from asparagus.record.store import Store
from tests.counts import watched, within

SMALL = ("data.patch_size=[16,16,16]", "model.features=[4,8,16]", "trainer.max_epochs=2", "trainer.limit_val_batches=2")

pytestmark = [pytest.mark.e2e]


@pytest.fixture
def volumes(tmp_path, monkeypatch) -> Path:
    root = tmp_path / "volumes"
    for make in (make_synthetic_pretrain, make_synthetic_seg, make_synthetic_cls):
        task = make(root, cases=10, size=16)
        make_split(root, task.name, "split_80_20")
    monkeypatch.setenv("ASPARAGUS_DATA", str(root))
    return root


def last_line(done) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_pretrain_on_two_ray_workers_then_finetune_seg_and_cls_with_lineage_in_all_its_forms(home, volumes, asp):
    with watched() as seen:
        pretrained = last_line(asp("asp_pretrain", "task=Task998_LauritSyn", "resources=two_workers", "--json", *SMALL))
    within("processes of a local Ray itself", seen.counted()["of Ray's own"], seen.told("of Ray's own"))
    within("Ray workers of a launch with two", seen.counted()["Ray workers"], seen.told("Ray workers"))
    assert pretrained["state"] == "finished"
    parent = Path(pretrained["folder"])
    files = sorted(file.name for file in Path(pretrained["checkpoint"]).rglob("*") if file.is_file())
    within("files per checkpoint", len(files), "\n".join(files))
    assert yaml.safe_load((parent / "config.yaml").read_text())["resources"]["workers"] == 2
    assert f"###RUN-ID={pretrained['run_id']}###" in (parent / "pretrain.log").read_text()
    name = Path(pretrained["checkpoint"]).name

    seg_words = ("task=Task997_LauritSynSeg", f"pretrained_run_id={pretrained['run_id']}")
    done = asp("asp_finetune_seg", *seg_words, f"pretrained_checkpoint_name={name}.ckpt", "--json", *SMALL)
    seg = last_line(done)
    assert seg["init_from"] == {"run_id": pretrained["run_id"], "checkpoint": pretrained["checkpoint"]}
    assert "tensors taken from run" in done.stderr
    transferred = json.loads((Path(seg["folder"]) / "transfer.json").read_text())
    assert sum(name.startswith("net.encoder.") for name in transferred["taken"]) > 10
    assert {"val/dice", "val/loss"} <= seg["metrics"].keys()

    words = ("task=Task996_LauritSynCls", f"init_from=run:{pretrained['run_id']}/last")
    with watched() as seen:
        cls = last_line(asp("asp_finetune_cls", *words, "--json", *SMALL))
    within("processes of a launch without Ray", seen.counted().total(), str(seen.commands))

    log = (parent / "derived_models.log").read_text().splitlines()
    assert log == [f"{run['run_id']}, {run['folder']}" for run in (seg, cls)]
    tree = json.loads(asp("asp-lineage", str(pretrained["run_id"]), "--json").stdout)
    assert [relative["run_id"] for relative in tree["descendants"]] == [seg["run_id"], cls["run_id"]]
    upwards = json.loads(asp("asp", "lineage", str(seg["run_id"]), "--json").stdout)["ancestors"]
    assert upwards == [
        {
            "run_id": pretrained["run_id"],
            "stage": "pretrain",
            "task": "Task998_LauritSyn",
            "checkpoint": pretrained["checkpoint"],
            "kind": "init_from",
            "via": seg["run_id"],
            "missing": None,
        }
    ]
    client = Store(f"sqlite:///{home}/results/mlflow.db").client
    run = client.get_run(seg["mlflow_run_id"])
    model = client.get_logged_model(run.inputs.model_inputs[0].model_id)
    assert model.source_run_id == pretrained["mlflow_run_id"]
    assert run.data.tags["asparagus.init_from.run_id"] == str(pretrained["run_id"])
    assert run.data.params["optim.name"] == "adamw"
    assert run.inputs.dataset_inputs[0].dataset.name == "Task997_LauritSynSeg"
    listed = json.loads(asp("asp-runs", "--json").stdout)
    assert [(row["run_id"], row["state"]) for row in listed] == [
        (run["run_id"], "finished") for run in (cls, seg, pretrained)
    ]
    text = asp("asp", "lineage", str(pretrained["run_id"])).stdout
    assert f"run {seg['run_id']} finetune_seg" in text


def test_2d_and_3d_are_one_setting(home, volumes, asp):
    words = ("train_seg", "task=Task997_LauritSynSeg", "model.dimensions=2D", "trainer.max_epochs=1", "--json")
    outcome = last_line(asp("asp-launch", *words, "data.patch_size=[16,16]", "model.features=[4,8]"))
    assert outcome["state"] == "finished"


def test_trainer_arguments_reach_the_trainer(home, asp):
    words = ("trainer.accumulate_grad_batches=5", "trainer.precision=bf16-mixed", "trainer.max_epochs=2")
    outcome = last_line(asp("asp-launch", "experiment/digits", "--json", *words))
    assert Path(outcome["checkpoint"]).name == "epoch=1-step=10"  # 23 batches, five at a time: 5 steps an epoch
