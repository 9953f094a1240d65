"""What modules and data modules of one's own inherit (SEEDS C2 to C13)."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import asparagus
from asparagus.callbacks.same_test_set import SameTestSet
from asparagus.data import digest
from asparagus.errors import ConfigError, DataError
from asparagus.journal import Journal, JournalReader
from asparagus.optim.specs import optimizer_of, scheduler_of
from asparagus.section import Section, section_of

ADAM = {"id": "Adam", "lr": 3e-5}
CONFIG = {"arch": "mlp", "eps": 3.0, "widths": [4, {"last": 2}]}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.backbone(x))


class Module(asparagus.BaseModule):
    def initialize_model(self):
        self.eps = self.hparams.model_config.eps
        self.model = Net()

    def training_step(self, batch, index):
        loss = self.model(batch[0]).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, index):
        self.log("val/loss", self.model(batch[0]).mean())

    def test_step(self, batch, index):
        self.log("test/size", float(len(batch[0])), reduce_fx="sum")


class Wider(Module):
    """With an argument of its own, as a user writes it."""

    def __init__(self, model_config, optimizer_spec=None, scheduler_spec=None, weight=1.0):
        super().__init__(model_config, optimizer_spec, scheduler_spec)
        self.weight = weight


class Data(asparagus.BaseDataModule):
    def prepare_data(self):
        pass

    def setup(self, stage=None):
        x = torch.arange(30.0).reshape(10, 3)
        self.datasets = {"train": TensorDataset(x), "val": TensorDataset(x[:4]), "test": TensorDataset(x[4:])}


def data(**more):
    made = Data({"batch_size": 4}, **more)
    made.setup()
    return made


def trainer(folder, **more):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(accelerator="cpu", default_root_dir=folder, **{"max_epochs": 1, **quiet, **more})


# ---- C7, C8, C13: the module


def test_c7_a_module_gets_its_config_and_specs_and_builds_its_model():
    module = Module(CONFIG, ADAM, {"id": "StepLR", "step_size": 2})
    assert isinstance(module.model, Net)
    assert module.eps == 3.0
    assert module.hparams.optimizer_spec == ADAM
    assert module.hparams["scheduler_spec"]["step_size"] == 2


def test_c7_a_module_without_initialize_model_is_told_so():
    with pytest.raises(ConfigError, match=r"BaseModule has no initialize_model"):
        asparagus.BaseModule(CONFIG)


@pytest.mark.parametrize("config", [CONFIG, OmegaConf.create(CONFIG)], ids=["dict", "DictConfig"])
def test_c8_the_config_has_attributes_as_a_dictconfig_has(config):
    config = Module(config).hparams.model_config
    assert (config.arch, config["eps"], config.widths[1].last) == ("mlp", 3.0, 2)
    assert config == CONFIG
    config.eps = 1.0
    assert config["eps"] == 1.0
    assert copy.deepcopy(config).widths[1].last == 2
    assert copy.copy(config).arch == "mlp"
    with pytest.raises(AttributeError, match=r"no 'archh'. Did you mean 'arch'"):
        config.archh  # noqa: B018 - asking is what fails
    assert getattr(config, "depth", 5) == 5


def test_c8_a_section_is_pickled_as_plain_values():
    loaded = pickle.loads(pickle.dumps(section_of(CONFIG, "model_config")))
    assert loaded == CONFIG
    assert not isinstance(loaded, Section)
    assert not isinstance(loaded["widths"][1], Section)


def test_c8_a_checkpoint_loads_without_arguments_and_holds_plain_values(tmp_path):
    module = Wider(CONFIG, ADAM, weight=0.5)
    run = trainer(tmp_path)
    run.fit(module, data())
    run.save_checkpoint(tmp_path / "it.ckpt")
    saved = torch.load(tmp_path / "it.ckpt", weights_only=True)["hyper_parameters"]
    assert saved == {"model_config": CONFIG, "optimizer_spec": ADAM, "scheduler_spec": None, "weight": 0.5}
    again = Wider.load_from_checkpoint(tmp_path / "it.ckpt", weights_only=True)
    assert (again.eps, again.weight, again.hparams.model_config.widths[1].last) == (3.0, 0.5, 2)
    assert torch.equal(again.model.head.weight, module.model.head.weight)
    trainer(tmp_path, max_epochs=2).fit(again, data(), ckpt_path=tmp_path / "it.ckpt", weights_only=True)


def test_c8_what_a_checkpoint_could_not_hold_is_refused_with_its_key():
    with pytest.raises(ConfigError, match=r"model_config.losses\[0\]: a MSELoss is no plain value"):
        Module({"eps": 1, "losses": [nn.MSELoss()]})


def test_c13_the_three_steps_are_the_users(tmp_path):
    module, run = Module(CONFIG, ADAM), trainer(tmp_path, limit_train_batches=1)
    run.fit(module, data())
    assert {"train/loss", "val/loss"} <= run.callback_metrics.keys()
    run.test(module, data(), verbose=False)
    assert run.callback_metrics["test/size"] == 6
    for name in ("training_step", "validation_step", "test_step"):
        assert getattr(asparagus.BaseModule, name) is getattr(pl.LightningModule, name)


# ---- C9 to C12: specs


def test_c9_the_optimizer_is_the_one_of_the_spec():
    optimizer = Module(CONFIG, {"id": "SGD", "lr": 0.1, "momentum": 0.9}).configure_optimizers()
    assert type(optimizer) is torch.optim.SGD
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.1, 0.9)


def test_c9_with_a_scheduler_both_are_returned():
    made = Module(CONFIG, ADAM, {"id": "StepLR", "step_size": 20, "gamma": 0.7}).configure_optimizers()
    assert isinstance(made["optimizer"], torch.optim.Adam)
    scheduler = made["lr_scheduler"]["scheduler"]
    assert (type(scheduler), scheduler.step_size, scheduler.gamma) == (torch.optim.lr_scheduler.StepLR, 20, 0.7)


def test_c9_without_an_optimizer_spec_it_says_so():
    with pytest.raises(ConfigError, match=r"Module has no optimizer_spec!"):
        Module(CONFIG).configure_optimizers()


@pytest.mark.parametrize("outside", ["", ".model"])
def test_c10_paths_begin_at_the_module_or_at_its_model(outside):
    spec = {"id": "Adam", "weight_decay": 0.01}
    parts = {f"{outside}.backbone": {"lr": 1e-5}, f"{outside}.head": {"lr": 1e-4}}
    module = Module(CONFIG, {**spec, "params": parts})
    groups = module.configure_optimizers().param_groups
    assert [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups] == [
        (1e-5, 0.01, 2),
        (1e-4, 0.01, 2),
    ]
    assert groups[0]["params"][0] is module.model.backbone.weight


def test_c10_what_no_path_names_is_not_trained(caplog):
    groups = optimizer_of({"id": "SGD", "lr": 0.1, "params": {".head": None}}, Net()).param_groups
    assert [len(group["params"]) for group in groups] == [2]
    assert "no path of backbone.weight, backbone.bias: 2 weights are not trained" in caplog.text


def test_c10_a_name_alone_has_torchs_defaults_and_an_optimizer_is_taken_as_it_is():
    net = Net()
    made = optimizer_of("AdamW", net)
    assert (type(made), made.defaults["lr"]) == (torch.optim.AdamW, 1e-3)
    assert optimizer_of(made, net) is made
    assert type(optimizer_of({"id": torch.optim.SGD}, net)) is torch.optim.SGD


@pytest.mark.parametrize(("more", "count"), [({}, 2), ({"filter_requires_grad": False}, 4)])
def test_c10_frozen_weights_are_left_out_unless_they_are_asked_for(more, count):
    net = Net()
    net.backbone.requires_grad_(requires_grad=False)
    for spec in (ADAM, {**ADAM, "params": {".backbone": {}, ".head": {}}}):
        groups = optimizer_of({**spec, **more}, net).param_groups
        assert sum(len(group["params"]) for group in groups) == count


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"id": "adam"}, r"optimizer_spec.id: 'adam' is not known. Did you mean 'Adam'"),
        ({"lr": 0.1}, r"optimizer_spec.id: is missing. Known: .*SGD"),
        ({"id": "Adam", "lrr": 0.1}, r"optimizer_spec.lrr: Adam takes no such argument. Did you mean 'lr'"),
        ({"id": "Adam", "params": {"head": {}}}, r"optimizer_spec.params.head: a path begins with a dot"),
        ({"id": "Adam", "params": {".haed": {}}}, r"No parameter .haed in Net. Did you mean '.head'"),
        ({"id": "Adam", "params": {".head": {"lrr": 1}}}, r"optimizer_spec.lrr"),
        ({"id": "Adam", "params": [".head"]}, r"optimizer_spec.params: \['.head'\] given, but it is a section"),
        ({"id": "SGD", "lr": -1}, r"SGD refused its arguments: Invalid learning rate"),
        (3, r"optimizer_spec: 3 given, but it is a section"),
    ],
)
def test_c11_a_wrong_spec_is_told_with_its_key(spec, told):
    with pytest.raises(ConfigError, match=told):
        optimizer_of(spec, Net())


def test_c11_an_optimizer_of_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"no weight of Net is left to train"):
        optimizer_of(ADAM, Net().requires_grad_(requires_grad=False))


def rates(spec, epochs, tmp_path):
    module, seen = Module(CONFIG, {"id": "SGD", "lr": 1.0}, spec), []
    module.on_train_epoch_start = lambda: seen.append(module.trainer.optimizers[0].param_groups[0]["lr"])
    trainer(tmp_path, max_epochs=epochs).fit(module, data())
    return seen


def test_c12_a_scheduler_is_stepped_after_each_epoch_by_value(tmp_path):
    found = rates({"id": "StepLR", "step_size": 2, "gamma": 0.7}, 5, tmp_path)
    assert found == pytest.approx([0.7 ** (epoch // 2) for epoch in range(5)])


def test_c12_none_is_none_and_the_rate_stays(tmp_path):
    assert rates(None, 3, tmp_path) == [1.0] * 3
    assert scheduler_of(None, torch.optim.SGD(Net().parameters())) is None


def test_c12_lightnings_words_may_stand_beside_the_arguments():
    optimizer = torch.optim.SGD(Net().parameters(), lr=1.0)
    made = scheduler_of({"id": "ReduceLROnPlateau", "patience": 3, "monitor": "val/acc", "mode": "max"}, optimizer)
    assert (made["monitor"], made["interval"], made["scheduler"].patience) == ("val/acc", "epoch", 3)
    assert scheduler_of({"id": "ReduceLROnPlateau"}, optimizer)["monitor"] == "val/loss"
    assert scheduler_of({"id": "ExponentialLR", "gamma": 0.9, "interval": "step"}, optimizer)["interval"] == "step"
    assert scheduler_of(made["scheduler"], optimizer) == {"scheduler": made["scheduler"], "interval": "epoch"}


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"id": "StepLr"}, r"scheduler_spec.id: 'StepLr' is not known. Did you mean 'StepLR'"),
        (
            {"id": "StepLR", "step": 3},
            r"scheduler_spec.step: .*StepLR takes no such argument. Did you mean 'step_",
        ),
        ({"id": "StepLR"}, r"scheduler_spec: .*StepLR needs step_size"),
        ({"gamma": 0.1}, r"scheduler_spec.id: is missing"),
    ],
)
def test_c12_a_wrong_scheduler_is_told_with_its_key(spec, told):
    with pytest.raises(ConfigError, match=told):
        scheduler_of(spec, torch.optim.SGD(Net().parameters(), lr=1.0))


# ---- C4 to C6: the data module


def test_c4_a_data_module_has_to_write_both_methods():
    class Half(asparagus.BaseDataModule):
        def setup(self, stage=None):
            pass

    with pytest.raises(ConfigError, match=r"Half has no prepare_data. Slow work"):
        Half({})
    with pytest.raises(ConfigError, match=r"(?s)no prepare_data.*no setup"):
        asparagus.BaseDataModule({})


def test_c4_what_else_it_needs_is_an_attribute():
    assert data(additional_config={"folds": {"now": 3}}).additional_config.folds.now == 3


def test_c5_the_loaders_are_those_of_its_datasets():
    made = data(val_dataloader_spec_override={"batch_size": 3})
    order = torch.cat([batch for (batch,) in made.train_dataloader()])
    assert sorted(order[:, 0].tolist()) == [3.0 * n for n in range(10)]
    assert isinstance(made.train_dataloader().sampler, torch.utils.data.RandomSampler)
    assert made.train_dataloader().batch_size == 4
    for loader, first in ((made.val_dataloader(), 0.0), (made.test_dataloader(), 12.0)):
        assert loader.batch_size == 3
        assert isinstance(loader.sampler, torch.utils.data.SequentialSampler)
        assert next(iter(loader))[0][0, 0] == first


def test_c5_parts_that_are_not_there():
    made = Data({})
    assert made.val_dataloader() == made.test_dataloader() == []
    with pytest.raises(DataError, match=r"setup of Data made nothing; self.datasets needs a 'train'"):
        made.train_dataloader()


def test_c5_settings_of_loader_processes_count_for_nothing_without_them():
    spec = {"num_workers": 0, "prefetch_factor": 2, "persistent_workers": True, "pin_memory": False}
    made = Data(spec)
    made.setup()
    assert made.train_dataloader().num_workers == 0


def test_c5_what_a_loader_does_not_take_is_told():
    made = Data({"batch": 4})
    made.setup()
    with pytest.raises(ConfigError, match=r"data.dataloader_spec: .*'batch'"):
        made.train_dataloader()


class TwoRanks:
    world_size = 2

    def __init__(self, rank):
        self.global_rank = rank


def test_c5_each_worker_has_its_share_of_validation_and_test_data_and_no_item_comes_twice():
    seen = []
    for rank in range(2):
        made = data()
        made.datasets["test"] = TensorDataset(torch.arange(5))
        made.trainer = TwoRanks(rank)
        seen.append([int(x) for (batch,) in made.test_dataloader() for x in batch])
    assert seen == [[0, 2, 4], [1, 3]]
    made.datasets["test"] = TensorDataset(torch.arange(1))
    with pytest.raises(DataError, match=r"1 test items for 2 workers"):
        made.test_dataloader()


class Add:
    def __init__(self, n):
        self.n = n

    def __call__(self, x):
        return x + self.n


class Factory:
    """As the document's: an object that is called with nothing."""

    def __call__(self):
        return Add(10)


