"""Tests of asparagus.lengths, and of the presets that have the numbers of the first Asparagus (SEEDS A27..A35)."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

import asparagus
from asparagus.api import plan_of
from asparagus.checkpoint.folder import manifests
from asparagus.compose import Request, compose
from asparagus.data.modules import CaseDataModule
from asparagus.data.split import make_split
from asparagus.data.synthetic import make_synthetic
from asparagus.errors import ConfigError
from asparagus.lengths import step_counts
from asparagus.optim.schedules import build_schedule, lightning_schedules
from asparagus.plan import Plan, make_plan
from tests.helpers import quiet_trainer

TWO_GPUS = ("resources.workers=2", "resources.gpus_per_worker=1", "site.gpus_per_node=2", "site.cpus_per_node=4")
PRETRAIN = ("experiment=asparagus_pretrain", "task=Task998_LauritSyn")
SAMPLES = ("data.iterations_per_epoch=7", "data.batch_size=3")


def planned(config: str, *words: str) -> Plan:
    return make_plan(compose(Request(config, words)))


@pytest.mark.parametrize(
    ("asked", "global_batch", "steps", "warmup"),
    [
        ({"batch_size": 16, "devices": 2}, 32, 187_500, 1),
        ({"batch_size": 16}, 16, 375_000, 3),
        ({"batch_size": 16, "devices": 8, "nodes": 2, "accumulate": 4}, 1024, 5859, 1),
        ({"batch_size": 1}, 1, 6_000_000, 63),
    ],
)
def test_a28_step_counts_by_value(asked, global_batch, steps, warmup):
    found = step_counts(6_000_000, steps_per_epoch=1890, warmup_ratio=0.02, **asked)
    assert (found.global_batch, found.steps, found.warmup_epochs) == (global_batch, steps, warmup)
    assert step_counts(6_000_000, **asked).warmup_epochs is None


def test_a28_samples_become_the_steps_of_the_plan_and_are_printed(home):
    plan = planned("pretrain", *PRETRAIN, *TWO_GPUS)
    assert (plan.global_batch, plan.spec.trainer["max_steps"], plan.spec.optim["sched"]["warmup_epochs"]) == (
        32,
        187_500,
        1,
    )
    assert "trainer.max_samples=6000000 is 187500 steps of 32 samples; epochs of warm-up: 1" in plan.describe()
    assert "max_epochs" not in plan.describe()
    assert Plan.from_dict(plan.to_dict()) == plan


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (("max_samples=100", "data.batch_size=4"), 25),
        (("trainer.max_samples=100", "data.batch_size=4", "trainer.accumulate_grad_batches=2"), 12),
        (("max_samples=100", "data.batch_size=4", "trainer.max_steps=7"), 7),
        (("max_samples=100", "data.batch_size=4", "resources.workers=2"), 12),
    ],
)
def test_a28_the_key_is_spelled_as_upstream_and_whatever_ends_first_ends_it(words, steps, home):
    assert planned("train_cls", "task=Task001_Digits", *words).spec.trainer["max_steps"] == steps


def test_a28_the_same_samples_are_the_same_run_on_other_workers(home):
    one, two = (planned("pretrain", *PRETRAIN, f"resources.workers={n}", "site.cpus_per_node=2") for n in (1, 2))
    assert one.identity == two.identity
    assert (one.spec.trainer["max_steps"], two.spec.trainer["max_steps"]) == (375_000, 187_500)


def test_a28_a_training_ends_after_its_samples(home):
    words = ["model=mlp", "data=images", "task=Task001_Digits", "data.batch_size=10", "data.iterations_per_epoch=4"]
    outcome = asparagus.launch("train_cls", [*words, "trainer.max_samples=70", "trainer.max_epochs=-1"])
    (newest, *_) = reversed(manifests(Path(outcome.folder) / "checkpoints"))
    assert (newest.step, newest.epoch) == (7, 1)


def test_a27_the_preset_has_the_numbers_of_the_first_asparagus(home):
    spec = planned("pretrain", *PRETRAIN, *TWO_GPUS).spec
    assert (spec.data["batch_size"], spec.data["patch_size"]) == (16, [160, 160, 160])
    assert spec.data["samples_per_epoch"] == 1890 * 16 * 2
    assert spec.model["module"]["mask_ratio"] == 0.6
    assert spec.trainer["limit_val_batches"] == 1890 // 100 == 18
    assert (spec.checkpoint.every_n_epochs, spec.checkpoint.keep_best, spec.checkpoint.monitor) == (5, 0, "val/loss")
    asked = compose(Request("pretrain", PRETRAIN))
    assert (asked.trainer["max_samples"], asked.data["iterations_per_epoch"]) == (6_000_000, 1890)
    assert asked.optim["sched"]["warmup_ratio"] == 0.02


@pytest.mark.parametrize(
    ("stage", "task", "epochs", "warmup", "decoder"),
    [
        ("train_seg", "Task997_LauritSynSeg", 1000, 25, None),
        ("train_cls", "Task996_LauritSynCls", 1000, 50, None),
        ("finetune_seg", "Task997_LauritSynSeg", 1000, 50, 50),
        ("finetune_cls", "Task996_LauritSynCls", 50, 10, None),
    ],
)
def test_a34_the_presets_have_the_numbers_of_the_first_asparagus(stage, task, epochs, warmup, decoder, home):
    spec = compose(Request(stage, (f"experiment=asparagus_{stage}", f"task={task}", "init_from=file:/x")))
    sched = spec.optim["sched"]
    assert (spec.trainer["max_epochs"], spec.data["batch_size"]) == (epochs, 2)
    assert (sched["warmup_epochs"], sched.get("decoder_warmup_epochs")) == (warmup, decoder)
    if stage.endswith("seg"):
        assert (spec.data["iterations_per_epoch"], spec.trainer["limit_val_batches"]) == (250, 50)
    else:
        assert spec.data["patch_size"] == [128, 128, 128]


@pytest.mark.parametrize(
    ("option", "name", "lr"),
    [
        ("sgd", "sgd", 1e-2),
        ("sgd_finetune", "sgd", 1e-3),
        ("resenc", "adamw", 1e-4),
        ("resenc_finetune", "adamw", 1e-3),
        ("primus", "adamw", 3e-4),
        ("primus_finetune", "adamw", 3e-5),
    ],
)
def test_a35_optimizers_have_the_numbers_of_the_first_asparagus(option, name, lr, home):
    optim = compose(Request("train_seg", ("task=Task997_LauritSynSeg", f"optim={option}"))).optim
    assert (optim["name"], optim["lr"]) == (name, lr)
    if name == "adamw":
        assert optim["betas"] == [0.9, 0.98]
    else:
        assert (optim["weight_decay"], optim["momentum"], optim["nesterov"]) == (3e-5, 0.99, True)


def rates(sched, steps, epoch_steps, lr=1.0):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = build_schedule(optimizer, sched, steps, epoch_steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_a34_a_warm_up_in_epochs_is_one_of_their_steps():
    in_epochs = {"name": "sawtooth", "warmup_epochs": 2, "decoder_warmup_epochs": 3}
    in_steps = {"name": "sawtooth", "warmup_steps": 10, "decoder_warmup_steps": 15}
    assert rates(in_epochs, 50, 5) == rates(in_steps, 50, 5)
    half = rates({"name": "warmup_cosine", "warmup_epochs": 0.5}, 50, 10)
    assert half == rates({"name": "warmup_cosine", "warmup_steps": 5}, 50, 10)


@pytest.mark.parametrize(
    ("sched", "said"),
    [
        ({"warmup_epochs": 2, "warmup_ratio": 0.1}, "warmup_ratio=0.1 and warmup_epochs=2 are two answers"),
        ({"warmup_epochs": 2, "warmup_steps": 1}, "warmup_steps=1 and warmup_epochs=2 are two answers"),
        ({"warmup_epochs": 2}, "nobody knows how many steps an epoch has. Give warmup_steps."),
    ],
)
def test_a34_a_warm_up_that_cannot_be_known_is_refused(sched, said):
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        rates({"name": "cosine", **sched}, 10, float("inf"))


@pytest.mark.parametrize("ends", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 12}])
@pytest.mark.parametrize(("accumulate", "warm"), [(1, 10), (2, 6)])
def test_a34_epochs_have_the_steps_that_the_trainer_takes(ends, accumulate, warm):
    """Nine batches are five steps where two make one; Lightning knows none of it yet where it was told the steps."""

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(1, 1)
            self.rates = []

        def training_step(self, batch, index):
            return self.net(batch).mean()

        def configure_optimizers(self):
            sched = {"name": "warmup_cosine", "warmup_epochs": 1}
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            return [optimizer], lightning_schedules(optimizer, sched, self.trainer)

        def on_before_optimizer_step(self, optimizer):
            self.rates.append(optimizer.param_groups[0]["lr"])

    module = Module()
    data = torch.utils.data.DataLoader(torch.ones(9, 1))
    quiet_trainer(accumulate_grad_batches=accumulate, **ends).fit(module, data)
    assert module.rates.index(max(module.rates)) == warm - 1


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a data folder with ten small cases, eight to train on."""
    folder = tmp_path_factory.mktemp("data")
    make_synthetic("Task998_LauritSyn", folder, cases=10, size=16)
    make_split(folder, "Task998_LauritSyn", "split_80_20")
    return folder


