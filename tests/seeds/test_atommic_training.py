"""ATOMMIC's trainings (SEEDS B6 to B20, section B.2): documented blocks as they are written, each key."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

import asparagus
from asparagus import load_config, load_from_config, plan_of
from asparagus.checkpoint.folder import manifests
from asparagus.checkpoint.transfer import read_weights, take_over
from asparagus.cli.main import run
from asparagus.compose.manager import ANSWERS, KNOWN, OF_CHECKPOINTS, OF_SECTION
from asparagus.compose.spellings import GONE, spelled_our_way
from asparagus.errors import ConfigError, RunError
from asparagus.journal import JournalReader
from asparagus.models.mlp import MLP
from asparagus.spec import Parent, Transfer
from asparagus.stages.cls import ClsModule

HERE = __name__
DIGITS = "experiment/digits"
ONE_STEP = ("trainer.max_steps=1", "trainer.limit_val_batches=0")

SCHEDULED = """
    optim:
        name: novograd
        lr: 0.01

        # optimizer arguments
        betas: [0.8, 0.25]
        weight_decay: 0.001

        # scheduler setup
        sched:
            name: CosineAnnealing

            # Optional arguments
            max_steps: -1 # computed at runtime or explicitly set here
            monitor: val_loss
            reduce_on_plateau: false

            # scheduler config override
            warmup_steps: 1000
            warmup_ratio: null
            min_lr: 1e-9:
"""
"""The documents' block, its stray colon in the last line included."""

OPTIMIZED = """
    model:
        optim:
            name: novograd
            lr: .01
            betas: [0.8, 0.5]
            weight_decay: 0.001
"""
FROZEN = """
  model:
    freeze_updates:
      enabled: true  # set to false if you want to disable freezing

      modules:   # list all of the modules you want to have freezing logic for
        encoder: 200       # module will be frozen for the first 200 training steps
        decoder: [50, -1]  # module will be frozen at step 50 and will remain frozen until training ends
        joint: [10, 100]   # module will be frozen between step 10 and step 100 (step >= 10 and step <= 100)
        transcoder: -1     # module will be frozen for the entire training run
"""
"""The documents' block without the line of three dots."""

PROJECT = """
pretrained: false
checkpoint: None
mode: train

model:
  optim:
    name: adam
    lr: 1e-4
    betas:
      - 0.9
      - 0.98
    weight_decay: 0.0
    sched:
      name: InverseSquareRootAnnealing
      min_lr: 0.0
      last_epoch: -1
      warmup_ratio: 0.1

trainer:
  strategy: ddp_find_unused_parameters_false
  accelerator: cpu
  devices: 1
  num_nodes: 1
  max_epochs: 2
  precision: bf16-mixed
  enable_checkpointing: false
  logger: false
  log_every_n_steps: 1
  check_val_every_n_epoch: -1
  max_steps: -1

exp_manager:
  ema:
    enable: false
  create_tensorboard_logger: true
  create_wandb_logger: false
"""
"""What the projects' files say beside network and data; `accelerator: gpu` and `16-mixed` there."""


class FourParts(torch.nn.Module):
    """A network with the parts that the documents freeze, and a head."""

    def __init__(self, in_channels, img_size, out_channels, hidden):
        super().__init__()
        self.encoder = torch.nn.Linear(in_channels * math.prod(img_size), hidden)
        self.joint, self.transcoder = torch.nn.Linear(hidden, hidden), torch.nn.Linear(hidden, hidden)
        self.decoder, self.head = torch.nn.Linear(hidden, hidden), torch.nn.Linear(hidden, out_channels)

    def forward(self, x):
        return self.head(self.decoder(self.transcoder(self.joint(self.encoder(x.flatten(1))))))


class ByLayer(ClsModule):
    """Its head learns ten times as fast."""

    def setup_optimizer_param_groups(self):
        fast = {"params": list(self.net.head.parameters()), "lr": 10 * self.optim_config["lr"]}
        return [{"params": list(self.net.encoder.parameters())}, fast]


