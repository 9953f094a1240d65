"""The linear probe (SEEDS A.2): frozen features, a head for each learning rate, the best one by macro AUROC."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

import asparagus
from asparagus.checkpoint.folder import STATE
from asparagus.checkpoint.transfer import take_over
from asparagus.cli.main import run
from asparagus.data.split import make_split
from asparagus.data.synthetic import make_synthetic
from asparagus.errors import ConfigError, RunError
from asparagus.spec import Parent, Transfer
from asparagus.stages.linear_probe import LinearProbe
from asparagus.stages.metrics import MacroAUROC
from tests.helpers import quiet_trainer

CLS, PRE = "Task996_LauritSynCls", "Task998_LauritSyn"
RATES = [1e-3, 1e-2, 1e-1]
ADAMW = {"name": "adamw", "lr": RATES, "weight_decay": 0.01, "sched": {"name": "cosine", "warmup_steps": 2}}
SGD = {"name": "sgd", "lr": RATES, "momentum": 0.9}
NARROW = ("model.features=[4,8]", "data.batch_size=4", "model.dimensions=3D")


def network(outputs: int = 3) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, outputs))


def probe(net: nn.Module | None = None, optim=ADAMW, **settings) -> LinearProbe:
    net = network() if net is None else net
    torch.manual_seed(2)
    return LinearProbe(net, optim, n_classes=3, **settings)


def batches(number: int, seed: int = 0, size: int = 6) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return [
        {"image": torch.randn(size, 1, 8, 8, generator=draw), "label": torch.arange(size) % 3} for _ in range(number)
    ]


def fitted(module: LinearProbe, *, epochs: int = 3, **options) -> LinearProbe:
    train, held_out = batches(5), batches(2, seed=1)
    quiet_trainer(max_epochs=epochs, **options).fit(
        module, torch.utils.data.DataLoader(train, None), torch.utils.data.DataLoader(held_out, None)
    )
    return module


@pytest.mark.parametrize("optim", [ADAMW, SGD], ids=["adamw", "sgd"])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_each_head_is_trained_as_if_it_were_alone(optim, clip):
    together = fitted(probe(optim=optim), gradient_clip_val=clip)
    for rate, head in zip(RATES, together.heads, strict=True):
        alone = fitted(probe(optim={**optim, "lr": rate}), gradient_clip_val=clip)
        torch.testing.assert_close(head.weight, alone.heads[0].weight, rtol=0, atol=1e-7)
        assert not torch.equal(head.weight, probe().heads[0].weight)


def test_a_head_alone_is_a_linear_layer_in_a_loop_of_torch():
    module = probe(optim={"name": "sgd", "lr": 0.1})
    layer = nn.Linear(4 * 36, 3)
    layer.load_state_dict(module.heads[0].state_dict())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for batch in batches(5) * 3:
        optimizer.zero_grad()
        nn.functional.cross_entropy(layer(module.features(batch["image"])), batch["label"]).backward()
        optimizer.step()
    torch.testing.assert_close(fitted(module).heads[0].weight, layer.weight, rtol=0, atol=1e-7)


def test_the_network_is_bit_for_bit_what_it_was():
    module = probe()
    before = {name: value.clone() for name, value in module.net.state_dict().items()}
    fitted(module)
    assert all(torch.equal(value, before[name]) for name, value in module.net.state_dict().items())  # statistics too
    assert not module.net.training
    assert module.heads.training
    assert not any(weight.requires_grad for weight in module.net.parameters())


def test_one_pass_of_the_network_feeds_all_heads():
    module, passes = probe(), []
    module.net.register_forward_hook(lambda *_: passes.append(1))
    fitted(module, epochs=1)
    assert len(passes) == 5 + 2


def test_the_best_head_by_macro_auroc_answers_and_is_saved_as_such():
    module, logged = probe(), {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})
    held_out = batches(4, seed=5)
    for place, head in enumerate(module.heads):
        nn.init.normal_(head.weight, std=0.1, generator=torch.Generator().manual_seed(place))
    for batch in held_out:
        module.validation_step(batch, 0)
    module.on_validation_epoch_end()
    images, labels = (torch.cat([batch[key] for batch in held_out]) for key in ("image", "label"))
    scores = [
        roc_auc_score(labels, head(module.features(images)).softmax(1).detach(), multi_class="ovr", average="macro")
        for head in module.heads
    ]
    best = max(range(3), key=scores.__getitem__)
    assert len({round(score, 6) for score in scores}) == 3
    for rate, score in zip(("0.001", "0.01", "0.1"), scores, strict=True):
        assert logged[f"val/auroc/lr={rate}"] == pytest.approx(score)
    assert logged["val/auroc"] == pytest.approx(max(scores))
    logits = module.heads[best](module.features(images))
    assert logged["val/accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert logged["val/loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)))
    again = probe()
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(images), logits)


def test_classes_that_no_case_or_every_case_has_count_for_nothing():
    auroc, draw = MacroAUROC(4), torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 1, 0, 2, 2, 0])
    scores = torch.rand(7, 4, generator=draw)
    auroc.update(scores[:3], labels[:3])
    auroc.update(scores[3:], labels[3:])
    each = [roc_auc_score(labels == number, scores[:, number]) for number in range(3)]
    assert float(auroc.compute()) == pytest.approx(sum(each) / 3)
    auroc.reset()
    auroc.update(scores, torch.ones(7, dtype=torch.long))
    assert auroc.compute().isnan()


@pytest.mark.parametrize(
    ("net", "settings", "features"),
    [
        (nn.Conv2d(1, 5, 3), {"n_features": 5}, lambda net, x: net(x).mean((2, 3))),
        (nn.Sequential(nn.Flatten(2), nn.Linear(64, 7)), {"n_features": 7}, lambda net, x: net(x).mean(1)),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.Tanh()), {"n_features": 9}, lambda net, x: net(x)),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.Linear(9, 6)), {"head": "2"}, lambda net, x: net[:2](x)),
    ],
    ids=["maps", "tokens", "features", "another head"],
)
def test_features_are_what_the_network_gives_averaged_over_space(net, settings, features):
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(probe(net, **settings).features(x), features(net, x))


@pytest.mark.parametrize(
    ("net", "settings", "said"),
    [
        (nn.Conv2d(1, 5, 3), {}, "model.module.n_features: Conv2d ends in no linear layer of 3 outputs"),
        (network(), {"head": "4"}, "model.module.head: '4' is not known"),
        (network(), {"optim": {"name": "sgd", "lr": []}}, "optim.lr: missing"),
        (network(), {"optim": {"name": "sgd", "lr": [0.1, 1e-1]}}, "optim.lr: 0.1 is given twice"),
    ],
)
def test_what_no_head_can_be_made_of_is_refused(net, settings, said):
    with pytest.raises(ConfigError) as error:
        probe(net, **settings)
    assert said in str(error.value)


def test_weights_that_stay_frozen_have_to_come_from_the_parent(tmp_path):
    weights = {f"net.{name}": value for name, value in network().state_dict().items()}
    torch.save({"state_dict": {name: value for name, value in weights.items() if "0." in name}}, tmp_path / "half.pt")
    half = Parent(str(tmp_path / "half.pt"))
    with pytest.raises(RunError, match=r"init_from: 5 of the weights that stay frozen \(net.1.bias, ...\)"):
        take_over(probe(), half, Transfer())
    report = take_over(probe(allow_fresh=True), half, Transfer())
    assert report.taken == ["net.0.bias", "net.0.weight"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in (CLS, PRE):
        make_synthetic(name, folder, cases=12, size=16)
        make_split(folder, name, "split_80_20")
    return folder


@pytest.fixture
def pretrained(home, data, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_DATA", str(data))
    return asparagus.launch("pretrain", [f"task={PRE}", *NARROW, "trainer.max_epochs=1"])


def of_net(folder: str) -> dict[str, torch.Tensor]:
    state = max(Path(folder).glob(f"checkpoints/*/{STATE}"), key=lambda file: file.stat().st_mtime)
    weights = torch.load(state, weights_only=True)["state_dict"]
    return {name: value for name, value in weights.items() if name.startswith("net.encoder.")}


def test_a_probe_of_a_pretrained_run_has_its_weights_its_lineage_and_its_test(pretrained, home, data, capsys):
    words = ["linear_probe", f"task={CLS}", "init_from=run:1/last", *NARROW, "trainer.max_epochs=2", "--json"]
    assert run("launch", words) == 0
    probed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (probed["init_from"]["run_id"], probed["run_id"]) == (1, 2)
    rates = ("5e-05", "0.0001", "0.0005", "0.001", "0.005", "0.01", "0.05", "0.1")
    assert {f"val/auroc/lr={rate}" for rate in rates} | {"val/auroc", "val/accuracy"} <= probed["metrics"].keys()
    transfer = json.loads((Path(probed["folder"]) / "transfer.json").read_text())
    assert {name for name in transfer["fresh"] if name.startswith("net.")} == set()
    before, after = of_net(pretrained.folder), of_net(probed["folder"])
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    (data / CLS / "held_out.json").write_text(json.dumps(json.loads((data / CLS / "paths.json").read_text())[:4]))
    assert run("test", ["2", "test_split=held_out", "--json"]) == 0
    tested = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"test/auroc", "test/accuracy", "test/loss"} <= tested["metrics"].keys()
    (file,) = Path(tested["folder"]).glob("predictions/*.json")
    found = json.loads(file.read_text())
    right = [case["prediction"] == case["label"] for name, case in found.items() if name.endswith(".pt")]
    assert sum(right) / 4 == pytest.approx(tested["metrics"]["test/accuracy"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init_from=run:1/last", "model.features=[4,16]"], "of the weights that stay frozen (net.encoder."),
        (["init_from=run:1/last", "optim.lr=[1e-3,1e-3]"], "optim.lr: 0.001 is given twice"),
    ],
)
def test_a_probe_that_means_nothing_ends_before_its_first_step(pretrained, capsys, words, said):
    assert run("launch", ["linear_probe", f"task={CLS}", *NARROW, "trainer.max_epochs=1", *words]) != 0
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "linear_probe starts from a pretrained run, and none was given"),
        (["init_from=file:weights.pt", "optim.lr=[1e-3,-1]"], "optim.lr: -1 is no positive number"),
        (["init_from=file:weights.pt", "optim.lr=[]"], "optim.lr: is missing"),
        (["init_from=file:weights.pt", "optim.sched.min_lr=1e-4"], "optim.sched.min_lr: 0.0001 is above optim.lr"),
    ],
)
def test_what_is_wrong_with_a_probe_is_said_by_the_dry_run(home, data, monkeypatch, capsys, words, said):
    monkeypatch.setenv("ASPARAGUS_DATA", str(data))
    torch.save({"weight": torch.zeros(1)}, home / "weights.pt")
    assert run("launch", ["linear_probe", f"task={CLS}", *words, "--dry-run"]) == 2
    assert said in capsys.readouterr().err
    assert "train from scratch with" not in said


@pytest.mark.ray
def test_two_workers_judge_every_case_once_and_leave_the_network_as_it_was(pretrained, capsys):
    words = ["linear_probe", f"task={CLS}", *NARROW, "trainer.max_epochs=1", "init_from=run:1/last"]
    both = asparagus.launch(words[0], [*words[1:], "resources.workers=2"])
    before, after = of_net(pretrained.folder), of_net(both.folder)
    assert all(torch.equal(before[name], after[name]) for name in before)
    alone = asparagus.launch(words[0], [*words[1:-1], f"init_from=run:{both.run_id}/last", "run.mode=validate"])
    for metric in ("val/auroc", "val/accuracy", "val/loss"):
        assert both.metrics[metric] == pytest.approx(alone.metrics[metric], rel=1e-5)
