"""SESEMI's promises (SEEDS D1 to D17, D26 to D30) under our names, and under the names that its documents use."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import Dataset, IterableDataset

import asparagus
from asparagus.checkpoint.folder import STATE
from asparagus.cli.main import run
from asparagus.compose import Request, compose, compose_config
from asparagus.compose.schema import every_key
from asparagus.data.loaders import LoaderDataModule
from asparagus.errors import AsparagusError, ConfigError
from asparagus.plan import Plan
from asparagus.spec import Spec

HERE = __name__
SHELF = Path(__file__).parents[2] / "configs"
DIGITS = "experiment/digits"
FOUR_GPUS = ("site.gpus_per_node=4", "site.cpus_per_node=16")


class Points(Dataset):
    """Labelled points in four dimensions; keeps what it was given."""

    def __init__(self, size: int, root: str | None = None, subset: str | None = None) -> None:
        generator = torch.Generator().manual_seed(size)
        self.x = torch.randn(size, 4, generator=generator)
        self.y = (self.x.sum(1) > 0).long()
        self.root, self.subset = root, subset

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


class Stream(IterableDataset):
    """A stream of points that does not tell how many."""

    def __init__(self, size: int = 12) -> None:
        self.points = Points(size)

    def __iter__(self):
        return (self.points[index] for index in range(len(self.points)))


def registered_points(root, subset=None, image_transform=None, size=3):
    made = Points(size, root=root, subset=subset)
    made.image_transform = image_transform
    return made


def pairs(items):
    return [("together", len(items))]


class Learner(pl.LightningModule):
    """A classifier of one's own, configured as SESEMI's; what it went through stands in its diary."""

    def __init__(self, hparams: dict, diary: str | None = None, told: Any = None) -> None:
        super().__init__()
        self.settings, self.diary, self.told = hparams, diary, told
        self.backbone, self.loss = hparams["model"]["backbone"], hparams["model"]["supervised_loss"]
        self.head = nn.Linear(8, hparams["num_classes"])
        self.seen = 0

    def step(self, batch):
        x, y = batch["supervised"] if isinstance(batch, dict) else batch
        self.seen += len(x)
        scores = self.head(self.backbone(x))
        return self.loss["callable"](scores, y) * self.loss["scale_factor"], (scores.argmax(1) == y).float().mean()

    def training_step(self, batch, index):
        if isinstance(batch, dict) and not index:
            self.note("batch", sizes={name: len(part[0]) for name, part in batch.items()})
        return self.step(batch)[0]

    def validation_step(self, batch, index):
        loss, top1 = self.step(batch)
        self.log("val/loss", loss)
        self.log("val/top1", top1)

    def test_step(self, batch, index):
        self.log("test/top1", self.step(batch)[1])

    def configure_optimizers(self):
        return self.settings["optimizer"](self.parameters())

    def on_train_start(self):
        momenta = [state["momentum_buffer"] for state in self.optimizers().optimizer.state.values()]
        self.note(
            "start",
            epoch=self.trainer.current_epoch,
            step=self.trainer.global_step,
            batches=self.trainer.num_training_batches,
            stepping=self.trainer.estimated_stepping_batches,
            momentum=sum(float(buffer.abs().sum()) for buffer in momenta if buffer is not None),
            weight=float(self.head.weight.sum()),
            told=self.told,
        )

    def on_train_end(self):
        self.note("end", step=self.trainer.global_step, epoch=self.trainer.current_epoch)

    def on_validation_start(self):
        self.seen = 0

    def on_test_start(self):
        self.seen = 0

    def on_validation_end(self):
        self.note("validated", seen=self.seen, weight=float(self.head.weight.sum()))

    def on_test_end(self):
        self.note("tested", seen=self.seen, weight=float(self.head.weight.sum()))

    def note(self, event: str, **facts: Any) -> None:
        if self.diary:
            with Path(self.diary).open("a") as file:
                file.write(json.dumps({"event": event, **facts}) + "\n")


def loader(size: int, **options: Any) -> dict[str, Any]:
    return {"dataset": {"_target_": f"{HERE}.Points", "size": size}, **options}


LEARNER = {
    "_target_": f"{HERE}.Learner",
    "hparams": {
        "num_classes": 2,
        "model": {
            "backbone": {"_target_": "torch.nn.Linear", "in_features": 4, "out_features": 8},
            "supervised_loss": {
                "callable": {"_target_": "torch.nn.CrossEntropyLoss"},
                "scheduler": None,
                "reduction": "mean",
                "scale_factor": 1.0,
            },
            "regularization_loss_heads": None,
        },
        "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1, "momentum": 0.9},
        "lr_scheduler": None,
    },
}
CUSTOM = {
    "defaults": ["train", {"data": "loaders"}, "_self_"],
    "task": "points",
    "run": {"seed": 42, "num_epochs": 2, "gpus": 0, "batch_size_per_gpu": 8},
    "data": {"train": loader(40, shuffle=True), "val": loader(20), "test": loader(30)},
    "learner": LEARNER,
}
"""An experiment with SESEMI's own keys."""


def joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Merge sections; a section that holds `only` replaces instead."""
    sections = [key for key in one.keys() & other.keys() if isinstance(one[key], dict) and isinstance(other[key], dict)]
    both = {key: other[key].get("only") or joined(one[key], other[key]) for key in sections}
    return {**one, **other, **both}


@pytest.fixture
def custom(home):
    """Return a function that writes the experiment, with changes, and returns its path."""

    def write(name: str = "custom.yaml", **changes: Any) -> str:
        (home / name).write_text(yaml.safe_dump(joined(CUSTOM, changes), sort_keys=False))
        return str(home / name)

    return write


@pytest.fixture
def diary(home):
    """Return what learners wrote into the diary, as a list of one event's entries."""

    def read(event: str) -> list[dict[str, Any]]:
        lines = (home / "diary").read_text().splitlines() if (home / "diary").exists() else []
        return [entry for entry in map(json.loads, lines) if entry["event"] == event]

    read.word = f"model.module.diary={home / 'diary'}"
    return read


def plan(config: str, *words: str) -> Plan:
    return asparagus.plan_of(config, words)


def spec(config: str, *words: str) -> Spec:
    return compose(Request(config, words))