class Forgetful(ClsModule):
    """Its hook returns nothing, as where groups are kept in an attribute."""

    def setup_optimizer_param_groups(self):
        self._optimizer_param_groups = [{"params": list(self.parameters())}]


def file_of(home: Path, *blocks: str, **sections: Any) -> str:
    """Write the digits with blocks of text as they are, and return the file's path."""
    tree: dict[str, Any] = {"defaults": [DIGITS, "_self_"], **sections}
    for block in blocks:
        tree = dict(OmegaConf.to_container(OmegaConf.merge(tree, OmegaConf.create(block))))
    (home / "mine.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return "mine.yaml"


def rates(folder: str) -> list[float]:
    """Return the learning rate of each step, as the run has logged it."""
    events = JournalReader(Path(folder) / "journal.jsonl").read()
    steps = [event for event in events if event["kind"] == "metrics" and "train/loss" in event["values"]]
    logged = {event["step"]: event["values"]["optim/lr"] for event in steps}
    return [logged[step] for step in sorted(logged)]


# ---- B6: what starts a training leaves no folders of its own, and takes a structured config


def test_b6_a_launch_leaves_nothing_where_it_was_called(home, monkeypatch):
    here = home / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    outcome = asparagus.launch(DIGITS, [*ONE_STEP])
    assert list(here.iterdir()) == []  # no outputs/, .hydra/, multirun/, *.log
    assert not list(home.rglob(".hydra"))
    assert Path(outcome.folder).is_relative_to(home / "models")
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir: is a setting of Hydra's own launcher"):
        plan_of(DIGITS, ["hydra.run.dir=."])


@dataclass
class OfTrainer:
    max_epochs: int = 3
    gradient_clip_val: float = 0.5


@dataclass
class Schema:
    trainer: OfTrainer = field(default_factory=OfTrainer)


def test_b6_a_structured_schema_gives_defaults_and_refuses_other_types(home):
    composed = OmegaConf.merge(load_config([DIGITS]), OmegaConf.structured(Schema))
    assert plan_of(composed).spec.trainer["max_epochs"] == 3
    assert plan_of(composed).spec.trainer["gradient_clip_val"] == 0.5
    with pytest.raises(Exception, match="many"):
        composed.trainer.max_epochs = "many"


# ---- B7: the families of the projects' files

SCHEDULES = ("InverseSquareRootAnnealing", "CosineAnnealing", "PolynomialHoldDecayAnnealing")
FAMILIES = [(name, optimizer) for name in SCHEDULES for optimizer in ("adamw", "adam", "novograd")]


@pytest.mark.parametrize(("schedule", "optimizer"), FAMILIES)
def test_b7_each_family_of_the_projects_composes_and_trains_a_step(schedule, optimizer, home):
    sched = {"name": schedule, "min_lr": 0.0, "last_epoch": -1, "warmup_ratio": 0.1}
    block = {"optim": {"name": optimizer, "lr": 1e-3, "betas": [0.9, 0.98], "weight_decay": 0.0, "sched": sched}}
    path = file_of(home, model=block)
    assert plan_of(path).spec.optim == block["optim"]
    trainer, module, datamodule = load_from_config(load_config([path, *ONE_STEP]))
    trainer.fit(module, datamodule=datamodule)
    assert trainer.global_step == 1
    assert trainer.lr_scheduler_configs[0].interval == "step"


def test_b7_a_projects_file_trains_and_is_recorded(home):
    outcome = asparagus.launch(file_of(home, PROJECT))
    steps, warm = 46, 4  # two epochs of 23 batches: int(0.1 x 46) steps of warm-up
    expected = [(s + 1) / (warm + 1) if s <= warm else math.sqrt((warm + 1) / (s + 1)) for s in range(steps)]
    assert rates(outcome.folder) == pytest.approx([1e-4 * share for share in expected])
    assert list(Path(outcome.folder).rglob("events.out.tfevents*"))


# ---- B9 to B11: the section optim


@pytest.mark.parametrize("words", [["~optim.lr"], ["optim={_target_: torch.optim.Adam, lr: null}"]])
def test_b9_a_missing_rate_is_named_before_anything_starts(words, home):
    with pytest.raises(ConfigError, match=r"optim\.lr: is missing\. Every optimizer needs it"):
        plan_of(DIGITS, words)


NESTED = {"name": "novograd", "lr": 0.01, "args": {"name": "auto", "params": {"betas": [0.8, 0.5], "eps": 1e-6}}}


@pytest.mark.parametrize(
    "form",
    [
        NESTED,
        {**NESTED, "args": {**NESTED["args"], "name": "NovogradParams"}},
        {"name": "novograd", "lr": 0.01, "betas": [0.8, 0.5], "eps": 1e-6},
        {"_target_": "monai.optimizers.Novograd", "lr": 0.01, "betas": [0.8, 0.5], "eps": 1e-6},
    ],
    ids=["auto", "params_class", "flat", "target"],
)
def test_b10_each_form_of_an_optimizer_builds_the_same(form, home):
    trainer, module, datamodule = load_from_config(load_config([file_of(home, model={"optim": form}), *ONE_STEP]))
    trainer.fit(module, datamodule=datamodule)
    (optimizer,) = trainer.optimizers
    group = optimizer.param_groups[0]
    assert type(optimizer).__name__ == "Novograd"
    assert (group["lr"], list(group["betas"]), group["eps"]) == (0.01, [0.8, 0.5], 1e-6)


def test_b10_a_schedule_has_the_same_form(home):
    sched = {"name": "CosineAnnealing", "max_steps": -1, "args": {"name": "auto", "params": {"warmup_steps": 2}}}
    spec = plan_of(file_of(home, model={"optim": {"name": "adam", "lr": 1e-3, "sched": sched}})).spec
    assert spec.optim["sched"] == {"name": "CosineAnnealing", "max_steps": -1, "warmup_steps": 2}


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ({"name": "auto", "params": {"betass": [0.8, 0.5]}}, r"optim\.betass: .*Did you mean 'betas'.*mine\.yaml:\d+"),
        ({"name": "AdamParams"}, r"'AdamParams' is not the params class of optim\.name: 'novograd'\. Give auto"),
        ({"name": "auto", "params": {"lr": 0.1}}, r"optim\.args\.params\.lr: stands in optim too"),
        ({"name": "auto", "parms": {}}, r"optim\.args: .*it is a section: \{name: auto, params"),
        ("auto", r"optim\.args: 'auto' given, but it is a section"),
    ],
)
def test_b10_what_a_params_class_does_not_know_is_refused_by_name(args, match, home):
    with pytest.raises(ConfigError, match=match):
        plan_of(file_of(home, model={"optim": {"name": "novograd", "lr": 0.01, "args": args}}))


