"""The README of the first Asparagus (SEEDS A1..A4, A16..A26, A49..A51): its lines run as they are written there."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import asparagus
from asparagus import load_config, load_from_config
from asparagus.api import plan_of
from asparagus.cli.main import run
from asparagus.compose import Request, compose, config_as_yaml, config_of
from asparagus.data.split import make_split
from asparagus.data.synthetic import make_synthetic_pretrain, make_synthetic_seg
from asparagus.errors import ConfigError
from asparagus.paths import get_config_path
from asparagus.record.store import Store

SHIPPED = Path(asparagus.__file__).parent.parent / "configs"
DIGITS = "experiment/digits"
README_LINE = (
    "task=Task998_LauritSyn",
    "+model=unet_b_lw_dec",
    "+plugins=seg_Task997",
    "+hardware=1gpu",
    "model.dimensions=2D",
)
README_DEFAULTS = """\
  - ../hardware/1gpu@hardware
  - ../plugins/seg_Task997@plugin
  - ../model/unet_b_lw_dec@model
"""
GPUS = "site.gpus_per_node=8"
SMALL = ("trainer.max_epochs=1", "trainer.limit_train_batches=3", "trainer.limit_val_batches=1")
FOLDERS = ("CONFIGS", "SOURCE", "DATA", "MODELS", "RESULTS")


@pytest.fixture(scope="session")
def laurit(tmp_path_factory) -> Path:
    """The README's tasks, ten small cases each, split."""
    root = tmp_path_factory.mktemp("laurit")
    for make in (make_synthetic_pretrain, make_synthetic_seg):
        make_split(root, make(root, cases=10, size=16).name, "split_80_20")
    return root


