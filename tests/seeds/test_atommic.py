"""ATOMMIC's promises (SEEDS B1 to B5) under our names, and under the names that its documents use."""

from __future__ import annotations

import functools
import importlib.util
import inspect
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from mlflow import MlflowClient
from torch.utils.data import DataLoader, TensorDataset

import asparagus
from asparagus import load_config, load_from_config, plan_of
from asparagus.cli.main import run
from asparagus.compose import Request, compose
from asparagus.errors import ConfigError

HERE = __name__
DIGITS = "experiment/digits"
FOUR_GPUS = ("site.gpus_per_node=4", "site.cpus_per_node=16")
STOP = {"_target_": "pytorch_lightning.callbacks.EarlyStopping", "monitor": "val/loss", "patience": 1}

EXAMPLE = f"""
defaults:
  - train
  - _self_

task: CC359

trainer:
    devices: 1 # number of gpus per node
    accelerator: cpu
    num_nodes: 1 # number of nodes
    max_epochs: 10 # how many training epochs to run
    val_check_interval: 1.0 # run validation after every epoch

exp_manager:
    name: name_of_my_experiment
    create_tensorboard_logger: True
    create_wandb_logger: False

data:
    _target_: {HERE}.Scans

model:
    module:
        _target_: {HERE}.Reconstruction
    train_ds:
        data_path: /path/to/my/train_data/
        batch_size: 1
        shuffle: True
    validation_ds:
        data_path: /path/to/my/validation_data/
        batch_size: 1
        shuffle: False
    test_ds:
        data_path: /path/to/my/test_data/
        batch_size: 1
        shuffle: False
    optim:
        name: novograd
        lr: .01
        betas: [0.8, 0.5]
        weight_decay: 0.001
"""
"""The example of the documents, and what it takes here: a stage, a task, a module and data of one's own."""


class Scans(pl.LightningDataModule):
    """Points, as many as a section's path has letters; a part without a section has no loader."""

    def __init__(self, train=None, val=None, test=None):
        super().__init__()
        self.sections = {"train": train, "val": val, "test": test}

    def _loader(self, part):
        section = self.sections[part]
        if section is None:
            return []
        size = len(section["data_path"])
        points = torch.randn(size, 2, generator=torch.Generator().manual_seed(size))
        return DataLoader(TensorDataset(points), section["batch_size"], shuffle=section["shuffle"])

    def train_dataloader(self):
        return self._loader("train")

    def val_dataloader(self):
        return self._loader("val")

    def test_dataloader(self):
        return self._loader("test")


class Reconstruction(pl.LightningModule):
    """A line through points, trained by the section `optim`."""

    def __init__(self, optim):
        super().__init__()
        self.net, self.optim = torch.nn.Linear(2, 2), optim

    def training_step(self, batch, index):
        return (self.net(batch[0]) - batch[0]).square().mean()

    def validation_step(self, batch, index):
        self.log("val/loss", (self.net(batch[0]) - batch[0]).square().mean())

    def test_step(self, batch, index):
        self.log("test/loss", (self.net(batch[0]) - batch[0]).square().mean())

    def configure_optimizers(self):
        from asparagus.optim.build import build_optimizer

        return build_optimizer(self.optim, self.parameters())


def points(size=8, root=None):
    return TensorDataset(torch.randn(size, 2, generator=torch.Generator().manual_seed(size)))


def write(folder, changes=None):
    """Write the documents' example, with changes by key (`...` takes one out), and return its path."""
    tree = yaml.safe_load(EXAMPLE)
    for key, value in (changes or {}).items():
        *sections, leaf = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        if value is ...:
            del node[leaf]
        else:
            node[leaf] = value
    path = folder / "example.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return str(path)


