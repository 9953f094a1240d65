"""SESEMI's base config, as its documents have it, letter by letter, composes and trains (SEEDS D9, D17, D21, D24)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import asparagus
from asparagus.cli.main import run
from asparagus.compose.composer import Request
from asparagus.compose.experiment import compose
from asparagus.compose.sesemi import TARGETS
from asparagus.compose.tree import get
from asparagus.errors import ConfigError
from asparagus.plan import Plan
from asparagus.stages.semi.module import SemiModule
from asparagus.targets import locate

SHELF = Path(__file__).parents[2] / "configs"
BASE = """
defaults:
  - sesemi_config
run:
  accelerator: dp
  num_epochs: 50
  batch_size_per_gpu: 16
data:
  train:
    supervised:
      dataset:
        name: image_folder
        subset: train
        image_transform:
          _target_: sesemi.transforms.train_transforms
      shuffle: True
      pin_memory: True
      num_workers: 4
      drop_last: True
    rotation_prediction:
      dataset:
        name: image_folder
        image_transform:
          _target_: sesemi.transforms.train_transforms
      shuffle: True
      pin_memory: True
      num_workers: 4
      collate_fn:
        _target_: sesemi.collation.RotationTransformer
      drop_last: True
  val:
    dataset:
      name: image_folder
      subset: val
      image_transform:
        _target_: sesemi.transforms.center_crop_transforms
    shuffle: False
    pin_memory: True
    num_workers: 4
    drop_last: False
learner:
  hparams:
    num_classes: 10
    model:
      backbone:
        _target_: sesemi.PyTorchImageModels
        name: resnet50d
        freeze: False
        pretrained: False
        global_pool: avg
        drop_rate: 0.5
      supervised_loss:
        callable:
          _target_: torch.nn.CrossEntropyLoss
      regularization_loss_heads:
        rotation_prediction:
          head:
            _target_: sesemi.models.heads.loss.RotationPredictionLossHead
            input_data: rotation_prediction
            input_backbone: backbone
    optimizer:
      _target_: torch.optim.SGD
      lr: 0.1
      momentum: 0.9
      nesterov: True
      weight_decay: 0.0005
    lr_scheduler:
      scheduler:
        _target_: sesemi.PolynomialLR
        warmup_epochs: 10
        iters_per_epoch: ${sesemi:iterations_per_epoch}
        warmup_lr: 0.001
        lr_pow: 0.5
        max_iters: ${sesemi:max_iterations}
trainer:
  callbacks:
    - _target_: pytorch_lightning.callbacks.ModelCheckpoint
      monitor: val/top1
      mode: max
      save_top_k: 1
      save_last: True
"""
"""Section "Example" of the quickstart."""
CUSTOM = """
defaults:
- base
run:
  seed: 42
  gpus: -1
  num_epochs: 80
  id: imagewoof
  data_root: ./data/imagewoof2
"""
"""Section "Usage" of the quickstart."""
LOADERS = ("data.train.supervised", "data.train.rotation_prediction", "data.val")
TINY = (
    "learner.hparams.num_classes=2",
    "learner.hparams.lr_scheduler.scheduler.warmup_epochs=1",
    "run.batch_size_per_gpu=4",
    "run.num_epochs=2",
    "trainer.log_every_n_steps=1",
    *(f"{loader}.num_workers=0" for loader in LOADERS),
    *(f"{loader}.dataset.image_transform.{key}=32" for loader in LOADERS for key in ("crop_dim", "resize")),
)
"""What makes it small: 8 images with labels are 2 batches, all 12 turned ones are 3; a warm-up of 3 of 6 steps."""
RESNET18 = "learner.hparams.model.backbone.name=resnet18"
MLP = "_target_: asparagus.models.mlp.MLP, in_channels: 3, img_size: [32, 32], out_channels: 2"
LINES = f"{{_target_: asparagus.stages.semi.backbones.without_head, net: {{{MLP}}}, head: head}}"
FEW = ("~learner.hparams.model.backbone", f"+learner.hparams.model.backbone={LINES}", *TINY)
"""A training that takes no time."""
DP = "run.accelerator: 'dp' is gone from Lightning, and is left out on one device. On several: ddp."
FOUR_GPUS = ("site.gpus_per_node=4", "site.cpus_per_node=16")


@pytest.fixture
def mine(home) -> str:
    """The quickstart's folders: configs and data, the latter with reddish and greenish squares, PNG and JPEG."""
    rng = np.random.default_rng(0)
    for part, each in (("train", 4), ("val", 2)):
        for number, name in enumerate(("cat", "dog")):
            folder = home / "data" / part / name
            folder.mkdir(parents=True)
            for index in range(each):
                pixels = rng.integers(0, 90, (40, 48, 3), dtype=np.uint8)
                pixels[..., number] += 150
                Image.fromarray(pixels).save(folder / f"{index}.{'jpg' if index % 2 else 'png'}")
    (home / "configs").mkdir()
    (home / "configs" / "mine.yaml").write_text(BASE)
    (home / "configs" / "custom.yaml").write_text(CUSTOM)
    return str(home / "configs" / "mine.yaml")