def problems_of(config: str, *words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        asparagus.plan_of(config, words)
    return str(caught.value)


def datamodule_of(config: str, *words: str) -> LoaderDataModule:
    """Build the data module as a run would."""
    _, _, datamodule = asparagus.load_from_config(plan(config, *words).spec)
    datamodule.setup("fit")
    return datamodule


def loader_of(config: str, *words: str) -> Any:
    return datamodule_of(config, *words).train_dataloader()


# What help shows (D1)


def help_of(capsys, *words: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the groups and the config that a help shows."""
    assert run("launch", list(words)) == 0
    shown = capsys.readouterr().out
    groups, _, rest = shown.partition("(group=option)\n")[2].partition("== Config ==")
    body = rest.partition("(foo.bar=value)\n")[2].rpartition("\n\n")[0]
    listed = dict(line.split(": ", 1) for line in groups.strip().splitlines())
    return listed, yaml.safe_load(body)


def leaves(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@pytest.mark.parametrize("config", ["pretrain", "train", "train_cls", DIGITS])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_d1_help_shows_every_key_with_its_default_value(config, flag, home, capsys):
    _, shown = help_of(capsys, config, flag)
    composed = leaves(OmegaConf.to_container(compose_config(Request(config)), resolve=False))
    assert len(composed) > 20
    assert {key: value for key, value in leaves(shown).items() if key in composed} == composed


def test_d1_help_shows_the_keys_that_no_file_sets_with_their_defaults_too(home, capsys):
    _, shown = help_of(capsys, DIGITS, "--help")
    settable = {key for key in every_key() if not key.startswith("paths.")}
    assert (
        settable - leaves(shown).keys() - {"site.env", "resources.labels", "transfer.rename", "transfer.more"} == set()
    )  # open, and empty
    asked = shown["resources"]
    assert (asked["workers"], asked["cpus_per_worker"], asked["gpus_per_worker"]) == (0, 1, 0)


def test_d1_help_shows_what_is_mandatory_and_what_a_file_says(custom, capsys):
    _, shown = help_of(capsys, custom(task="???", learner={"hparams": {"num_classes": "???"}}), "--help")
    assert (shown["task"], shown["learner"]["hparams"]["num_classes"]) == ("???", "???")
    assert shown["run"]["mode"] == "fit"
    assert shown["learner"]["hparams"]["model"]["supervised_loss"]["scale_factor"] == 1.0


def test_d1_help_lists_the_groups_with_their_options(home, capsys):
    groups, _ = help_of(capsys, "train_cls", "--help")
    for group in ("model", "data", "optim", "trainer", "resources", "hardware", "logger", "experiment"):
        assert groups[group].split(", ") == sorted(file.stem for file in (SHELF / group).glob("*.yaml"))
    assert {"cluster", "local", "slurm"} <= set(groups["site"].split(", "))


def test_d1_help_of_a_folder_of_ones_own_lists_its_groups(home, capsys):
    (home / "mine" / "learner").mkdir(parents=True)
    (home / "mine" / "learner" / "classifier.yaml").write_text("_target_: x.Y\n")
    groups, _ = help_of(capsys, "train", "--help", "-cd", str(home / "mine"))
    assert groups["learner"] == "classifier"


def test_d1_help_starts_nothing(home, capsys):
    help_of(capsys, DIGITS, "--help")
    assert not (home / "models").exists()


# Types and keys


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("run.seed=many", ["seed", "'many'"]),
        ("run.num_epochs=many", ["trainer.max_epochs", "'many'"]),
        ("run.num_epochs=1.5", ["trainer.max_epochs", "1.5"]),
        ("run.num_nodes=two", ["'two'"]),
        ("run.gpus=many", ["run.gpus", "'many'"]),
        ("run.gpus=1.5", ["run.gpus", "1.5"]),
        ("run.gpus=[a]", ["run.gpus", "'a'"]),
        ("run.gpus=-2", ["run.gpus", "-2"]),
        ("run.accelerator=[ddp]", ["trainer.strategy"]),
        ("run.batch_size_per_gpu=big", ["data.batch_size", "'big'"]),
        ("run.data_root=[a]", ["data.root"]),
        ("run.mode=TRAINING", ["run.mode", "fit, test, validate"]),
        ("run.mode=[FIT]", ["run.mode"]),
        ("run.resume_from_checkpoint=[a]", ["run.resume_from_checkpoint"]),
        ("run.max_failures=few", ["run.max_failures", "'few'"]),
        ("resources.workers=1.5", ["resources.workers", "1.5"]),
        ("checkpoint.keep_best=some", ["checkpoint.keep_best", "'some'"]),
        ("transfer.strict=maybe", ["transfer.strict", "'maybe'"]),
        ("run=7", ["run: 7"]),
        ("trainer.max_epochs=true", ["trainer.max_epochs", "True"]),
    ],
)
def test_d2_a_wrong_type_is_refused_with_its_key_and_value(word, named, custom):
    said = problems_of(custom(), word)
    for part in named:
        assert part in said
    assert f"command line: {word.partition('=')[0]}" in said


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("run.num_epoch=3", ["run.num_epoch", "no such key"]),
        ("runs.seed=3", ["runs", "'run'"]),
        ("run.resume_from_check=x", ["run.resume_from_check", "'run.resume_from_checkpoint'"]),
        ("data.trian.supervised=1", ["data.trian", "'train'"]),
        ("data.train.shufle=true", ["data.train.shufle", "'shuffle'"]),
        ("data.train.dataset.sise=3", ["data.train.dataset.sise", "'size'"]),
        ("learner.hparam=1", ["model.module.hparam", "'hparams'"]),
        ("learner.hparams.model.backbone.infeatures=1", ["backbone.infeatures", "'in_features'"]),
        ("trainer.max_epoch=1", ["trainer.max_epoch", "'max_epochs'"]),
        ("trainer.callbacks=[{_target_: pytorch_lightning.callbacks.ModelCheckpoint, monitr: x}]", ["'monitor'"]),
    ],
)
def test_d2_an_unknown_key_is_refused_with_the_nearest_known_one(word, named, custom):
    said = problems_of(custom(), word)
    for part in named:
        assert part in said


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed: x": {"run": {"seed": "x"}}, "keep_best: y": {"checkpoint": {"keep_best": "y"}}},
        {
            "num_epochs: x": {"run": {"num_epochs": "x"}},
            "batch_size_per_gpu: y": {"run": {"batch_size_per_gpu": "y"}},
            "shufle: z": {"data": {"train": {"shufle": "z"}}},
        },
    ],
    ids=["of the schema", "of what sections name"],
)
def test_d2_every_wrong_value_of_a_file_is_said_at_once_with_its_line(wrong, custom):
    changes: dict[str, Any] = {}
    for change in wrong.values():
        changes = joined(changes, change)
    file = custom(**changes)
    said = problems_of(file)
    lines = Path(file).read_text().splitlines()
    for written in wrong:
        number = next(number for number, line in enumerate(lines, start=1) if line.strip() == written)
        assert f"[custom.yaml:{number}]" in said


def test_d2_a_whole_number_may_be_written_as_text_and_types_come_out_right(custom):
    made = spec(custom(), "run.seed='7'", "run.mode=Fit")
    assert (made.seed, made.run.mode) == (7, "fit")


# D3 to D5: sections


def test_d3_a_loader_section_takes_every_documented_key(custom):
    section = loader(
        10,
        batch_size_per_gpu=3,
        shuffle=True,
        num_workers=1,
        collate_fn={"_target_": f"{HERE}.pairs", "_partial_": True},
        pin_memory=False,
        drop_last=True,
        timeout=5,
        worker_init_fn={"_target_": "torch.manual_seed", "_partial_": True},
        sampler=None,
        batch_sampler=None,
        batch_size=None,
    )
    made = loader_of(custom(data={"train": {"only": {"supervised": section}}}, run={"batch_size_per_gpu": 2}))
    only = made.flattened[0]
    assert (only.batch_size, only.num_workers, only.drop_last, only.timeout, only.pin_memory) == (3, 1, True, 5, False)
    assert only.collate_fn([1, 2]) == [("together", 2)]
    assert only.worker_init_fn.func is torch.manual_seed


def test_d3_samplers_are_sections_that_get_the_dataset(custom):
    sampler = {"_target_": "torch.utils.data.RandomSampler", "replacement": True, "num_samples": 5}
    made = loader_of(custom(data={"train": {"sampler": sampler, "shuffle": False}}))
    assert (len(made.sampler), len(made.sampler.data_source)) == (5, 40)
    batches = {
        "_target_": "torch.utils.data.BatchSampler",
        "sampler": {"_target_": "torch.utils.data.SequentialSampler"},
        "batch_size": 20,
        "drop_last": False,
    }
    made = loader_of(custom(data={"train": {"batch_sampler": batches, "shuffle": False}}))
    assert [len(x) for x, _ in made] == [20, 20]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("data.train.batch_size=2", "data.train.batch_size_per_gpu=3"), ["data.train", "batch_size_per_gpu"]),
        (("data.train.dataset=null",), ["data.train.dataset"]),
        (("data.val.nom_workers=2",), ["data.val.nom_workers", "'num_workers'"]),
        (("data.test=7",), ["data.test: 7"]),
    ],
)
def test_d3_wrong_sections_are_refused_before_anything_runs(words, named, custom):
    said = problems_of(custom(), *words)
    for part in named:
        assert part in said


def test_d4_a_dataset_is_a_name_a_root_a_subset_and_a_transform(custom, home, monkeypatch):
    (home / "points_of_mine.py").write_text(
        f"import asparagus\nfrom {HERE} import registered_points\n"
        "asparagus.register_dataset('points', registered_points)\n"
    )
    dataset = {"name": "points", "root": "here", "subset": ["a", "b"], "image_transform": {"_target_": "torch.nn.ReLU"}}
    file = custom(imports=["points_of_mine"], data={"train": {"only": {"dataset": dataset}}})
    monkeypatch.syspath_prepend(home)
    built = loader_of(file, f"run.data_root={home}/data").dataset
    assert (built.root, built.subset, len(built)) == (str(home / "data" / "here"), ["a", "b"], 3)
    assert isinstance(built.image_transform, nn.ReLU)


def test_d4_a_name_that_nobody_registered_is_answered_with_the_known_ones(custom):
    said = problems_of(custom(data={"train": {"only": {"dataset": {"name": "image_foldr"}}}}))
    assert "data.train.dataset.name: 'image_foldr'" in said
    assert "image_folder" in said


def test_d5_the_sections_of_a_learner_become_objects_and_typed_values(custom):
    _, module, _ = asparagus.load_from_config(
        plan(custom(), "learner.hparams.model.supervised_loss.scale_factor=2.5").spec
    )
    loss = module.settings["model"]["supervised_loss"]
    assert isinstance(loss["callable"], nn.CrossEntropyLoss)
    assert (loss["scheduler"], loss["reduction"], loss["scale_factor"]) == (None, "mean", 2.5)
    assert isinstance(module.backbone, nn.Linear)
    assert module.settings["model"]["regularization_loss_heads"] is None


def test_d5_a_schedule_section_says_how_often_on_what_and_how_it_is_called(home):
    plateau = "_target_: torch.optim.lr_scheduler.ReduceLROnPlateau, mode: max, patience: 0"
    when = "interval: epoch, frequency: 2, monitor: val/accuracy, strict: true, name: plateau"
    words = (f"optim.sched={{{plateau}, {when}}}", "trainer.max_epochs=1")
    trainer, module, datamodule = asparagus.load_from_config(plan(DIGITS, *words).spec)
    trainer.fit(module, datamodule=datamodule)
    configured = trainer.lr_scheduler_configs[0]
    assert (configured.interval, configured.frequency, configured.monitor) == ("epoch", 2, "val/accuracy")
    assert (configured.strict, configured.name) == (True, "plateau")


def test_d5_a_schedule_is_stepped_every_step_unless_it_says_otherwise(home):
    word = "optim.sched={_target_: torch.optim.lr_scheduler.StepLR, step_size: 3}"
    trainer, module, datamodule = asparagus.load_from_config(plan(DIGITS, word, "trainer.max_epochs=1").spec)
    trainer.fit(module, datamodule=datamodule)
    configured = trainer.lr_scheduler_configs[0]
    assert (configured.interval, configured.frequency, configured.monitor) == ("step", 1, None)
    assert configured.scheduler.last_epoch == trainer.global_step


# D6, D7: what has to be given, and what excludes each other


@pytest.mark.parametrize(
    "key",
    [
        "task",
        "learner.hparams.num_classes",
        "learner.hparams.model.backbone",
        "learner.hparams.model.supervised_loss.callable",
        "learner.hparams.optimizer",
    ],
)
def test_d6_what_is_mandatory_is_asked_for_by_its_key(key, custom):
    file = custom()
    assert f"{key}: is mandatory" in problems_of(file, f"{key}='???'")


def test_d6_everything_that_is_missing_is_said_at_once_and_any_spelling_gives_it(custom):
    file = custom(task="???", learner={"hparams": {"num_classes": "???"}})
    said = problems_of(file)
    assert "task: is mandatory" in said
    assert "learner.hparams.num_classes: is mandatory" in said
    made = spec(file, "task=points", "learner.hparams.num_classes=3")
    assert made.model["module"]["hparams"]["num_classes"] == 3


def test_d7_epochs_and_iterations_exclude_each_other(custom):
    said = problems_of(custom(), "run.num_iterations=100")
    assert "run.num_epochs" in said
    assert "run.num_iterations" in said


def test_d7_iterations_alone_end_the_training(custom):
    made = spec(custom(run={"num_epochs": None}), "run.num_iterations=5000")
    assert made.trainer["max_steps"] == 5000
    assert made.trainer.get("max_epochs") in (None, -1), "the shelf's max_epochs would end it first"


def test_d7_epochs_alone_end_the_training(custom):
    made = spec(custom(), "run.num_epochs=80")
    assert (made.trainer["max_epochs"], made.trainer.get("max_steps")) == (80, None)


def test_d7_with_neither_there_is_a_default(custom):
    made = spec(custom(run={"num_epochs": None}))
    assert made.trainer["max_epochs"] == yaml.safe_load((SHELF / "trainer" / "default.yaml").read_text())["max_epochs"]


# D8, D9: devices


@pytest.mark.parametrize(
    ("gpus", "count"),
    [("2", 2), ("-1", 4), ("'-1'", 4), ("'0,1'", 2), ("'0,1,3'", 3), ("[0,2]", 2), ("'3'", 3), ("4", 4)],
)
def test_d8_gpus_are_a_number_a_list_of_ids_or_all(gpus, count, custom):
    made = plan(custom(), f"run.gpus={gpus}", *FOUR_GPUS)
    assert (made.workers, made.gpus_per_worker, made.world_size) == (count, 1, count)


@pytest.mark.parametrize("gpus", ["1", "[2]", "'1'"])
def test_d8_one_gpu_is_the_trainers(gpus, custom):
    made = plan(custom(), f"run.gpus={gpus}", *FOUR_GPUS)
    assert (made.workers, made.spec.trainer["accelerator"]) == (0, "gpu")


@pytest.mark.parametrize("gpus", ["0", "null", "'0'", "[]"])
def test_d8_no_gpus_are_the_cpu_on_a_machine_that_has_some(gpus, custom):
    made = plan(custom(), f"run.gpus={gpus}", *FOUR_GPUS)
    assert (made.workers, made.gpus_per_worker, made.spec.trainer["accelerator"]) == (0, 0, "cpu")


def test_d8_all_gpus_of_a_machine_without_any_are_the_cpu(custom):
    made = plan(custom(), "run.gpus=-1", "site.gpus_per_node=0")
    assert (made.workers, made.spec.trainer["accelerator"]) == (0, "cpu")


def test_d8_nodes_multiply(custom):
    made = plan(custom(), "run.gpus=4", "run.num_nodes=2", "site.nodes=2", *FOUR_GPUS)
    assert (made.workers, made.gpus_per_worker) == (8, 1)


def test_d8_the_trainers_own_words_mean_the_same(custom):
    file = custom(run={"only": {"num_epochs": 2}})
    ours = plan(file, "resources.workers=2", "resources.gpus_per_worker=1", *FOUR_GPUS)
    theirs = plan(file, "trainer.accelerator=gpu", "trainer.devices=2", *FOUR_GPUS)
    sesemis = plan(file, "run.gpus=2", *FOUR_GPUS)
    assert {(made.workers, made.gpus_per_worker) for made in (ours, theirs, sesemis)} == {(2, 1)}


def test_d8_no_gpus_and_some_are_refused_with_the_line_of_the_file(custom):
    said = problems_of(custom(), "resources.workers=2", "resources.gpus_per_worker=1", *FOUR_GPUS)
    assert "resources.gpus_per_worker" in said
    assert "[custom.yaml:" in said


def test_d8_more_gpus_than_there_are_are_refused_with_their_source(custom):
    said = problems_of(custom(), "run.gpus=8", *FOUR_GPUS)
    assert "8 workers" in said
    assert "command line: run.gpus=8" in said


def test_d9_ddp_is_the_strategy_of_several_gpus(custom):
    assert plan(custom(), "run.gpus=2", "run.accelerator=ddp", *FOUR_GPUS).spec.trainer["strategy"] == "ddp"
    assert plan(custom(), "run.gpus=2", *FOUR_GPUS).spec.trainer.get("strategy") in (None, "auto", "ddp")
    assert plan(custom(), "run.gpus=2", "run.accelerator=null", *FOUR_GPUS).workers == 2


def test_d9_dp_is_refused_and_ddp_is_the_answer(custom):
    said = problems_of(custom(), "run.gpus=2", "run.accelerator=dp", *FOUR_GPUS)
    assert "'dp'" in said
    assert "ddp" in said.replace("'dp'", "")
    assert "command line: run.accelerator=dp" in said


@pytest.mark.parametrize("gpus", [0, 1])
def test_d9_dp_on_one_device_divides_nothing_and_is_left_out(gpus, custom, caplog):
    made = plan(custom(), f"run.gpus={gpus}", "run.accelerator=dp", *FOUR_GPUS)
    assert made.spec.trainer.get("strategy") in (None, "auto")
    assert "'dp' is gone from Lightning" in caplog.text


def test_d9_anything_else_is_refused(custom):
    said = problems_of(custom(), "run.gpus=2", "run.accelerator=dpp", *FOUR_GPUS)
    assert "'dpp'" in said
    assert "ddp" in said


def test_d9_ddp_without_gpus_is_not_needed(custom):
    assert plan(custom(), "run.gpus=0", "run.accelerator=ddp").spec.trainer.get("strategy") in (None, "auto")


def test_d9_training_data_are_shared_and_no_item_is_evaluated_twice(custom):
    made = plan(custom(), "run.gpus=2", *FOUR_GPUS).spec
    data = {key: value for key, value in made.data.items() if key != "_target_"}
    ranks = [LoaderDataModule(**data, rank=rank, world_size=2, seed=made.seed) for rank in range(2)]
    trained = [[tuple(x.tolist()) for batch, _ in rank.train_dataloader() for x in batch] for rank in ranks]
    looked_at = [[tuple(x.tolist()) for batch, _ in rank.val_dataloader() for x in batch] for rank in ranks]
    assert [len(part) for part in trained] == [20, 20]
    assert len({*trained[0], *trained[1]}) == 40
    assert len({*looked_at[0], *looked_at[1]}) == sum(map(len, looked_at)) == 20


# D10, D11: batch sizes and roots


@pytest.mark.parametrize(
    ("run_size", "own", "size"),
    [
        (16, {"batch_size": 3}, 3),
        (16, {"batch_size_per_gpu": 5}, 5),
        (16, {}, 16),
        (None, {"batch_size": 3}, 3),
        (None, {}, 1),
    ],
)
def test_d10_the_loaders_batch_size_comes_before_the_runs_before_one(run_size, own, size, custom):
    file = custom(run={"batch_size_per_gpu": run_size}, data={"train": own})
    made = loader_of(file)
    assert made.batch_size == size
    assert len(next(iter(made))[0]) == size


def test_d10_the_runs_batch_size_is_that_of_every_loader_that_does_not_say(custom):
    made = datamodule_of(custom(data={"val": {"batch_size": 4}}), "run.batch_size_per_gpu=6")
    made.setup("test")
    assert (made.train_dataloader().batch_size, made.val_dataloader().batch_size) == (6, 4)
    assert made.test_dataloader().batch_size == 6


def test_d10_both_batch_sizes_are_an_error(custom):
    said = problems_of(custom(), "data.val.batch_size=2", "data.val.batch_size_per_gpu=2")
    assert "cannot set both batch_size and batch_size_per_gpu" in said


def test_d10_the_batch_size_is_per_process_and_the_plan_says_how_many_there_are_in_a_step(custom):
    made = plan(custom(), "run.gpus=4", "run.batch_size_per_gpu=16", *FOUR_GPUS)
    assert made.global_batch == 64
    assert loader_of(custom(), "run.batch_size_per_gpu=16").batch_size == 16


@pytest.mark.parametrize(
    ("root", "expected"),
    [(None, "{data}"), ("sub", "{data}/sub"), ("/elsewhere", "/elsewhere")],
)
@pytest.mark.parametrize("data_root", ["data/imagewoof2", "./data/imagewoof2"])
def test_d11_a_datasets_root_is_under_the_data_root_of_where_the_command_was_typed(
    root, expected, data_root, custom, home, monkeypatch
):
    made = plan(custom(data={"train": {"dataset": {"root": root}}}), f"run.data_root={data_root}").spec
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")  # as workers do
    _, _, datamodule = asparagus.load_from_config(made)
    built = datamodule.train_dataloader().dataset
    assert built.root == expected.format(data=home / "data" / "imagewoof2")


def test_d11_paths_are_absolute_before_they_leave_the_client(custom, home):
    torch.save({}, home / "some.ckpt")
    made = plan(custom(), "data.root=mine", "run.resume_from_checkpoint=some.ckpt").spec
    assert (made.data["root"], made.run.resume_from_checkpoint) == (str(home / "mine"), str(home / "some.ckpt"))


def test_d11_without_a_data_root_it_is_the_data_folder(custom, data_root):
    assert loader_of(custom()).dataset.root == str(data_root)


# D12, D13: modes and checkpoints


@pytest.fixture(scope="module")
def once(tmp_path_factory, data_root):
    """A run of two epochs, for all tests that start from one, in a home of its own; and its diary."""
    home = tmp_path_factory.mktemp("once")
    (home / "custom.yaml").write_text(yaml.safe_dump(CUSTOM, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASPARAGUS_HOME", str(home))
        patch.setenv("ASPARAGUS_DATA", str(data_root))
        outcome = asparagus.launch(home / "custom.yaml", [f"model.module.diary={home / 'diary'}"])
    return outcome, [json.loads(line) for line in (home / "diary").read_text().splitlines()]


@pytest.fixture
def trained(once):
    return once[0]


def test_d12_fit_trains_and_validates(once):
    outcome, diary = once
    assert outcome.state == "finished"
    assert [entry["step"] for entry in diary if entry["event"] == "end"] == [10]
    assert [entry["seen"] for entry in diary if entry["event"] == "validated"] == [20, 20]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("VALIDATE", ("validated", 20, {"val/loss", "val/top1"})), ("TEST", ("tested", 30, {"test/top1"}))],
)
def test_d12_validate_and_test_look_at_their_own_data_once(mode, expected, trained, custom, diary):
    event, seen, metrics = expected
    weights = torch.load(last_of(trained), weights_only=True)["state_dict"]
    words = [diary.word, f"run.pretrained_checkpoint_path='{last_of(trained).parent}'", f"run.mode={mode}"]
    looked = asparagus.launch(custom(), words)
    (entry,) = diary(event)
    assert entry["seen"] == seen
    assert entry["weight"] == pytest.approx(float(weights["head.weight"].sum()), abs=1e-5)
    assert looked.state == "finished"
    assert set(looked.metrics) == metrics
    assert diary("start") == diary("end") == [], "neither of them trains"
    if mode == "VALIDATE":
        assert looked.metrics["val/top1"] == pytest.approx(trained.metrics["val/top1"])


@pytest.mark.parametrize(("mode", "part"), [("FIT", "train"), ("VALIDATE", "val"), ("TEST", "test")])
def test_d12_a_missing_loader_is_an_error_that_names_it_before_anything_runs(mode, part, custom, home):
    torch.save({"weight": torch.zeros(1)}, home / "weights.pt")
    words = (f"run.mode={mode}", f"data.{part}=null", "init_from=file:weights.pt")
    assert f"data.{part}" in problems_of(custom(), *words)
    assert not (home / "models").exists()


@pytest.mark.parametrize("mode", ["VALIDATE", "TEST"])
def test_d12_data_that_are_not_needed_may_be_missing(mode, trained, custom, diary):
    part = {"VALIDATE": "val", "TEST": "test"}[mode]
    others = [f"data.{name}=null" for name in ("train", "val", "test") if name != part]
    words = [diary.word, f"run.mode={mode}", f"init_from='file:{trained.checkpoint}'", *others]
    assert asparagus.launch(custom(), words).state == "finished"


def last_of(outcome) -> Path:
    """Return the state file of a run's last checkpoint."""
    folders = (Path(outcome.folder) / "checkpoints").iterdir()
    newest = max(folders, key=lambda path: int(path.name.rpartition("=")[2]))
    return newest / STATE


@pytest.mark.parametrize("place", ["file", "folder"])
def test_d13_resuming_restores_the_whole_state_and_wins_over_pretrained_weights(place, trained, custom, diary, home):
    torch.save({"head.weight": torch.zeros(2, 8)}, home / "zeros.pt")
    last = last_of(trained)
    words = [
        diary.word,
        f"run.resume_from_checkpoint='{last if place == 'file' else last.parent}'",
        "run.pretrained_checkpoint_path=zeros.pt",
        "run.num_epochs=4",
    ]
    again = asparagus.launch(custom(), words)
    start, weights = diary("start")[-1], torch.load(last, weights_only=True)["state_dict"]
    assert (start["epoch"], start["step"]) == (2, 10)
    assert start["momentum"] > 0
    assert start["weight"] == pytest.approx(float(weights["head.weight"].sum()), abs=1e-5)
    assert diary("end")[-1] == {"event": "end", "epoch": 4, "step": 20}
    assert again.folder != trained.folder
    assert not (Path(again.folder) / "transfer.json").exists()


def test_d13_a_checkpoint_of_a_plain_lightning_training_is_resumed(custom, diary, home):
    trainer, module, datamodule = asparagus.load_from_config(plan(custom()).spec)
    trainer.fit(module, datamodule=datamodule)
    trainer.save_checkpoint(home / "plain.ckpt")
    asparagus.launch(custom(), [diary.word, "run.resume_from_checkpoint=plain.ckpt", "run.num_epochs=3"])
    assert [(entry["epoch"], entry["step"]) for entry in diary("start")] == [(2, 10)]
    assert diary("start")[0]["momentum"] > 0


def test_d13_pretrained_weights_alone_start_a_training_anew(trained, custom, diary):
    state = last_of(trained)
    outcome = asparagus.launch(custom(), [diary.word, f"run.pretrained_checkpoint_path='{state}'"])
    start, weights = diary("start")[-1], torch.load(state, weights_only=True)["state_dict"]
    assert (start["epoch"], start["step"], start["momentum"]) == (0, 0, 0)
    assert start["weight"] == pytest.approx(float(weights["head.weight"].sum()), abs=1e-5)
    assert (Path(outcome.folder) / "transfer.json").exists()


def test_d13_a_head_of_another_size_is_left_and_said(trained, custom, diary):
    words = [diary.word, f"run.pretrained_checkpoint_path='{trained.checkpoint}'", "learner.hparams.num_classes=5"]
    outcome = asparagus.launch(custom(), words)
    report = json.loads((Path(outcome.folder) / "transfer.json").read_text())
    assert "head.weight" in json.dumps(report["left"])
    assert any("backbone" in name for name in report["taken"])


def test_d13_a_checkpoint_that_is_not_there_is_an_error(custom):
    assert "nowhere.ckpt does not exist" in problems_of(custom(), "run.resume_from_checkpoint=nowhere.ckpt")
    assert "nowhere.ckpt does not exist" in problems_of(custom(), "run.pretrained_checkpoint_path=nowhere.ckpt")


# D14 to D17: seeds, dicts of loaders, values, names


@pytest.mark.parametrize("word", ["seed=null", "run.seed=null"])
@pytest.mark.parametrize("given", [{"seed": 42}, {}])
def test_d14_a_seed_that_is_null_is_drawn(word, given, custom):
    file = custom(run={"only": {"num_epochs": 1, **given}})
    drawn = [spec(file, word).seed for _ in range(3)]
    assert all(isinstance(seed, int) and seed >= 0 for seed in drawn)
    assert len(set(drawn)) == 3


def test_d14_a_drawn_seed_is_recorded_and_reused(custom, diary):
    outcome = asparagus.launch(custom(run={"seed": None, "num_epochs": 1}), [diary.word])
    recorded = yaml.safe_load((Path(outcome.folder) / "config.yaml").read_text())["seed"]
    assert isinstance(recorded, int)
    again = asparagus.launch(str(Path(outcome.folder) / "config.yaml"), ["run.resume=false"])
    assert yaml.safe_load((Path(again.folder) / "config.yaml").read_text())["seed"] == recorded
    first, second = diary("start")
    assert first["weight"] == second["weight"]
    assert outcome.metrics == pytest.approx(again.metrics)


def test_d14_the_same_seed_gives_the_same_training_and_zero_is_a_seed(custom):
    losses = []
    for seed in (0, 0, 1):
        trainer, module, datamodule = asparagus.load_from_config(plan(custom(), f"run.seed={seed}").spec)
        trainer.fit(module, datamodule=datamodule)
        losses.append(float(trainer.callback_metrics["val/loss"]))
    assert losses[0] == losses[1] != losses[2]


TWO = {
    "supervised": loader(50, batch_size=8, drop_last=True, shuffle=True),
    "unlabelled": loader(33, batch_size=4),
}
"""Six batches, and nine."""


def test_d15_a_mapping_of_loaders_is_a_mapping_of_batches(custom, diary):
    file = custom(data={"train": {"only": TWO}})
    made = loader_of(file)
    epoch = [batch for batch, _, _ in made]
    assert [set(batch) for batch in epoch] == [{"supervised", "unlabelled"}] * 9
    assert [len(batch["unlabelled"][0]) for batch in epoch] == [4] * 8 + [1]
    assert [len(batch["supervised"][0]) for batch in epoch] == [8] * 9, "the shorter one begins again"


def test_d15_a_module_is_trained_on_both(custom, diary):
    asparagus.launch(custom(data={"train": {"only": TWO}}), [diary.word])
    assert [entry["sizes"] for entry in diary("batch")] == [{"supervised": 8, "unlabelled": 4}] * 2
    assert diary("end") == [{"event": "end", "epoch": 2, "step": 18}]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("learner.hparams.model.supervised_loss.scale_factor=0.5", 0.5),
        ("learner.hparams.model.supervised_loss.scale_factor=1e-3", 1e-3),
        ("learner.hparams.model.supervised_loss.scale_factor=2", 2),
        ("learner.hparams.model.supervised_loss.scheduler=null", None),
        ("learner.hparams.model.supervised_loss.reduction=none", "none"),
        ("learner.hparams.model.supervised_loss.reduction=true", True),
        ("learner.hparams.model.supervised_loss.reduction='7'", "7"),
        ("learner.hparams.model.supervised_loss.reduction=[1,b,2.5]", [1, "b", 2.5]),
        ("learner.hparams.model.supervised_loss.reduction={a: {b: 1}}", {"a": {"b": 1}}),
        ("learner.hparams.model.supervised_loss.new=3", 3),
        ("+learner.hparams.model.supervised_loss.new=3", 3),
    ],
)
@pytest.mark.parametrize("section", ["learner", "model.module"])
def test_d16_a_nested_value_is_set_from_the_command_line_with_its_type(word, value, section, custom):
    word = word.replace("learner", section)
    loss = spec(custom(), word).model["module"]["hparams"]["model"]["supervised_loss"]
    found = loss[word.partition("=")[0].rpartition(".")[2]]
    assert found == value
    assert type(found) is type(value)


