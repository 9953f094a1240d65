"""hydra_lightning's promises (SEEDS C1 to C30): its config tree, as its document describes it, under our commands.

The classes by themselves are in tests/test_own.py.

The tree below is the document's with one line more, `stage: train` in `configs/config.yaml`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra
from mlflow import MlflowClient
from omegaconf import OmegaConf

import asparagus
from asparagus import hydra_plugin, load_config, load_from_config, plan_of
from asparagus.check.space import check_space
from asparagus.cli.main import run
from asparagus.compose import Request, compose, compose_config
from asparagus.compose.space import compose_sweep, settled
from asparagus.compose.trial import request_with
from asparagus.errors import ConfigError
from asparagus.paths import get_config_path
from asparagus.space import Choice, Dimension, Interval, Space, sample
from tests.conftest import ASP

CONFIG = """
defaults:
  - _self_
  - task: example
  - datamodule: default
  - module: standard_resnet
  - trainer: default
  - logger: csv

  - experiment: null

stage: train

img_shape: [8, 8]
task:
  run_name: test

seed: null
gpus: null

epochs: 10
"""
EXPERIMENT = """
# @package _global_
defaults:
  - override /task: example
  - override /datamodule: default
  - override /module: standard_resnet
  - override /module/scheduler_spec: step_lr
  - override /trainer: default
  - override /logger: csv

task:
  run_name: standard_resnet

module:
  model_config:
    num_classes: 5

trainer:
  log_every_n_steps: 1

img_shape: [8, 8]
epochs: 100
seed: null
gpus: null
"""
TREE = {
    "configs/config.yaml": CONFIG,
    "configs/task/example.yaml": "name: example\nrun_name: ???\n",
    "configs/task/left_right_ovary.yaml": "name: left_right_ovary\nrun_name: ???\n",
    "configs/datamodule/default.yaml": """
defaults:
  - _self_
  - transform_factory: default
  - augmentation_factory: default

_target_: tasks.${task.name}.datamodules.default.DefaultDataModule
_recursive_: false

dataloader_spec:
  batch_size: 64
  num_workers: 0
  pin_memory: False

val_dataloader_spec_override: null
additional_config:
  witness: ${oc.env:WITNESS}
""",
    "configs/datamodule/transform_factory/default.yaml": "_target_: tasks.shared.Flatten\nimg_shape: ${img_shape}\n",
    "configs/datamodule/augmentation_factory/default.yaml": "_target_: torch.nn.Identity\n",
    "configs/datamodule/augmentation_factory/flip.yaml": "_target_: tasks.shared.Flip\nshare: 0.5\n",
    "configs/module/standard_resnet.yaml": """
defaults:
  - optimizer_spec: backbone_with_head
  - scheduler_spec: null

_target_: tasks.${task.name}.modules.resnet.ResnetModule
_recursive_: false

model_config:
  arch: resnet18
  eps: 0.
  num_classes: 10
""",
    "configs/module/robust_resnet.yaml": """
defaults:
  - standard_resnet
  - _self_

model_config:
  eps: 3.
""",
    "configs/module/robust_backbone.yaml": """
defaults:
  - robust_resnet
  - _self_

_target_: tasks.${task.name}.modules.robust_backbone.RobustBackbone
""",
    "configs/module/optimizer_spec/default.yaml": "id: Adam\nlr: 3e-5\n",
    "configs/module/optimizer_spec/backbone_with_head.yaml": """
id: Adam
params:  # you can access nested submodules
  .backbone:
    lr: 1e-5
  .head:
    lr: 1e-4
weight_decay: 0.01  # default params for all groups
""",
    "configs/module/scheduler_spec/step_lr.yaml": "id: StepLR\nstep_size: 20\ngamma: .7\n",
    "configs/trainer/default.yaml": """
_target_: pytorch_lightning.Trainer

gpus: ${gpus}
max_epochs: ${epochs}
log_every_n_steps: 50
check_val_every_n_epoch: 5
""",
    "configs/trainer/ddp.yaml": "defaults:\n  - default\n\nstrategy: ddp\naccelerator: gpu\n",
    "configs/logger/wandb.yaml": """
wandb:
  _target_: pytorch_lightning.loggers.wandb.WandbLogger
  project: dl_template_${task.name}
  name: ${task.run_name}
  save_dir: .
  offline: False
  id: null # pass correct id to resume experiment
  log_model: True
  prefix: ""
  job_type: train
  group: ""
  tags: []
""",
    "configs/experiment/example/standard_resnet.yaml": EXPERIMENT,
    "configs/experiment/example/standard_resnet_robust_train.yaml": EXPERIMENT.replace(
        "module:\n  model_config",
        "module:\n  _target_: tasks.${task.name}.modules.robust_backbone.RobustBackbone\n  model_config",
    ).replace("run_name: standard_resnet", "run_name: standard_resnet_robust_train"),
    "configs/experiment/example/extended.yaml": """
# @package _global_
defaults:
  - /experiment/example/standard_resnet@_here_
  - _self_

task:
  run_name: extended
epochs: 7
""",
    "configs/experiment/left_right_ovary/robust_backbone.yaml": """
# @package _global_
defaults:
  - override /task: left_right_ovary
  - override /module: robust_backbone
  - override /module/optimizer_spec: default

task:
  run_name: robust
epochs: 2
""",
    "tasks/shared.py": """
import torch


class Flatten:
    def __init__(self, img_shape):
        self.size = img_shape[0] * img_shape[1]

    def __call__(self, x):
        return x.reshape(self.size)