def plan(config: str, *words: str) -> Plan:
    return asparagus.plan_of(config, ["site.gpus_per_node=0", *words])


def problems_of(config: str, *words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        plan(config, *words)
    return str(caught.value)


def polynomial(step: int, warm: int, end: int, lr: float = 0.1, first: float = 0.001, power: float = 0.5) -> float:
    """The rate of the documented schedule, by SEEDS D25."""
    return first + (lr - first) * step / warm if step < warm else lr * (1 - (step - warm) / (end - warm)) ** power


def logged(folder: str | Path, name: str) -> list[float]:
    """Return each value of a metric in the order of its steps."""
    lines = map(json.loads, (Path(folder) / "journal.jsonl").read_text().splitlines())
    kinds = ("metrics", "epoch") if name.startswith("val/") else ("metrics",)
    found = {line["step"]: line["values"] for line in lines if line["kind"] in kinds and name in line["values"]}
    return [found[step][name] for step in sorted(found)]


def test_d21_the_documented_base_config_composes_unchanged(mine, caplog):
    made = plan(mine).spec
    module = made.model["module"]
    assert module["_target_"] == "asparagus.stages.semi.module.SemiModule"
    assert (module["n_classes"], module["backbone"]["name"], module["backbone"]["drop_rate"]) == (10, "resnet50d", 0.5)
    assert module["supervised_loss"]["callable"] == {"_target_": "torch.nn.CrossEntropyLoss"}
    sgd = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0005}
    assert {key: value for key, value in made.optim.items() if key != "sched"} == {"_target_": "torch.optim.SGD", **sgd}
    assert (made.trainer["max_epochs"], made.data["batch_size"]) == (50, 16)
    assert made.data["root"] == str(Path(mine).parents[1] / "data")
    assert (made.checkpoint.monitor, made.checkpoint.mode) == ("val/top1", "max")
    [callback] = made.callbacks.values()
    assert callback["monitor"] == "val/top1"
    assert caplog.messages == [DP]


def test_d21_the_shipped_base_says_what_the_documented_one_says_with_ddp_for_dp():
    shipped, documented = yaml.safe_load((SHELF / "base.yaml").read_text()), yaml.safe_load(BASE)
    assert documented["run"].pop("accelerator") == "dp"
    assert shipped["run"].pop("accelerator") == "ddp"
    assert shipped | {"defaults": ["sesemi_config"]} == documented


def test_d21_it_trains_on_a_folder_of_images(mine):
    outcome = asparagus.launch(mine, ["site.gpus_per_node=0", *FEW])
    assert outcome.state == "finished"
    assert logged(outcome.folder, "val/top1")[-1] == outcome.metrics["val/top1"]
    losses, rotated, both = (
        logged(outcome.folder, f"train/{name}")
        for name in ("supervised/loss", "regularization/rotation_prediction/loss", "loss")
    )
    assert np.allclose(np.add(losses, rotated), both, rtol=1e-5)
    names = [file.name for file in Path(outcome.folder).rglob("*.ckpt") if file.is_file()]
    assert "last.ckpt" in names
    rates = logged(outcome.folder, "optim/lr/param_group/0")
    assert rates == pytest.approx([polynomial(step, warm=3, end=6) for step in range(6)])