@pytest.fixture
def volumes(home, laurit, monkeypatch) -> Path:
    monkeypatch.setenv("ASPARAGUS_DATA", str(laurit))
    return home


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def files_under(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def outcome_of(capsys, *words: str) -> dict:
    """Train in this process, as the command does, and return what it prints last."""
    status = run("launch", [*words, "--json"])
    said = capsys.readouterr()
    assert status == 0, said.err
    return json.loads(said.out.splitlines()[-1])


def wrong(capsys, *words: str) -> str:
    """Return what is said about a request that is refused."""
    assert run("launch", [*words]) == 2
    return capsys.readouterr().err


# A1 to A4: the environment


def test_a1_the_five_variables_say_where_everything_lies(home, data_root, monkeypatch):
    for name in FOLDERS:
        monkeypatch.setenv(f"ASPARAGUS_{name}", str(home / "elsewhere" / name))
    (home / "elsewhere/CONFIGS").mkdir(parents=True)
    monkeypatch.setenv("ASPARAGUS_DATA", str(data_root))
    paths = compose(Request(DIGITS)).paths
    expected = {name: str(home / "elsewhere" / name) for name in FOLDERS} | {"DATA": str(data_root)}
    assert {name: getattr(paths, name.lower()) for name in FOLDERS} == expected


def test_a1_they_may_stand_in_a_dotenv_file_here_or_above(home, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_MODELS", "taken back at the end")
    monkeypatch.delenv("ASPARAGUS_MODELS")
    write(home / ".env", f"ASPARAGUS_MODELS={home}/from_dotenv\n")
    (home / "deeper").mkdir()
    monkeypatch.chdir(home / "deeper")
    assert plan_of(DIGITS).run_root == f"{home}/from_dotenv/Task001_Digits/train_cls"


def test_a1_what_is_set_wins_over_the_dotenv_file(home, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_MODELS", str(home / "set"))
    write(home / ".env", "ASPARAGUS_MODELS=/from/dotenv\n")
    assert plan_of(DIGITS).spec.paths.models == str(home / "set")


def test_a1_those_that_are_not_set_lie_under_the_home(home, monkeypatch):
    monkeypatch.delenv("ASPARAGUS_DATA")
    paths = compose(Request(DIGITS)).paths
    assert {name: getattr(paths, name.lower()) for name in FOLDERS} == {
        name: str(home / name.lower()) for name in FOLDERS
    }


@pytest.mark.parametrize("name", FOLDERS)
def test_a1_a_variable_set_to_nothing_is_named(name, home, monkeypatch, capsys):
    monkeypatch.setenv(f"ASPARAGUS_{name}", "")
    said = wrong(capsys, DIGITS, "--dry-run")
    assert said.startswith(f"error: ASPARAGUS_{name}: is set but empty")


def test_a1_a_missing_folder_comes_to_be_when_something_is_written(home, capsys):
    assert run("launch", [DIGITS, "--dry-run"]) == 0
    assert not (home / "models").exists()
    capsys.readouterr()
    outcome = outcome_of(capsys, DIGITS, *SMALL)
    assert Path(outcome["folder"]).is_relative_to(home / "models")


FAMILIES = {"pretrain": "PRETRAIN", "train_cls": "TRAIN", "finetune_cls": "FINETUNE"}


@pytest.fixture
def three_families(home, monkeypatch) -> Path:
    """Two further folders per family, each with a model of its own and one that all have."""
    for name in FAMILIES.values():
        for number in (1, 2):
            folder = home / f"{name}{number}"
            write(folder / "model" / f"only_{name}{number}.yaml", "dimensions: 2D\n")
            write(folder / "model" / "clash.yaml", f"cls_net: {{_target_: from.{name}{number}}}\n")
            write(
                folder / f"own_{name}{number}.yaml", f"defaults: [train_cls, _self_]\nrun: {{name: {name}{number}}}\n"
            )
            write(folder / "common.yaml", f"defaults: [train_cls, _self_]\nrun: {{name: {name}{number}}}\n")
        monkeypatch.setenv(f"ASPARAGUS_{name}_CONFIGS", f"{home}/{name}1:{home}/{name}2")
    return home


@pytest.mark.parametrize(("stage", "family"), FAMILIES.items())
def test_a2_each_stage_finds_its_familys_further_folders(stage, family, three_families):
    for number in (1, 2):
        config = config_of(Request(stage, (f"model=only_{family}{number}",)))
        assert config.model.dimensions == "2D"


@pytest.mark.parametrize("name", FAMILIES.values())
def test_a2_a_variable_that_is_unset_or_empty_is_no_error(name, home, monkeypatch):
    before = compose(Request(DIGITS))
    monkeypatch.setenv(f"ASPARAGUS_{name}_CONFIGS", "")
    assert compose(Request(DIGITS)) == before


def test_a2_a_folder_of_a_list_that_is_not_there_is_no_error(home, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_TRAIN_CONFIGS", f"{home}/nowhere:{home}/there")
    write(home / "there" / "model" / "mine.yaml", "dimensions: 2D\n")
    assert config_of(Request("train_cls", ("model=mine",))).model.dimensions == "2D"


@pytest.mark.parametrize("stage", FAMILIES)
@pytest.mark.parametrize("family", FAMILIES.values())
def test_a3_a_stage_does_not_see_the_folders_of_another_family(stage, family, three_families):
    if FAMILIES[stage] == family:
        return
    with pytest.raises(ConfigError, match=f"'only_{family}1' is not known"):
        config_of(Request(stage, (f"model=only_{family}1",)))


def test_a3_the_first_of_two_folders_wins_on_a_name_clash(three_families):
    assert config_of(Request("train_cls", ("model=clash",))).model.cls_net._target_ == "from.TRAIN1"


def test_a3_the_primary_folder_wins_on_a_name_clash(three_families):
    write(three_families / "configs" / "model" / "clash.yaml", "cls_net: {_target_: from.primary}\n")
    for stage in FAMILIES:
        assert config_of(Request(stage, ("model=clash",))).model.cls_net._target_ == "from.primary"


@pytest.mark.parametrize(("stage", "family"), FAMILIES.items())
def test_a3_another_config_of_a_command_is_looked_for_in_that_commands_family(stage, family, three_families, capsys):
    assert run("launch", [stage, "--config-name", "common", "--cfg", "job"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["run"]["name"] == f"{family}1"


def test_a3_a_command_does_not_find_a_config_of_another_family(three_families, capsys):
    said = wrong(capsys, "finetune_cls", "--config-name", "own_PRETRAIN1", "--cfg", "job")
    assert "own_PRETRAIN1" in said


def test_a4_runs_go_to_models_and_the_record_to_results_and_nowhere_else(home, data_root, monkeypatch, capsys):
    monkeypatch.setenv("ASPARAGUS_SOURCE", str(home / "raw"))
    monkeypatch.setenv("ASPARAGUS_RESULTS", str(home / "out"))
    before = files_under(data_root)
    outcome = outcome_of(capsys, DIGITS, *SMALL)
    assert outcome["folder"] == f"{home}/models/Task001_Digits/train_cls/run_id={outcome['run_id']}"
    assert (home / "out" / "mlflow.db").is_file()
    assert files_under(data_root) == before
    assert {path.name for path in home.iterdir()} == {"models", "out"}


# A16 to A26: configs and the command line


def test_a16_cfg_job_prints_the_config_and_runs_nothing(home, capsys):
    before = files_under(home)
    assert run("launch", ["pretrain", *README_LINE, "--cfg", "job"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["task"], shown["model"]["dimensions"]) == ("Task998_LauritSyn", "2D")
    assert "hydra" not in shown
    assert files_under(home) == before


def test_a16_what_cfg_job_prints_is_a_config_that_gives_the_same_plan(home, capsys):
    assert run("launch", [DIGITS, "optim.lr=0.5", "--cfg", "job"]) == 0
    write(home / "printed.yaml", capsys.readouterr().out)
    assert plan_of("printed.yaml") == plan_of(DIGITS, ["optim.lr=0.5"])


@pytest.mark.parametrize("option", ["--config-name", "-cn"])
@pytest.mark.parametrize("place", ["configs", "further"])
def test_a17_config_name_switches_the_config(option, place, home, monkeypatch, capsys):
    monkeypatch.setenv("ASPARAGUS_TRAIN_CONFIGS", str(home / "further"))
    write(home / place / "name_of_config.yaml", "defaults: [train_cls, _self_]\nseed: 77\n")
    assert run("launch", ["train_cls", option, "name_of_config", "--cfg", "job"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 77


def test_a17_an_unknown_config_name_is_named_with_the_nearest_known_one(home, capsys):
    assert "Did you mean 'train_cls'?" in wrong(capsys, "pretrain", "--config-name", "train_clz")


def test_a18_a_group_is_added_from_the_command_line(volumes):
    plan = plan_of("pretrain", [*README_LINE, GPUS])
    spec = plan.spec
    shelf = yaml.safe_load((SHIPPED / "model" / "unet_b_lw_dec.yaml").read_text())
    assert (spec.stage, spec.task) == ("pretrain", "Task998_LauritSyn")
    assert spec.model["pretrain_net"] == {"_target_": shelf["pretrain_net"]["_target_"], "features": shelf["features"]}
    assert spec.model["dimensions"] == "2D"
    assert spec.plugins["online_segmentation"]["task"] == "Task997_LauritSynSeg"
    assert spec.plugins["online_segmentation"]["net"] == spec.model["plugin_seg_net"]
    assert (spec.trainer["accelerator"], spec.trainer["precision"]) == ("gpu", "16-mixed")
    assert (plan.workers, spec.data["num_workers"]) == (0, 8)


def test_a18_the_readmes_line_is_planned_by_the_command(volumes, capsys):
    assert run("launch", ["pretrain", *README_LINE, GPUS, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "Task998_LauritSyn" in said
    assert "beside it   online_segmentation" in said


def test_a18_without_a_gpu_the_readmes_line_says_what_to_give_instead(volumes, capsys):
    said = wrong(capsys, "pretrain", *README_LINE, "site.gpus_per_node=0")
    assert said.startswith("error: trainer.accelerator: gpu")
    assert "hardware=cpu" in said


def test_a18_the_readmes_line_trains_and_tries_the_plugin(volumes, capsys):
    line = [word.replace("1gpu", "cpu") for word in README_LINE]
    words = ("model.features=[4,8]", "data.patch_size=[16,16]", "plugins.online_segmentation.every_n_epochs=1")
    outcome = outcome_of(capsys, "pretrain", *line, *words, *SMALL)
    assert outcome["state"] == "finished"
    assert any(name.startswith("online_seg") for name in outcome["metrics"]), outcome["metrics"]


def test_a18_the_folders_of_the_readme_are_searched(home, laurit, monkeypatch):
    """`CONFIG_DIR/pretrain.yaml`, `hardware/`, `model/`, and the plugin in the folder that its tree calls `plugin/`."""
    monkeypatch.setenv("ASPARAGUS_DATA", str(laurit))
    configs = home / "configs"
    write(configs / "pretrain.yaml", (SHIPPED / "pretrain.yaml").read_text() + "seed: 998\n")
    shelf = {"hardware/1gpu": "hardware", "model/unet_b_lw_dec": "model", "plugins/seg_Task997": "plugin"}
    for shipped, folder in shelf.items():
        text = (SHIPPED / f"{shipped}.yaml").read_text()
        write(configs / folder / f"{Path(shipped).name}.yaml", text)
    line = [word.replace("+plugins=", "+plugin=") for word in README_LINE]
    spec = plan_of("pretrain", [*line, GPUS]).spec
    assert spec.seed == 998
    assert spec == plan_of("pretrain", [*README_LINE, GPUS]).spec


HEADER = "# @package _global_\ndefaults:\n  - /pretrain\n"
REST = "  - _self_\ntask: Task998_LauritSyn\n"


def in_projects(home: Path, defaults: str, rest: str = "model:\n  dimensions: 2D\n") -> str:
    write(home / "configs" / "projects" / "like_the_readme.yaml", HEADER + defaults + REST + rest)
    return "projects/like_the_readme"


def test_a19_the_defaults_list_gives_the_same_as_the_command_line(volumes):
    plan = plan_of(in_projects(volumes, README_DEFAULTS), [GPUS])
    assert plan == plan_of("pretrain", [*README_LINE, GPUS])


@pytest.mark.parametrize("key", ["plugin", "plugins"])
def test_a19_plugin_and_plugins_are_the_same_key(key, volumes):
    defaults = README_DEFAULTS.replace("@plugin", f"@{key}")
    plan = plan_of(in_projects(volumes, defaults), [GPUS])
    assert plan == plan_of("pretrain", [*README_LINE, GPUS])


def test_a19_an_override_still_wins_over_the_defaults_list(volumes):
    spec = plan_of(in_projects(volumes, README_DEFAULTS), [GPUS, "model.dimensions=3D", "hardware.num_workers=3"]).spec
    assert (spec.model["dimensions"], spec.data["num_workers"]) == ("3D", 3)


def test_a19_the_defaults_list_may_be_changed_on_the_command_line(volumes):
    plan = plan_of(in_projects(volumes, README_DEFAULTS, ""), ["hardware@hardware=cpu"])
    assert plan.spec.trainer["accelerator"] == "cpu"


def test_a20_the_models_dimensions_are_3d_unless_said_otherwise(volumes):
    line = [word for word in README_LINE if not word.startswith("model.dimensions")]
    model = plan_of("pretrain", [*line, GPUS]).spec.model
    documented = {"pretrain_net", "seg_net", "cls_net", "plugin_seg_net", "plugin_seg_train_n_last_params"}
    assert model["dimensions"] == "3D"
    assert documented <= model.keys()


def test_a21_every_stage_starts_from_core_base(home):
    base = yaml.safe_load((SHIPPED / "core" / "base.yaml").read_text())
    del base["defaults"]
    for stage in ("pretrain", "train_seg", "train_cls", "finetune_seg", "finetune_cls", "train", "finetune"):
        shown = yaml.safe_load(config_as_yaml(config_of(Request(stage))))
        assert {key: shown[key] for key in base if key != "stage"} == {
            key: value for key, value in base.items() if key != "stage"
        }


def test_a21_a_core_base_of_ones_own_is_used_by_every_stage(home):
    text = (SHIPPED / "core" / "base.yaml").read_text().replace("seed: 42", "seed: 4242")
    write(home / "configs" / "core" / "base.yaml", text)
    for stage in ("pretrain", "train_cls", "finetune_seg", DIGITS):
        assert config_of(Request(stage)).seed == 4242


@pytest.mark.parametrize(("devices", "processes", "each"), [(1, 12, 12), (2, 24, 12), (2, 5, 2), (8, 64, 8)])
def test_a21_loader_processes_are_shared_by_the_devices_of_a_node(devices, processes, each, home):
    words = (f"hardware.num_devices={devices}", f"hardware.num_workers={processes}", "+hardware=1gpu")
    assert compose(Request(DIGITS, words)).data["num_workers"] == each


@pytest.mark.parametrize(
    "command",
    [
        "asp_split",
        "asp_pretrain",
        "asp_finetune_seg",
        "asp_finetune_cls",
        "asp_train_seg",
        "asp_train_cls",
        "asp_getid",
        "asp_train_reg",
        "asp_finetune_reg",
        "asp_test_seg",
        "asp_test_cls",
        "asp_test_reg",
        "asp_linear_probe",
        "asp_eval_box_run",
        "asp_eval_box_prepare_data",
        "asp_eval_box_collect_results",
    ],
)
def test_a22_the_documented_commands_are_installed(command):
    installed = {script.name: script for script in importlib.metadata.entry_points(group="console_scripts")}
    assert callable(installed[command].load())


@pytest.mark.parametrize("longer", ["experiment.task", "+experiment.task"])
def test_a23_task_has_a_longer_form(longer, volumes):
    assert plan_of("pretrain", [f"{longer}=Task998_LauritSyn"]) == plan_of("pretrain", ["task=Task998_LauritSyn"])


def test_a23_the_longer_form_may_stand_in_a_file(volumes):
    write(volumes / "mine.yaml", "defaults: [pretrain, _self_]\nexperiment:\n  task: Task998_LauritSyn\n")
    assert plan_of("mine.yaml").spec == plan_of("pretrain", ["task=Task998_LauritSyn"]).spec


def test_a23_both_forms_with_the_same_value_are_no_error(volumes):
    both = ["task=Task998_LauritSyn", "experiment.task=Task998_LauritSyn"]
    assert plan_of("pretrain", both).spec.task == "Task998_LauritSyn"


def test_a23_both_forms_with_different_values_are_refused(volumes, capsys):
    said = wrong(capsys, "pretrain", "task=Task998_LauritSyn", "experiment.task=Task997_LauritSynSeg")
    for part in ("experiment.task", "'Task997_LauritSynSeg'", "'Task998_LauritSyn'", "same key"):
        assert part in said


@pytest.mark.parametrize("command", ["finetune_seg", "finetune_cls"])
def test_a23_the_readmes_lines_for_finetuning_compose(command, home):
    words = ("experiment.task=Task997_LauritSynSeg", "experiment.pretrained_run_id=532")
    spec = compose(Request(command, words))
    assert (spec.task, spec.init_from) == ("Task997_LauritSynSeg", "run:532/last")


def test_a24_random_draws_between_its_bounds_and_anew_each_time(home):
    drawn = {compose(Request(DIGITS, ("seed=${random:1,1000000}",))).seed for _ in range(5)}
    assert len(drawn) > 1
    assert all(1 <= seed <= 1_000_000 for seed in drawn)
    assert {compose(Request(DIGITS, ("seed=${random:3,4}",))).seed for _ in range(20)} == {3, 4}


def test_a24_a_number_that_was_drawn_is_drawn_once_and_recorded(home):
    words = ["seed=${random:0,1000000}", "run.name=seed-${seed}", "data.fold=0", "data.batch_size=${random:1,1}"]
    plan = plan_of(DIGITS, words)
    assert plan.spec.run.name == f"seed-{plan.spec.seed}"
    assert type(plan.spec.seed) is int
    assert json.loads(plan.to_json())["spec"]["seed"] == plan.spec.seed


def test_a24_the_documented_run_id_is_drawn(home):
    write(home / "mine.yaml", "defaults: [experiment/digits, _self_]\nrun_id: ${random:1,1000000}\n")
    assert 1 <= compose(Request("mine.yaml")).run.id <= 1_000_000


@pytest.mark.parametrize(
    ("written", "advice"),
    [("${eval:'1+1'}", "Configs do not compute"), ("${version:true,x}", "Run numbers are drawn by the launcher")],
)
def test_a24_resolvers_that_are_no_more_say_what_is_instead(written, advice, home, capsys):
    write(home / "mine.yaml", f"defaults: [experiment/digits, _self_]\nseed: {json.dumps(written)}\n")
    said = wrong(capsys, "mine.yaml")
    assert said.startswith("error: seed: ")
    assert advice in said
    assert "mine.yaml:2" in said


@pytest.mark.parametrize(
    "option", ["1gpu", "1gpu12cpu", "1gpu40cpu", "2gpus", "1node8gpus", "2nodes2gpus", "cpu", "osx"]
)
def test_a25_every_documented_hardware_is_on_the_shelf(option, home):
    shown = yaml.safe_load(config_as_yaml(config_of(Request(DIGITS, (f"+hardware={option}",)))))["hardware"]
    assert {"accelerator", "num_nodes", "num_devices", "num_workers", "precision"} <= shown.keys()


def test_a25_a_folder_of_projects_is_launched_by_name(home, capsys):
    write(
        home / "configs/projects/mine/first.yaml",
        "# @package _global_\ndefaults: [/experiment/digits, _self_]\nseed: 5\n",
    )
    assert run("launch", ["projects/mine/first", "--dry-run"]) == 0
    assert plan_of("projects/mine/first").spec.seed == 5


@pytest.mark.parametrize(
    ("option", "workers", "gpus", "precision", "processes"),
    [
        ("cpu", 0, 0, "32-true", 0),
        ("1gpu", 0, 0, "16-mixed", 8),
        ("1gpu12cpu", 0, 0, "16-mixed", 12),
        ("2gpus", 2, 1, "16-mixed", 12),
        ("1node8gpus", 8, 1, "bf16-mixed", 8),
        ("2nodes2gpus", 4, 1, "16-mixed", 12),
    ],
)
def test_a26_hardware_becomes_workers_and_trainer_arguments(option, workers, gpus, precision, processes, home):
    roomy = ("site.nodes=2", "site.cpus_per_node=8", GPUS)
    plan = plan_of(DIGITS, [f"+hardware={option}", *roomy])
    assert (plan.workers, plan.gpus_per_worker) == (workers, gpus)
    assert (plan.spec.trainer["precision"], plan.spec.data["num_workers"]) == (precision, processes)


@pytest.mark.parametrize("option", ["2gpus", "1node8gpus", "2nodes2gpus"])
def test_a26_the_strategy_is_passed_on(option, home):
    assert compose(Request(DIGITS, (f"+hardware={option}",))).trainer["strategy"] == "ddp"
    other = ("hardware.strategy=ddp_find_unused_parameters_true", f"+hardware={option}")
    assert compose(Request(DIGITS, other)).trainer["strategy"] == "ddp_find_unused_parameters_true"


def test_a26_the_strategy_reaches_the_trainer(home, tmp_path, monkeypatch, capsys):
    module(tmp_path, monkeypatch, "watching", WATCHING)
    words = ("+hardware=cpu", "hardware.strategy=ddp", "callbacks.look={_target_: watching.Look, file: seen.txt}")
    outcome_of(capsys, DIGITS, *words, *SMALL)
    assert (home / "seen.txt").read_text() == "DDPStrategy"


def test_a26_a_compile_mode_reaches_the_network(home):
    words = [DIGITS, "+hardware=cpu", "hardware.compile_mode=default"]
    _, plain, _ = load_from_config(load_config(words[:-1]))
    _, compiled, _ = load_from_config(load_config(words))
    assert plain.net._compiled_call_impl is None
    assert compiled.net._compiled_call_impl is not None


def test_a26_an_unknown_hardware_key_is_named(home, capsys):
    said = wrong(capsys, DIGITS, "+hardware=cpu", "hardware.num_device=2")
    assert "num_device" in said
    assert "Did you mean 'num_devices'?" in said


# A49 to A51: code of one's own


def module(folder: Path, monkeypatch, name: str, text: str) -> None:
    """Write a module of the user's own and put its folder on the path."""
    write(folder / "own_code" / Path(*name.split(".")).with_suffix(".py"), text)
    monkeypatch.syspath_prepend(str(folder / "own_code"))
    top = name.partition(".")[0]
    for known in [known for known in sys.modules if known.partition(".")[0] == top]:
        monkeypatch.delitem(sys.modules, known)


WATCHING = """
from pathlib import Path
import pytorch_lightning as pl

class Look(pl.Callback):
    def __init__(self, file):
        self.file = file

    def on_train_start(self, trainer, pl_module):
        Path(self.file).write_text(type(trainer.strategy).__name__)
"""

FANCY = """
import pytorch_lightning as pl
import torch
from torch import nn

class MyFancyLightningModule(pl.LightningModule):
    def __init__(self, lr=0.01, width=32):
        super().__init__()
        self.lr = lr
        self.fancy = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self._loss(batch))
        self.log("fancy", 7.0)

    def _loss(self, batch):
        images, labels = (batch["image"], batch["label"]) if isinstance(batch, dict) else batch
        return nn.functional.cross_entropy(self.fancy(images), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class AnotherLightningModule(MyFancyLightningModule):
    pass
"""

README_MODULE = """\
model:
  net: MyFancyLightningModule
  _model:
    _target_: my.own.local.repo.${model.net}
"""
OF_DIGITS = "task: Task001_Digits\ncheckpoint: {monitor: val/loss, mode: min}\ntrainer: {max_epochs: 1}\n"


@pytest.fixture
def own_repo(tmp_path, monkeypatch) -> None:
    module(tmp_path, monkeypatch, "my.own.local.repo", FANCY)


TRAIN_CLS = "defaults:\n  - train_cls\n  - override /model: mlp\n  - override /data: images\n  - _self_\n"
TRAIN = "defaults:\n  - train\n  - /data: images\n  - _self_\ndata: {kind: cls}\n"


@pytest.mark.parametrize("defaults", [TRAIN_CLS, TRAIN], ids=["train_cls", "train"])
def test_a49_a_module_of_ones_own_trains_as_the_readme_names_it(defaults, home, own_repo, capsys):
    write(home / "mine.yaml", defaults + README_MODULE + OF_DIGITS)
    outcome = outcome_of(capsys, "mine.yaml")
    assert outcome["metrics"]["fancy"] == 7.0
    assert Path(outcome["checkpoint"]).is_dir()
    saved = yaml.safe_load((Path(outcome["folder"]) / "config.yaml").read_text())
    assert saved["model"]["module"] == {"_target_": "my.own.local.repo.MyFancyLightningModule"}


def test_a49_what_its_data_need_is_said_before_anything_starts(home, own_repo, capsys):
    write(home / "mine.yaml", TRAIN.replace("data: {kind: cls}\n", "") + README_MODULE + OF_DIGITS)
    assert "data.kind: is missing" in wrong(capsys, "mine.yaml")
    said = wrong(capsys, "train_cls", "task=Task001_Digits", "data=images")
    assert "model.dimensions: 3D does not fit Task001_Digits" in said


def test_a49_it_is_built_with_its_arguments_and_can_be_switched(home, own_repo):
    write(home / "mine.yaml", "defaults: [experiment/digits, _self_]\n" + README_MODULE + "    width: 48\n" + OF_DIGITS)
    _, built, _ = load_from_config(load_config(["mine.yaml"]))
    assert (type(built).__name__, built.fancy[1].out_features) == ("MyFancyLightningModule", 48)
    _, other, _ = load_from_config(load_config(["mine.yaml", "model.net=AnotherLightningModule"]))
    assert type(other).__name__ == "AnotherLightningModule"


def test_a49_it_may_be_named_on_the_command_line(home, own_repo):
    words = ["model.net=MyFancyLightningModule", "model._model._target_=my.own.local.repo.${model.net}"]
    plan = plan_of(DIGITS, words)
    assert plan.spec.model["module"]["_target_"] == "my.own.local.repo.MyFancyLightningModule"


def test_a49_it_may_be_named_in_a_core_base_of_ones_own(home, own_repo):
    """ "Go into /configs/core/base and change the relevant path to one of your liking."""
    write(home / "configs" / "core" / "base.yaml", (SHIPPED / "core" / "base.yaml").read_text() + README_MODULE)
    _, built, _ = load_from_config(load_config([DIGITS]))
    assert type(built).__name__ == "MyFancyLightningModule"


def test_a49_a_module_that_is_not_there_is_named_before_anything_starts(home, own_repo, capsys):
    words = ("model.net=MyFancyLightningModul", "model._model._target_=my.own.local.repo.${model.net}")
    said = wrong(capsys, DIGITS, *words)
    assert "MyFancyLightningModul" in said
    assert "Did you mean 'MyFancyLightningModule'?" in said


def test_a49_an_argument_that_it_does_not_take_is_named(home, own_repo, capsys):
    write(
        home / "mine.yaml", "defaults: [experiment/digits, _self_]\n" + README_MODULE + "    widthh: 48\n" + OF_DIGITS
    )
    said = wrong(capsys, "mine.yaml")
    assert "widthh" in said
    assert "Did you mean 'width'?" in said
    assert "mine.yaml:6" in said


OWN_DATA = """
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

class MyDataModule(pl.LightningDataModule):
    def __init__(self, batch_size=4, length=16):
        super().__init__()
        self.batch_size, self.length = batch_size, length

    def _loader(self):
        images = torch.arange(self.length * 64.0).reshape(self.length, 1, 8, 8) / 1000
        return DataLoader(TensorDataset(images, torch.arange(self.length) % 10), self.batch_size)

    train_dataloader = val_dataloader = _loader
"""


@pytest.fixture
def own_data(tmp_path, monkeypatch, own_repo) -> None:
    module(tmp_path, monkeypatch, "my_data", OWN_DATA)


def test_a50_a_data_module_of_ones_own_needs_no_task_folder(home, own_data, monkeypatch, capsys):
    monkeypatch.setenv("ASPARAGUS_DATA", str(home / "there is none"))
    text = "defaults: [train, _self_]\n" + README_MODULE
    text += "data: {_target_: my_data.MyDataModule, batch_size: 4, length: 20}\n"
    write(home / "mine.yaml", text + OF_DIGITS.replace("Task001_Digits", "MyStudy"))
    outcome = outcome_of(capsys, "mine.yaml")
    assert Path(outcome["checkpoint"]).name == "epoch=0-step=5"
    assert Path(outcome["folder"]).parent == home / "models" / "MyStudy" / "train"


def test_a50_data_of_ones_own_may_be_named_on_the_command_line(home, own_data):
    data = "data={_target_: my_data.MyDataModule, length: 8}"
    words = ["model.module={_target_: my.own.local.repo.MyFancyLightningModule}", "trainer.max_epochs=1"]
    _, _, built = load_from_config(load_config(["train", "task=MyStudy", data, *words]))
    assert (type(built).__name__, built.length) == ("MyDataModule", 8)


def test_a50_its_arguments_are_checked(home, own_data, capsys):
    said = wrong(capsys, "train", "task=X", "data={_target_: my_data.MyDataModule, lenngth: 8}", "trainer.max_epochs=1")
    assert "data.lenngth" in said
    assert "Did you mean 'length'?" in said


def test_a51_get_config_path_is_the_folder_of_ones_own_configs(home, monkeypatch):
    (home / "mine").mkdir()
    monkeypatch.setenv("ASPARAGUS_CONFIGS", str(home / "mine"))
    assert get_config_path() == str(home / "mine")


MY_TRAIN = """\
import json

import hydra
from omegaconf import DictConfig

import asparagus
from asparagus.paths import get_config_path


@hydra.main(
    config_path=get_config_path(),
    config_name="{config}",
    version_base="1.2",
)
def train(cfg: DictConfig) -> None:
    outcome = asparagus.launch(cfg)
    print(json.dumps({{"seed": cfg.seed, **outcome.to_dict()}}))


if __name__ == "__main__":
    train()
"""


def python(home: Path, *words: str, status: int = 0) -> str:
    """Run a script of the user's own as a process, as they would."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=home,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout


def test_a51_a_train_script_of_ones_own_gets_number_folder_resolvers_and_shipped_configs(home):
    write(home / "MyTrain.py", MY_TRAIN.format(config="train_cls"))
    words = ("task=Task001_Digits", "model=mlp", "data=images", "optim=adam", "seed=${random:100000,200000}")
    said = python(
        home, "MyTrain.py", *words, "trainer.max_epochs=1", "+run.name=${task}-${secret_free}", "+secret_free=x"
    )
    outcome = json.loads(said.splitlines()[-1])
    folder = Path(outcome["folder"])
    assert (outcome["state"], outcome["run_id"]) == ("finished", 1)
    assert folder == home / "models" / "Task001_Digits" / "train_cls" / "run_id=1"
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["model"]["cls_net"]["_target_"] == "asparagus.models.mlp.MLP"
    assert saved["site"]["name"] == "local"
    assert 100_000 <= saved["seed"] <= 200_000
    assert saved["run"]["name"] == "Task001_Digits-x"
    assert "###RUN-ID=1###" in (folder / "train_cls.log").read_text()
    recorded = Store(f"sqlite:///{home}/results/mlflow.db").run_of(1)
    assert recorded.info.run_id == outcome["mlflow_run_id"]
    assert recorded.data.params["optim.name"] == "adam"


def test_a51_the_script_can_be_pointed_to_another_config_of_ones_own(home):
    write(home / "MyTrain.py", MY_TRAIN.format(config="train"))
    text = "# @package _global_\ndefaults: [/experiment/digits, _self_]\nseed: 51\n"
    write(home / "configs" / "projects" / "mine.yaml", text)
    shown = yaml.safe_load(python(home, "MyTrain.py", "--config-name", "projects/mine", "--cfg", "job"))
    assert (shown["seed"], shown["task"]) == (51, "Task001_Digits")
    assert shown["trainer"]["max_epochs"] == 5


def test_a51_the_script_finds_the_further_folders(home, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_TRAIN_CONFIGS", str(home / "further"))
    write(home / "further" / "model" / "mine.yaml", "dimensions: 2D\n")
    write(home / "MyTrain.py", MY_TRAIN.format(config="train_cls"))
    shown = yaml.safe_load(python(home, "MyTrain.py", "model=mine", "--cfg", "job"))
    assert shown["model"] == {"dimensions": "2D"}


SCRIPT = """
from pathlib import Path

def twice(trainer, module, datamodule, ckpt_path=None, note="", folder="."):
    trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path)
    seen = trainer.validate(module, datamodule=datamodule, verbose=False)
    Path(folder, "seen.txt").write_text(f"{note} {sorted(seen[0])}")
"""


def test_a51_a_function_of_ones_own_trains_with_number_lineage_and_record(home, tmp_path, monkeypatch, capsys):
    module(tmp_path, monkeypatch, "my_script", SCRIPT)
    parent = outcome_of(capsys, DIGITS, *SMALL)
    script = f"script={{_target_: my_script.twice, note: mine, folder: {tmp_path}}}"
    words = ("task=Task001_Digits", "model=mlp", "data=images", f"pretrained_run_id={parent['run_id']}", script)
    child = outcome_of(capsys, "finetune_cls", *words, *SMALL)
    assert (tmp_path / "seen.txt").read_text().startswith("mine ['val/")
    assert child["run_id"] > parent["run_id"]
    assert child["init_from"] == {"run_id": parent["run_id"], "checkpoint": parent["checkpoint"]}
    log = (Path(parent["folder"]) / "derived_models.log").read_text()
    assert log == f"{child['run_id']}, {child['folder']}\n"
    recorded = Store(f"sqlite:///{home}/results/mlflow.db").run_of(child["run_id"])
    assert recorded.info.status == "FINISHED"
    assert recorded.data.tags["asparagus.init_from.run_id"] == str(parent["run_id"])
    assert recorded.data.metrics["val/accuracy"] == pytest.approx(child["metrics"]["val/accuracy"])
    assert Path(child["checkpoint"]).is_dir()


def test_a51_a_script_that_is_not_there_is_named(home, tmp_path, monkeypatch, capsys):
    module(tmp_path, monkeypatch, "my_script", SCRIPT)
    said = wrong(capsys, DIGITS, "script={_target_: my_script.twise}")
    assert "Did you mean 'twice'?" in said


def test_a51_an_argument_that_the_script_does_not_take_is_named(home, tmp_path, monkeypatch, capsys):
    module(tmp_path, monkeypatch, "my_script", SCRIPT)
    assert "script.notes" in wrong(capsys, DIGITS, "script={_target_: my_script.twice, notes: x}")