def test_b10_a_flat_form_and_a_target_refuse_unknown_arguments_too(home):
    for form in ({"name": "adam"}, {"_target_": "torch.optim.Adam"}):
        with pytest.raises(ConfigError, match=r"optim\.beta: torch\.optim\.Adam takes no such argument\. Did you mean"):
            plan_of(file_of(home, model={"optim": {**form, "lr": 0.01, "beta": 0.9}}))


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["~optim.name"], r"optim\.name: is missing\. Known: .*adam.*novograd"),
        (["optim=null"], "optim"),
        (["optim.name=adamm"], r"optim\.name: 'adamm' is not known\. Did you mean 'adam"),
    ],
)
def test_b11_an_optimizer_without_a_name_is_an_error_that_names_the_key(words, match, home):
    with pytest.raises(ConfigError, match=match):
        plan_of(DIGITS, words)


def test_b11_parameter_groups_come_from_a_hook_that_a_subclass_overrides(home):
    words = [f"model.module._target_={HERE}.ByLayer", "optim.sched={name: linear}", "trainer.max_epochs=1"]
    trainer, module, datamodule = load_from_config(load_config([DIGITS, *words]))
    trainer.fit(module, datamodule=datamodule)
    encoder, head = trainer.optimizers[0].param_groups
    assert (encoder["initial_lr"], head["initial_lr"]) == (3e-3, 3e-2)
    assert len(encoder["params"]) + len(head["params"]) == len(list(module.parameters()))