@pytest.mark.e2e
def test_d21_a_resnet_trains_by_the_command(mine, asp):
    words = ("-cd", "configs", "-cn", "mine", "site.gpus_per_node=0", *TINY, RESNET18, "run.num_epochs=1", "--json")
    done = asp("asp-launch", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["state"] == "finished"
    assert DP in done.stderr


@pytest.mark.e2e
def test_d13_pretrained_weights_of_another_number_of_classes_leave_the_head_behind(mine):
    first = asparagus.launch(mine, ["site.gpus_per_node=0", *FEW, "run.num_epochs=1"])
    last = next(file for file in Path(first.folder).rglob("last.ckpt") if file.is_file())
    words = (f"run.pretrained_checkpoint_path={last}", "learner.hparams.num_classes=5", "run.num_epochs=1")
    second = asparagus.launch(mine, ["site.gpus_per_node=0", *FEW, *words])
    report = json.loads((Path(second.folder) / "transfer.json").read_text())
    assert "head.weight" in json.dumps(report["left"])
    assert any(name.startswith("net.") for name in report["taken"])


@pytest.mark.slow
def test_d21_the_documented_network_trains_as_well(mine):
    assert asparagus.launch(mine, ["site.gpus_per_node=0", *TINY]).state == "finished"


@pytest.mark.ray
@pytest.mark.e2e
def test_d21_it_trains_on_two_workers(mine, ray_address):
    words = ["run.gpus=0", "run.accelerator=ddp", "resources.workers=2", f"site.address={ray_address}", *FEW]
    outcome = asparagus.launch(mine, words)
    assert outcome.state == "finished"
    # 4 images with labels and 6 turned ones for each: one batch, drop_last; W = 1 and 2 steps in all
    assert logged(outcome.folder, "optim/lr/param_group/0") == pytest.approx([polynomial(s, 1, 2) for s in range(2)])


def test_d9_dp_on_several_devices_is_refused_and_named(mine):
    said = problems_of(mine, "run.gpus=2", *FOUR_GPUS)
    assert "'dp' is gone from Lightning. Use ddp" in said
    assert "mine.yaml:5" in said, "where it stands"
    assert plan(mine, "run.gpus=2", "run.accelerator=ddp", *FOUR_GPUS).workers == 2
    assert "'dp'" in problems_of(mine, "run.gpus=0", "resources.workers=2")


def test_d17_the_built_in_configs_are_launched_by_name(mine, capsys):
    made = plan("imagewoof").spec
    assert (made.seed, made.trainer["max_epochs"], made.run.name) == (42, 80, "imagewoof")
    assert made.data["root"] == str(Path(mine).parents[1] / "data" / "imagewoof2")
    assert plan("base").spec.optim == plan(mine).spec.optim
    own = plan(mine.replace("mine.yaml", "custom.yaml")).spec
    assert (own.data, own.model, own.optim, own.seed) == (made.data, made.model, made.optim, made.seed)


def test_d6_the_bare_default_asks_for_what_is_mandatory(home):
    said = problems_of("sesemi_config")
    for key in ("num_classes", "model.backbone", "model.supervised_loss.callable", "optimizer"):
        assert f"learner.hparams.{key}: is mandatory" in said


def test_d30_info_shows_where_each_key_of_a_custom_config_comes_from(mine, capsys):
    assert run("launch", ["-cd", "configs", "-cn", "custom", "--info"]) == 0
    shown = capsys.readouterr()
    lists = [line.split()[0] for line in shown.out.split("\n\n")[0].splitlines()[1:]]
    assert lists.index("sesemi_config") < lists.index("base") < lists.index("custom")
    row = next(line for line in shown.out.splitlines() if line.split()[:1] == ["run.num_epochs"])
    assert row.split()[1] == "80"
    assert "_self_" not in shown.err, "Hydra's advice on files that are as documented"


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("optim.lr=0.3", "optim.lr", 0.3),
        ("learner.hparams.optimizer.lr=0.3", "optim.lr", 0.3),
        ("optim.sched.warmup_lr=0.5", "optim.sched.warmup_lr", 0.5),
        ("optim.sched.interval=epoch", "optim.sched.interval", "epoch"),
        ("learner.hparams.num_classes=3", "model.module.n_classes", 3),
        ("model.module.n_classes=3", "model.module.n_classes", 3),
        ("model.module.backbone.name=resnet34", "model.module.backbone.name", "resnet34"),
        ("run.num_epochs=3", "trainer.max_epochs", 3),
    ],
)
def test_d16_a_key_is_typed_in_either_spelling(word, key, value, mine):
    assert get(plan(mine, word).spec.to_dict(), key) == value


