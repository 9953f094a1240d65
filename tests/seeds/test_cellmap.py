"""CellMap's promises (SEEDS E1, E2, E46, and the names of E3 to E22): a training config written in Python."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml

import asparagus
from asparagus.check.parent import resolve_parent
from asparagus.checkpoint.folder import MANIFEST, STATE, manifests, pick
from asparagus.checkpoint.load import load_best, load_latest
from asparagus.checkpoint.transfer import read_weights
from asparagus.cli.main import run
from asparagus.compose import Request, compose
from asparagus.errors import ConfigError, RunError
from asparagus.journal import JournalReader
from asparagus.spec import Spec
from asparagus.submit import submit

DIGITS = """
stage = "train_cls"
task = "Task001_Digits"
learning_rate = 3e-3
batch_size = 32
epochs = 1
iterations_per_epoch = 5
input_array_info = {"shape": (1, 8, 8), "scale": (8, 8, 8)}
"""
NETWORK = """
from torch import nn

model_name = "mine"
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""
BUILT_IN = 'model = {"net": {"_target_": "asparagus.models.mlp.MLP", "hidden": [8]}}\n'
EXAMPLE = """
model_save_path = "checkpoints/{model_name}_{epoch}.pth"
logs_save_path = "tensorboard/{model_name}"
learning_rate = 0.0001
batch_size = 8
input_array_info = {"shape": (1, 128, 128), "scale": (8, 8, 8)}
epochs = 1000
iterations_per_epoch = 1000
random_seed = 42
model_name = "2d_unet"
model_to_load = "2d_unet"
model_kwargs = {}
load_model = "latest"
device = None
validation_batch_limit = None
"""
"""What the documents name, at the defaults that they give, less what only their data module can do."""


@pytest.fixture
def config(home):
    """Return a function that writes a training config into a folder of its own and returns its path."""

    def write(text: str, name: str = "train_2D.py", folder: str = "examples") -> str:
        (home / folder).mkdir(exist_ok=True)
        (home / folder / name).write_text(text)
        return str(home / folder / name)

    return write


@pytest.fixture
def made(config):
    """Return a function from what a file says, and overrides, to the spec."""

    def spec(text: str, *words: str) -> Spec:
        return compose(Request(config(text), words))

    return spec


@pytest.fixture
def problems(config):
    """Return a function from what a file says, and overrides, to what is wrong with it."""

    def said(text: str, *words: str) -> str:
        with pytest.raises(ConfigError) as caught:
            asparagus.plan_of(config(text), words)
        return str(caught.value)

    return said


def get(spec: Spec, key: str) -> Any:
    node: Any = spec.to_dict()
    for part in key.split("."):
        node = node[part]
    return node


def line_of(text: str, start: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), start=1) if line.startswith(start))


# The command (E1)