def test_b11_a_hook_that_returns_nothing_is_answered_with_what_it_has_to_return(home):
    words = [f"model.module._target_={HERE}.Forgetful", *ONE_STEP]
    trainer, module, datamodule = load_from_config(load_config([DIGITS, *words]))
    with pytest.raises(
        ConfigError, match=r"Forgetful\.setup_optimizer_param_groups: returned None\. Return the groups"
    ):
        trainer.fit(module, datamodule=datamodule)


# ---- B15, B20, B22: the documents' blocks


def test_b15_the_stray_colon_of_the_documents_is_shown_with_its_line(home, capsys):
    (home / "doc.yaml").write_text(f"defaults: [{DIGITS}, _self_]\n" + SCHEDULED.replace("\n    ", "\n"))
    assert run("launch", ["doc.yaml", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "in `min_lr: 1e-9:`. Take out the colon after min_lr's value" in said
    assert "[doc.yaml:23]" in said


@pytest.mark.parametrize(
    "block", [SCHEDULED.replace("1e-9:", "1e-9"), OPTIMIZED, FROZEN], ids=["sched", "optim", "freeze"]
)
def test_b15_b22_each_documented_block_composes_as_it_is_written(block, home):
    spec = plan_of(file_of(home, block)).spec
    written = yaml.safe_load(block.replace("1e-9", "1.0e-9"))
    written = written.get("model", written)
    if "optim" in written:
        assert {key: spec.optim[key] for key in written["optim"] if key != "sched"} == {
            key: value for key, value in written["optim"].items() if key != "sched"
        }
        assert written["optim"].get("sched", {}).items() <= spec.optim.get("sched", {}).items()
    else:
        assert spec.callbacks["freeze_updates"]["modules"] == written["freeze_updates"]["modules"]


def test_b15_b22_the_documented_blocks_train_together_by_value(home):
    network = {"cls_net": {"_target_": f"{HERE}.FourParts", "hidden": 8}}
    path = file_of(home, FROZEN, SCHEDULED.replace("1e-9:", "1e-9"), model=network)
    words = ["trainer.max_epochs=3", "checkpoint.keep_every_n_epochs=1"]
    outcome = asparagus.launch(path, [*words, "trainer.log_every_n_steps=1"])
    assert rates(outcome.folder) == pytest.approx([0.01 * (step + 1) / 1001 for step in range(69)])
    kept = Path(outcome.folder) / "checkpoints"
    first, _, last = (read_weights(kept / manifest.name) for manifest in manifests(kept))  # of steps 23, 46, 69
    moved = {name.split(".")[1] for name in first if not torch.equal(first[name], last[name])}
    assert moved == {"decoder", "head"}  # the decoder until step 50; joint is frozen since step 10


# ---- B.2: every key of exp_manager is honoured, or says what to use

HONOURED = [
    ({"name": "mine"}, "run.label", "mine"),
    ({"resume_if_exists": False}, "run.resume", False),
    ({"resume_from_checkpoint": "/a.ckpt"}, "run.resume_from_checkpoint", "/a.ckpt"),
    ({"create_tensorboard_logger": True}, "logger.tensorboard._target_", "pytorch_lightning.loggers.TensorBoardLogger"),
    ({"create_wandb_logger": True, "wandb_logger_kwargs": {"project": "p"}}, "logger.wandb.project", "p"),
    ({"create_early_stopping_callback": True}, "callbacks.early_stopping.patience", 10),
    (
        {"create_early_stopping_callback": True, "early_stopping_callback_params": {"mode": "max"}},
        "callbacks.early_stopping.mode",
        "max",
    ),
    ({"max_time_per_run": "00:01:00:00"}, "trainer.max_time", "00:01:00:00"),
    ({"ema": {"enable": True, "decay": 0.9}}, "callbacks.ema.decay", 0.9),
    ({"ema": {"enabled": True, "every_n_steps": 5}}, "callbacks.ema.update_every_n_steps", 5),
    ({"ema": {"enable": True, "cpu_offload": True}}, "callbacks.ema.device", "cpu"),
    ({"checkpoint_callback_params": {"monitor": "val/dice"}}, "checkpoint.monitor", "val/dice"),
    ({"checkpoint_callback_params": {"mode": "max"}}, "checkpoint.mode", "max"),
    ({"checkpoint_callback_params": {"save_top_k": 5}}, "checkpoint.keep_best", 5),
    ({"checkpoint_callback_params": {"every_n_epochs": 2}}, "checkpoint.every_n_epochs", 2),
]
AS_IT_IS = [
    *({key: value} for key, (values, _) in ANSWERS.items() for value in values),
    *({"checkpoint_callback_params": {key: value}} for key, (values, _) in OF_CHECKPOINTS.items() for value in values),
    *({key: None} for key in (*ANSWERS, "ema", "checkpoint_callback_params", "early_stopping_callback_params")),
    {"ema": {"enable": False}},
    {"create_wandb_logger": False},
    {"create_early_stopping_callback": False},
]
REFUSED = [
    ("explicit_log_dir", "/logs", "ASPARAGUS_MODELS"),
    ("exp_dir", "/logs", "ASPARAGUS_MODELS"),
    ("version", "v1", "run.name"),
    ("use_datetime_version", True, "Leave it out"),
    ("resume_past_end", True, "run.resume_from_checkpoint"),
    ("create_checkpoint_callback", False, "checkpoint.keep_best=0"),
    ("create_preemption_callback", False, "failures.grace_s"),
    ("files_to_copy", ["a.py"], "Commit the files"),
    ("log_step_timing", True, "trainer.profiler=simple"),
    ("disable_validation_on_resume", False, "validated at the end of its epoch"),
    ("seconds_to_sleep", 60, "Leave it out"),
    ("summary_writer_kwargs", {"a": 1}, "logger.tensorboard"),
    ("early_stopping_callback_params", {"patience": 3}, "create_early_stopping_callback=true"),
    ("ema.validate_original_weights", True, "averaged ones are validated"),
    ("ema.decay", 2, "0 to 1"),
    ("ema.dekay", 2, "Did you mean 'decay'"),
    ("checkpoint_callback_params.save_last", False, "always kept"),
    ("checkpoint_callback_params.filename", "{epoch}", "epoch=E-step=S"),
    ("checkpoint_callback_params.dirpath", "/c", "ASPARAGUS_MODELS"),
    ("checkpoint_callback_params.prefix", "a", "epoch=E-step=S"),
    ("checkpoint_callback_params.postfix", ".atommic", "asp model export"),
    ("checkpoint_callback_params.always_save_atommic", True, "asp model export"),
    ("checkpoint_callback_params.save_atommic_on_train_end", True, "asp model export"),
    ("checkpoint_callback_params.save_best_model", True, "asp model export"),
    ("checkpoint_callback_params.every_n_train_steps", 5, "checkpoint.every_n_epochs"),
    ("checkpoint_callback_params.save_weights_only", True, "whole state"),
    ("checkpoint_callback_params.save_topk", 5, "Did you mean 'save_top_k'"),
    ("create_tensorbord_logger", True, "Did you mean 'create_tensorboard_logger'"),
]


def ours(manager: Any) -> tuple[dict[str, Any], list[str]]:
    """Return what a section exp_manager becomes, and its problems."""
    problems: list[str] = []
    return spelled_our_way({"exp_manager": manager}, 0, problems), problems


def names(manager: dict[str, Any]) -> set[str]:
    """Return the keys that a section has, those of its sections too."""
    inside = {f"{key}.{name}" for key, value in manager.items() if isinstance(value, dict) for name in value}
    return {*manager, *inside}


@pytest.mark.parametrize(("manager", "key", "value"), HONOURED, ids=str)
def test_b2_what_exp_manager_adds_is_here_under_another_name(manager, key, value):
    tree, problems = ours(manager)
    assert problems == []
    assert OmegaConf.select(OmegaConf.create(tree), key) == value


@pytest.mark.parametrize("manager", AS_IT_IS, ids=str)
def test_b2_what_exp_manager_asks_for_that_is_so_anyway_changes_nothing(manager):
    assert ours(manager) == ({}, [])


@pytest.mark.parametrize(("key", "value", "instead"), REFUSED)
def test_b2_what_exp_manager_cannot_have_here_is_refused_with_what_to_use(key, value, instead):
    section, _, name = key.partition(".")
    wanted = {name: value} if name else value
    manager = {section: {"enable": True, **wanted} if section == "ema" else wanted}
    _, (problem,) = ours(manager)
    assert problem.startswith(f"exp_manager.{key}: ")
    assert instead in problem


def test_b2_no_key_of_exp_manager_is_without_an_answer():
    told = set().union(*(names(row[0]) for row in HONOURED), {key for key, *_ in REFUSED})
    told |= {key.partition(".")[0] for key in told}
    assert set(KNOWN) | {key.partition(".")[2] for key in GONE if key.startswith("exp_manager.")} <= told | {
        "resume_ignore_no_checkpoint"
    }
    assert {f"checkpoint_callback_params.{name}" for name in OF_SECTION} <= told


def test_b2_an_exp_manager_that_is_no_section_is_refused():
    assert ours("default")[1] == ["exp_manager: 'default' given, but it is a section."]


# ---- B.2: a warm start


def spelled(**config: Any) -> tuple[dict[str, Any], list[str]]:
    problems: list[str] = []
    return spelled_our_way(config, 0, problems), problems


def test_b2_a_warm_start_from_a_checkpoint_is_init_from():
    assert spelled(init_from_ptl_ckpt="/a.ckpt") == ({"init_from": "file:/a.ckpt", "transfer": {"more": {}}}, [])


def test_b2_a_warm_start_from_several_names_what_comes_from_where():
    sources = {"one": {"path": "/a.ckpt", "include": ["encoder"]}, "two": {"path": "/b.ckpt", "exclude": ["encoder"]}}
    tree, problems = spelled(init_from_ptl_ckpt=sources)
    assert problems == []
    assert tree == {
        "init_from": "file:/a.ckpt",
        "transfer": {"include": ["encoder"], "more": {"two": {"path": "/b.ckpt", "exclude": ["encoder"]}}},
    }


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"init_from_atommic_model": "/a.atommic"}, "asp model import FILE"),
        ({"init_from_pretrained_model": "unet"}, "init_from=model:<name>@<alias>"),
        ({"init_from_ptl_ckpt": {"one": "/a.ckpt"}}, "Give a path, or {name: {path, include, exclude}}"),
        ({"init_from_ptl_ckpt": "/a", "init_from": "run:1/last"}, "both name a parent"),
        ({"init_from_ptl_ckpt": "/a", "init_from_atommic_model": "/b"}, "Provide only one of"),
    ],
)
def test_b2_a_warm_start_that_cannot_be_says_what_can(config, match):
    assert any(match in problem for problem in spelled(**config)[1])