def test_d16_the_documented_command_works(custom):
    assert spec(custom(), "run.num_epochs=100").trainer["max_epochs"] == 100


def test_d16_the_command_line_wins_whatever_the_file_calls_the_key(custom):
    file = custom()  # it says run.num_epochs: 2, run.seed: 42, learner: ...
    assert spec(file, "trainer.max_epochs=5").trainer["max_epochs"] == 5
    assert spec(file, "seed=5").seed == 5
    assert spec(file, "data.batch_size=5").data["batch_size"] == 5
    made = spec(file, "trainer.max_epochs=${checkpoint.keep_best}", "model.module.told=${asparagus:num_gpus}")
    assert made.trainer["max_epochs"] == 1
    assert made.model["module"]["told"] == "${asparagus:num_gpus}"


def test_d16_a_section_that_holds_an_older_spelling_is_taken_as_it_is_typed(custom):
    assert spec(custom(), "task={name: other}").task == "other"
    assert spec(custom(task={"name": "one"}), "task=other").task == "other"


def test_d16_of_two_spellings_on_the_command_line_the_last_one_wins(custom):
    file = custom()
    assert spec(file, "run.num_epochs=3", "trainer.max_epochs=5").trainer["max_epochs"] == 5
    assert spec(file, "trainer.max_epochs=5", "run.num_epochs=3").trainer["max_epochs"] == 3


