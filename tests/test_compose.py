from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from asparagus.compose import Request, compose, compose_config, config_as_yaml
from asparagus.compose.overrides import normalise
from asparagus.spec import Spec

DIGITS = "experiment/digits"


def test_an_experiment_composes_to_a_frozen_typed_spec(home):
    spec = compose(Request(DIGITS))
    assert (spec.stage, spec.task, spec.trainer["max_epochs"]) == ("train_cls", "Task001_Digits", 5)
    assert spec.paths.models == str(home / "models")
    assert spec.site.tracking_uri == f"sqlite:///{home}/results/mlflow.db"
    with pytest.raises(AttributeError):
        spec.task = "other"


def test_overrides_are_hydras(home):
    words = ("optim=sgd", "+trainer.max_time=00:01:00:00", "~optim.sched", "data.patch_size=[8,8]", "run.name='a b'")
    spec = compose(Request(DIGITS, words))
    assert spec.optim["name"] == "sgd"
    assert "sched" not in spec.optim
    assert spec.trainer["max_time"] == "00:01:00:00"
    assert spec.data["patch_size"] == [8, 8]
    assert spec.run.name == "a b"


def test_what_is_typed_wins_over_the_hardware_and_the_gpus_of_a_file(home):
    (home / "mine.yaml").write_text(
        "defaults: [experiment/digits, _self_]\n"
        "hardware: {precision: bf16-mixed, num_devices: 8, num_workers: 32}\n"
        "run: {gpus: 4}\n"
    )
    words = ("trainer.precision=32-true", "trainer.devices=1", "trainer.accelerator=cpu", "data.num_workers=0")
    spec = compose(Request("mine.yaml", words))
    assert (spec.trainer["precision"], spec.trainer["accelerator"]) == ("32-true", "cpu")
    assert (spec.resources.workers, spec.data["num_workers"]) == (0, 0)


def test_a_new_trainer_argument_needs_no_plus(home):
    assert compose(Request(DIGITS, ("trainer.limit_train_batches=3",))).trainer["limit_train_batches"] == 3


def test_interpolation_and_environment(home, monkeypatch):
    monkeypatch.setenv("MY_LR", "0.5")
    spec = compose(Request(DIGITS, ("optim.lr=${oc.env:MY_LR}", "run.name=${task}-${stage}")))
    assert float(spec.optim["lr"]) == 0.5
    assert spec.run.name == "Task001_Digits-train_cls"


def test_a_yaml_path_extends_a_shipped_config(home):
    (home / "mine.yaml").write_text("defaults:\n  - experiment/digits\n  - _self_\ntrainer:\n  max_epochs: 2\n")
    assert compose(Request("mine.yaml")).trainer["max_epochs"] == 2


def test_own_configs_come_before_shipped_ones_and_given_folders_before_both(home, monkeypatch):
    for name, epochs in (("configs", 7), ("given", 8)):
        folder = home / name / "experiment"
        folder.mkdir(parents=True)
        text = Path(__file__).parent.parent.joinpath("configs/experiment/digits.yaml").read_text()
        (folder / "digits.yaml").write_text(text.replace("max_epochs: 5", f"max_epochs: {epochs}"))
    assert compose(Request(DIGITS)).trainer["max_epochs"] == 7
    assert compose(Request(DIGITS, config_dirs=(home / "given",))).trainer["max_epochs"] == 8


def test_documented_ways_to_name_a_parent(home):
    """SEEDS A29, A30: the keys of the Asparagus README fill `init_from`."""
    words = ("pretrained_run_id=532", "pretrained_checkpoint_name=epoch=4-step=25.ckpt")
    assert compose(Request(DIGITS, words)).init_from == "run:532/epoch=4-step=25.ckpt"
    assert compose(Request(DIGITS, ("pretrained_run_id=532",))).init_from == "run:532/last"


def test_documented_longer_form_of_task_and_run_id(home):
    """SEEDS A23, A43."""
    spec = compose(Request("pretrain", ("experiment.task=Task998_LauritSyn", "run_id=123")))
    assert (spec.task, spec.run.id) == ("Task998_LauritSyn", 123)


def test_composing_twice_in_one_process_works(home):
    assert compose(Request(DIGITS)) == compose(Request(DIGITS))


def test_cfg_job_shows_the_config_as_it_is_written(home):
    shown = config_as_yaml(compose_config(Request("pretrain")))
    assert yaml.safe_load(shown)["task"] == "???"
    assert "${model.features}" in shown


def test_a_spec_survives_json(home):
    import json

    spec = compose(Request(DIGITS))
    assert Spec.from_dict(json.loads(spec.to_json())) == spec


@pytest.mark.parametrize(
    ("typed", "seen"),
    [
        ("a.b=1", "++a.b=1"),
        ("+a=1", "+a=1"),
        ("~a", "~a"),
        ("model=unet", "model=unet"),
        ("model@x=unet", "model@x=unet"),
        ("a=epoch=4-step=25.ckpt", "++a='epoch=4-step=25.ckpt'"),
        ("a='x=y'", "++a='x=y'"),
        ("a={b: 'c=d'}", "++a={b: 'c=d'}"),
    ],
)
def test_overrides_are_normalised(typed, seen, tmp_path):
    (tmp_path / "model").mkdir()
    assert normalise([typed], [tmp_path]) == [seen]
