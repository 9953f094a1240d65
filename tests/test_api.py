"""What a notebook or a script calls: load_config, load_from_config, plan_of, launch, and names of one's own."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from mlflow import MlflowClient
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, TensorDataset

import asparagus
from asparagus import registry
from asparagus.compose import Request, compose
from asparagus.data.loaders import dataset
from asparagus.driver import Outcome
from asparagus.errors import ConfigError, DataError, RunError
from asparagus.optim import REGISTERED_OPTIMIZERS, REGISTERED_SCHEDULERS
from asparagus.plan import Plan
from asparagus.spec import Spec

HERE = __name__
DIGITS = "experiment/digits"
SHORT = ["trainer.max_epochs=1", "trainer.limit_train_batches=2"]
OWN = f"""
defaults:
  - train
  - override /optim: adam
  - _self_
task: Lines
model:
  module:
    _target_: {HERE}.Line
data:
  _target_: {HERE}.Points
trainer:
  max_epochs: 1
optim:
  name: sgd
  lr: 0.5
"""


class Net(torch.nn.Module):
    """A network of one's own for the digits."""

    def __init__(self, in_channels: int, out_channels: int, spatial_dims: int = 2, hidden: int = 8) -> None:
        super().__init__()
        self.hidden = hidden
        flat = in_channels * 8**spatial_dims
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(flat, hidden), torch.nn.ReLU())
        self.head = torch.nn.Linear(hidden, out_channels)

    def forward(self, x):
        return self.head(self.layers(x))