@pytest.mark.parametrize("name", sorted(file.stem for file in (SHELF / "experiment").glob("*.yaml")))
def test_d17_every_shipped_experiment_is_found_by_its_name(name, home, capsys):
    header = (SHELF / "experiment" / f"{name}.yaml").read_text().splitlines()[1]
    if header.startswith("# asp-launch experiment/"):
        words = ["-cn", f"experiment/{name}"]
    else:  # a diff on top of a stage: its first line says of which
        words = ["-cn", *header.removeprefix("# asp-launch ").split()]
        assert words[2] == f"experiment={name}"
    assert run("launch", [*words, "--cfg", "job"]) == 0
    assert {"stage", "pipeline", "eval_box"} & yaml.safe_load(capsys.readouterr().out).keys()


# D26 to D28: attributes

TOLD = {
    "iterations": "${sesemi:iterations_per_epoch}",
    "all": "${asparagus:max_iterations}",
    "gpus": "${sesemi:num_gpus}",
    "nodes": "${sesemi:num_nodes}",
    "text": "of ${asparagus:iterations_per_epoch} x ${asparagus:world_size}",
}


def told_and_done(file: str, *words: str) -> tuple[dict[str, Any], Any, Any]:
    """Train in this process; return what the config told, and what the Trainer says of itself."""
    trainer, module, datamodule = asparagus.load_from_config(plan(file, *words).spec)
    trainer.fit(module, datamodule=datamodule)
    return module.told, trainer.num_training_batches, trainer.estimated_stepping_batches