@pytest.fixture
def example(home: Path):
    return functools.partial(write, home)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, data_root):
    """Two runs of one epoch: of the example, and of the digits without a logger and checkpoints of Lightning's."""
    folder = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASPARAGUS_HOME", str(folder))
        patch.setenv("ASPARAGUS_DATA", str(data_root))
        patch.chdir(folder)
        own = asparagus.launch(write(folder), ["trainer.max_epochs=1"])
        words = ["trainer.logger=false", "trainer.enable_checkpointing=false", "trainer.max_epochs=1"]
        digits = asparagus.launch(DIGITS, words)
        client = MlflowClient(f"sqlite:///{folder}/results/mlflow.db")
        return {name: (run, client.get_run(run.mlflow_run_id)) for name, run in (("own", own), ("digits", digits))}


# B1: the Trainer's arguments

PASS = {
    "accelerator": ["cpu", "auto"],
    "strategy": ["auto", "ddp"],
    "devices": [1, "1", [0], "auto"],
    "num_nodes": [1],
    "precision": ["16-mixed", "bf16-mixed", "32-true", "64-true", 64, 32, 16, "64", "32", "16", None],
    "logger": [False, True, None],
    "callbacks": [[STOP], STOP, {"stop": STOP}, [], None],
    "fast_dev_run": [True, 2, False],
    "max_epochs": [3],
    "min_epochs": [1],
    "max_steps": [10, -1],
    "min_steps": [1],
    "max_time": ["00:00:10:00", {"hours": 1}],
    "limit_train_batches": [0.5, 3, 1.0],
    "limit_val_batches": [0.5, 3, 0],
    "limit_test_batches": [0.5],
    "limit_predict_batches": [0.5],
    "overfit_batches": [2, 0.1],
    "val_check_interval": [1.0, 0.5, 5],
    "check_val_every_n_epoch": [2, -1],
    "num_sanity_val_steps": [2, -1],
    "log_every_n_steps": [1],
    "enable_checkpointing": [False, True],
    "enable_progress_bar": [False],
    "enable_model_summary": [True],
    "accumulate_grad_batches": [2],
    "gradient_clip_val": [0.5, 1],
    "gradient_clip_algorithm": ["norm"],
    "deterministic": [True, "warn"],
    "benchmark": [True],
    "inference_mode": [False],
    "use_distributed_sampler": [False],
    "profiler": ["simple", {"_target_": "pytorch_lightning.profilers.SimpleProfiler", "filename": "profile"}],
    "detect_anomaly": [True],
    "plugins": [[{"_target_": "pytorch_lightning.plugins.environments.LightningEnvironment"}]],
    "sync_batchnorm": [True],
    "reload_dataloaders_every_n_epochs": [1],
    "default_root_dir": ["here"],
    "enable_autolog_hparams": [False],
    "barebones": [False],
    "model_registry": [None],
}
REFUSED = {
    "accelerator": [("gpu", "no NVIDIA GPU"), ("cup", "Did you mean 'cpu'")],
    "strategy": [
        ("dp", "use ddp"),
        ("dpp", "Did you mean 'ddp'"),
        ({"_target_": "pytorch_lightning.strategies.DDPStrategy"}, "Known: auto, ddp"),
    ],
    "devices": [("two", "number of devices"), (1.5, "number of devices")],
    "num_nodes": [(0, "number of devices"), ("many", "number of devices")],
    "precision": [("8-mixed", "16-mixed"), (8, "16-mixed")],
    "logger": [("wandb", "_target_")],
    "callbacks": [([{"_target_": STOP["_target_"], "monitr": "x"}], "Did you mean 'monitor'"), ("stop", "_target_")],
    "max_epochs": [("many", "int"), (-2, "least")],
    "max_time": [("soon", "days:hours:minutes:seconds"), ({"hors": 1}, "hours")],
    "limit_train_batches": [(1.5, "share"), (-1, "share")],
    "val_check_interval": [(0, "never validate"), (1.5, "share")],
    "check_val_every_n_epoch": [(0, "least")],
    "accumulate_grad_batches": [(0, "least"), (1.5, "int")],
    "gradient_clip_algorithm": [("nrom", "norm")],
    "deterministic": [("maybe", "warn")],
    "profiler": [
        ("simpel", "Did you mean 'simple'"),
        ({"_target_": "pytorch_lightning.profilers.SimpleProfiler", "filenam": "x"}, "Did you mean 'filename'"),
    ],
    "plugins": [([{"_target_": "pytorch_lightning.plugins.environments.LightningEnvironmnt"}], "LightningEnvironment")],
    "barebones": [(True, "no record")],
    "model_registry": [("mine", "record")],
}