def double(x):
    return 2 * x


@pytest.mark.parametrize(
    ("transform", "augmentation", "trained", "tested"),
    [
        (lambda: Add(1), lambda: double, 8, 4),
        (Add(1), double, 8, 4),
        (Factory(), Factory(), 23, 13),
        ({"_target_": "operator.itemgetter", "_args_": [0]}, {"_target_": "torch.nn.Identity"}, 7, 7),
        (lambda: None, lambda: None, 3, 3),
        (nn.Identity(), nn.Identity, 3, 3),
    ],
    ids=["functions", "transforms", "objects", "sections", "nothing", "modules"],
)
def test_c6_training_data_are_augmented_after_their_transform(transform, augmentation, trained, tested):
    item = [7, 8] if isinstance(transform, dict) else 3
    made = data(transform_factory=transform, augmentation_factory=augmentation)
    assert made.get_transform("train")(item) == trained
    assert made.get_transform("val")(item) == made.get_transform("test")(item) == tested


def test_c6_the_defaults_make_tensors_and_change_nothing():
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for stage in ("train", "test"):
        made = data().get_transform(stage)(image)
        assert made.dtype == torch.uint8
        assert made.tolist() == image.tolist()


def test_c6_transforms_travel_to_loader_processes():
    transform = data(transform_factory=Add(1), augmentation_factory=double).get_transform("train")
    assert pickle.loads(pickle.dumps(transform))(3) == 8