class Flip:
    def __init__(self, share):
        self.share = share

    def __call__(self, x):
        return x.flip(-1) if torch.rand(()) < self.share else x
""",
    "tasks/example/modules/resnet.py": """
import torch
from torch.nn.functional import cross_entropy

from asparagus import BaseModule


class ResnetModule(BaseModule):
    def initialize_model(self):
        config = self.hparams.model_config
        self.eps = config.eps
        parts = {"backbone": torch.nn.Linear(64, 16), "head": torch.nn.Linear(16, config.num_classes)}
        self.model = torch.nn.Sequential()
        for name, part in parts.items():
            self.model.add_module(name, part)

    def training_step(self, batch, index):
        return cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch, index):
        self.log("val/loss", cross_entropy(self.model(batch[0]), batch[1]))
        self.log("val/acc", (self.model(batch[0]).argmax(1) == batch[1]).float().mean())

    def test_step(self, batch, index):
        self.log("test/loss", cross_entropy(self.model(batch[0]), batch[1]))
        self.log("test/size", float(len(batch[1])), reduce_fx="sum", sync_dist=True)
""",
    "tasks/example/modules/robust_backbone.py": """
from tasks.example.modules.resnet import ResnetModule


class RobustBackbone(ResnetModule):
    pass
""",
    "tasks/example/datamodules/default.py": """
import os
import subprocess
from pathlib import Path

import torch
from torch.utils.data import Dataset

from asparagus import BaseDataModule


class Ones(Dataset):
    def __init__(self, part, transform, size=128):
        self.part, self.transform, self.size = part, transform, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        label = index % 5
        image = torch.nn.functional.one_hot(torch.tensor(label), 64).float().reshape(8, 8)
        return self.transform(image), label


class DefaultDataModule(BaseDataModule):
    def prepare_data(self):
        with (Path(self.additional_config.witness) / "prepared").open("a") as file:
            file.write(f"{os.getpid()}\\n")

    def setup(self, stage=None):
        assert (Path(self.additional_config.witness) / "prepared").is_file()
        with (Path(self.additional_config.witness) / "set_up").open("a") as file:
            file.write(f"{os.getpid()} {stage}\\n")
        self.datasets = {part: Ones(part, self.get_transform(part)) for part in ("train", "val", "test")}
""",
    "tasks/example/datamodules/smaller.py": """
from tasks.example.datamodules.default import DefaultDataModule, Ones


class SmallerDataModule(DefaultDataModule):
    def setup(self, stage=None):
        super().setup(stage)
        self.datasets["train"] = Ones("train", self.get_transform("train"), 32)


class OtherTestSet(DefaultDataModule):
    def setup(self, stage=None):
        super().setup(stage)
        self.datasets["test"] = Ones("test", self.get_transform("test"), 32)
""",
    "tasks/left_right_ovary/modules/robust_backbone.py": '''
from tasks.example.modules.resnet import ResnetModule


class RobustBackbone(ResnetModule):
    """Another task's, by the same config."""