@pytest.mark.parametrize(
    ("words", "batches", "steps"),
    [
        ((), 9, 18),
        (("trainer.limit_train_batches=4",), 4, 8),
        (("trainer.limit_train_batches=50",), 9, 18),
        (("trainer.limit_train_batches=0.5",), 4, 8),
        (("trainer.limit_train_batches=1.0",), 9, 18),
        (("trainer.accumulate_grad_batches=2",), 9, 10),
        (("trainer.accumulate_grad_batches=4", "trainer.limit_train_batches=5"), 5, 4),
        (("trainer.max_steps=7",), 9, 7),
        (("trainer.max_steps=1000",), 9, 18),
        (("trainer.max_epochs=-1", "trainer.max_steps=11"), 9, 11),
        (("trainer.overfit_batches=3",), 3, 6),
        (("trainer.fast_dev_run=true",), 1, 1),
        (("data.train.unlabelled.drop_last=true",), 8, 16),
        (("data.train.unlabelled=null",), 6, 12),
    ],
)
def test_d26_d27_lengths_are_what_the_trainer_then_does(words, batches, steps, custom):
    file = custom(data={"train": {"only": TWO}}, learner={"told": TOLD})
    told, really, stepping = told_and_done(file, *words)
    assert (really, stepping) == (batches, steps)
    assert (told["iterations"], told["all"]) == (batches, steps)
    assert told["text"] == f"of {batches} x 1"