def mine(home, **trainer):
    """Write the digits with Trainer arguments of one's own, and return the file's path."""
    (home / "mine.yaml").write_text(yaml.safe_dump({"defaults": [DIGITS, "_self_"], "trainer": trainer}))
    return "mine.yaml"


def test_b1_no_argument_of_the_trainer_is_forgotten_here():
    assert set(PASS) == set(inspect.signature(pl.Trainer).parameters)


@pytest.mark.parametrize(("argument", "value"), [(name, value) for name in PASS for value in PASS[name]], ids=str)
def test_b1_an_argument_of_the_trainer_passes_the_check_and_the_trainer_takes_it(argument, value, home):
    trainer, _, _ = load_from_config(load_config([mine(home, **{argument: value})]))
    assert isinstance(trainer, pl.Trainer)


@pytest.mark.parametrize(
    ("argument", "value", "reason"), [(name, *row) for name in REFUSED for row in REFUSED[name]], ids=str
)
def test_b1_an_argument_that_cannot_be_is_refused_with_the_reason(argument, value, reason, home):
    with pytest.raises(ConfigError) as refused:
        plan_of(mine(home, **{argument: value}))
    assert reason.lower() in str(refused.value).lower()
    assert "[mine.yaml:" in str(refused.value)


@pytest.mark.parametrize(
    ("devices", "nodes", "workers"), [(4, 1, 4), (2, 2, 4), ("0,1", 1, 2), ([0, 2], 1, 2), (-1, 2, 8), ("auto", 1, 4)]
)
def test_b1_several_gpus_and_nodes_become_workers_with_a_gpu_each(devices, nodes, workers, home):
    path = mine(home, devices=devices, num_nodes=nodes, accelerator="gpu", strategy="ddp")
    plan = plan_of(path, [*FOUR_GPUS, f"site.nodes={nodes}"])
    assert (plan.workers, plan.gpus_per_worker) == (workers, 1)
    assert plan.spec.trainer["strategy"] == "ddp"
    assert plan.global_batch == 64 * workers


def test_b1_several_processors_become_workers_without_a_gpu(home):
    plan = plan_of(mine(home, devices=2, accelerator="cpu"), ["site.cpus_per_node=2"])
    assert (plan.workers, plan.gpus_per_worker) == (2, 0)


def test_b1_more_devices_than_the_site_holds_are_refused_with_the_line_that_asks_for_them(home):
    with pytest.raises(ConfigError, match=r"8 workers .* hold 4.*mine\.yaml"):
        plan_of(mine(home, devices=8, accelerator="gpu"), FOUR_GPUS)


def test_b1_one_gpu_is_the_trainers_own(home):
    plan = plan_of(mine(home, devices=1, accelerator="gpu"), FOUR_GPUS)
    assert (plan.workers, plan.spec.trainer["accelerator"]) == (0, "gpu")


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "32-true", "64-true", "64", "32", "16", 64, 32, 16])
def test_b1_every_documented_precision_trains_as_lightning_understands_it(precision, home):
    path = mine(home, precision=precision, max_epochs=1, limit_train_batches=1)
    trainer, module, datamodule = load_from_config(load_config([path]))
    assert trainer.precision == pl.Trainer(precision=precision, accelerator="cpu", logger=False).precision
    trainer.fit(model=module, datamodule=datamodule)
    assert trainer.global_step == 1
    assert "val/loss" in trainer.callback_metrics


def test_b1_early_stopping_in_the_trainers_list_stops_early(home):
    path = mine(home, callbacks=[{**STOP, "min_delta": 1e9}], limit_train_batches=1)
    trainer, module, datamodule = load_from_config(load_config([path]))
    trainer.fit(model=module, datamodule=datamodule)
    assert trainer.current_epoch == 2  # of five