def test_c6_what_is_no_transform_is_refused():
    with pytest.raises(ConfigError, match=r"data.transform_factory: a int is no transform"):
        data(transform_factory=3).get_transform("val")
    with pytest.raises(ConfigError, match=r"data.augmentation_factory._target_: .*Did you mean 'Identity'"):
        data(augmentation_factory={"_target_": "torch.nn.Identiti"}).get_transform("train")


# ---- C1 to C3: one test set


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


X = np.arange(6, dtype=np.float32).reshape(2, 3)
ITEMS = [{"image": torch.tensor(X), "label": 1, "name": "a"}, (torch.tensor(X) + 1, [2, None, "b", 0.5], {1, 2})]
SAME = [(X + 1, (2, None, "b", 0.5), {2, 1}), {"name": "a", "label": 1, "image": X.astype(">f4")}]


def test_c2_a_test_set_is_the_same_whoever_makes_it_in_whatever_order():
    assert digest.test_set_digest(Items(ITEMS)) == digest.test_set_digest(Items(SAME))


@pytest.mark.parametrize(
    "items",
    [
        ITEMS[:1],
        [*ITEMS, ITEMS[0]],
        [{**ITEMS[0], "label": 2}, ITEMS[1]],
        [{**ITEMS[0], "label": "1"}, ITEMS[1]],
        [{**ITEMS[0], "image": torch.tensor(X).double()}, ITEMS[1]],
        [{**ITEMS[0], "image": torch.tensor(X).reshape(3, 2)}, ITEMS[1]],
        [{**ITEMS[0], "image": torch.tensor(X) + 1e-6}, ITEMS[1]],
        [{**ITEMS[0], "more": 1}, ITEMS[1]],
    ],
    ids=["fewer", "more", "label", "text", "type", "shape", "value", "key"],
)
def test_c2_another_item_is_another_test_set(items):
    assert digest.test_set_digest(Items(items)) != digest.test_set_digest(Items(ITEMS))