''',
    "tasks/left_right_ovary/datamodules/default.py": """
from tasks.example.datamodules.default import DefaultDataModule as Example


class DefaultDataModule(Example):
    pass
""",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The document's repository; its packages have no `__init__.py`, as there."""
    folder = tmp_path_factory.mktemp("hydra_lightning")
    for name, text in TREE.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.lstrip())
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "tasks"]:
        del sys.modules[name]


@pytest.fixture
def project(tree, home, monkeypatch):
    """Stand in the repository, as its user does."""
    monkeypatch.chdir(tree)
    (home / "witness").mkdir(parents=True)
    monkeypatch.setenv("WITNESS", str(home / "witness"))
    monkeypatch.syspath_prepend(str(tree))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tree


def spec(*words):
    return compose(Request("config", words, (Path("configs"),)))


def launched(*words):
    return run("launch", ["config", "-cd", "configs", *words])


def refused(capsys, *words):
    assert launched("--dry-run", *words) == 2
    return capsys.readouterr().err


# ---- C1 to C5, tasks

QUICK = ("epochs=1", "trainer.check_val_every_n_epoch=1", "module/optimizer_spec=default")


def run_and_tags(home, capsys, *words):
    assert launched(*QUICK, *words, "--json") == 0
    told = capsys.readouterr()
    outcome = json.loads(told.out.splitlines()[-1])
    return outcome, MlflowClient(f"sqlite:///{home}/results/mlflow.db").get_run(outcome["mlflow_run_id"]), told.err


def test_c1_a_task_is_a_test_set_and_metrics_and_the_run_records_both(project, home, capsys):
    outcome, run, _ = run_and_tags(home, capsys)
    assert {"test/loss", "val/acc"} <= outcome["metrics"].keys()
    assert "test/loss" in run.data.metrics
    assert len(run.data.tags["asparagus.test_set"]) == 16
    assert run.data.tags["asparagus.task"] == "example"


def test_c3_a_data_module_with_another_test_set_is_told_so_and_one_with_other_training_data_is_not(
    project, home, capsys
):
    smaller = "datamodule._target_=tasks.example.datamodules.smaller"
    _, first, _ = run_and_tags(home, capsys)
    _, second, told = run_and_tags(home, capsys, f"{smaller}.SmallerDataModule")
    assert second.data.tags["asparagus.test_set"] == first.data.tags["asparagus.test_set"]
    assert "do not compare" not in told
    _, other, told = run_and_tags(home, capsys, f"{smaller}.OtherTestSet")
    assert other.data.tags["asparagus.test_set"] != first.data.tags["asparagus.test_set"]
    assert "test set: tasks.example.datamodules.smaller.OtherTestSet gives 32 items" in told
    assert "tested on 128 others before" in told


def test_c5_data_are_prepared_once_before_they_are_set_up(project, home, capsys):
    run_and_tags(home, capsys)
    assert len((home / "witness" / "prepared").read_text().split()) == 1
    stages = [line.split()[1] for line in (home / "witness" / "set_up").read_text().splitlines()]
    assert any("FIT" in stage for stage in stages)
    assert "test" in stages


@pytest.mark.ray
def test_c5_of_two_workers_one_prepares_and_both_set_up(project, home, ray_address, capsys):
    two = ("resources=two_workers", f"site.address={ray_address}")
    outcome, run, _ = run_and_tags(home, capsys, *two, "experiment=left_right_ovary/robust_backbone")
    assert len((home / "witness" / "prepared").read_text().split()) == 1
    assert len({line.split()[0] for line in (home / "witness" / "set_up").read_text().splitlines()}) == 2
    assert outcome["metrics"]["test/size"] == 128
    assert len(run.data.tags["asparagus.test_set"]) == 16


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["module/optimizer_spec=default", "module.optimizer_spec.id=adam"], "Did you mean 'Adam'"),
        (["module/optimizer_spec=default", "module.optimizer_spec.lrr=1"], "Did you mean 'lr'"),
        (["module/optimizer_spec=default", "module.optimizer_spec.lr=0"], "module.optimizer_spec.lr: 0 is no positive"),
        (["module.optimizer_spec.params={head: {lr: 1}}"], "a path begins with a dot: '.head'"),
        (["~module/optimizer_spec"], "Module has no optimizer_spec!"),
        (["module/scheduler_spec=step_lr", "module.scheduler_spec.id=StepLr"], "Did you mean 'StepLR'"),
        (["module/scheduler_spec=step_lr", "~module.scheduler_spec.step_size"], "StepLR needs it"),
        (["datamodule.dataloader_spec.batch_siz=3"], "Did you mean 'batch_size'"),
        (["datamodule.transform_factory.shape=3"], "tasks.shared.Flatten takes no such argument"),
    ],
)
def test_c9_what_is_wrong_with_a_spec_is_told_before_anything_runs(words, told, project, capsys):
    assert told in refused(capsys, *words)


def test_c4_what_a_class_does_not_write_is_told_before_anything_runs(project, capsys):
    (project / "tasks" / "half.py").write_text(
        "import asparagus\n\nclass Data(asparagus.BaseDataModule):\n    def setup(self, stage=None):\n        pass\n"
        "\nclass Module(asparagus.BaseModule):\n    def test_step(self, batch, index):\n        pass\n"
    )
    said = refused(capsys, "datamodule._target_=tasks.half.Data", "module._target_=tasks.half.Module")
    assert "tasks.half.Data has no prepare_data. Slow work" in said
    assert "tasks.half.Data has no setup" not in said
    assert "tasks.half.Module has no initialize_model" in said
    assert "tasks.half.Module has no training_step" in said


def test_c8_a_runs_checkpoint_loads_without_arguments(project, home, capsys):
    outcome, _, _ = run_and_tags(home, capsys, "module=robust_resnet", "module/scheduler_spec=step_lr")
    from tasks.example.modules.resnet import ResnetModule

    state = next(Path(outcome["folder"]).glob("checkpoints/*/*.ckpt"))
    module = ResnetModule.load_from_checkpoint(state, weights_only=True)
    assert module.eps == module.hparams.model_config.eps == 3.0
    assert module.hparams.scheduler_spec.step_size == 20


# ---- C14, loggers


def test_c14_the_documented_wandb_section_is_lightnings_logger_with_the_tasks_names(project):
    logger = spec("logger=wandb").logger
    assert logger == {
        "wandb": {
            "_target_": "pytorch_lightning.loggers.wandb.WandbLogger",
            "project": "dl_template_example",
            "name": "test",
            "save_dir": ".",
            "offline": False,
            "id": None,
            "log_model": True,
            "prefix": "",
            "job_type": "train",
            "group": "",
            "tags": [],
        }
    }


def test_c14_a_logger_that_is_not_installed_is_refused_before_anything_runs(project, capsys):
    if importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    said = refused(capsys, "logger=wandb")
    assert "pip install wandb" in said
    assert "configs/logger/wandb.yaml" in said


def test_c14_our_shelfs_wandb_knows_the_tasks_names_too(project, monkeypatch):
    monkeypatch.delenv("ASPARAGUS_CONFIGS", raising=False)
    (project / "plain").mkdir(exist_ok=True)
    text = CONFIG.replace("  - logger: csv\n", "  - logger: wandb\n").lstrip()
    for group in ("task", "datamodule", "module", "trainer"):
        if not (project / "plain" / group).exists():
            (project / "plain" / group).symlink_to(project / "configs" / group)
    (project / "plain" / "config.yaml").write_text(text)
    logger = compose(Request("config", (), (project / "plain",))).logger["wandb"]
    assert (logger["project"], logger["name"]) == ("asparagus_example", None)


def test_c14_several_loggers_are_several_keys(project):
    assert list(spec("logger=[csv,tensorboard]").logger) == ["csv", "tensorboard"]


def test_c14_a_logger_is_one_line_away_and_none_is_too(project):
    assert list(spec().logger) == ["csv"]
    assert list(spec("logger=tensorboard").logger) == ["tensorboard"]
    assert spec("~logger").logger == {}


# ---- C15, C30, the tree and its values


def test_c15_the_documents_root_config_composes_with_one_line_more(project):
    config = compose_config(Request("config", (), (Path("configs"),)))
    assert list(config) == [
        "stage",
        "img_shape",
        "task",
        "seed",
        "gpus",
        "epochs",
        "datamodule",
        "module",
        "trainer",
        "logger",
    ]
    assert (config.img_shape, config.seed, config.gpus, config.epochs) == ([8, 8], None, None, 10)
    assert config.task == {"run_name": "test", "name": "example"}


def test_c15_the_root_config_runs_checked_from_the_command_line(project, capsys):
    assert launched("--dry-run") == 0
    said = capsys.readouterr().out
    assert "tasks.example.modules.resnet.ResnetModule" in said
    assert "max_epochs=10" in said
    assert "csv" in said


def test_c15_the_stage_may_be_given_on_the_command_line_of_an_unchanged_tree(project):
    text = CONFIG.replace("stage: train\n", "").lstrip()
    (project / "configs" / "unchanged.yaml").write_text(text)
    plan = plan_of(Request("unchanged", ("stage=train",), (Path("configs"),)))
    assert (plan.spec.stage, plan.spec.task) == ("train", "example")


def test_c15_without_a_stage_its_key_is_asked_for(project):
    (project / "configs" / "unchanged.yaml").write_text(CONFIG.replace("stage: train\n", "").lstrip())
    with pytest.raises(ConfigError, match=r"stage: is mandatory"):
        plan_of(Request("unchanged", (), (Path("configs"),)))


def test_c15_what_the_module_configures_itself_is_not_asked_for(project):
    plan = plan_of(Request("config", (), (Path("configs"),)))
    assert plan.spec.optim == {}
    assert "optimizer" not in plan.describe()


def test_c30_the_documented_values_arrive_under_our_names(project):
    made = spec("module/optimizer_spec=default")
    assert (made.stage, made.task, made.run.label) == ("train", "example", "test")
    trainer = {"max_epochs": 10, "log_every_n_steps": 50, "check_val_every_n_epoch": 5}
    assert made.trainer == {**trainer, "accelerator": "cpu"}  # `gpus: null`
    assert made.data["dataloader_spec"] == {"batch_size": 64, "num_workers": 0, "pin_memory": False}
    assert made.model["module"]["optimizer_spec"] == {"id": "Adam", "lr": 3e-5}
    assert "scheduler_spec" not in made.model["module"]


def test_c30_groups_of_parameters_are_named_by_dotted_paths(project):
    assert spec().model["module"]["optimizer_spec"] == {
        "id": "Adam",
        "params": {".backbone": {"lr": 1e-5}, ".head": {"lr": 1e-4}},
        "weight_decay": 0.01,
    }
    _, module, _ = load_from_config(load_config(config_path="configs"))
    optimizer = module.configure_optimizers()
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(1e-5, 0.01), (1e-4, 0.01)]


def test_c30_a_missing_value_of_a_group_does_not_overwrite_the_roots(project):
    assert spec().run.label == "test"
    assert spec("task=left_right_ovary").run.label == "test"


def test_c30_a_missing_value_that_nobody_gives_is_asked_for_by_its_key(project, capsys):
    (project / "configs" / "nameless.yaml").write_text(CONFIG.replace("task:\n  run_name: test\n", "").lstrip())
    assert run("launch", ["nameless", "-cd", "configs", "--dry-run"]) == 2
    assert "task.run_name: is mandatory" in capsys.readouterr().err
    assert run("launch", ["nameless", "-cd", "configs", "task.run_name=mine", "--dry-run"]) == 0


# ---- C16 to C18, three ways to choose


def test_c16_a_group_is_chosen_on_the_command_line(project, capsys):
    assert launched("module=robust_resnet", "--cfg", "job") == 0
    assert yaml.safe_load(capsys.readouterr().out)["module"]["model_config"]["eps"] == 3.0
    assert spec("module=robust_resnet").model["module"]["model_config"]["eps"] == 3.0


def test_c16_an_option_that_is_not_there_is_answered_with_the_known_ones(project, capsys):
    said = refused(capsys, "module=robust_resnett")
    assert "Did you mean 'robust_resnet'" in said
    assert "robust_backbone, robust_resnet, standard_resnet" in said


def test_c16_our_own_groups_are_chosen_over_the_tree(project):
    plan = plan_of(Request("config", ("resources=two_workers", "site.cpus_per_node=4"), (Path("configs"),)))
    assert plan.workers == 2


def test_c17_load_config_takes_overrides(project):
    config = load_config(["module=robust_resnet", "epochs=3"], config_path="./configs", config_name="config")
    assert (config.module.model_config.eps, config.trainer.max_epochs) == (3.0, 3)


def test_c17_load_config_finds_the_documents_defaults_by_itself(project):
    assert load_config().task.name == "example"
    assert load_config(overrides=["task.run_name=other"]).task.run_name == "other"


def test_c17_load_config_works_again_and_again_in_one_process(project):
    first, second = load_config(["epochs=3"]), load_config()
    third = load_config(["epochs=3"], job_name="another")
    assert (first.epochs, second.epochs) == (3, 10)
    assert first == third
    assert not GlobalHydra.instance().is_initialized()


def test_c17_load_config_and_the_command_compose_the_same(project):
    words = ("experiment=example/standard_resnet", "module.model_config.eps=2")
    assert load_config(words) == compose_config(Request("config", words, (Path("configs"),)))


def test_c18_an_experiment_sets_options_and_values(project):
    made = spec("experiment=example/standard_resnet")
    assert made.run.label == "standard_resnet"
    assert made.model["module"]["model_config"]["num_classes"] == 5
    assert made.model["module"]["scheduler_spec"] == {"id": "StepLR", "step_size": 20, "gamma": 0.7}
    assert (made.trainer["max_epochs"], made.trainer["log_every_n_steps"]) == (100, 1)


def test_c18_the_command_line_wins_over_an_experiment(project):
    words = ("experiment=example/standard_resnet", "epochs=4", "~module/scheduler_spec", "trainer.log_every_n_steps=9")
    made = spec(*words)
    assert (made.trainer["max_epochs"], made.trainer["log_every_n_steps"]) == (4, 9)
    assert made.model["module"].get("scheduler_spec") is None


def test_c18_an_experiment_trains_from_the_command_line_and_is_recorded(project, home, capsys):
    words = ["experiment=example/standard_resnet_robust_train", "epochs=1", "trainer.check_val_every_n_epoch=1"]
    assert launched(*words, "--json") == 0
    outcome = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert outcome["state"] == "finished"
    assert Path(outcome["folder"]).parent == home / "models" / "example" / "train"
    found = MlflowClient(f"sqlite:///{home}/results/mlflow.db").get_run(outcome["mlflow_run_id"])
    assert found.info.run_name == "standard_resnet_robust_train"
    assert found.data.tags["asparagus.module"] == "tasks.example.modules.robust_backbone.RobustBackbone"
    assert list(Path(outcome["folder"]).rglob("metrics.csv"))
    saved = yaml.safe_load((Path(outcome["folder"]) / "config.yaml").read_text())
    assert isinstance(saved["seed"], int)  # drawn, and kept
    assert saved["model"]["module"]["scheduler_spec"] == {"id": "StepLR", "step_size": 20, "gamma": 0.7}
    assert run("launch", [f"{outcome['folder']}/config.yaml", "--dry-run"]) == 0


# ---- C19, what a new task takes


def test_c19_a_task_is_its_code_its_name_and_its_experiments(project):
    made = spec("task=left_right_ovary", "module=robust_backbone")
    assert made.task == "left_right_ovary"
    assert made.data["_target_"] == "tasks.left_right_ovary.datamodules.default.DefaultDataModule"
    assert made.model["module"]["_target_"] == "tasks.left_right_ovary.modules.robust_backbone.RobustBackbone"
    _, module, datamodule = load_from_config(load_config(["task=left_right_ovary", "module=robust_backbone"]))
    assert type(module).__module__ == "tasks.left_right_ovary.modules.robust_backbone"
    assert type(datamodule).__module__ == "tasks.left_right_ovary.datamodules.default"


# ---- C20, variables


def test_c20_a_variable_is_used_wherever_it_is_referred_to(project):
    made = spec("epochs=3", "img_shape=[4,16]")
    assert made.trainer["max_epochs"] == 3
    assert made.data["transform_factory"]["img_shape"] == [4, 16]


def test_c20_gpus_of_the_root_are_the_trainers(project):
    four = ("site.gpus_per_node=4", "site.cpus_per_node=8")
    assert spec().resources.gpus_per_worker == 0
    assert spec("gpus=[0]", *four).trainer["accelerator"] == "gpu"
    two = spec("gpus=[0,2]", *four).resources
    assert (two.workers, two.gpus_per_worker) == (2, 1)


def test_c20_a_variable_stays_one_where_an_override_replaces_what_refers_to_it(project, capsys):
    assert launched("trainer.max_epochs=3", "--dry-run") == 0
    assert "max_epochs=3" in capsys.readouterr().out
    assert plan_of(load_config(["trainer.max_epochs=3"])).spec.trainer["max_epochs"] == 3


def test_c20_a_key_that_no_file_refers_to_is_refused_with_its_place(project, capsys):
    said = refused(capsys, "epoch=3")
    assert "epoch: no such key" in said
    assert "command line: epoch=3" in said


def test_c20_an_interpolation_to_nothing_is_refused_with_its_line(project, capsys):
    said = refused(capsys, "trainer.max_epochs=${epoch}")
    assert "'epoch' not found" in said
    assert "command line: trainer.max_epochs=${epoch}" in said


# ---- C21, groups and packages


@pytest.mark.parametrize(
    ("word", "section", "value"),
    [
        ("module/optimizer_spec=default", ("model", "module", "optimizer_spec", "lr"), 3e-5),
        ("module/scheduler_spec=step_lr", ("model", "module", "scheduler_spec", "step_size"), 20),
        ("datamodule/augmentation_factory=flip", ("data", "augmentation_factory", "share"), 0.5),
        ("trainer=ddp", ("trainer", "strategy"), "ddp"),
        ("task=left_right_ovary", ("task",), "left_right_ovary"),
    ],
)
def test_c21_an_option_of_a_group_lands_in_its_package(word, section, value, project):
    node = spec(word).to_dict()
    for key in section:
        node = node[key]
    assert node == value


def test_c21_an_option_can_be_put_into_another_package(project):
    made = spec("+module/optimizer_spec@module.model_config.second=default")
    assert made.model["module"]["model_config"]["second"] == {"id": "Adam", "lr": 3e-5}


def test_c21_the_defaults_list_is_shown(project, capsys):
    assert launched("experiment=example/standard_resnet", "--info") == 0
    said = capsys.readouterr().out
    for part in ("module/optimizer_spec/backbone_with_head", "@module.optimizer_spec", "configs/task/example.yaml"):
        assert part in said


# ---- C22, extending


def test_c22_a_config_extends_another(project):
    made = spec("module=robust_resnet").model["module"]
    assert made["model_config"] == {"arch": "resnet18", "eps": 3.0, "num_classes": 10}
    assert made["_target_"] == "tasks.example.modules.resnet.ResnetModule"
    assert spec("trainer=ddp").trainer["log_every_n_steps"] == 50


def test_c22_an_experiment_extends_another_in_its_place(project):
    made = spec("experiment=example/extended")
    assert (made.run.label, made.trainer["max_epochs"], made.trainer["log_every_n_steps"]) == ("extended", 7, 1)
    assert made.model["module"]["model_config"]["num_classes"] == 5
    assert made.model["module"]["scheduler_spec"]["id"] == "StepLR"


# ---- C23, experiments by their path


def test_c23_an_experiment_is_chosen_by_a_path_with_slashes(project):
    made = spec("experiment=left_right_ovary/robust_backbone")
    assert (made.task, made.run.label, made.trainer["max_epochs"]) == ("left_right_ovary", "robust", 2)
    assert made.model["module"]["_target_"] == "tasks.left_right_ovary.modules.robust_backbone.RobustBackbone"
    assert made.model["module"]["optimizer_spec"] == {"id": "Adam", "lr": 3e-5}


def test_c23_an_experiment_that_is_not_there_is_answered_with_those_beside_it(project, capsys):
    said = refused(capsys, "experiment=left_right_ovary/robust_backbon")
    assert "Did you mean 'robust_backbone'" in said


# ---- C24, specialising


def test_c24_one_module_file_serves_every_task(project):
    _, module, _ = load_from_config(load_config(["module=robust_backbone"]))
    assert type(module).__module__ == "tasks.example.modules.robust_backbone"
    _, module, _ = load_from_config(load_config(["experiment=left_right_ovary/robust_backbone"]))
    assert type(module).__module__ == "tasks.left_right_ovary.modules.robust_backbone"


def test_c24_a_class_that_is_not_there_is_refused_with_its_path_and_line(project, capsys):
    said = refused(capsys, "task=left_right_ovary")
    assert "tasks.left_right_ovary.modules.resnet.ResnetModule" in said
    assert "configs/module/standard_resnet.yaml" in said
    assert "no task" not in said


def test_c24_a_task_that_is_not_there_is_refused_with_the_paths_that_it_would_take(project, capsys):
    said = refused(capsys, "task.name=other")
    assert "tasks.other.modules.resnet.ResnetModule" in said
    assert "tasks.other.datamodules.default.DefaultDataModule" in said
    assert "tasks has no" in said


def test_c24_arguments_of_a_specialised_class_are_checked(project, capsys):
    said = refused(capsys, "module.model_confg={}")
    assert "Did you mean 'model_config'" in said


# ---- C25, search


def test_c25_the_program_returns_the_metric_that_a_search_looks_at(project):
    words = ["epochs=1", "trainer.check_val_every_n_epoch=1", "module/optimizer_spec=default", "seed=1"]
    outcome = asparagus.launch(load_config([*words, "module.optimizer_spec.lr=0.03"]))
    assert outcome.metrics["val/acc"] > 0.5
    worse = asparagus.launch(load_config([*words, "module.optimizer_spec.lr=1e-9"]))
    assert worse.metrics["val/acc"] < outcome.metrics["val/acc"]


@pytest.mark.parametrize(
    "word",
    [
        "module.model_config.eps=0,1,3",
        "module=standard_resnet,robust_resnet",
        "module.model_config.eps=choice(0,1)",
        "datamodule.dataloader_spec.batch_size=range(1,5)",
    ],
)
def test_c25_several_values_in_one_run_are_refused_with_the_reason(word, project, capsys):
    said = refused(capsys, word)
    assert "several values, and one run takes one" in said
    assert word in said


def swept(*words):
    """Compose a sweep and check it as a launch does; returns it, settled."""
    sweep = compose_sweep(Request("config", words, (Path("configs"),)))
    options = settled(sweep.options, sweep.space)
    check_space(sweep.space, options, lambda values: plan_of(request_with(sweep.base, values)))
    return sweep.base, options, sweep.space


def test_c25_the_documented_grid_is_a_sweep(project):
    _, options, space = swept("module.model_config.eps=0,1,3")
    assert space == Space((Dimension("module.model_config.eps", Choice((0, 1, 3))),))
    assert (options.sampler, options.trials) == ("grid", 3)


@pytest.mark.ray
@pytest.mark.e2e
@pytest.mark.slow
def test_c25_the_documented_grid_runs_to_its_end(project, monkeypatch):
    # the module lives in the user's tree, as it does for who stands there
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(project), os.environ.get("PYTHONPATH")))))
    words = ["-cd", "configs", "-m", "module.model_config.eps=0,1,3", *QUICK, "sweep.metric=val/acc", "--json"]
    done = subprocess.run(
        [ASP / "asp-launch", "config", *words], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert [trial["state"] for trial in told["trials"]] == ["finished"] * 3
    assert {trial["params"]["module.model_config.eps"] for trial in told["trials"]} == {0, 1, 3}


def test_c25_the_additional_config_searches_as_documented(project):
    words = ("datamodule.dataloader_spec.batch_size=32,64,128", "module.optimizer_spec.lr=interval(.0001,.2)")
    base, options, space = swept("sweep=hparams_search", *words)
    assert base.overrides == ()
    assert options.sampler == {"name": "tpe", "n_startup_trials": 10, "n_ei_candidates": 24}
    assert (options.seed, options.trials, options.concurrency) == (12345, 20, 1)
    assert (options.metric, options.mode) == ("val/acc", "max")
    assert space.dimensions == (
        Dimension("datamodule.dataloader_spec.batch_size", Choice((32, 64, 128))),
        Dimension("module.optimizer_spec.lr", Interval(0.0001, 0.2)),
    )
    spec = compose(request_with(base, sample(space)))
    assert spec.data["dataloader_spec"]["batch_size"] == 32
    assert spec.model["module"]["optimizer_spec"]["lr"] == 0.0001


def test_c25_options_of_groups_and_experiments_are_searched(project):
    _, options, space = swept("module=glob(*_resnet)", "module/optimizer_spec=default,backbone_with_head")
    assert [(one.key, one.domain) for one in space.dimensions] == [
        ("module", Choice(("robust_resnet", "standard_resnet"))),
        ("module/optimizer_spec", Choice(("default", "backbone_with_head"))),
    ]
    assert options.trials == 4
    _, options, _ = swept("experiment=example/standard_resnet,left_right_ovary/robust_backbone")
    assert options.trials == 2


def test_c25_an_option_that_is_not_there_is_refused_before_anything_is_searched(project):
    with pytest.raises(ConfigError, match="Did you mean 'left_right_ovary/robust_backbone'"):
        swept("experiment=example/standard_resnet,left_right_ovary/robust_backbon")


# ---- C26, the notebook


def test_c26_the_three_objects_in_the_documented_order_fit(project):
    config = load_config(overrides=["epochs=1", "trainer.check_val_every_n_epoch=1"])
    trainer, module, datamodule = load_from_config(config)
    assert isinstance(trainer, pl.Trainer)
    assert isinstance(module, pl.LightningModule)
    assert isinstance(datamodule, pl.LightningDataModule)
    trainer.fit(model=module, datamodule=datamodule)
    assert trainer.global_step == 2
    assert "val/acc" in trainer.callback_metrics
    assert module.model(torch.zeros(3, 64)).shape == (3, 10)


def test_c26_it_works_again_in_the_same_notebook_with_what_was_changed(project):
    load_from_config(load_config())
    config = load_config()
    config.epochs = 3
    config.module.model_config.eps = 1.5
    config.trainer.limit_train_batches = 1
    trainer, module, _ = load_from_config(config)
    assert (trainer.max_epochs, trainer.limit_train_batches) == (3, 1)
    assert module.hparams["model_config"]["eps"] == 1.5


def test_c26_nothing_is_recorded_by_looking(project, home):
    load_from_config(load_config())
    assert not (home / "models").exists()
    assert not (home / "results" / "mlflow.db").exists()


def test_c26_a_config_that_is_wrong_says_everything_that_is(project):
    config = load_config(["module.model_confg=1", "trainer.max_epoch=1"])
    with pytest.raises(ConfigError) as wrong:
        load_from_config(config)
    assert "module.model_confg" in str(wrong.value)
    assert "trainer.max_epoch:" in str(wrong.value)


# ---- C27, what load_from_config does


def weights(*words):
    _, module, _ = load_from_config(load_config(words))
    return torch.cat([parameter.flatten() for parameter in module.parameters()])


def test_c27_zero_is_a_seed(project, monkeypatch):
    first = weights("seed=0")
    assert os.environ["PL_GLOBAL_SEED"] == "0"
    assert torch.initial_seed() == 0
    torch.rand(5)
    assert torch.equal(first, weights("seed=0"))
    assert not torch.equal(first, weights("seed=1"))


def test_c27_no_seed_is_drawn_and_each_time_another(project):
    assert spec().seed != spec().seed
    assert not torch.equal(weights(), weights())


def test_c27_sections_inside_module_and_data_module_are_theirs_to_build(project):
    _, module, datamodule = load_from_config(load_config(["+module.model_config.loss._target_=torch.nn.MSELoss"]))
    assert module.hparams["model_config"]["loss"] == {"_target_": "torch.nn.MSELoss"}
    assert datamodule.transform_factory == {"_target_": "tasks.shared.Flatten", "img_shape": [8, 8]}


def test_c27_they_are_so_without_being_told(project):
    config = load_config(["~module._recursive_", "~datamodule._recursive_"])
    assert "_recursive_" not in config.module
    _, _, datamodule = load_from_config(config)
    assert datamodule.transform_factory == {"_target_": "tasks.shared.Flatten", "img_shape": [8, 8]}


def test_c27_they_are_built_first_where_the_config_says_so(project):
    _, _, datamodule = load_from_config(load_config(["datamodule._recursive_=true"]))
    assert datamodule.transform_factory.size == 64
    assert datamodule.get_transform("test") is datamodule.transform_factory
    words = ["module._recursive_=true", "+module.model_config.loss._target_=torch.nn.MSELoss"]
    with pytest.raises(ConfigError, match=r"model_config.loss: a MSELoss is no plain value"):
        load_from_config(load_config(words))


def test_c27_callbacks_and_loggers_are_the_entries_of_their_sections(project):
    stop = "+callbacks.stop={_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: val/loss}"
    trainer, _, _ = load_from_config(load_config([stop, "logger=[csv,tensorboard]"]))
    assert [type(logger).__name__ for logger in trainer.loggers] == ["CSVLogger", "TensorBoardLogger"]
    assert "EarlyStopping" in [type(callback).__name__ for callback in trainer.callbacks]


def test_c27_loggers_are_told_the_config(project):
    trainer, _, _ = load_from_config(load_config(["seed=7"]))
    trainer.loggers[0].save()
    written = yaml.safe_load((Path(trainer.loggers[0].log_dir) / "hparams.yaml").read_text())
    assert written["seed"] == 7
    assert written["model"]["module"]["model_config"]["arch"] == "resnet18"


def test_c27_what_the_trainer_gets_is_plain(project):
    trainer, module, _ = load_from_config(load_config())
    assert (trainer.max_epochs, trainer.check_val_every_n_epoch, trainer.log_every_n_steps) == (10, 5, 50)
    assert not OmegaConf.is_config(module.hparams["optimizer_spec"])


# ---- C28, C29, slashes and dots


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("module.scheduler_spec=step_lr", "module/scheduler_spec=step_lr"),
        ("module.optimizer_spec=default", "module/optimizer_spec=default"),
        ("datamodule.augmentation_factory=flip", "datamodule/augmentation_factory=flip"),
        ("+module.scheduler_spec=step_lr", "module/scheduler_spec=step_lr"),
        ("++module.scheduler_spec=step_lr", "module/scheduler_spec=step_lr"),
    ],
)
def test_c28_a_group_with_dots_is_refused_with_the_advice_to_use_slashes(word, advice, project, capsys):
    said = refused(capsys, word)
    assert "slashes" in said
    assert f"Write {advice}" in said
    assert "append" not in said
    with pytest.raises(ConfigError, match="slashes"):
        load_config([word])


def test_c28_an_option_that_is_misspelt_with_dots_gets_both_advices(project, capsys):
    said = refused(capsys, "module.scheduler_spec=step_l")
    assert "slashes" in said
    assert "Did you mean 'step_lr'" in said


def test_c28_values_take_dots(project):
    assert spec("datamodule.dataloader_spec.batch_size=8").data["dataloader_spec"]["batch_size"] == 8


def test_c28_a_section_may_be_given_as_a_value(project):
    made = spec("module.scheduler_spec={id: ExponentialLR, gamma: 0.5}")
    assert made.model["module"]["scheduler_spec"] == {"id": "ExponentialLR", "gamma": 0.5}


def test_c28_a_plus_adds_and_a_tilde_takes_out(project):
    assert spec("+module.model_config.depth=3").model["module"]["model_config"]["depth"] == 3
    assert "arch" not in spec("~module.model_config.arch").model["module"]["model_config"]
    assert "scheduler_spec" not in spec("module/scheduler_spec=step_lr", "~module.scheduler_spec").model["module"]
    assert spec("experiment=example/standard_resnet", "~logger").logger == {}


def test_c28_what_is_not_there_cannot_be_taken_out(project, capsys):
    assert "~module.model_config.arc" in refused(capsys, "~module.model_config.arc")


def test_c29_load_config_explains_overrides():
    told = load_config.__doc__
    for part in ("module/scheduler_spec=step_lr", "datamodule.dataloader_spec.batch_size=8", "slashes", "+key", "~key"):
        assert part in told


# ---- within an application that is Hydra's own


def test_c17_inside_a_running_hydra_application_its_state_is_given_back(project, home, monkeypatch):
    import hydra
    from hydra.core.hydra_config import HydraConfig

    seen = {}

    monkeypatch.setenv("ASPARAGUS_CONFIGS", str(project / "configs"))
    monkeypatch.setattr(hydra_plugin, "FOLDERS", [])

    @hydra.main(version_base="1.3", config_path=get_config_path(), config_name="config")
    def application(config):
        before = GlobalHydra.instance().hydra
        inner = load_config(["module=robust_resnet", "epochs=1"])
        seen["inner"] = (inner.module.model_config.eps, inner.epochs)
        seen["own"] = (config.module.model_config.eps, config.epochs)
        trainer, module, datamodule = load_from_config(config)
        trainer.fit(model=module, datamodule=datamodule)
        seen["steps"] = trainer.global_step
        seen["restored"] = GlobalHydra.instance().hydra is before
        seen["job"] = HydraConfig.get().job.config_name

    quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null"]
    words = ["app.py", "epochs=2", "hydra.run.dir=.", *quiet]
    monkeypatch.setattr(sys, "argv", words)
    application()
    assert seen == {"inner": (3.0, 1), "own": (0.0, 2), "steps": 4, "restored": True, "job": "config"}


def test_c17_a_failed_composition_gives_the_state_back_too(project):
    with pytest.raises(ConfigError):
        load_config(["module=nope"])
    assert not GlobalHydra.instance().is_initialized()
    assert load_config().epochs == 10


def test_c20_inside_a_hydra_application_a_variable_stays_one_too(project, monkeypatch):
    import hydra

    seen = []
    monkeypatch.setenv("ASPARAGUS_CONFIGS", str(project / "configs"))
    monkeypatch.setattr(hydra_plugin, "FOLDERS", [])
    monkeypatch.setattr("asparagus.compose.composer.SEARCHED", {})

    @hydra.main(version_base="1.3", config_path=get_config_path(), config_name="config")
    def application(config):
        seen.append(plan_of(config).spec.trainer["max_epochs"])

    quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null"]
    monkeypatch.setattr(sys, "argv", ["app.py", "trainer.max_epochs=3", "hydra.run.dir=.", *quiet])
    application()
    assert seen == [3]


@pytest.mark.ray
def test_c24_the_repositorys_own_code_is_found_on_ray_workers(project, ray_address, capsys):
    words = ["resources=one_worker", f"site.address={ray_address}", "epochs=1", "trainer.check_val_every_n_epoch=1"]
    assert launched(*words, "--json") == 0
    outcome = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (outcome["state"], "val/acc" in outcome["metrics"]) == ("finished", True)