def test_d26_iterations_of_one_loader_in_a_recorded_run(custom, diary):
    asparagus.launch(
        custom(learner={"told": TOLD}), [diary.word, "data.train.drop_last=true", "data.train.batch_size=7"]
    )
    start = diary("start")[0]
    assert start["batches"] == start["told"]["iterations"] == 5
    assert start["stepping"] == start["told"]["all"] == diary("end")[0]["step"] == 10


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_d26_iterations_are_those_of_one_rank(workers, custom):
    from asparagus.worker.parts import Parts
    from asparagus.worker.ranks import InProcess

    class Several(InProcess):
        rank, world_size = workers - 1, workers

    parts = Parts(plan(custom(learner={"told": TOLD})).spec, Several())
    iterations = math.ceil(math.ceil(40 / workers) / 8)
    assert parts.module.told["iterations"] == len(parts.datamodule.train_dataloader()) == iterations


def test_d26_a_stream_that_does_not_tell_its_length_has_none(custom):
    stream = {"dataset": {"_target_": f"{HERE}.Stream", "size": 12}}
    file = custom(data={"train": {"only": stream}}, learner={"told": TOLD})
    told, really, _ = told_and_done(file, "trainer.max_epochs=1")
    assert really == math.inf
    assert (told["iterations"], told["all"]) == (None, None)
    told, really, stepping = told_and_done(file, "trainer.limit_train_batches=1")
    assert (really, stepping) == (1, 2)
    assert (told["iterations"], told["all"]) == (1, 2)