def test_b1_val_check_interval_validates_within_an_epoch(home):
    trainer, module, datamodule = load_from_config(load_config([mine(home, val_check_interval=0.5, max_epochs=1)]))
    seen = []
    module.on_validation_epoch_end = lambda: seen.append(trainer.global_step)
    trainer.fit(model=module, datamodule=datamodule)
    assert seen == [11, 22]


def test_b1_without_a_logger_and_checkpoints_of_lightnings_the_run_is_recorded_and_can_be_gone_on_from(recorded):
    outcome, found = recorded["digits"]
    assert outcome.state == "finished"
    assert Path(outcome.checkpoint).is_dir()
    assert found.data.metrics["val/accuracy"] == pytest.approx(outcome.metrics["val/accuracy"])


def test_b1_what_is_asked_for_and_done_otherwise_is_said(home, capsys):
    assert run("launch", [DIGITS, "trainer.enable_checkpointing=false", "--dry-run"]) == 0
    assert "note" in capsys.readouterr().out


def test_b1_a_fast_dev_run_runs_one_batch_and_ends_well(home):
    outcome = asparagus.launch(DIGITS, ["trainer.fast_dev_run=true"])
    assert (outcome.state, Path(outcome.checkpoint).name) == ("finished", "epoch=0-step=1")


# B2: the three roots


def test_b2_the_documents_example_composes_into_our_sections(example):
    spec = plan_of(example()).spec
    assert (spec.stage, spec.task, spec.run.label) == ("train", "CC359", "name_of_my_experiment")
    assert {key: spec.trainer[key] for key in ("accelerator", "max_epochs", "val_check_interval")} == {
        "accelerator": "cpu",
        "max_epochs": 10,
        "val_check_interval": 1.0,
    }
    assert spec.resources.workers == 0
    assert list(spec.logger) == ["tensorboard"]
    assert spec.logger["tensorboard"]["_target_"] == "pytorch_lightning.loggers.TensorBoardLogger"
    assert spec.model == {"module": {"_target_": f"{HERE}.Reconstruction"}}


def test_b2_the_documents_example_trains(recorded):
    outcome, found = recorded["own"]
    assert outcome.state == "finished"
    assert outcome.metrics["val/loss"] > 0
    assert list(Path(outcome.folder).rglob("events.out.tfevents*"))
    assert found.info.run_name == "name_of_my_experiment"


def test_b2_the_gpu_of_the_example_is_refused_on_a_machine_without_one(example):
    path = example({"trainer.accelerator": "gpu"})
    with pytest.raises(ConfigError, match=r"trainer\.accelerator: gpu .*no NVIDIA GPU.*example\.yaml"):
        plan_of(path, ["site.gpus_per_node=0"])
    assert plan_of(path, FOUR_GPUS).spec.trainer["accelerator"] == "gpu"


@pytest.mark.parametrize("key", ["exp_dir", "explicit_log_dir"])
def test_b2_a_folder_for_experiments_is_answered_with_where_runs_are(key, example):
    with pytest.raises(ConfigError, match=rf"exp_manager\.{key}: .*ASPARAGUS_MODELS.*example\.yaml"):
        plan_of(example({f"exp_manager.{key}": "/path/to/my/atommic/experiments"}))


def test_b2_a_wandb_logger_that_is_not_installed_is_refused_before_anything_runs(example):
    if importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    changes = {
        "exp_manager.create_wandb_logger": True,
        "exp_manager.wandb_logger_kwargs": {"project": "atommic", "name": "mine"},
    }
    with pytest.raises(ConfigError, match="pip install wandb"):
        plan_of(example(changes))
    assert compose(Request(example(changes))).logger["wandb"] == {
        "_target_": "pytorch_lightning.loggers.WandbLogger",
        "project": "atommic",
        "name": "mine",
    }