ATOMMIC = "defaults: [/train_cls, {override /model: mlp}]\nmodel: {optim: {name: sgd, lr: 0.5, momentum: 0.9}}\n"


def test_d16_a_group_that_is_typed_wins_over_what_the_file_calls_otherwise(mine, home):
    optim = plan(mine, "optim=adam").spec.optim
    assert (optim["name"], optim["lr"], optim.keys() & {"_target_", "momentum"}) == ("adam", 1e-3, set())
    assert optim["sched"]["_target_"].endswith("PolynomialLR"), "the schedule is a section of its own there"
    assert plan(mine, "optim=adam", "optim.lr=0.3").spec.optim["lr"] == 0.3
    later = problems_of(mine, "optim=adam", "learner.hparams.optimizer.lr=0.3")
    assert "learner.hparams.optimizer.lr: " in later
    assert "optim.lr" in later
    (home / "configs" / "old.yaml").write_text(ATOMMIC)
    spec = compose(Request(str(home / "configs" / "old.yaml"), ("task=T", "optim=adam")))
    assert (spec.optim["name"], "momentum" in spec.optim) == ("adam", False)


def schedule(**more: Any) -> str:
    words = "_target_: torch.optim.lr_scheduler.ReduceLROnPlateau, mode: max, patience: 0"
    rest = "".join(f", {key}: {value}" for key, value in more.items())
    return f"learner.hparams.lr_scheduler={{scheduler: {{{words}}}{rest}}}"


def configured(mine: str, *words: str) -> Any:
    trainer, module, datamodule = asparagus.load_from_config(plan(mine, *FEW, *words).spec)
    assert isinstance(module, SemiModule)
    trainer.fit(module, datamodule=datamodule)
    return trainer.lr_scheduler_configs[0]


def test_d24_the_section_is_lightnings(mine):
    """D5, D24: scheduler, interval, frequency, monitor, strict and name."""
    when = {"interval": "epoch", "frequency": 2, "monitor": "val/top1", "strict": "false", "name": "plateau"}
    found = configured(mine, "trainer.max_epochs=1", "~learner.hparams.lr_scheduler", "+" + schedule(**when))
    assert (found.interval, found.frequency, found.monitor) == ("epoch", 2, "val/top1")
    assert (found.strict, found.name) == (False, "plateau")
    assert isinstance(found.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)


def test_d24_it_is_stepped_after_each_step_unless_it_says_otherwise(mine):
    found = configured(mine, "learner.hparams.lr_scheduler.scheduler.warmup_epochs=1")
    assert (found.interval, found.frequency, found.monitor) == ("step", 1, None)
    assert found.scheduler.last_epoch == 6


def test_d24_by_epoch_it_keeps_its_rate_within_one(mine):
    word = "+learner.hparams.lr_scheduler.interval=epoch"
    outcome = asparagus.launch(mine, ["site.gpus_per_node=0", *FEW, word])
    rates = logged(outcome.folder, "optim/lr/param_group/0")
    assert rates == pytest.approx([polynomial(step, warm=3, end=6) for step in (0, 0, 0, 1, 1, 1)])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "+learner.hparams.lr_scheduler.intervall=step",
            ["lr_scheduler.intervall", "Did you mean 'learner.hparams.lr_scheduler.interval'"],
        ),
        ("+learner.hparams.num_class=3", ["learner.hparams.num_class", "num_classes"]),
        (
            "learner.hparams.model.backbone._target_=sesemi.PyTorchImageModel",
            ["backbone._target_", "Did you mean 'sesemi.PyTorchImageModels'"],
        ),
        ("data.val.dataset.image_transform._target_=sesemi.transforms.center", ["center_crop_transforms"]),
        ("data.val.dataset.image_transform.crop=1", ["crop", "crop_dim"]),
    ],
)
def test_d21_a_misspelt_word_is_answered_with_the_nearest_one(word, said, mine):
    found = problems_of(mine, word if "=" not in word or word.startswith("+") else f"++{word}")
    for part in said:
        assert part in found


@pytest.mark.parametrize("name", sorted(set(TARGETS.values())))
def test_d32_every_name_of_the_table_is_something_here(name):
    assert isinstance(locate(name, key="table"), Callable)