def test_d26_without_training_data_there_is_no_length(trained, custom, diary):
    words = ["data.train=null", "run.mode=VALIDATE", f"init_from='file:{trained.checkpoint}'"]
    _, module, _ = asparagus.load_from_config(plan(custom(learner={"told": TOLD}), *words).spec)
    assert (module.told["iterations"], module.told["all"]) == (None, None)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("data.batch_size=100",),
        ("data.samples_per_epoch=333",),
        ("trainer.limit_train_batches=5",),
        ("trainer.limit_train_batches=0.3",),
        ("trainer.accumulate_grad_batches=4",),
        ("trainer.max_steps=9",),
        ("trainer.max_steps=900",),
        ("trainer.overfit_batches=3",),
    ],
)
def test_d26_d27_cases_are_counted_by_the_plan(words, home):
    attributes = (
        "trainer.check_val_every_n_epoch=${sesemi:iterations_per_epoch}",
        "optim.sched={name: linear, max_steps: '${asparagus:max_iterations}'}",
    )
    made = plan(DIGITS, *attributes, "trainer.max_epochs=2", *words).spec
    told = made.trainer.pop("check_val_every_n_epoch")
    trainer, module, datamodule = asparagus.load_from_config(made)
    trainer.fit(module, datamodule=datamodule)
    assert told == trainer.num_training_batches
    assert made.optim["sched"]["max_steps"] == trainer.estimated_stepping_batches


def test_d27_max_iterations_are_the_iterations_or_epochs_times_iterations(custom):
    file = custom(run={"num_epochs": None}, learner={"told": TOLD})
    for words, steps in ((("run.num_iterations=7",), 7), (("run.num_epochs=3",), 15)):
        told, _, stepping = told_and_done(file, *words)
        assert told["all"] == stepping == steps


def test_d27_a_schedule_ends_with_the_training(custom, home):
    made = plan("experiment/coming_from_sesemi", "trainer.max_epochs=1", "trainer.callbacks=[]")
    trainer, module, datamodule = asparagus.load_from_config(made.spec)
    trainer.fit(module, datamodule=datamodule)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-6)
    assert module.optim_config["sched"]["max_steps"] == trainer.global_step


@pytest.mark.parametrize(
    ("words", "gpus", "nodes", "world"),
    [
        (("run.gpus=0",), 0, 1, 1),
        (("run.gpus=1",), 1, 1, 1),
        (("run.gpus=2",), 2, 1, 2),
        (("run.gpus=-1",), 4, 1, 4),
        (("run.gpus=4", "run.num_nodes=2", "site.nodes=2"), 8, 2, 8),
        (("run.gpus=null", "resources.workers=2"), 0, 1, 2),
        (("run.gpus=null", "trainer.accelerator=cpu"), 0, 1, 1),
    ],
)
def test_d28_gpus_and_nodes_are_those_of_the_plan(words, gpus, nodes, world, custom):
    told = {"told": {**TOLD, "devices": "${asparagus:num_devices}", "world": "${asparagus:world_size}"}}
    made = plan(custom(learner=told), *words, *FOUR_GPUS).spec.model["module"]["told"]
    assert (made["gpus"], made["nodes"], made["world"], made["devices"]) == (gpus, nodes, world, world)


def test_d28_an_unknown_attribute_is_answered_with_the_known_ones(custom):
    said = problems_of(custom(), "learner.told='${sesemi:num_gpu}'")
    assert "'num_gpu'" in said
    assert "num_gpus" in said