def saved(home, name: str, seed: int) -> tuple[Path, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    weights = {f"net.{key}": value for key, value in MLP(1, [8, 8], 10).state_dict().items()}
    torch.save({"state_dict": weights}, home / name)
    return home / name, weights


def test_b2_a_warm_start_takes_of_each_file_what_it_says(home):
    (one, first), (two, second) = saved(home, "a.ckpt", 1), saved(home, "b.ckpt", 2)
    sources = {"one": {"path": str(one), "include": ["encoder"]}, "two": {"path": "b.ckpt", "exclude": ["encoder"]}}
    config = load_config([file_of(home, stage="finetune_cls", init_from_ptl_ckpt=sources)])
    assert plan_of(config).spec.transfer.more["two"]["path"] == str(two)  # workers change directory
    _, module, _ = load_from_config(config)
    for name, weight in module.state_dict().items():
        assert torch.equal(weight, (first if "encoder" in name else second)[name]), name


def test_b2_what_a_second_file_brings_is_in_the_report(home):
    (one, _), (two, _) = saved(home, "a.ckpt", 1), saved(home, "b.ckpt", 2)
    module = torch.nn.ModuleDict({"net": MLP(1, [8, 8], 10)})
    some = Transfer(include=["encoder.1"], more={"two": {"path": str(two), "include": ["head"]}})
    report = take_over(module, Parent(str(one)), some)
    assert report.source == f"{one}, then {two}"
    assert sorted(report.taken) == ["net.encoder.1.bias", "net.encoder.1.weight", "net.head.bias", "net.head.weight"]
    assert report.fresh == ["net.encoder.4.bias", "net.encoder.4.weight"]
    with pytest.raises(RunError, match=r"transfer\.strict: 2 weights would stay fresh"):
        take_over(module, Parent(str(one)), Transfer(include=["encoder.1"], more=some.more, strict=True))


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"two": {"path": "/gone.ckpt"}}, r"transfer\.more\.two\.path: /gone\.ckpt does not exist"),
        ({"two": "/gone.ckpt"}, r"transfer\.more\.two: '/gone\.ckpt' given, but it is a section"),
        ({"two": {"path": "a.ckpt", "only": ["x"]}}, r"transfer\.more\.two\.only: 'only' is not known"),
        ({"two": {"path": "a.ckpt", "include": "x"}}, r"transfer\.more\.two\.include: 'x' given, but it is a list"),
    ],
)
def test_b2_a_second_file_that_is_not_there_is_refused_before_anything_starts(more, match, home):
    saved(home, "a.ckpt", 1)
    with pytest.raises(ConfigError, match=match):
        plan_of(file_of(home, stage="finetune_cls", init_from="file:a.ckpt", transfer={"more": more}))


