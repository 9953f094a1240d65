"""Every file in configs/ composes, passes the check against real data, and plans: nothing on the shelf is broken."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from asparagus.check import check
from asparagus.compose import Request, compose, compose_config
from asparagus.data import MAKERS
from asparagus.data.split import make_split
from asparagus.pipelines import plans_of
from asparagus.plan import Plan, make_plan
from asparagus.stages import STAGES
from asparagus.sweeps import plan_sweep
from tests.volumes import write_data

CONFIGS = Path(__file__).parent.parent / "configs"
CASES = {"train": 8, "val": 2}
TASK_OF = {
    "pretrain": "Task998_LauritSyn",
    "seg": "Task997_LauritSynSeg",
    "cls": "Task996_LauritSynCls",
    "reg": "Task995_LauritSynReg",
}
"""What the mandatory `task` of a root config is filled with, by the stage's kind."""
DEMOS = "pytorch_lightning.demos.boring_classes"
OWN = ("task=Own", f"model.module._target_={DEMOS}.BoringModel", f"data._target_={DEMOS}.BoringDataModule")
"""A module and data of one's own, which the stages train and finetune are for."""
ROOMY = ("site.cpus_per_node=8", "site.gpus_per_node=8")
"""The plan must not depend on the machine that runs the tests."""


def names(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.glob(pattern))


def is_pipeline(name: str) -> bool:
    return "pipeline" in yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def is_box(name: str) -> bool:
    return "eval_box" in yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


BUILT_INS = {"base", "imagewoof", "sesemi_config"}
"""SESEMI's, which are no stages: tests/seeds/test_sesemi_base.py launches them."""
ROOTS = [name for name in names("*.yaml") if name not in BUILT_INS]
BOXES = [name for name in names("experiment/**/*.yaml") if is_box(name)]
PIPELINES = [name for name in names("experiment/**/*.yaml") if is_pipeline(name)]
EXPERIMENTS = [name for name in names("experiment/**/*.yaml") if name not in (*BOXES, *PIPELINES)]
GROUPS = ("data", "optim", "trainer", "resources")
OPTIONS = [tuple(name.split("/")) for group in GROUPS for name in names(f"{group}/*.yaml")]
NETWORKS = [
    (option.split("/")[1], stage.name)
    for option in names("model/*.yaml")
    for stage in STAGES.values()
    if stage.init_from != "required" and stage.network in yaml.safe_load((CONFIGS / f"{option}.yaml").read_text())
]


@pytest.fixture(scope="session")
def every_task(tmp_path_factory) -> Path:
    """All tasks that asparagus brings, ten cases each, split."""
    root = tmp_path_factory.mktemp("every_task")
    for name, maker in MAKERS.items():
        module, _, function = maker.rpartition(".")
        getattr(importlib.import_module(module), function)(root, cases=sum(CASES.values()))
        make_split(root, name, "split_80_20")
    return root


@pytest.fixture
def ready(home, every_task, monkeypatch) -> Path:
    """A home with every task and a file of pretrained weights."""
    monkeypatch.setenv("ASPARAGUS_DATA", str(every_task))
    torch.save({"weight": torch.zeros(1)}, home / "weights.pt")
    return home


def launched(config: str) -> tuple[str, ...]:
    """Return the words that launch a config: its name, or what its first lines say."""
    if config.startswith("experiment/"):
        header = re.search(r"^# asp-launch (.*)$", (CONFIGS / f"{config}.yaml").read_text(), flags=re.MULTILINE)
        assert header, f"{config} does not say how it is launched"
        return tuple(word for word in header[1].split() if not word.startswith("init_from="))
    return (config,)


def mandatory(config: str, home: Path) -> tuple[str, ...]:
    """Return what a person has to give on the command line for this config."""
    name, *words = launched(config)
    composed = compose_config(Request(name, tuple(words)))
    stage = STAGES[composed.stage]
    if stage.kind == "own" and "module" not in composed.model:
        return (*words, *OWN, *((f"init_from=file:{home}/weights.pt",) if stage.init_from == "required" else ()))
    task = (f"task={TASK_OF[stage.kind]}",) if OmegaConf.is_missing(composed, "task") else ()
    return tuple(words) + task + ((f"init_from=file:{home}/weights.pt",) if stage.init_from == "required" else ())