def batches(root, epoch, *, rank=0, world_size=1, seed=3, iterations=6):
    data = CaseDataModule(
        root, "Task998_LauritSyn", "pretrain", batch_size=2, iterations_per_epoch=iterations, patch_size=[4, 4, 4],
        seed=seed, rank=rank, world_size=world_size,
    )  # fmt: skip
    data.setup("fit")
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [batch["draw"] for batch in loader], torch.cat([batch["image"] for batch in loader])


def test_e12_an_epoch_is_so_many_random_batches_drawn_anew_each_time(root):
    first, images = batches(root, 0)
    assert (len(first), images.shape) == (6, (12, 1, 4, 4, 4))
    assert len({draw for batch in first for draw in batch}) == 12  # of eight cases: some come twice, cut elsewhere
    assert len({image.numpy().tobytes() for image in images}) == 12
    again, later, other = batches(root, 0), batches(root, 1), batches(root, 0, seed=4)
    assert again[0] == first
    assert torch.equal(again[1], images)
    assert [draw.split()[1] for batch in later[0] for draw in batch] != [
        draw.split()[1] for batch in first for draw in batch
    ]
    assert not torch.equal(other[1], images)


def test_e12_every_rank_has_as_many_batches_and_others(root):
    shares = [batches(root, 2, rank=rank, world_size=2)[0] for rank in (0, 1)]
    assert [len(share) for share in shares] == [6, 6]
    assert not {draw for batch in shares[0] for draw in batch} & {draw for batch in shares[1] for draw in batch}
    alone = batches(root, 2, iterations=12)[0]
    assert [draw for pair in zip(*map(sum_of, shares), strict=True) for draw in pair] == sum_of(alone)


def sum_of(drawn):
    return [draw for batch in drawn for draw in batch]


def test_e12_two_lengths_of_an_epoch_are_refused(root, home, capsys):
    with pytest.raises(ConfigError, match=r"data.iterations_per_epoch: 3 and data.samples_per_epoch: 4 exclude"):
        CaseDataModule(root, "Task998_LauritSyn", "pretrain", iterations_per_epoch=3, samples_per_epoch=4)
    with pytest.raises(ConfigError, match=r"data.iterations_per_epoch: 3 and data.samples_per_epoch: 4 exclude"):
        plan_of("experiment/digits", ["data.iterations_per_epoch=3", "data.samples_per_epoch=4"])


@pytest.mark.parametrize("workers", [0, 2])
def test_e12_batches_of_a_worker_are_so_many_samples_of_the_plan(workers, home):
    spec = planned("train_cls", "task=Task001_Digits", *SAMPLES, f"resources.workers={workers}").spec
    assert (spec.data["samples_per_epoch"], spec.data["iterations_per_epoch"]) == (7 * 3 * max(1, workers), None)