def test_e1_a_path_is_trained_from_anywhere_and_its_own_paths_are_relative_to_its_folder(config, home, asp):
    (home / "examples").mkdir()
    (home / "examples" / "width.txt").write_text("64")
    (home / "examples" / "neighbour.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, width):\n        super().__init__()\n"
        "        self.linear = nn.Linear(width, 10)\n\n    def forward(self, x):\n"
        "        return self.linear(x.flatten(1))\n"
    )
    text = (
        'from pathlib import Path\n\nfrom neighbour import Net\n\nmodel = Net(int(Path("width.txt").read_text()))\n'
        'model_name = "neighbours"\nlogs_save_path = "tensorboard/{model_name}"\n'
    )
    config(DIGITS + text)
    done = asp("asp-launch", "examples/train_2D.py", "--json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["state"] == "finished"
    assert 0 < outcome["metrics"]["val/accuracy"] < 1
    assert list((home / "examples" / "tensorboard" / "neighbours").rglob("events*"))
    assert Path(outcome["folder"]).is_relative_to(home / "models")
    assert sorted(path.name for path in home.iterdir() if path.name == "tensorboard") == []

    again = asp("asp", "rerun", str(outcome["run_id"]), "--json")
    assert again.returncode == 0, again.stderr
    repeated = json.loads(again.stdout.splitlines()[-1])
    assert repeated["run_id"] != outcome["run_id"]
    assert repeated["metrics"] == pytest.approx(outcome["metrics"])


@pytest.mark.parametrize("words", [["nowhere/train_2D.py"], ["-cn", "nowhere.py"], ["nowhere.py", "--info"]])
def test_e1_a_path_that_is_not_there_is_status_2(words, home, capsys):
    assert run("launch", words) == 2
    said = capsys.readouterr().err
    assert "no such file" in said
    assert "Traceback" not in said


def test_e1_paths_inside_the_file_are_absolute_and_relative_to_its_folder(made, home):
    (home / "examples").mkdir()
    torch.save({"weight": torch.zeros(1)}, home / "examples" / "weights.pt")
    text = DIGITS + BUILT_IN + 'stage = "train"\ninit_from = "file:weights.pt"\ndata = {"root": "here"}\n'
    spec = made(text + 'datasplit_path = "splits/mine.csv"\nrun = {"resume_from_checkpoint": "x.ckpt"}\n')
    folder = home / "examples"
    assert spec.data["datasplit_path"] == str(folder / "splits" / "mine.csv")
    assert spec.data["root"] == str(folder / "here")
    assert spec.run.resume_from_checkpoint == str(folder / "x.ckpt")
    assert resolve_parent(str(spec.init_from), home, None).parent.checkpoint == str(folder / "weights.pt")


def test_e1_paths_on_the_command_line_are_relative_to_where_it_is_typed(made, home):
    spec = made(DIGITS + BUILT_IN, "data.root=here")
    assert spec.data["root"] == str(home / "here")


def test_e1_the_working_directory_is_left_as_it_was(made, home):
    made(DIGITS + BUILT_IN)
    with pytest.raises(ConfigError):
        made(DIGITS + "1 / 0\n")
    assert Path.cwd() == home
    assert str(home / "examples") not in sys.path


@pytest.mark.parametrize("how", ["relative", "own folder", "absolute"])
def test_e1_the_file_is_found_however_its_path_is_given(how, config, home, monkeypatch):
    path = config(DIGITS + BUILT_IN)
    if how == "own folder":
        monkeypatch.chdir(home / "examples")
    given = {"relative": "examples/train_2D.py", "own folder": "train_2D.py", "absolute": path}[how]
    assert compose(Request(given)).task == "Task001_Digits"


def test_e1_a_check_puts_a_batch_through_the_network_of_the_file(config, home, capsys):
    text = DIGITS + NETWORK + "assert float(model[1].weight.abs().sum()) > 0\n"
    assert run("launch", [config(text), "--check"]) == 0
    assert "BAD" not in capsys.readouterr().out
    assert not (home / "models").exists()


def test_e1_a_dry_run_prints_the_plan_and_starts_nothing(config, home, capsys):
    assert run("launch", [config(DIGITS + NETWORK), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    for part in ("train_cls", "Task001_Digits", "radam, lr 0.003", "max_epochs=1", "32 per worker"):
        assert part in shown
    assert not (home / "models").exists()


def test_e1_python_and_its_own_file_trains_it(config, home):
    text = DIGITS + NETWORK + 'if __name__ == "__main__":\n    import asparagus\n\n    asparagus.launch(__file__)\n'
    config(text)
    done = subprocess.run(
        [sys.executable, "train_2D.py"], capture_output=True, text=True, timeout=240, cwd=home / "examples", check=False
    )
    assert done.returncode == 0, done.stderr
    states = [json.loads(file.read_text())["state"] for file in (home / "models").rglob("run.json")]
    assert states == ["finished"]


# The file (E2)


def test_e2_unknown_names_are_ignored(made):
    text = (
        "import json\nimport logging\nfrom collections import defaultdict\nfrom torch import optim\n\n"
        "logger = logging.getLogger('mine')\nhelper = {'a': object()}\nepoch = 7\nfilter_by_scale = True\n"
        "_private = object()\n\n\ndef data():\n    return 3\n\n\nclass loss:\n    pass\n"
    )
    assert made(text + DIGITS + BUILT_IN) == made(DIGITS + BUILT_IN)


def test_e2_a_network_built_in_the_file_is_the_one_that_is_trained(config):
    outcome = asparagus.launch(config(DIGITS + NETWORK))
    weights = next(Path(str(outcome.checkpoint)).glob("*.ckpt"))
    state = torch.load(weights, weights_only=True)["state_dict"]
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "net.1.weight": (10, 64),
        "net.1.bias": (10,),
    }
    written = yaml.safe_load((Path(outcome.folder) / "config.yaml").read_text())
    assert written["run"]["label"] == "mine"
    assert written["optim"]["lr"] == 3e-3


def test_e2_a_network_built_in_the_file_begins_as_the_seed_says(config):
    def first_weights(text: str, *words: str) -> list[float]:
        torch.rand(3)  # whatever ran before
        _, module, _ = asparagus.load_from_config(asparagus.plan_of(config(text), words).spec)
        return module.net[1].weight[0, :3].tolist()

    once = first_weights(DIGITS + NETWORK)
    assert first_weights(DIGITS + NETWORK + "# the same file, read anew\n") == once
    assert first_weights(DIGITS + NETWORK, "seed=7") != once


def test_e2_weights_that_the_file_loads_are_kept(config, home):
    (home / "examples").mkdir()
    torch.save(torch.full((10, 64), 0.25), home / "examples" / "given.pt")
    text = DIGITS + NETWORK + 'import torch\nmodel[1].weight.data = torch.load("given.pt", weights_only=True)\n'
    _, module, _ = asparagus.load_from_config(asparagus.plan_of(config(text)).spec)
    assert module.net[1].weight.unique().tolist() == [0.25]


def test_e2_two_builds_of_one_file_are_two_networks(config):
    plan = asparagus.plan_of(config(DIGITS + NETWORK))
    first, second = (asparagus.load_from_config(plan.spec)[1].net[1] for _ in range(2))
    assert first is not second
    first.weight.data.zero_()
    assert second.weight.abs().sum() > 0


@pytest.mark.parametrize(
    ("text", "line", "named"),
    [
        ("learning_rate = 1\nepochs = 1 / 0\n", 2, "ZeroDivisionError"),
        ("import no_such_module_at_all\n", 1, "no_such_module_at_all"),
        ("def broken():\n    raise ValueError('inside')\n\n\nbroken()\n", 2, "inside"),
        ("epochs = 3\nepochs = (\n", 2, "Python"),
        ("epochs = undefined\n", 1, "undefined"),
        ("import torch\nmodel = torch.nn.Linear()\n", 2, "TypeError"),
        ("raise SystemExit('enough')\n", 1, "enough"),
        ("open('not_there.txt')\n", 1, "not_there.txt"),
    ],
)
def test_e2_a_file_that_cannot_be_run_is_a_clear_error_with_file_and_line(text, line, named, config, capsys):
    path = config(text)
    assert run("launch", [path]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert f"{path}:{line}" in said
    assert named in said
    assert "Traceback" not in said


def test_e2_in_a_process_of_its_own_too(config, asp):
    done = asp("asp-launch", config(DIGITS + "epochs = 1 / 0\n"))
    assert done.returncode == 2
    assert "train_2D.py:9: failed to execute: ZeroDivisionError" in done.stderr
    assert "Traceback" not in done.stderr


UNSAFE = {
    "import os": "imports os",
    "import os.path as path": "imports os",
    "from os import environ": "imports os",
    "import subprocess": "imports subprocess",
    "import sys": "imports sys",
    "from subprocess import run as go": "imports subprocess",
    "x = eval('1 + 1')": "calls eval",
    "exec('x = 1')": "calls exec",
    "x = compile('1', 'x', 'eval')": "calls compile",
    "x = __import__('math')": "calls __import__",
    "def f():\n    import sys": "imports sys",
}


@pytest.mark.parametrize(("line", "what"), UNSAFE.items(), ids=UNSAFE.keys())
@pytest.mark.parametrize("value", ["1", "true", "True"])
def test_e2_force_safe_config_refuses_what_a_config_has_no_need_of(line, what, value, config, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_SAFE_CONFIG", value)
    ran = Path.cwd() / "ran"
    path = config(f"{line}\nopen({str(ran)!r}, 'w').close()\n{DIGITS}{BUILT_IN}")
    assert run("launch", [path, "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert what in said
    assert f"train_2D.py:{len(line.splitlines())}" in said
    assert "FORCE_SAFE_CONFIG" in said
    assert not ran.exists()


@pytest.mark.parametrize(("line", "what"), UNSAFE.items(), ids=UNSAFE.keys())
def test_e2_without_it_they_are_said_and_run(line, what, made, caplog):
    with caplog.at_level(logging.WARNING, logger="asparagus"):
        made(f"{line}\n{DIGITS}{BUILT_IN}")
    assert what in caplog.text


@pytest.mark.parametrize("value", ["0", "false", ""])
def test_e2_force_safe_config_can_be_off(value, made, monkeypatch):
    monkeypatch.setenv("FORCE_SAFE_CONFIG", value)
    assert made(f"import os\n{DIGITS}{BUILT_IN}").task == "Task001_Digits"


def test_e2_force_safe_config_lets_ordinary_files_pass(made, monkeypatch):
    monkeypatch.setenv("FORCE_SAFE_CONFIG", "1")
    assert made(DIGITS + NETWORK).task == "Task001_Digits"


def test_e2_force_safe_config_counts_for_a_file_that_was_read_before(config, monkeypatch):
    path = config(f"import os\n{DIGITS}{BUILT_IN}")
    compose(Request(path))
    monkeypatch.setenv("FORCE_SAFE_CONFIG", "1")
    with pytest.raises(ConfigError, match="imports os"):
        compose(Request(path))


def test_e2_the_worker_refuses_a_file_that_changed_since_it_was_planned(config):
    path = Path(config(DIGITS + NETWORK))
    plan = asparagus.plan_of(path)
    path.write_text(path.read_text().replace("nn.Linear(64, 10)", "nn.Linear(64, 10, bias=False)"))
    with pytest.raises(RunError, match=r"train_2D.py: has changed since this run was planned"):
        submit(plan, print)


@pytest.mark.parametrize("fate", ["changed", "gone"])
def test_e2_a_run_repeats_when_its_file_has_moved_on(fate, config, home, capsys):
    path = Path(config(DIGITS + NETWORK))
    outcome = asparagus.launch(path)
    kept = path.read_text()
    if fate == "changed":
        path.write_text(kept.replace("nn.Linear(64, 10)", "nn.Linear(64, 10, bias=False)"))
    else:
        path.unlink()
    assert (Path(outcome.folder) / path.name).read_text() == kept
    again = asparagus.launch(Path(outcome.folder) / "config.yaml")
    assert again.metrics == pytest.approx(outcome.metrics)


def test_e2_a_runs_own_copy_that_was_edited_is_refused_before_anything_runs(config, home, capsys):
    outcome = asparagus.launch(Path(config(DIGITS + NETWORK)))
    copy = Path(outcome.folder) / "train_2D.py"
    copy.write_text(copy.read_text() + "epochs = 3\n")
    runs = len(list((home / "models").rglob("run.json")))
    assert run("launch", [f"{outcome.folder}/config.yaml"]) == 2
    assert "train_2D.py" in capsys.readouterr().err
    assert len(list((home / "models").rglob("run.json"))) == runs


@pytest.mark.ray
def test_e2_ray_workers_build_the_network_of_the_file_too(config, ray_address):
    words = ["resources.workers=2", "site=cluster", f"site.address={ray_address}"]
    outcome = asparagus.launch(config(DIGITS + NETWORK), words)
    assert outcome.state == "finished"
    written = yaml.safe_load((Path(outcome.folder) / "config.yaml").read_text())
    assert written["data"]["samples_per_epoch"] == 5 * 32 * 2


def test_e2_the_same_experiment_in_yaml_and_in_python_is_the_same_spec(made, home):
    (home / "same.yaml").write_text(
        yaml.safe_dump(
            {
                "defaults": ["train_cls", {"override optim": "radam"}, "_self_"],
                "task": "Task001_Digits",
                "seed": 7,
                "run": {"label": "small"},
                "model": {"dimensions": "2D", "net": {"_target_": "asparagus.models.mlp.MLP", "hidden": [8]}},
                "data": {"batch_size": 32, "patch_size": [8, 8], "samples_per_epoch": 160},
                "optim": {"lr": 3e-3},
                "trainer": {"max_epochs": 2, "limit_val_batches": 3, "accelerator": "cpu"},
                "checkpoint": {"keep_best": 2},
            }
        )
    )
    text = (
        'random_seed = 7\nepochs = 2\nvalidation_batch_limit = 3\ndevice = "cpu"\nmodel_name = "small"\n'
        'model = {"net": {"_target_": "asparagus.models.mlp.MLP", "hidden": [8]}}\ncheckpoint = {"keep_best": 2}\n'
    )
    python, from_yaml = made(DIGITS + text).to_dict(), compose(Request("same.yaml")).to_dict()
    for spec in (python, from_yaml):
        spec["optim"] = {key: value for key, value in spec["optim"].items() if value not in (None, 0)}
    assert python == from_yaml


OVERRIDES = {
    "optim.lr=0.5": ("optim.lr", 0.5),
    "learning_rate=0.5": ("optim.lr", 0.5),
    "data.batch_size=3": ("data.batch_size", 3),
    "batch_size=3": ("data.batch_size", 3),
    "trainer.max_epochs=9": ("trainer.max_epochs", 9),
    "epochs=9": ("trainer.max_epochs", 9),
    "run.num_epochs=9": ("trainer.max_epochs", 9),
    "run.batch_size_per_gpu=3": ("data.batch_size", 3),
    "seed=1": ("seed", 1),
    "random_seed=1": ("seed", 1),
    "run.name=other": ("run.name", "other"),
    "task=Task002_Other": ("task", "Task002_Other"),
    "data.patch_size=[4,4]": ("data.patch_size", [4, 4]),
    "+trainer.max_time=00:01:00:00": ("trainer.max_time", "00:01:00:00"),
    "trainer.max_epochs=${data.batch_size}": ("trainer.max_epochs", 32),
    "optim.weight_decay=0.5": ("optim.weight_decay", 0.5),
    "resources=two_workers": ("resources.workers", 2),
    "model.dimensions=3D": ("model.dimensions", "3D"),
}


@pytest.mark.parametrize(("word", "expected"), OVERRIDES.items(), ids=OVERRIDES.keys())
def test_e2_overrides_win_over_the_file(word, expected, made):
    key, value = expected
    assert get(made(DIGITS + BUILT_IN, word), key) == value


def test_e2_an_override_adds_to_what_the_file_says(made):
    spec = made(DIGITS + BUILT_IN + 'logs_save_path = "tensorboard"\n', "+logger=csv")
    assert set(spec.logger) == {"tensorboard", "csv"}
    spec = made(DIGITS + BUILT_IN + 'logs_save_path = "tensorboard"\n', "~logger.tensorboard")
    assert not spec.logger.get("tensorboard")


@pytest.mark.parametrize(
    ("words", "items"),
    [
        ((), 5 * 32),
        (("batch_size=3",), 5 * 3),
        (("run.batch_size_per_gpu=3",), 5 * 3),
        (("resources.workers=2",), 5 * 32 * 2),
        (("run.gpus=2",), 5 * 32 * 2),
        (("trainer.accelerator=gpu", "trainer.devices=4"), 5 * 32 * 4),
        (("hardware=2gpus",), 5 * 32 * 2),
        (("iterations_per_epoch=7",), 7 * 32),
        (("data.samples_per_epoch=11",), 11),
    ],
)
def test_e12_an_epoch_is_so_many_batches_on_each_worker(words, items, made):
    spec = made(DIGITS + BUILT_IN, *words, "site.gpus_per_node=4", "site.cpus_per_node=8")
    assert spec.data["samples_per_epoch"] == items


def test_e2_secrets_of_an_override_stay_out_of_the_config(config, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "do-not-write-me")
    plan = asparagus.plan_of(config(DIGITS + BUILT_IN), ["run.name=${oc.env:WANDB_API_KEY}"])
    assert "do-not-write-me" not in plan.to_json()


def test_e2_info_names_the_line_of_the_file(config, home, capsys):
    text = DIGITS + BUILT_IN + 'trainer = {\n    "precision": "bf16-mixed",\n}\n'
    path = config(text)
    for key, start in (
        ("optim.lr", "learning_rate"),
        ("data.batch_size", "batch_size"),
        ("trainer.max_epochs", "epochs"),
        ("data.patch_size", "input_array_info"),
        ("data.samples_per_epoch", "iterations_per_epoch"),
        ("task", "task"),
        ("trainer.precision", "trainer"),
    ):
        assert run("launch", [path, "--info", key]) == 0
        wins = next(line for line in capsys.readouterr().out.splitlines() if line.endswith("<- wins"))
        assert f"examples/train_2D.py:{line_of(text, start)}" in wins


def test_e2_info_names_an_override_over_the_file(config, capsys):
    assert run("launch", [config(DIGITS + BUILT_IN), "--info", "optim.lr", "optim.lr=1"]) == 0
    wins = next(line for line in capsys.readouterr().out.splitlines() if line.endswith("<- wins"))
    assert "command line: optim.lr=1" in wins


def test_e2_info_shows_everything_but_names_that_set_nothing(config, capsys):
    assert run("launch", [config(DIGITS + BUILT_IN + "helper = 3\n_own = 4\n"), "--info"]) == 0
    shown = capsys.readouterr().out
    assert "core/base" in shown
    assert "train_2D.py:4" in shown
    assert "helper" not in shown
    assert "_own" not in shown


WRONG = {
    "learning_rate = 'fast'": ("optim.lr", "'fast'"),
    "batch_size = 0": ("batch_size", "0"),
    "batch_size = 2.5": ("batch_size", "2.5"),
    "epochs = 'many'": ("trainer.max_epochs", "'many'"),
    "epochs = -1": ("trainer.max_epochs", "nothing ends"),
    "iterations_per_epoch = 0": ("iterations_per_epoch", "0"),
    "random_seed = -1": ("seed", "-1"),
    "random_seed = 'x'": ("seed", "'x'"),
    "input_array_info = {'shape': (8, 8)}": ("input_array_info", "(8, 8)"),
    "input_array_info = {'shape': ('a', 8, 8)}": ("input_array_info", "'a'"),
    "input_array_info = {'scale': (8, 8, 8)}": ("input_array_info", "shape"),
    "input_array_info = 128": ("input_array_info", "128"),
    "device = 'gpux'": ("device", "'gpux'"),
    "load_model = 'newest'": ("load_model", "'newest'"),
    "validation_batch_limit = 'x'": ("trainer.limit_val_batches", "'x'"),
    "classes = ['nuc', 'er']": ("data.classes", "takes no such argument"),
    "use_s3 = True": ("data.use_s3", "takes no such argument"),
    "datasplit_path = 'x.csv'": ("data.datasplit_path", "takes no such argument"),
    "validation_prob = 0.3": ("data.validation_prob", "takes no such argument"),
    "spatial_transforms = {'mirror': {'axes': {'x': 0.5}}}": ("data.spatial_transforms", "takes no such argument"),
    "target_array_info = {'shape': (1, 8, 8)}": ("data.target_array_info", "takes no such argument"),
    "stage = 'train_clz'": ("train_clz", "train_cls"),
    "task = 'Task001_Digitz'": ("task", "Task001_Digits"),
    "trainer = {'max_epoch': 3}": ("trainer.max_epoch", "'max_epochs'"),
    "optim = {'lr': -1}": ("optim.lr", "-1"),
    "checkpoint = {'keep_best': 'x'}": ("checkpoint.keep_best", "'x'"),
    "resources = {'wokers': 2}": ("resources.wokers", "'resources.workers'"),
    "model = 'unet'": ("model", "str"),
    "model = len": ("model", "builtin_function_or_method"),
    "model_kwargs = {'features': object()}\nmodel = None": ("model_kwargs", "object"),
    "model_kwargs = 5\nmodel = None": ("model_kwargs: 5", "arguments by name"),
    "trainer = 5": ("trainer", "it is a section"),
}


@pytest.mark.parametrize(("text", "named"), WRONG.items(), ids=WRONG.keys())
def test_e2_a_wrong_value_is_named_with_the_line_of_the_file(text, named, config, capsys, home):
    whole = DIGITS + BUILT_IN + text + "\n"
    assert run("launch", [config(whole), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    for part in named:
        assert part in said
    assert f"examples/train_2D.py:{len((DIGITS + BUILT_IN).splitlines()) + 1}" in said
    assert not (home / "models").exists()


def test_e2_an_override_that_is_no_yaml_is_named(config, capsys):
    assert run("launch", [config(DIGITS + BUILT_IN), "iterations_per_epoch={", "--dry-run"]) == 2
    assert "iterations_per_epoch={: cannot be read as an override" in capsys.readouterr().err


def test_e2_a_name_set_inside_a_condition_is_found_too(config, capsys):
    text = DIGITS + BUILT_IN + "if task:\n    batch_size = 0\nelse:\n    pass\n"
    assert run("launch", [config(text)]) == 2
    assert f"examples/train_2D.py:{line_of(text, '    batch_size')}" in capsys.readouterr().err


def test_e2_numbers_of_numpy_are_numbers(made):
    text = "import numpy as np\n\nlearning_rate = np.float64(0.5)\nbatch_size = np.int64(4)\nepochs = np.int32(3)\n"
    spec = made(DIGITS + BUILT_IN + text)
    values = (spec.optim["lr"], spec.data["batch_size"], spec.trainer["max_epochs"])
    assert values == (0.5, 4, 3)
    assert [type(value) for value in values] == [float, int, int]
    assert isinstance(np.float64(1), float), "which is why it would pass, and not be written"
    json.dumps(spec.to_dict())


def test_e2_every_wrong_value_is_said_at_once(problems):
    said = problems(DIGITS + BUILT_IN + "learning_rate = 'fast'\nclasses = ['a']\ntrainer = {'max_epoch': 3}\n")
    for part in ("optim.lr", "data.classes", "trainer.max_epoch"):
        assert part in said


OWN_DATA = """
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


class Crops(pl.LightningDataModule):
    def __init__(self, batch_size=4, classes=(), rank=0, world_size=1):
        super().__init__()
        self.batch_size, self.classes = batch_size, classes

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.rand(8, 1, 8, 8), torch.zeros(8).long()), self.batch_size)
"""


def test_e2_a_data_module_of_ones_own_takes_what_the_file_says_and_nothing_else(config, home, monkeypatch):
    (home / "crops_of_mine.py").write_text(OWN_DATA)
    monkeypatch.syspath_prepend(home)
    text = DIGITS.replace('input_array_info = {"shape": (1, 8, 8), "scale": (8, 8, 8)}', "").replace(
        "iterations_per_epoch = 5", ""
    )
    text += BUILT_IN + 'classes = ["nuc", "er"]\ndata = {"_target_": "crops_of_mine.Crops"}\n'
    spec = asparagus.plan_of(config(text)).spec
    assert spec.data == {"_target_": "crops_of_mine.Crops", "batch_size": 32, "classes": ["nuc", "er"]}


# The names (E3 to E22)


def test_the_documented_names_at_their_documented_defaults(made):
    spec = made('task = "Task997_LauritSynSeg"\n')
    assert spec == made('task = "Task997_LauritSynSeg"\n' + EXAMPLE.replace("logs_save_path", "logs"))
    assert spec.stage == "train_seg"
    assert (spec.optim["name"], spec.optim["lr"], spec.optim.get("sched")) == ("radam", 1e-4, None)
    assert (spec.data["batch_size"], spec.data["patch_size"], spec.model["dimensions"]) == (8, [128, 128], "2D")
    assert (spec.trainer["max_epochs"], spec.data["samples_per_epoch"], spec.seed) == (1000, 8000, 42)
    assert spec.model["net"]["_target_"] == "asparagus.models.unet.UNet"


NAMES = {
    "e4 logs_save_path": ("logs_save_path = 'tb/{model_name}'", "logger.tensorboard.save_dir", "{folder}/tb/2d_unet"),
    "e5 datasplit_path": ("datasplit_path = '/x/split.csv'", "data.datasplit_path", "/x/split.csv"),
    "e6 validation_prob": ("validation_prob = 0.25", "data.validation_prob", 0.25),
    "e7 learning_rate": ("learning_rate = 0.02", "optim.lr", 0.02),
    "e8 batch_size": ("batch_size = 3", "data.batch_size", 3),
    "e9 input_array_info 2D": ("input_array_info = {'shape': (1, 64, 32)}", "data.patch_size", [64, 32]),
    "e9 input_array_info 2D dimensions": ("input_array_info = {'shape': [1, 64, 32]}", "model.dimensions", "2D"),
    "e9 input_array_info 3D": ("input_array_info = {'shape': (16, 64, 32)}", "data.patch_size", [16, 64, 32]),
    "e9 input_array_info 3D dimensions": ("input_array_info = {'shape': (16, 64, 32)}", "model.dimensions", "3D"),
    "e10 target_array_info": (
        "target_array_info = {'shape': (1, 8, 8), 'scale': (4, 4, 4)}",
        "data.target_array_info",
        {"shape": [1, 8, 8], "scale": [4, 4, 4]},
    ),
    "e11 epochs": ("epochs = 12", "trainer.max_epochs", 12),
    "e12 iterations_per_epoch": ("iterations_per_epoch = 10", "data.samples_per_epoch", 80),
    "e13 random_seed": ("random_seed = 0", "seed", 0),
    "e14 classes": ("classes = ['nuc', 'er']", "data.classes", ["nuc", "er"]),
    "e15 2d_unet": ("model_name = '2d_unet'", "model.net._target_", "asparagus.models.unet.UNet"),
    "e15 3d_unet": ("model_name = '3d_unet'", "model.net._target_", "asparagus.models.unet.UNet"),
    "e15 2d_resnet": ("model_name = '2D_ResNet'", "model.net._target_", "monai.networks.nets.SegResNet"),
    "e15 3d_resnet": ("model_name = '3d_resnet'", "model.net._target_", "monai.networks.nets.SegResNet"),
    "e15 vitnet": ("model_name = 'vitnet'", "model.net._target_", "monai.networks.nets.UNETR"),
    "e15 inside a longer name": (
        "model_name = 'my_2d_unet_v3'",
        "model.net._target_",
        "asparagus.models.unet.UNet",
    ),
    "e15 model_name": ("model_name = '2d_unet'", "run.label", "2d_unet"),
    "e17 model_kwargs": ("model_kwargs = {'features': (8, 16)}", "model.net.features", [8, 16]),
    "e18 model": (
        "model = __import__('torch').nn.Linear(1, 1)",
        "model.net._target_",
        "asparagus.python_file.model_of",
    ),
    "e18 model as our section": ("model = {'net': {'_target_': 'a.B'}}", "model.net._target_", "a.B"),
    "e18 any model_name with a model": (
        "model = __import__('torch').nn.Linear(1, 1)\nmodel_name = 'anything'",
        "run.label",
        "anything",
    ),
    "e20 spatial_transforms": (
        "spatial_transforms = {'transpose': {'axes': ['x', 'y']}}",
        "data.spatial_transforms",
        {"transpose": {"axes": ["x", "y"]}},
    ),
    "e21 device": ("device = 'cuda'", "trainer.accelerator", "gpu"),
    "e21 device cpu": ("device = 'cpu'", "trainer.accelerator", "cpu"),
    "e21 device mps": ("device = 'mps'", "trainer.accelerator", "mps"),
    "e21 device by number": ("device = 'cuda:1'", "trainer.devices", [1]),
    "e21 device of torch": ("device = __import__('torch').device('cpu')", "trainer.accelerator", "cpu"),
    "e22 use_s3": ("use_s3 = True", "data.use_s3", True),
    "e28 validation_time_limit": ("validation_time_limit = 60", "data.validation_time_limit", 60),
    "e29 validation_batch_limit": ("validation_batch_limit = 7", "trainer.limit_val_batches", 7),
}


@pytest.mark.parametrize(("text", "key", "value"), NAMES.values(), ids=NAMES.keys())
def test_e3_to_e22_a_documented_name_sets_a_key_of_ours(text, key, value, made, home):
    spec = made(f'task = "Task997_LauritSynSeg"\n{text}\n')
    expected = value.format(folder=home / "examples") if isinstance(value, str) else value
    assert get(spec, key) == expected


@pytest.mark.parametrize("name", ["device", "validation_batch_limit", "model", "logs_save_path", "classes", "use_s3"])
def test_e3_to_e22_none_is_as_if_the_name_were_not_there(name, made):
    assert made(f'task = "x"\n{name} = None\n') == made('task = "x"\n')


def test_e3_model_save_path_says_where_checkpoints_lie(made, caplog):
    with caplog.at_level(logging.WARNING, logger="asparagus"):
        made('task = "x"\nmodel_save_path = "mine/{model_name}_{epoch}.pth"\n')
    assert "model_save_path is not used: checkpoints lie in the run's own folder" in caplog.text


def test_e7_the_optimizer_is_radam_with_its_own_defaults(config):
    trainer, module, datamodule = asparagus.load_from_config(asparagus.plan_of(config(DIGITS + NETWORK)).spec)
    trainer.fit(module, datamodule=datamodule)
    (optimizer,) = trainer.optimizers
    group, plain = optimizer.param_groups[0], torch.optim.RAdam(module.parameters()).param_groups[0]
    assert type(optimizer) is torch.optim.RAdam
    assert group["lr"] == 3e-3
    assert {key: group[key] for key in ("weight_decay", "betas", "eps")} == {
        key: plain[key] for key in ("weight_decay", "betas", "eps")
    }


def test_e9_the_scale_that_the_file_asks_for_is_not_dropped_in_silence(made, caplog):
    with caplog.at_level(logging.WARNING, logger="asparagus"):
        spec = made('task = "x"\ninput_array_info = {"shape": (1, 8, 8), "scale": (4, 4, 4)}\n')
    assert "scale" in caplog.text or "scale" in json.dumps(spec.data)


def test_e12_an_epoch_has_as_many_iterations_as_the_file_says(config):
    trainer, module, datamodule = asparagus.load_from_config(asparagus.plan_of(config(DIGITS + NETWORK)).spec)
    trainer.fit(module, datamodule=datamodule)
    assert (trainer.num_training_batches, trainer.global_step) == (5, 5)


def test_e13_the_same_seed_gives_the_same_training(config):
    path = config(DIGITS + NETWORK)
    losses = []
    for words in ((), (), ("random_seed=1",)):
        trainer, module, datamodule = asparagus.load_from_config(asparagus.plan_of(path, words).spec)
        trainer.fit(module, datamodule=datamodule)
        losses.append(float(trainer.callback_metrics["val/loss"]))
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("name", ["unet", "4d_unet", "2d_net", "", "resnet"])
def test_e15_an_unknown_model_name_is_answered_with_the_known_ones(name, problems):
    said = problems(DIGITS + f'model_name = "{name}"\n')
    assert "model_name" in said
    for known in ("2d_unet", "2d_resnet", "3d_unet", "3d_resnet", "vitnet"):
        assert known in said


def test_e17_model_kwargs_are_ignored_if_the_file_builds_the_model(made):
    assert made(DIGITS + NETWORK + "model_kwargs = {'features': [1]}\n").model["net"].keys() == {
        "_target_",
        "file",
        "digest",
    }


def test_e17_a_wrong_model_kwarg_is_named(problems):
    said = problems(DIGITS + "model_kwargs = {'featurez': [8]}\n")
    assert "featurez" in said
    assert "'features'" in said


# What it says of itself (E46)


def test_e46_help_tells_of_training_configs_in_python(home, asp):
    done = asp("asp-launch", "--help")
    assert done.returncode == 0
    assert "Python" in done.stdout
    assert ".py" in done.stdout


def test_e46_help_of_a_file_shows_its_keys_with_its_values(config, capsys):
    assert run("launch", [config(DIGITS + BUILT_IN), "--help"]) == 0
    shown = capsys.readouterr().out
    body = yaml.safe_load(shown.partition("(foo.bar=value)\n")[2].rpartition("\n\n")[0])
    assert (body["optim"]["lr"], body["trainer"]["max_epochs"], body["task"]) == (3e-3, 1, "Task001_Digits")
    assert "== Configuration groups ==" in shown


def test_e46_cfg_job_shows_what_was_composed(config, capsys):
    assert run("launch", [config(DIGITS + NETWORK), "--cfg", "job", "optim.lr=1"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["optim"]["lr"], shown["data"]["samples_per_epoch"]) == (1, 160)


def test_environment_is_left_alone(made):
    before = dict(os.environ)
    made(DIGITS + BUILT_IN)
    assert dict(os.environ) == before


# Checkpoints: where they lie, how they are numbered, which are loaded (E3, E4, E11, E16, E19, E31, E32)


class StopOnce(pl.Callback):
    """Raise at the start of an epoch, once in the life of the file `mark`."""

    def __init__(self, mark: str, epoch: int) -> None:
        self.mark, self.epoch = Path(mark), epoch

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch and not self.mark.exists():
            self.mark.touch()
            raise ValueError("the power went out")


def stopping(home: Path, epoch: int) -> str:
    entry = {"_target_": "tests.seeds.test_cellmap.StopOnce", "mark": str(home / "struck"), "epoch": epoch}
    return f"callbacks = {{'stop': {entry!r}}}\n"


def launch(path: str, *words: str) -> Any:
    return asparagus.launch(path, words)


def parent(outcome: Any) -> tuple[int, str] | None:
    return (outcome.parent.run_id, Path(outcome.parent.checkpoint).name) if outcome.parent else None


def weights(outcome: Any, name: str = "last") -> torch.Tensor:
    checkpoint, _ = pick(Path(outcome.folder) / "checkpoints", name)
    return read_weights(checkpoint)["net.1.weight"]


def name_of_run(outcome: Any) -> str:
    return yaml.safe_load((Path(outcome.folder) / "config.yaml").read_text())["run"]["label"]


def starts(outcome: Any) -> list[tuple[int, int]]:
    events = JournalReader(Path(outcome.folder) / "journal.jsonl").read()
    return [(event["epoch"], event["step"]) for event in events if event["kind"] == "start"]


THREE = DIGITS.replace("epochs = 1", "epochs = 3") + NETWORK


def test_e3_checkpoints_carry_model_and_epoch_and_are_whole_states(config):
    outcome = launch(config(THREE + 'checkpoint = {"keep_every_n_epochs": 1}\n'))
    found = manifests(Path(outcome.folder) / "checkpoints")
    assert [(manifest.name, manifest.epoch) for manifest in found] == [
        ("epoch=0-step=5", 0),
        ("epoch=1-step=10", 1),
        ("epoch=2-step=15", 2),
    ]
    state = torch.load(Path(outcome.folder) / "checkpoints" / found[1].name / STATE, weights_only=True)
    assert (state["epoch"], state["global_step"]) == (1, 10)
    assert {"state_dict", "optimizer_states"} <= state.keys()
    assert name_of_run(outcome) == "mine"


def test_e4_logs_save_path_gets_tensorboard_files_of_what_is_logged(config, home):
    launch(config(DIGITS + NETWORK + 'logs_save_path = "tensorboard/{model_name}"\n'))
    (events,) = (home / "examples" / "tensorboard" / "mine").rglob("events.out.tfevents.*")
    for tag in (b"\x04loss", b"\nvalidation", b"val/accuracy"):
        assert tag in events.read_bytes()


def test_e11_epochs_and_steps_are_numbered_on_after_a_restart(config, home):
    path = config(THREE + 'checkpoint = {"keep_every_n_epochs": 1}\n' + stopping(home, 2))
    with pytest.raises(RunError, match="the power went out"):
        launch(path)
    outcome = launch(path)
    assert (outcome.run_id, starts(outcome)) == (1, [(0, 0), (2, 10)])
    found = manifests(Path(outcome.folder) / "checkpoints")
    assert [manifest.name for manifest in found] == ["epoch=0-step=5", "epoch=1-step=10", "epoch=2-step=15"]


@pytest.mark.slow
def test_e11_and_the_weights_are_those_of_a_training_that_was_never_stopped(config, home):
    with pytest.raises(RunError):
        launch(config(THREE + stopping(home, 2)))
    stopped = launch(config(THREE + stopping(home, 2)))
    (home / "other").mkdir()
    smooth = launch(config(THREE.replace('"mine"', '"other"') + stopping(home, 99), folder="other"))
    assert torch.equal(weights(stopped), weights(smooth))


def test_e19_without_a_run_to_load_from_the_weights_are_fresh_and_that_is_said(config, caplog):
    with caplog.at_level(logging.WARNING, logger="asparagus"):
        outcome = launch(config(DIGITS + NETWORK + "load_model = 'latest'\n"))
    assert parent(outcome) is None
    assert "no run of train_cls of Task001_Digits is called 'mine' and has a checkpoint" in caplog.text
    assert yaml.safe_load((Path(outcome.folder) / "config.yaml").read_text())["init_from"] is None


def test_e19_latest_loads_the_newest_checkpoint_of_the_newest_run_of_that_name(config, caplog):
    text = THREE.replace("3e-3", "1e-2")
    launch(config(text))
    launch(config(text.replace('"mine"', '"another"'), name="other.py"))
    with caplog.at_level(logging.WARNING, logger="asparagus"):
        third = launch(config(text + "load_model = 'latest'\n"))
    assert parent(third) == (1, "epoch=2-step=15")
    assert "the latest weights of 'mine' are those of run:1/epoch=2-step=15" in caplog.text
    fourth = launch(config(text + "load_model = 'latest'\nlearning_rate = 1e-5\n"))
    assert parent(fourth) == (3, "epoch=2-step=15")
    assert [name_of_run(outcome) for outcome in (third, fourth)] == ["mine", "mine"]
    assert not torch.equal(weights(third), weights(fourth))
    assert torch.allclose(weights(third), weights(fourth), atol=1e-3)  # a tiny rate: it began where the third ended


@pytest.mark.parametrize("name", ["2d_unet", "3d_resnet"])
def test_e18_without_a_model_its_name_says_which(name, made):
    built = made(f"task = 'Task001_Digits'\nmodel = None\nmodel_name = '{name}'\n").model["net"]["_target_"]
    assert built == {"2d_unet": "asparagus.models.unet.UNet", "3d_resnet": "monai.networks.nets.SegResNet"}[name]


def test_e18_any_module_of_torch_is_what_is_trained_whatever_its_name_says(config):
    outcome = launch(config(DIGITS + NETWORK.replace('"mine"', '"2d_unet"') + "model_kwargs = {'features': [4, 8]}\n"))
    checkpoint, _ = pick(Path(outcome.folder) / "checkpoints", "last")
    state = torch.load(checkpoint / STATE, weights_only=True)
    assert {name: tuple(weight.shape) for name, weight in state["state_dict"].items()} == {
        "net.1.weight": (10, 64),
        "net.1.bias": (10,),
    }
    assert len(state["optimizer_states"][0]["state"]) == 2  # it was made when the model was there


@pytest.mark.parametrize("value", ["3", "'unet'", "object()"])
def test_e18_a_model_that_is_none_is_refused(value, problems):
    assert "model: a " in problems(f"import torch\nmodel = {value}\n")


@pytest.mark.slow
def test_e19_best_loads_the_best_checkpoint_by_what_it_recorded(config):
    first = launch(config(THREE.replace("3e-3", "3.0") + 'checkpoint = {"keep_every_n_epochs": 1}\n'))
    found = manifests(Path(first.folder) / "checkpoints")
    best = max(found, key=lambda manifest: (manifest.metrics["val/accuracy"], -manifest.step))
    second = launch(config(THREE + "load_model = 'best'\n"))
    assert parent(second) == (1, best.name)


@pytest.mark.slow
def test_e19_a_torn_checkpoint_is_passed_over(config):
    first = launch(config(THREE + 'checkpoint = {"keep_every_n_epochs": 1}\n'))
    state = Path(first.folder) / "checkpoints" / "epoch=2-step=15" / STATE
    state.write_bytes(b"X" * state.stat().st_size)
    assert parent(launch(config(THREE + "load_model = 'latest'\n"))) == (1, "epoch=1-step=10")


def test_e16_model_to_load_is_the_name_that_is_looked_for(config):
    launch(config(DIGITS + NETWORK))
    text = DIGITS + NETWORK.replace('"mine"', '"next"') + "load_model = 'latest'\nmodel_to_load = 'mine'\n"
    second = launch(config(text, name="next.py"))
    assert (parent(second), name_of_run(second)) == ((1, "epoch=0-step=5"), "next")


@pytest.mark.slow
def test_e19_an_interrupted_run_goes_on_instead_of_a_new_one_being_begun(config, home):
    path = config(THREE + stopping(home, 2) + "load_model = 'latest'\n")
    with pytest.raises(RunError):
        launch(path)
    outcome = launch(path)
    assert (outcome.run_id, parent(outcome), starts(outcome)) == (1, None, [(0, 0), (2, 10)])
    (home / "struck").unlink()
    with pytest.raises(RunError):
        launch(path)
    second = launch(path)
    assert (second.run_id, parent(second), starts(second)) == (2, (1, "epoch=2-step=15"), [(0, 0), (2, 10)])
    assert name_of_run(second) == "mine"


@pytest.mark.slow
def test_e19_an_interrupted_run_of_other_settings_is_loaded_from(config, home):
    with pytest.raises(RunError):
        launch(config(THREE + stopping(home, 2) + "load_model = 'latest'\n"))
    outcome = launch(config(THREE + "learning_rate = 1e-4\nload_model = 'latest'\n"))
    assert (outcome.run_id, parent(outcome)) == (2, (1, "epoch=1-step=10"))


@pytest.mark.slow
def test_e19_a_run_that_was_loaded_into_repeats_from_its_own_config(config):
    launch(config(DIGITS + NETWORK))
    second = launch(config(DIGITS + NETWORK + "load_model = 'latest'\n"))
    again = asparagus.launch(f"{second.folder}/config.yaml", ["run.resume=false", "run.name=again"])
    assert (again.run_id, parent(again)) == (3, (1, "epoch=0-step=5"))
    assert torch.equal(weights(again), weights(second))


def test_e19_init_from_wins_and_that_is_said(config, caplog):
    launch(config(DIGITS + NETWORK))
    text = DIGITS + NETWORK.replace('"mine"', '"next"') + "load_model = 'latest'\nmodel_to_load = 'nobody'\n"
    with caplog.at_level(logging.WARNING, logger="asparagus"):
        plan = asparagus.plan_of(config(text), ["init_from=run:1/last"])
    assert plan.parent.run_id == 1
    assert "load_model is not used: init_from or run.resume_from_checkpoint says" in caplog.text
    assert any("run:1/last is a train_cls too: its weights are trained on" in note for note in plan.notes)


@pytest.mark.parametrize("value", ["'newest'", "7", "'Latest'", "True"])
def test_e19_another_word_is_answered_with_the_known_ones(value, problems):
    said = problems(DIGITS + NETWORK + f"load_model = {value}\n")
    assert "load_model" in said
    assert "Known: best, latest." in said


def test_e19_a_stage_that_starts_from_nothing_takes_no_other_stages_weights(config, home):
    launch(config(DIGITS + NETWORK))
    with pytest.raises(ConfigError, match="train_seg starts from nothing"):
        asparagus.plan_of("train_seg", ["task=Task001_Digits", "init_from=run:1/last"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_root):
    """A run of four epochs, all kept, whose best is neither the first nor the last by position."""
    home = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASPARAGUS_HOME", str(home))
        patch.setenv("ASPARAGUS_DATA", str(data_root))
        (home / "train.py").write_text(
            DIGITS.replace("epochs = 1", "epochs = 4") + NETWORK + 'checkpoint = {"keep_every_n_epochs": 1}\n'
        )
        return Path(asparagus.launch(str(home / "train.py")).folder)


@pytest.fixture
def run_of_four(trained, tmp_path):
    """A copy of it, whose manifests say that epoch 1 was the best."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    for manifest in manifests(folder / "checkpoints"):
        metrics = {**manifest.metrics, "val/accuracy": {0: 0.5, 1: 0.9, 2: 0.7, 3: 0.8}[manifest.epoch]}
        path = folder / "checkpoints" / manifest.name / MANIFEST
        path.write_text(json.dumps({**json.loads(path.read_text()), "metrics": metrics}))
    return folder


def bare() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))


def saved(folder: Path, epoch: int) -> torch.Tensor:
    return read_weights(folder / "checkpoints" / f"epoch={epoch}-step={5 * epoch + 5}")["net.1.weight"]


def test_e31_load_latest_loads_the_newest_by_recorded_step_and_returns_its_epoch(run_of_four):
    for age, epoch in enumerate((3, 0, 1, 2)):  # times of files say nothing
        os.utime(run_of_four / "checkpoints" / f"epoch={epoch}-step={5 * epoch + 5}" / STATE, (age, age))
    model = bare()
    assert load_latest(run_of_four, model) == 3
    assert torch.equal(model[1].weight, saved(run_of_four, 3))


def test_e31_a_broken_file_is_said_and_the_one_before_it_is_loaded(run_of_four, caplog):
    (run_of_four / "checkpoints" / "epoch=3-step=20" / STATE).write_bytes(b"broken")
    (run_of_four / "checkpoints" / "epoch=2-step=15" / STATE).open("r+b").write(b"XX")
    model = bare()
    assert load_latest(run_of_four / "checkpoints", model) == 1
    assert torch.equal(model[1].weight, saved(run_of_four, 1))
    assert "epoch=3-step=20 was cut short" in caplog.text
    assert "epoch=2-step=15 is torn or was changed" in caplog.text


def test_e31_without_a_checkpoint_the_model_is_left_as_it_was(tmp_path, caplog):
    model = bare()
    before = model[1].weight.clone()
    assert load_latest(tmp_path, model) is None
    assert load_best(tmp_path / "nowhere", model) is None
    assert torch.equal(model[1].weight, before)
    assert "no checkpoint to load; the model is as it was" in caplog.text


def test_e32_load_best_is_matched_by_the_recorded_epoch_and_metric_and_never_by_position(run_of_four):
    shutil.rmtree(run_of_four / "checkpoints" / "epoch=0-step=5")  # positions shift; what was recorded does not
    model = bare()
    assert load_best(run_of_four, model) == 1
    assert torch.equal(model[1].weight, saved(run_of_four, 1))


def test_e32_the_first_epoch_can_be_the_best(run_of_four):
    path = run_of_four / "checkpoints" / "epoch=0-step=5" / MANIFEST
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "metrics": {**values["metrics"], "val/accuracy": 0.99}}))
    assert load_best(run_of_four, bare()) == 0


def test_e32_low_is_best_is_what_the_run_was_monitored_by(run_of_four):
    for path in (run_of_four / "checkpoints").glob(f"*/{MANIFEST}"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "mode": "min"}))
    assert load_best(run_of_four, bare()) == 0


def test_e32_without_a_measured_one_nothing_is_loaded(run_of_four):
    for path in (run_of_four / "checkpoints").glob(f"*/{MANIFEST}"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "metrics": {}}))
    assert load_best(run_of_four, bare()) is None
    assert load_latest(run_of_four, bare()) == 3


def test_e32_a_model_that_nothing_fits_is_an_error_with_the_shapes(run_of_four):
    with pytest.raises(RunError, match=r"shape \(10, 64\), here \(7, 3\)"):
        load_best(run_of_four, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 7)))