def test_b2_what_makes_a_checkpoint_the_best_is_exp_managers(example):
    params = {"monitor": "val/loss", "mode": "min", "save_top_k": 3}
    kept = plan_of(example({"exp_manager.checkpoint_callback_params": params})).spec.checkpoint
    assert (kept.monitor, kept.mode, kept.keep_best) == ("val/loss", "min", 3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resume_if_exists", False),
        ("resume_ignore_no_checkpoint", True),
        ("create_early_stopping_callback", False),
        ("ema", {"enable": False}),
        ("create_checkpoint_callback", True),
        ("files_to_copy", None),
    ],
)
def test_b2_what_exp_manager_switches_off_is_off(key, value, example):
    assert plan_of(example({f"exp_manager.{key}": value})).spec.run.label == "name_of_my_experiment"


@pytest.mark.parametrize(
    ("key", "value"),
    [("resume_past_end", True), ("nmae", "x")],
)
def test_b2_what_exp_manager_cannot_do_here_is_refused_by_its_key(key, value, example):
    with pytest.raises(ConfigError, match=rf"exp_manager\.{key}: .*example\.yaml"):
        plan_of(example({f"exp_manager.{key}": value}))


def test_b2_pretrained_false_starts_from_nothing(example):
    path = example({"pretrained": False, "checkpoint": "None", "mode": "train"})
    spec = plan_of(path).spec
    assert (spec.init_from, spec.run.mode) == (None, "fit")


def test_b2_a_pretrained_checkpoint_gives_the_first_weights(example, home):
    torch.save(Reconstruction({}).state_dict(), home / "weights.ckpt")
    plan = plan_of(example({"pretrained": True, "checkpoint": str(home / "weights.ckpt"), "mode": "train"}))
    assert plan.spec.init_from == f"file:{home}/weights.ckpt"
    assert plan.parent.checkpoint == str(home / "weights.ckpt")


def test_b2_test_mode_looks_at_test_data_with_the_checkpoints_weights(example, home):
    weights = {"net.weight": torch.eye(2), "net.bias": torch.zeros(2)}
    torch.save(weights, home / "weights.ckpt")
    path = example({"pretrained": True, "checkpoint": str(home / "weights.ckpt"), "mode": "test"})
    outcome = asparagus.launch(path)
    assert outcome.metrics == {"test/loss": 0.0}


def test_b2_a_test_without_a_checkpoint_is_refused(example):
    with pytest.raises(ConfigError, match=r"run\.mode: test needs weights"):
        plan_of(example({"mode": "test"}))


# B3: the model's sections


def test_b3_the_models_data_sets_are_the_data_modules_sections(example):
    data = plan_of(example()).spec.data
    assert data == {
        "_target_": f"{HERE}.Scans",
        "train": {"data_path": "/path/to/my/train_data/", "batch_size": 1, "shuffle": True},
        "val": {"data_path": "/path/to/my/validation_data/", "batch_size": 1, "shuffle": False},
        "test": {"data_path": "/path/to/my/test_data/", "batch_size": 1, "shuffle": False},
    }


def test_b3_the_models_optim_is_the_whole_optimizer_with_betas_as_a_list(example):
    spec = plan_of(example()).spec
    assert spec.optim == {"name": "novograd", "lr": 0.01, "betas": [0.8, 0.5], "weight_decay": 0.001}
    _, module, _ = load_from_config(spec)
    optimizer = module.configure_optimizers()
    assert type(optimizer).__name__ == "Novograd"
    assert list(optimizer.defaults["betas"]) == [0.8, 0.5]


def test_b3_novograd_with_a_list_of_betas_trains_a_stage_of_ours(home):
    words = ["optim=novograd", "optim.lr=.01", "optim.betas=[0.8,0.5]", "optim.weight_decay=0.001"]
    trainer, module, datamodule = load_from_config(load_config([DIGITS, *words, "trainer.max_steps=2"]))
    trainer.fit(model=module, datamodule=datamodule)
    assert trainer.global_step == 2
    assert list(trainer.optimizers[0].param_groups[0]["betas"]) == [0.8, 0.5]


def test_b3_the_models_optim_carries_its_schedule(example):
    sched = {"name": "cosine", "min_lr": 0.0, "warmup_ratio": 0.1, "max_steps": -1}
    assert plan_of(example({"model.optim.sched": sched})).spec.optim["sched"] == sched


