"""CellMap's training config on volumes (SEEDS E5 to E22, E45): what it names reaches the crops that are trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import asparagus
from asparagus.cli.main import run
from asparagus.data.zarr.datasplit import read_datasplit
from asparagus.data.zarr.settings import TRANSFORMS
from asparagus.errors import ConfigError
from asparagus.plan import batches_of
from tests.volumes import write_data

EXAMPLES = Path(__file__).parents[2] / "examples" / "cellmap"
SMALL = (
    "input_array_info={shape: [1, 16, 16], scale: [8, 8, 8]}",
    "target_array_info={shape: [1, 16, 16], scale: [8, 8, 8]}",
    "iterations_per_epoch=4",
    "epochs=1",
    "model_kwargs={features: [4, 8]}",
    "trainer.accelerator=cpu",
)
"""Overrides that make the example one for a laptop."""
CONFIG = """
learning_rate = 1e-2
batch_size = 4
input_array_info = {"shape": (1, 16, 16), "scale": (8, 8, 8)}
epochs = 1
iterations_per_epoch = 4
classes = ["nuc", "er"]
model_name = "2d_unet"
model_kwargs = {"features": [4, 8]}
validation_prob = 0.4
"""


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    return write_data(
        tmp_path_factory.mktemp("data"),
        {"jrc_a": {"crop1": ["nuc", "er"], "crop2": ["nuc"]}, "jrc_b": {"crop3": ["nuc", "er"], "crop4": ["er"]}},
    )


@pytest.fixture
def config(home, volumes, monkeypatch):
    """Return a function that writes a training config and returns its path."""
    monkeypatch.setenv("ASPARAGUS_DATA", str(volumes))

    def write(text: str = CONFIG, name: str = "train_2D.py") -> Path:
        (home / "examples").mkdir(exist_ok=True)
        (home / "examples" / name).write_text(text)
        return home / "examples" / name

    return write


def data_of(path: Path, *words: str) -> dict[str, Any]:
    return asparagus.plan_of(path, words).spec.data


def test_e5_to_e22_the_names_of_a_file_are_settings_of_its_crops(config, home):
    file = config()
    data = data_of(file)
    assert data["_target_"] == "asparagus.data.zarr.module.CropDataModule"
    assert data["datasplit_path"] == str(home / "examples" / "datasplit.csv")
    assert data["classes"] == ["nuc", "er"]
    assert data["input_array_info"] == {"shape": [1, 16, 16], "scale": [8, 8, 8]}
    assert (data["samples_per_epoch"], data["validation_prob"]) == (16, 0.4)
    more = (
        'use_s3 = False\nspatial_transforms = {"mirror": {"axes": {"x": 0.5}}}\ndatasplit_path = "mine.csv"\n'
        'target_array_info = {"shape": (1, 8, 8), "scale": (16, 16, 16)}\nvalidation_time_limit = 60\nrandom_seed = 3\n'
    )
    plan = asparagus.plan_of(config(CONFIG + more))
    data = plan.spec.data
    assert (data["use_s3"], data["validation_time_limit"], plan.spec.seed) == (False, 60, 3)
    assert data["spatial_transforms"] == {"mirror": {"axes": {"x": 0.5}}}
    assert data["target_array_info"]["scale"] == [16, 16, 16]
    assert data["datasplit_path"] == str(home / "examples" / "mine.csv")
    assert plan.spec.model["dimensions"] == "2D"


def test_e5_to_e20_a_file_that_names_next_to_nothing_has_the_documented_defaults(config, home):
    file = config("model_kwargs = {'features': [4, 8]}\n")
    _, module, built = asparagus.load_from_config(asparagus.plan_of(file).spec)
    assert built.file == home / "examples" / "datasplit.csv"
    assert built.windows.classes == ("nuc", "er")
    assert (built.windows.image.shape, built.windows.image.scale) == ((1, 128, 128), (8.0, 8.0, 8.0))
    assert built.windows.target == built.windows.image
    assert (built.batch_size, built.samples_per_epoch, built.wanted.prob) == (8, 8000, 0.3)
    assert built.transforms == TRANSFORMS
    assert not built.wanted.use_s3
    assert module.net(torch.zeros(1, 1, 128, 128)).shape == (1, 2, 128, 128), "classes are channels (E14)"


def test_e5_e6_e13_the_datasplit_is_planned_before_and_written_once(config, home, capsys):
    file = config()
    before = asparagus.plan_of(file)
    assert not (home / "examples" / "datasplit.csv").exists(), "a plan writes nothing"
    outcome = asparagus.launch(file)
    rows = read_datasplit(home / "examples" / "datasplit.csv")
    assert {row.usage for row in rows} == {"train", "validate"}
    after = asparagus.plan_of(file)
    assert before.fingerprint == after.fingerprint is not None
    assert before.identity == after.identity, "so that an interrupted training goes on"
    (home / "examples" / "datasplit.csv").write_text((home / "examples" / "datasplit.csv").read_text() + "# mine\n")
    assert asparagus.plan_of(file).identity != before.identity
    assert outcome.state == "finished"
    assert 0 <= outcome.metrics["val/dice"] <= 1


def test_e12_the_plan_knows_the_length_of_an_epoch(config):
    assert batches_of(asparagus.plan_of(config(), ["resources.workers=2", "batch_size=3"]).spec, None) == 4


def test_what_is_learnt_is_in_the_image(config):
    """Bright voxels are nuclei and dark ones are not: a few hundred draws tell; whoever says yes to all has 0.67."""
    outcome = asparagus.launch(config(), ["iterations_per_epoch=60", "model_kwargs={features: [8, 8]}"])
    assert outcome.metrics["val/dice"] > 0.8


@pytest.mark.parametrize("name", ["train_2D.py", "train_3D.py"])
def test_e45_the_examples_are_as_documented(name, home, volumes, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_DATA", str(volumes))
    spec = asparagus.plan_of(EXAMPLES / name).spec
    flat = name == "train_2D.py"
    shape = [1, 128, 128] if flat else [128, 128, 128]
    assert spec.data["input_array_info"] == {"shape": shape, "scale": [8, 8, 8]}
    assert spec.data["batch_size"] == (8 if flat else 3)
    assert spec.data["samples_per_epoch"] == 1000 * spec.data["batch_size"]
    assert (spec.trainer["max_epochs"], spec.data["validation_time_limit"]) == (1000, 60)
    assert spec.data["classes"] == ["nuc", "er"]
    assert (spec.optim["name"], spec.optim["lr"], spec.seed) == ("radam", 1e-4, 42)
    mirrored = {"x": 0.5, "y": 0.5} if flat else {"x": 0.5, "y": 0.5, "z": 0.1}
    assert spec.data["spatial_transforms"]["mirror"]["axes"] == mirrored


def test_e45_the_example_trains_when_it_is_made_small(home, volumes, monkeypatch, capsys):
    monkeypatch.setenv("ASPARAGUS_DATA", str(volumes))
    words = [*SMALL, f"datasplit_path={home}/datasplit.csv", "~logger.tensorboard"]
    assert run("launch", [str(EXAMPLES / "train_2D.py"), *words, "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert outcome["state"] == "finished"
    assert outcome["metrics"]["val/loss"] > 0
    assert (home / "datasplit.csv").is_file()


@pytest.mark.ray
def test_e45_two_ray_workers_share_the_crops(config, ray_address):
    words = ["resources.workers=2", "site=cluster", f"site.address={ray_address}"]
    outcome = asparagus.launch(config(), words)
    assert outcome.state == "finished"
    written = yaml.safe_load((Path(outcome.folder) / "config.yaml").read_text())
    assert written["data"]["samples_per_epoch"] == 4 * 4 * 2
    assert outcome.metrics["val/loss"] > 0


WRONG = {
    "a class that is nowhere": ("classes = ['nuc', 'mito_mem']", ["data.datasplit_path", "mito_mem"]),
    "no list of classes": ("classes = 'nuc'", ["data.classes: 'nuc'", "list of different names"]),
    "a class twice": ("classes = ['nuc', 'nuc']", ["data.classes"]),
    "a shape of two": ("target_array_info = {'shape': (8, 8)}", ["data.target_array_info.shape", "three positive"]),
    "a scale of two": ("input_array_info = {'shape': (1, 8, 8), 'scale': (8, 8)}", ["data.input_array_info.scale"]),
    "an axis": (
        "spatial_transforms = {'mirror': {'axes': {'w': 0.5}}}",
        ["data.spatial_transforms.mirror.axes", "'w'"],
    ),
    "a transform": ("spatial_transforms = {'mirrors': {'axes': {}}}", ["data.spatial_transforms.mirrors", "'mirror'"]),
    "a chance": ("validation_prob = 3", ["validation_prob: 3 is no share"]),
    "a data folder without volumes": (
        "data = {'root': '/nowhere'}",
        ["is not there, and none can be written", "/nowhere"],
    ),
}


@pytest.mark.parametrize(("text", "named"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_named_before_anything_runs(text, named, config, capsys, home):
    assert run("launch", [str(config(f"{CONFIG}{text}\n")), "--dry-run"]) == 2
    said = capsys.readouterr().err
    for part in named:
        assert part in said
    assert "Traceback" not in said
    assert not (home / "models").exists()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("train,x\n", "datasplit.csv:1: 2 columns"),
        ('train,a.zarr/em,"a.zarr/c/[mito]"\n', "data.classes: 'nuc' is annotated in no training crop"),
        ('validate,a.zarr/em,"a.zarr/c/[nuc,er]"\n', "no row is for training"),
    ],
)
def test_a_datasplit_that_cannot_serve_is_named_before_anything_runs(text, named, config, home):
    file = config()
    (home / "examples" / "datasplit.csv").write_text(text)
    with pytest.raises(ConfigError) as caught:
        asparagus.plan_of(file)
    assert named in str(caught.value)
    assert (home / "examples" / "datasplit.csv").read_text() == text


def test_e5_a_path_of_yaml_is_relative_to_where_it_is_typed(config, home):
    words = ("data=crops", "task=cells", "model.dimensions=2D", "data.datasplit_path=here.csv")
    masks = "model.module._target_=asparagus.stages.masks.MaskModule"
    config()
    assert asparagus.plan_of("train_seg", (*words, masks)).spec.data["datasplit_path"] == str(home / "here.csv")


def test_a_stage_of_one_class_per_voxel_is_refused(config, home):
    asked = ("data=crops", "task=cells", "model.dimensions=2D", f"data.root={home}")
    with pytest.raises(ConfigError, match=r"Give model.module._target_=asparagus.stages.masks.MaskModule"):
        asparagus.plan_of("train_seg", asked)


def test_a_task_is_still_a_folder_of_cases(config):
    data = asparagus.compose.compose(asparagus.compose.Request(str(config()), ("task=Task997_LauritSynSeg",))).data
    assert data["patch_size"] == [16, 16]
    assert "input_array_info" not in data