def plan_of(config: str, *overrides: str) -> Plan:
    spec = compose(Request(launched(config)[0], (*overrides, *ROOMY)))
    found = check(spec)
    return make_plan(spec, cases=found.cases, parent=found.parent)


def test_the_shelf_was_found():
    assert {"pretrain", *STAGES} <= set(ROOTS)
    assert "experiment/digits" in EXPERIMENTS
    assert set(GROUPS) == {group for group, _ in OPTIONS}
    assert {option for option, _ in NETWORKS} == {name.split("/")[1] for name in names("model/*.yaml")}


@pytest.mark.parametrize(("resources", "workers"), [("in_process", 0), ("two_workers", 2)])
@pytest.mark.parametrize("config", ROOTS + EXPERIMENTS)
def test_a_config_composes_checks_and_plans(config, resources, workers, ready):
    plan = plan_of(config, f"resources={resources}", *mandatory(config, ready))
    stage = STAGES[plan.spec.stage]
    each, accumulated = plan.spec.data.get("batch_size"), plan.spec.trainer["accumulate_grad_batches"]
    assert plan.workers == workers
    assert plan.cases == (CASES if plan.spec.data["_target_"].endswith("CaseDataModule") else None)
    assert plan.global_batch == (each * max(1, workers) * accumulated if each else None)
    assert plan.spec.checkpoint.monitor in (stage.monitor, *stage.metrics)
    assert (plan.parent is not None) == (stage.init_from == "required")
    assert Plan.from_dict(json.loads(plan.to_json())) == plan


@pytest.mark.parametrize("config", EXPERIMENTS)
def test_an_experiment_leaves_nothing_open_but_its_parent(config, ready):
    given = mandatory(config, ready)
    words = list(launched(config)[1:])
    assert [word for word in given if not word.startswith("init_from=") and word not in words] == []


@pytest.mark.parametrize("config", PIPELINES)
def test_the_stages_of_a_pipeline_plan_one_after_the_other(config, ready):
    plans = plans_of(Request(config))
    assert len(plans) > 1
    assert all(plan.parent is None for _, plan in plans)
    assert plans[-1][1].spec.init_from.startswith("stage:")


@pytest.mark.parametrize("config", BOXES)
def test_the_rows_of_a_box_plan_from_a_checkpoint_and_from_scratch(config, ready):
    plan, _ = plan_sweep(Request(config, (f"init_from=file:{ready}/weights.pt",)))
    assert {stage.parent is None for stage in plan.stages} == {True, False}
    assert len({stage.identity for stage in plan.stages}) == len(plan.stages)


@pytest.mark.parametrize("config", ROOTS)
def test_a_root_config_is_named_after_its_stage(config, ready):
    assert compose_config(Request(config)).stage == config


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_an_option_can_be_chosen_over_a_root_config(group, option, ready):
    needed = ("data.train={dataset: {name: cases, task: Task996_LauritSynCls}}",) if option == "loaders" else ()
    if option == "crops":
        write_data(ready / "data", {"jrc_a": {"crop1": ["nuc", "er"]}})
        needed = (f"data.root={ready}/data",)
    plan = plan_of("train_cls", "task=Task996_LauritSynCls", f"{group}={option}", *needed)
    written = yaml.safe_load((CONFIGS / group / f"{option}.yaml").read_text())
    set_there = {key: value for key, value in written.items() if value is not None and key != "datasplit_path"}
    assert set_there.items() <= plan.spec.to_dict()[group].items()


@pytest.mark.parametrize(("option", "stage"), NETWORKS)
def test_every_network_of_a_model_can_be_chosen_for_its_stage(option, stage, ready):
    written = yaml.safe_load((CONFIGS / "model" / f"{option}.yaml").read_text())
    flat = written["dimensions"] == "2D"
    task, data = ("Task001_Digits", "images") if flat else (TASK_OF[STAGES[stage].kind], "volumes")
    plan = plan_of(stage, f"task={task}", f"model={option}", f"data={data}")
    network = STAGES[stage].network
    assert plan.spec.model[network]["_target_"] == written[network]["_target_"]
    assert "${" not in json.dumps(plan.spec.model)