# ---- on Ray


@pytest.mark.ray
@pytest.mark.e2e
def test_b20_b30_on_two_workers_the_schedule_ends_with_the_training_and_what_is_frozen_stays(home):
    words = ["resources=two_workers", "trainer.accumulate_grad_batches=2", "trainer.max_epochs=2"]
    words += ["optim.sched={name: linear}", "+freeze_updates={modules: {encoder: -1}}", "trainer.log_every_n_steps=1"]
    words += ["trainer.strategy=ddp_find_unused_parameters_false", "checkpoint.keep_every_n_epochs=1"]
    outcome = asparagus.launch(DIGITS, words)
    start = next(
        event for event in JournalReader(Path(outcome.folder) / "journal.jsonl").read() if event["kind"] == "start"
    )
    # 719 cases each in batches of 64: 12 batches, 6 steps per epoch
    assert (start["world_size"], start["steps"]) == (2, 12)
    assert rates(outcome.folder)[-1] == pytest.approx(3e-3 / 12)
    kept = Path(outcome.folder) / "checkpoints"
    first, second = (read_weights(kept / manifest.name) for manifest in manifests(kept))
    assert manifests(kept)[-1].step == 12
    same = {name for name in first if torch.equal(first[name], second[name])}
    assert same == {name for name in first if name.startswith("net.encoder.")}