def test_d28_an_attribute_that_comes_too_late_for_its_place_is_refused(custom):
    assert "known only when the run is planned" in problems_of(custom(), "task='${sesemi:num_gpus}'")


# D29, D30: callbacks, folders of one's own


def checkpointing(**more: Any) -> dict[str, Any]:
    chosen = {"monitor": "val/top1", "mode": "max", "save_top_k": 1, "save_last": True}
    return {"_target_": "pytorch_lightning.callbacks.ModelCheckpoint", **chosen, **more}


def test_d29_callbacks_under_trainer_are_lightnings_and_write_their_files(custom, diary):
    stopping = {"_target_": "pytorch_lightning.callbacks.EarlyStopping", "monitor": "val/loss", "patience": 5}
    trainer = {"callbacks": [checkpointing(), stopping]}
    outcome = asparagus.launch(custom(trainer=trainer), [diary.word])
    written = sorted(Path(outcome.folder).rglob("*.ckpt"))
    plain = [file for file in written if not file.is_dir()]
    names = [file.name for file in plain if file.name == "last.ckpt" or file.name.startswith("epoch=")]
    assert "last.ckpt" in names
    assert len(names) == 2, "the best one, and the last"
    last = torch.load(next(file for file in plain if file.name == "last.ckpt"), weights_only=False)
    assert (last["epoch"], last["global_step"]) == (1, 10)
    assert outcome.checkpoint is not None
    assert asparagus.plan_of(custom(), [f"init_from=run:{outcome.run_id}/last"]).parent is not None


def test_d29_a_run_with_its_own_checkpoint_callback_is_resumable_from_what_that_wrote(custom, diary):
    outcome = asparagus.launch(custom(trainer={"callbacks": [checkpointing()]}), [diary.word])
    last = next(Path(outcome.folder).rglob("last.ckpt"))
    asparagus.launch(custom(), [diary.word, f"run.resume_from_checkpoint={last}", "run.num_epochs=3"])
    assert (diary("start")[-1]["epoch"], diary("end")[-1]["step"]) == (2, 15)


def test_d29_any_argument_of_the_trainer_is_passed_on(custom):
    words = ("trainer.limit_val_batches=2", "trainer.detect_anomaly=true", "trainer.gradient_clip_val=0.5")
    trainer, *_ = asparagus.load_from_config(plan(custom(), *words).spec)
    assert (trainer.limit_val_batches, trainer._detect_anomaly, trainer.gradient_clip_val) == (2, True, 0.5)


def test_d29_a_callback_in_a_mapping_and_one_alone_are_taken_too(custom):
    alone = spec(custom(trainer={"callbacks": checkpointing()})).callbacks
    assert [section["monitor"] for section in alone.values()] == ["val/top1"]
    named = spec(custom("b.yaml", trainer={"callbacks": {"best": checkpointing()}})).callbacks
    assert named["best"]["save_last"] is True


OWN_CODE = """
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import Dataset


class Items(Dataset):
    def __init__(self, root, subset="train"):
        self.items = torch.load(f"{root}/{subset}.pt", weights_only=True)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Own(pl.LightningModule):
    def __init__(self, width=3):
        super().__init__()
        self.net = nn.Linear(width, 1)

    def training_step(self, batch, index):
        return self.net(batch["supervised"]).square().mean()

    def validation_step(self, batch, index):
        self.log("val/loss", self.net(batch).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
"""
OWN_BASE = """
defaults:
  - train
  - data: loaders
  - _self_
task: own
model:
  module:
    _target_: own_code.Own
data:
  train:
    supervised:
      dataset: {_target_: own_code.Items}
  val:
    dataset: {_target_: own_code.Items, subset: val}
"""
OWN_CUSTOM = """
defaults:
  - own_base
run:
  seed: 42
  gpus: -1
  num_epochs: 1
  batch_size_per_gpu: 2
  id: imagewoof
  data_root: ./data/items
"""


@pytest.fixture
def folders(home):
    """The layout of the quickstart: configs, data, src."""
    for folder in ("configs", "data/items", "src"):
        (home / folder).mkdir(parents=True)
    (home / "src" / "own_code.py").write_text(OWN_CODE)
    (home / "configs" / "own_base.yaml").write_text(OWN_BASE)
    (home / "configs" / "custom.yaml").write_text(OWN_CUSTOM)
    for subset, size in (("train", 6), ("val", 4)):
        torch.save(torch.randn(size, 3), home / "data" / "items" / f"{subset}.pt")
    return home


def test_d30_a_config_of_ones_own_in_a_folder_of_ones_own_runs_with_code_in_src(folders, asp):
    done = asp("asp-launch", "-cd", "configs", "-cn", "custom", "--json", "site.gpus_per_node=0")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["state"] == "finished"
    assert Path(outcome["folder"]).is_relative_to(folders)
    written = yaml.safe_load((Path(outcome["folder"]) / "config.yaml").read_text())
    assert (written["seed"], written["run"]["name"]) == (42, "imagewoof")
    assert written["data"]["root"] == str(folders / "data" / "items")


def test_d30_info_shows_the_defaults_list_the_search_path_and_where_keys_come_from(folders, asp):
    done = asp("asp-launch", "-cd", "configs", "-cn", "custom", "--info")
    assert done.returncode == 0, done.stderr
    lists, path, keys = (part for part in done.stdout.split("\n\n"))
    named = [line.split()[0] for line in lists.splitlines()[1:]]
    assert {"custom", "own_base", "train", "core/base", "data/loaders"} <= set(named)
    assert named.index("own_base") < named.index("custom")
    assert path.splitlines()[1].strip() == str(folders / "configs")
    row = next(line for line in keys.splitlines() if line.split()[0] == "run.num_epochs")
    assert row.split()[-1] == f"configs/custom.yaml:{OWN_CUSTOM.splitlines().index('  num_epochs: 1') + 1}"
    assert not (folders / "models").exists()


def test_d30_info_of_a_key_names_every_place_that_sets_it(folders, capsys):
    words = ["-cd", "configs", "-cn", "custom", "--info", "run.num_epochs", "run.num_epochs=3"]
    assert run("launch", words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "configs/custom.yaml" in lines[0]
    assert "command line: run.num_epochs=3" in lines[-1]
    assert lines[-1].endswith("<- wins")


def test_d30_a_shipped_config_is_the_base_of_ones_own(home, capsys):
    (home / "configs").mkdir()
    (home / "configs" / "custom.yaml").write_text(
        "defaults:\n  - experiment/digits\n  - _self_\nrun:\n  num_epochs: 80\n"
    )
    assert run("launch", ["-cd", "configs", "-cn", "custom", "--dry-run"]) == 0
    assert "max_epochs=80" in capsys.readouterr().out


def test_d30_a_folder_that_is_not_there_is_an_error(home, capsys):
    assert run("launch", ["-cd", "nowhere", "-cn", "custom"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_every_refusal_is_one_of_ours():
    assert issubclass(ConfigError, AsparagusError)