@pytest.mark.parametrize("missing", ["train_ds", "validation_ds", "test_ds"])
def test_b3_a_missing_data_set_is_no_error_of_the_request(missing, example):
    data = plan_of(example({f"model.{missing}": ...})).spec.data
    assert {"train", "val", "test"} - data.keys() == {
        {"train_ds": "train", "validation_ds": "val"}.get(missing, "test")
    }


def test_b3_training_without_validation_and_test_data_ends_well(example):
    path = example({"model.validation_ds": ..., "model.test_ds": ...})
    outcome = asparagus.launch(path, ["trainer.max_epochs=1"])
    assert outcome.state == "finished"
    assert "val/loss" not in outcome.metrics
    assert Path(outcome.checkpoint).is_dir()


def loaders(example, **changes):
    """Return the example with the loaders that asparagus brings, on points."""
    section = {"dataset": {"_target_": f"{HERE}.points", "size": 8}, "batch_size": 4, "shuffle": False}
    parts = {f"model.{name}": dict(section) for name in ("train_ds", "validation_ds", "test_ds")}
    target = {"data._target_": "asparagus.data.loaders.LoaderDataModule"}
    return example({**target, **parts, **changes})


def test_b3_a_data_set_is_a_loader_of_the_data_module_that_we_bring(example):
    _, _, data = load_from_config(load_config([loaders(example)]))
    data.setup("fit")
    data.setup("test")
    assert [len(loader) for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())] == [
        2
    ] * 3


def test_b3_without_a_section_the_part_has_no_loader(example):
    changes = {"model.validation_ds": ..., "model.test_ds": ...}
    trainer, module, data = load_from_config(load_config([loaders(example, **changes), "trainer.max_epochs=1"]))
    trainer.fit(model=module, datamodule=data)
    assert (trainer.global_step, data.val_dataloader(), data.test_dataloader()) == (2, [], [])


def test_b3_a_deferred_data_set_is_built_when_its_loader_is_asked_for(example):
    deferred = {"dataset": {"_target_": f"{HERE}.points", "size": 0}, "batch_size": 4, "defer_setup": True}
    _, _, data = load_from_config(load_config([loaders(example, **{"model.test_ds": deferred})]))
    data.setup("test")
    with pytest.raises(asparagus.errors.DataError, match="is empty"):
        data.test_dataloader()


# B4: a reserved key


@pytest.mark.parametrize("value", [{"hidden": 3}, "unet"])
def test_b4_a_key_called_model_inside_model_is_refused_with_its_line(value, example):
    with pytest.raises(ConfigError, match=r"model\.model: .*example\.yaml:\d+"):
        plan_of(example({"model.model": value}))


def test_b4_nor_from_the_command_line(example, capsys):
    assert run("launch", [example(), "model.model.hidden=3"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: model.model: ")
    assert "command line: model.model.hidden=3" in said


# B5: what the record says by itself


@pytest.mark.parametrize(
    ("which", "trained", "section", "built"),
    [
        ("own", f"{HERE}.Reconstruction", "module", f"{HERE}.Reconstruction"),
        ("digits", "asparagus.stages.cls.ClsModule", "cls_net", "asparagus.models.mlp.MLP"),
    ],
)
def test_b5_the_record_says_the_version_and_the_full_path_of_what_was_trained(which, trained, section, built, recorded):
    outcome, found = recorded[which]
    assert found.data.tags["asparagus.version"] == asparagus.__version__
    assert found.data.tags["asparagus.module"] == trained
    written = (Path(outcome.folder) / "config.yaml").read_text()
    assert f"asparagus {asparagus.__version__}" in written
    assert yaml.safe_load(written)["model"][section]["_target_"] == built


@pytest.mark.parametrize("value", [True, False])
def test_b2_resume_if_exists_is_whether_an_identical_run_goes_on(value, example):
    assert plan_of(example({"exp_manager.resume_if_exists": value})).spec.run.resume is value