class Line(pl.LightningModule):
    """One weight, moved by the section `optim`."""

    def __init__(self, optim, start: float = 1.0) -> None:
        super().__init__()
        self.weight, self.optim = torch.nn.Parameter(torch.tensor([start])), optim

    def training_step(self, batch, index):
        return (self.weight * batch[0]).mean()

    def validation_step(self, batch, index):
        self.log("val/loss", (self.weight * batch[0]).mean())

    def configure_optimizers(self):
        from asparagus.optim.build import build_optimizer
        from asparagus.optim.schedules import build_schedule

        optimizer = build_optimizer(self.optim, self.parameters())
        schedule = build_schedule(optimizer, self.optim.get("sched"), self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Points(pl.LightningDataModule):
    """Ones, in batches of one."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.size = size

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(self.size, 1)))

    def val_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(1, 1)))


class Diary(pl.Callback):
    """Keeps what it sees."""

    seen: list[str] = []  # noqa: RUF012 - read by the tests

    def on_train_end(self, trainer, pl_module):
        self.seen.append(type(pl_module).__name__)


def by_hand(trainer, module, datamodule, epochs=1):
    for _ in range(epochs):
        trainer.fit(module, datamodule=datamodule)


class Halving(torch.optim.Optimizer):
    """Each step takes `share` of a weight away."""

    def __init__(self, params, lr: float, share: float = 0.5, flag: str = "x") -> None:
        super().__init__(params, {"lr": lr, "share": share})
        self.flag = flag

    def step(self, closure=None):
        loss = closure() if closure else None
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(1 - group["share"])
        return loss


@dataclass
class HalvingParams:
    lr: float
    share: float = 0.25
    flag: str = "from params"


class Countdown(torch.optim.lr_scheduler.LRScheduler):
    """The rate falls by `by` of the base rate each step, over `max_steps` of them."""

    def __init__(self, optimizer, max_steps: int, by: float = 1.0, last_epoch: int = -1) -> None:
        self.max_steps, self.by = max_steps, by
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        return [rate * (1 - self.by * min(1, self.last_epoch / self.max_steps)) for rate in self.base_lrs]


@dataclass
class CountdownParams:
    by: float = 0.5


def pairs(root, subset=None, image_transform=None, size=3):
    """A data set that says what it was asked for."""
    made = TensorDataset(torch.ones(size, 1))
    made.asked = (str(root), subset, image_transform, size)
    return made


def strict_pairs(root, subset, image_transform):
    return pairs(root, subset, image_transform)


def CamelPairs(root):  # noqa: N802 - as somebody may write it
    return pairs(root)


REGISTRIES = [
    registry.NETWORKS,
    registry.MODULES,
    registry.DATAMODULES,
    registry.CALLBACKS,
    registry.SCRIPTS,
    registry.DATASETS,
    REGISTERED_OPTIMIZERS,
    REGISTERED_SCHEDULERS,
]


@pytest.fixture(autouse=True)
def _names_are_forgotten():
    """Have every test begin with the names that were there before it."""
    before = [list(kind) for kind in REGISTRIES]
    yield
    for kind, names in zip(REGISTRIES, before, strict=True):
        for name in set(kind) - set(names):
            kind.remove(name)
    Diary.seen.clear()


@pytest.fixture
def own(home: Path) -> str:
    (home / "own.yaml").write_text(OWN)
    return str(home / "own.yaml")


# The package


def test_importing_asparagus_imports_nothing_heavy_and_every_public_name_is_there():
    code = (
        "import sys, asparagus; heavy = {'torch', 'ray', 'mlflow', 'hydra', 'omegaconf', 'yaml'} & set(sys.modules); "
        "assert not heavy, heavy; [getattr(asparagus, name) for name in asparagus.__all__]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_name_that_asparagus_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'lunch'"):
        asparagus.lunch  # noqa: B018


# load_config


def test_load_config_takes_the_config_as_its_first_word(home):
    config = asparagus.load_config([DIGITS, "optim.lr=0.5"])
    assert (config.task, config.optim.lr) == ("Task001_Digits", 0.5)


def test_load_config_takes_it_by_name_too(home):
    assert asparagus.load_config(["optim.lr=0.5"], config_name=DIGITS).optim.lr == 0.5


def test_load_config_looks_into_the_folder_that_is_given_first(home):
    folder = home / "mine"
    folder.mkdir()
    (folder / "config.yaml").write_text("defaults: [experiment/digits, _self_]\nseed: 7\n")
    assert asparagus.load_config(config_path=folder).seed == 7
    assert asparagus.load_config(config_path="mine", config_name="config").seed == 7
    folder.rename(home / "conf")
    assert asparagus.load_config().seed == 7


def test_load_config_composes_and_neither_resolves_nor_checks(home):
    config = asparagus.load_config([DIGITS, "run.name=${task}-${seed}", "trainer.max_epoch=3"])
    assert asparagus.load_config([DIGITS, "trainer.max_epoch=3"]).trainer.max_epoch == 3
    assert "${task}" in str(config._get_node("run")._get_node("name")._value())
    config.seed = 9
    assert config.run.name == "Task001_Digits-9"


def test_what_load_config_returned_may_be_given_new_keys(home):
    config = asparagus.load_config([DIGITS])
    config.trainer.limit_train_batches = 2
    config.callbacks.diary = {"_target_": f"{HERE}.Diary"}
    spec = asparagus.plan_of(config).spec
    assert (spec.trainer["limit_train_batches"], list(spec.callbacks)) == (2, ["diary"])


def test_configs_are_independent_of_each_other(home):
    first = asparagus.load_config([DIGITS])
    first.optim.lr = 123
    assert asparagus.load_config([DIGITS]).optim.lr == 3e-3


def test_load_config_answers_a_name_that_is_not_there_with_the_nearest(home):
    with pytest.raises(ConfigError, match="Did you mean 'experiment/digits'"):
        asparagus.load_config(["experiment/digitz"])
    with pytest.raises(ConfigError, match="nowhere is not a folder"):
        asparagus.load_config([DIGITS], config_path="nowhere")


def test_load_config_reads_the_dot_env(home, monkeypatch):
    (home / ".env").write_text("MY_EPOCHS=3\n")
    monkeypatch.setenv("MY_EPOCHS", "")
    monkeypatch.delenv("MY_EPOCHS")
    config = asparagus.load_config([DIGITS, "trainer.max_epochs=${oc.decode:${oc.env:MY_EPOCHS}}"])
    assert config.trainer.max_epochs == 3


# load_from_config


def test_load_from_config_gives_what_fits(home):
    trainer, module, datamodule = asparagus.load_from_config(asparagus.load_config([DIGITS, *SHORT]))
    trainer.fit(model=module, datamodule=datamodule)
    assert trainer.global_step == 2
    assert module.net(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("kind", ["config", "mapping", "spec"])
def test_load_from_config_takes_a_config_plain_values_and_a_spec(kind, own):
    config = asparagus.load_config([own])
    given = {"config": config, "mapping": OmegaConf.to_container(config), "spec": compose(Request(own))}
    trainer, module, datamodule = asparagus.load_from_config(given[kind])
    assert (trainer.max_epochs, type(module), type(datamodule)) == (1, Line, Points)


def test_load_from_config_changes_nothing_of_what_it_was_given(own):
    config = asparagus.load_config([own])
    before = config.copy()
    asparagus.load_from_config(config)
    assert config == before


def test_load_from_config_stays_in_this_process_whatever_workers_are_asked_for(home):
    words = [DIGITS, "resources.workers=2", "site.cpus_per_node=2"]
    trainer, _, _ = asparagus.load_from_config(asparagus.load_config(words))
    assert (trainer.num_devices, trainer.world_size) == (1, 1)
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()


def test_load_from_config_takes_the_parents_weights_over(home):
    _, module, _ = asparagus.load_from_config(asparagus.load_config([DIGITS, "seed=1"]))
    torch.save({"state_dict": module.state_dict()}, home / "weights.ckpt")
    words = ["finetune_cls", "task=Task001_Digits", "model=mlp", "data=images", "seed=2"]
    parent = f"init_from=file:{home}/weights.ckpt"
    _, child, _ = asparagus.load_from_config(asparagus.load_config([*words, parent]))
    assert all(
        torch.equal(a, b) for a, b in zip(module.state_dict().values(), child.state_dict().values(), strict=True)
    )


def test_load_from_config_refuses_a_wrong_config_with_every_problem(home):
    config = asparagus.load_config([DIGITS, "optim.lrr=1", "trainer.max_epoch=2"])
    with pytest.raises(ConfigError) as wrong:
        asparagus.load_from_config(config)
    assert len(wrong.value.problems) == 2


# plan_of


def test_plan_of_starts_nothing_and_writes_nothing(home):
    plan = asparagus.plan_of(DIGITS, ["trainer.max_epochs=2"])
    assert isinstance(plan, Plan)
    assert (plan.spec.trainer["max_epochs"], plan.cases) == (2, {"train": 1437, "val": 360})
    assert not (home / "models").exists()
    assert not (home / "results").exists()


def test_plan_of_is_the_same_whatever_it_is_given(home):
    (home / "mine.yaml").write_text("defaults: [experiment/digits, _self_]\n")
    plan = asparagus.plan_of(DIGITS)
    assert asparagus.plan_of(Request(DIGITS)) == plan
    assert asparagus.plan_of(asparagus.load_config([DIGITS])) == plan
    assert asparagus.plan_of(compose(Request(DIGITS))) == plan
    assert asparagus.plan_of("mine.yaml") == plan
    assert asparagus.plan_of(Path("mine.yaml")) == plan
    assert asparagus.plan_of(home / "mine.yaml") == plan
    assert asparagus.plan_of(compose(Request(DIGITS)).to_dict()) == plan
    assert Plan.from_dict(json.loads(plan.to_json())) == plan


def test_plan_of_says_where_each_problem_comes_from(home):
    (home / "mine.yaml").write_text("defaults: [experiment/digits, _self_]\noptim:\n  lrr: 3\n")
    with pytest.raises(ConfigError) as wrong:
        asparagus.plan_of("mine.yaml", ["trainer.max_epoch=2"])
    problems = {problem.split(":")[0]: problem for problem in wrong.value.problems}
    assert problems["optim.lrr"].endswith("[mine.yaml:3]")
    assert problems["trainer.max_epoch"].endswith("[command line: trainer.max_epoch=2]")


@pytest.mark.parametrize("call", ["plan_of", "launch"])
def test_a_config_that_is_composed_takes_no_overrides(call, home):
    config = asparagus.load_config([DIGITS])
    with pytest.raises(ConfigError, match="load_config"):
        getattr(asparagus, call)(config, ["seed=1"])


# launch


def test_launch_trains_records_and_tells_what_happens(own, home):
    events = []
    outcome = asparagus.launch(own, ["seed=5"], watcher=events.append)
    assert isinstance(outcome, Outcome)
    assert (outcome.run_id, outcome.state, outcome.recorded) == (1, "finished", True)
    assert outcome.metrics["val/loss"] == pytest.approx(-1.0)  # 1 - 4 steps x 0.5
    assert events[0]["kind"] == "run"
    assert {"metrics", "end"} <= {event["kind"] for event in events}
    found = MlflowClient(f"sqlite:///{home}/results/mlflow.db").get_run(outcome.mlflow_run_id)
    assert (found.data.tags["asparagus.run_id"], found.data.params["seed"]) == ("1", "5")


def test_launch_repeats_a_run_from_its_own_config_and_again_in_one_process(own):
    first = asparagus.launch(own)
    again = asparagus.launch(Path(first.folder) / "config.yaml", ["run.resume=false"])
    config = asparagus.load_config([f"{first.folder}/config.yaml"])
    assert asparagus.plan_of(config).identity == asparagus.plan_of(Path(again.folder) / "config.yaml").identity
    assert (first.run_id, again.run_id) == (1, 2)
    assert first.metrics == again.metrics


def test_launch_takes_a_config_that_was_changed_by_hand(own):
    config = asparagus.load_config([own])
    config.model.module.start = 3.0
    outcome = asparagus.launch(config)
    assert outcome.metrics["val/loss"] == pytest.approx(1.0)
    assert yaml.safe_load((Path(outcome.folder) / "config.yaml").read_text())["model"]["module"]["start"] == 3.0


def test_launch_refuses_what_is_wrong_and_starts_nothing(home):
    with pytest.raises(ConfigError, match=r"optim.lrr"):
        asparagus.launch(DIGITS, ["optim.lrr=1"])
    assert not (home / "models").exists()


def test_launch_raises_when_the_training_fails_and_the_record_says_so(own, home):
    with pytest.raises(RunError, match="boom"):
        asparagus.launch(own, ["callbacks.boom._target_=tests.fakes.Boom"])
    client = MlflowClient(f"sqlite:///{home}/results/mlflow.db")
    (found,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert (found.info.status, found.data.tags["asparagus.state"]) == ("FAILED", "failed")


# register_*


def digits(*words):
    return asparagus.load_config([DIGITS, *SHORT, *words])


def test_a_registered_network_is_a_target_and_its_arguments_are_checked(home):
    assert asparagus.register_network("small", Net) is Net
    words = ["~model.cls_net", "+model.cls_net={_target_: small, hidden: 5}"]
    trainer, module, datamodule = asparagus.load_from_config(digits(*words))
    assert (type(module.net), module.net.hidden) == (Net, 5)
    trainer.fit(module, datamodule=datamodule)
    assert asparagus.plan_of(digits(*words)).spec.model["cls_net"]["_target_"] == f"{HERE}.Net"
    with pytest.raises(ConfigError, match="Did you mean 'hidden'"):
        asparagus.plan_of(digits("~model.cls_net", "+model.cls_net={_target_: small, hiden: 5}"))


def test_a_decorator_registers_under_the_name_of_the_class_or_another_and_returns_it():
    assert asparagus.register_network(Net) is Net
    assert asparagus.register_network("other")(Net) is Net
    assert {"Net", "other"} <= set(registry.NETWORKS)
    assert registry.NETWORKS.get("Net").path == registry.NETWORKS.get("other").path == f"{HERE}.Net"


def test_registered_module_data_callback_and_script_train_and_are_recorded_by_their_paths(own):
    asparagus.register_module("line", Line)
    asparagus.register_datamodule("points", Points)
    asparagus.register_callback("diary", Diary)
    asparagus.register_script("by_hand", by_hand)
    words = ["model.module._target_=line", "data._target_=points", "data.size=2", "callbacks.mine._target_=diary"]
    outcome = asparagus.launch(own, [*words, "script={_target_: by_hand, epochs: 1}"])
    assert outcome.metrics["val/loss"] == pytest.approx(0.0)  # 1 - 2 steps x 0.5
    assert Diary.seen == ["Line"]
    saved = yaml.safe_load((Path(outcome.folder) / "config.yaml").read_text())
    targets = [saved["model"]["module"], saved["data"], saved["callbacks"]["mine"], saved["script"]]
    names = ("Line", "Points", "Diary", "by_hand")
    assert [section["_target_"] for section in targets] == [f"{HERE}.{name}" for name in names]


def test_what_a_run_keeps_needs_the_registration_no_more(own):
    asparagus.register_module("line", Line)
    asparagus.register_optimizer("halving", Halving)
    asparagus.register_scheduler("countdown", Countdown)
    words = ["model.module._target_=line", "optim={name: halving, lr: 1, sched: {name: countdown}}"]
    spec = asparagus.plan_of(own, words).spec
    for kind, name in (
        (registry.MODULES, "line"),
        (REGISTERED_OPTIMIZERS, "halving"),
        (REGISTERED_SCHEDULERS, "countdown"),
    ):
        kind.remove(name)
    assert asparagus.plan_of(spec.to_dict()).spec == spec
    assert Spec.from_dict(json.loads(spec.to_json())) == spec


def test_a_module_that_registers_names_is_imported_by_the_experiment(home, monkeypatch):
    monkeypatch.syspath_prepend(str(home))
    (home / "own_names.py").write_text(
        "import asparagus\nfrom asparagus.models.mlp import MLP\n\n\n"
        "@asparagus.register_network\nclass tiny(MLP):\n    pass\n"
    )
    words = ["~model.cls_net", "+model.cls_net={_target_: tiny, hidden: [4]}"]
    with pytest.raises(ConfigError, match="neither a dotted path nor a registered name"):
        asparagus.plan_of(DIGITS, words)
    for imports in ("imports=[own_names]", "imports=own_names"):
        spec = asparagus.plan_of(DIGITS, [imports, *words]).spec
        assert spec.model["cls_net"] == {"_target_": "own_names.tiny", "hidden": [4]}


def test_a_module_that_cannot_be_imported_is_named(home):
    with pytest.raises(ConfigError, match=r"imports: own_nmaes cannot be imported.*command line: imports"):
        asparagus.plan_of(DIGITS, ["imports=[own_nmaes]"])


def test_a_name_that_nobody_registered_is_answered_with_the_nearest(home):
    asparagus.register_network("small", Net)
    with pytest.raises(ConfigError, match="Did you mean 'small'") as wrong:
        asparagus.plan_of(DIGITS, ["model.cls_net._target_=smal"])
    assert "model.cls_net._target_" in str(wrong.value)


def test_a_name_is_taken_once_and_the_same_thing_may_be_registered_again():
    asparagus.register_network("small", Net)
    asparagus.register_network("small", Net)
    with pytest.raises(ValueError, match=r"Cannot override pre-existing networks. Conflicting network name = small"):
        asparagus.register_network("small", Line)


def test_what_has_no_path_cannot_be_registered():
    with pytest.raises(ValueError, match="top of a module"):
        asparagus.register_network("here", lambda: None)

    class Inner(torch.nn.Module):
        pass

    with pytest.raises(ValueError, match="top of a module"):
        asparagus.register_network(Inner)


# ---- B12, optimizers


def test_b12_a_registered_optimizer_is_called_by_its_name(own):
    asparagus.register_optimizer("halving", Halving)
    config = asparagus.load_config([own, "optim={name: halving, lr: 1, share: 0.75}"])
    trainer, module, datamodule = asparagus.load_from_config(config)
    trainer.fit(module, datamodule=datamodule)
    assert type(trainer.optimizers[0]) is Halving
    assert module.weight.item() == pytest.approx(0.25**4)


def test_b12_its_params_class_gives_defaults_that_the_experiment_may_change(own):
    asparagus.register_optimizer("halving", Halving, HalvingParams)
    spec = asparagus.plan_of(own, ["optim={name: halving, lr: 1, flag: mine}"]).spec
    assert spec.optim == {"name": "halving", "lr": 1, "share": 0.25, "flag": "mine", "_target_": f"{HERE}.Halving"}
    _, module, _ = asparagus.load_from_config(spec)
    from asparagus.optim.build import build_optimizer

    optimizer = build_optimizer(module.optim, module.parameters())
    assert (optimizer.defaults["share"], optimizer.flag) == (0.25, "mine")


def test_b12_a_field_that_its_params_class_does_not_know_is_refused(own):
    asparagus.register_optimizer("halving", Halving, HalvingParams)
    with pytest.raises(ConfigError, match=r"'shre' is not known. Did you mean 'share'"):
        asparagus.plan_of(own, ["optim={name: halving, lr: 1, shre: 0.5}"])


def test_b12_without_a_params_class_the_signature_says_what_it_takes(own):
    asparagus.register_optimizer("halving", Halving)
    with pytest.raises(ConfigError, match="Did you mean 'share'"):
        asparagus.plan_of(own, ["optim={name: halving, lr: 1, shre: 0.5}"])
    with pytest.raises(ConfigError, match=r"optim\.lr: is missing"):
        asparagus.plan_of(own, ["optim.name=halving", "~optim.lr"])


@pytest.mark.parametrize("name", ["adam", "AdamW", "novograd"])
def test_b12_a_name_that_asparagus_brings_is_taken(name):
    with pytest.raises(
        ValueError, match=f"Cannot override pre-existing optimizers. Conflicting optimizer name = {name}"
    ):
        asparagus.register_optimizer(name, Halving, HalvingParams)


def test_b12_a_name_that_was_registered_is_taken():
    asparagus.register_optimizer("halving", Halving, HalvingParams)
    with pytest.raises(ValueError, match="Conflicting optimizer name = halving"):
        asparagus.register_optimizer("halving", torch.optim.SGD)


def test_b12_an_unknown_name_is_answered_with_the_registered_ones_too(own):
    asparagus.register_optimizer("halving", Halving)
    with pytest.raises(ConfigError, match=r"Did you mean 'halving'.*adam"):
        asparagus.plan_of(own, ["optim.name=halvin"])


def test_b12_a_registered_optimizer_trains_a_stage_of_ours(home):
    asparagus.register_optimizer("halving", Halving)
    trainer, module, datamodule = asparagus.load_from_config(digits("optim={name: halving, lr: 1}"))
    first = {name: value.clone() for name, value in module.state_dict().items()}
    trainer.fit(module, datamodule=datamodule)
    assert all(torch.allclose(value, first[name] / 4) for name, value in module.named_parameters())


# ---- B17, schedulers


def test_b17_a_registered_scheduler_is_called_by_its_name_with_the_length_of_the_training(own):
    asparagus.register_scheduler("countdown", Countdown)
    config = asparagus.load_config([own, "optim.sched={name: countdown}"])
    trainer, module, datamodule = asparagus.load_from_config(config)
    trainer.fit(module, datamodule=datamodule)
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert (type(scheduler), scheduler.max_steps) == (Countdown, 4)
    assert module.weight.item() == pytest.approx(1 - 0.5 * (1 + 0.75 + 0.5 + 0.25))


def test_b17_its_params_class_gives_defaults_and_what_may_be_set(own):
    asparagus.register_scheduler("countdown", Countdown, CountdownParams)
    assert asparagus.plan_of(own, ["optim.sched={name: countdown}"]).spec.optim["sched"] == {
        "name": "countdown",
        "by": 0.5,
        "_target_": f"{HERE}.Countdown",
    }
    with pytest.raises(ConfigError, match=r"'bye' is not known. Did you mean 'by'"):
        asparagus.plan_of(own, ["optim.sched={name: countdown, bye: 1}"])


def test_b17_a_length_of_ones_own_is_taken(own):
    asparagus.register_scheduler("countdown", Countdown)
    config = asparagus.load_config([own, "optim.sched={name: countdown, max_steps: 8}"])
    trainer, module, datamodule = asparagus.load_from_config(config)
    trainer.fit(module, datamodule=datamodule)
    assert trainer.lr_scheduler_configs[0].scheduler.max_steps == 8


@pytest.mark.parametrize("name", ["cosine", "countdown"])
def test_b17_a_name_that_is_taken_is_refused_in_the_same_words(name):
    asparagus.register_scheduler("countdown", Countdown)
    words = f"Cannot override pre-existing schedulers. Conflicting scheduler name = {name}"
    with pytest.raises(ValueError, match=words):
        asparagus.register_scheduler(name, torch.optim.lr_scheduler.StepLR)


def test_b17_an_unknown_name_is_answered_with_the_registered_ones_too(own):
    asparagus.register_scheduler("countdown", Countdown)
    with pytest.raises(ConfigError, match=r"Did you mean 'countdown'.*cosine"):
        asparagus.plan_of(own, ["optim.sched={name: countdwn}"])


# ---- D18, D19, data sets


def loader(own, section, *words):
    """Return the data set that a loader section stands for."""
    data = f"data={{_target_: asparagus.data.loaders.LoaderDataModule, train: {{dataset: {section}}}}}"
    _, _, datamodule = asparagus.load_from_config(asparagus.load_config([own, data, *words]))
    datamodule.setup("fit")
    return datamodule.train_dataloader().dataset


def test_d18_the_factory_calls_what_is_registered_with_root_subset_and_transform():
    asparagus.register_dataset(pairs)
    assert dataset("pairs", "/data/x", subset="train", size=5).asked == ("/data/x", "train", None, 5)
    assert dataset("pairs", "/data/x").asked == ("/data/x", None, None, 3)
    assert dataset("pairs", "/data/x", image_transform=abs).asked == ("/data/x", None, abs, 3)


def test_d18_an_experiment_names_a_data_set_and_its_arguments(own, home):
    asparagus.register_dataset(pairs)
    found = loader(own, "{name: pairs, root: x, subset: [a, b], size: 2}", f"data.root={home}")
    assert found.asked == (str(home / "x"), ["a", "b"], None, 2)


def test_d18_what_a_data_set_asks_for_and_nobody_gives_is_none(own, home):
    asparagus.register_dataset(strict_pairs)
    found = loader(own, "{name: strict_pairs}", f"data.root={home}")
    assert found.asked == (str(home), None, None, 3)


def test_d18_an_unknown_name_is_answered_with_the_known_ones(own):
    asparagus.register_dataset(pairs)
    with pytest.raises(ConfigError, match=r"Did you mean 'pairs'.*image_folder"):
        dataset("pears", "/data/x")
    with pytest.raises(ConfigError, match=r"data\.train\.dataset\.name: 'pears' is not known. Did you mean 'pairs'"):
        loader(own, "{name: pears, root: x}")


def test_d18_an_argument_that_it_does_not_take_is_refused_by_the_check(own):
    asparagus.register_dataset(pairs)
    with pytest.raises(ConfigError, match=r"data\.train\.dataset\.sise: .*Did you mean 'size'"):
        loader(own, "{name: pairs, root: x, sise: 2}")


def test_d19_the_decorator_registers_by_the_functions_name_and_returns_it():
    assert asparagus.register_dataset(pairs) is pairs
    assert asparagus.register_dataset("mine")(pairs) is pairs
    assert dataset("pairs", "r").asked == dataset("mine", "r").asked


def test_d19_a_name_with_capitals_is_found_in_small_letters_as_documented(own, home):
    asparagus.register_dataset(CamelPairs)
    for name in ("camelpairs", "CamelPairs"):
        assert dataset(name, "r").asked == ("r", None, None, 3)
        assert loader(own, f"{{name: {name}, root: x}}", f"data.root={home}").asked[0] == str(home / "x")


def test_d19_a_data_set_needs_no_registration_by_its_path(own, home):
    found = loader(own, f"{{_target_: {HERE}.pairs, root: x, size: 2}}", f"data.root={home}")
    assert found.asked == (str(home / "x"), None, None, 2)


def test_d19_registering_again_is_taken_and_another_under_the_name_is_not():
    asparagus.register_dataset("mine", pairs)
    asparagus.register_dataset("mine", pairs)
    with pytest.raises(ValueError, match="Conflicting dataset name = mine"):
        asparagus.register_dataset("mine", strict_pairs)


def test_d18_data_that_are_asked_for_and_not_there_end_in_words(own):
    asparagus.register_dataset("empty", pairs)
    with pytest.raises(DataError, match="is empty"):
        loader(own, "{name: empty, root: x, size: 0}")


def test_every_public_function_says_what_it_takes():
    for name in asparagus.__all__:
        assert getattr(asparagus, name).__doc__
    assert dataclasses.is_dataclass(Spec)


@pytest.mark.parametrize("config", [None, 5, ["experiment/digits"]])
def test_what_is_no_config_is_refused(config, home):
    with pytest.raises(ConfigError, match="Give the name of a config"):
        asparagus.launch(config)


def test_a_value_that_no_config_holds_is_refused(home):
    with pytest.raises(ConfigError, match="Values are plain"):
        asparagus.launch({"stage": "train_cls", "task": "Task001_Digits", "seed": object()})


def test_one_word_is_one_override(home):
    assert asparagus.load_config("experiment/digits").task == "Task001_Digits"