def test_c2_its_digest_is_the_same_in_every_process():
    code = "from tests.test_own import *; print(digest.test_set_digest(Items(ITEMS)))"
    made = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert made == [digest.test_set_digest(Items(ITEMS))] * 2


def test_c2_workers_share_the_reading():
    items = Items([*ITEMS, *SAME, 7])
    shares = [one for rank in range(3) for one in digest.item_digests(items, rank, 3, num_workers=rank)]
    assert digest.combined(shares) == digest.test_set_digest(items)


@pytest.mark.parametrize(
    "item",
    [
        *(torch.ones(2, dtype=torch.bfloat16), torch.tensor(3), np.float64(0.5), b"x", Path("a")),
        np.array([np.ones(2), "b"], dtype=object),
    ],
)
def test_c2_what_has_a_digest(item):
    assert digest.item_digest(item) == digest.item_digest(copy.deepcopy(item)) != digest.item_digest(None)


def test_c2_what_has_none_is_named():
    with pytest.raises(DataError, match="a test item holds a Net"):
        digest.test_set_digest(Items([(1, Net())]))


def look(folder, module, made):
    """Test as the worker does, and return what the journal says."""
    file = folder / "run" / "journal.jsonl"
    journal = Journal(file)
    run = trainer(folder, callbacks=[SameTestSet(folder, "ovaries", journal)])
    run.test(module, made, verbose=False)
    journal.close()
    return [event for event in JournalReader(file).read() if event["kind"] == "test_set"][-1]


class Other(Data):
    def setup(self, stage=None):
        super().setup(stage)
        self.datasets["test"] = self.datasets["val"]


class Again(Data):
    """With other training data, as a task may have."""

    def setup(self, stage=None):
        super().setup(stage)
        self.datasets["train"] = self.datasets["val"]
        self.datasets["test"] = Items([self.datasets["test"][index] for index in reversed(range(6))])


def test_c3_data_modules_of_a_task_are_held_to_one_test_set(tmp_path):
    module = Module(CONFIG, ADAM)
    first = look(tmp_path, module, Data({"batch_size": 4}))
    assert (first["items"], first["text"]) == (6, "")
    again = look(tmp_path, module, Again({"batch_size": 2}))
    assert (again["digest"], again["text"]) == (first["digest"], "")
    other = look(tmp_path, module, Other({"batch_size": 4}))
    assert other["digest"] != first["digest"]
    for part in (
        "test_own.Other gives 4 items",
        "was tested on 6 others before",
        "test_own.Data",
        "Remove",
    ):
        assert part in other["text"]
    assert look(tmp_path, module, Data({"batch_size": 4}))["text"] == ""
