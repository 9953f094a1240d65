"""Identity: what makes two requests the same run, and what does not."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from asparagus.api import plan_of
from asparagus.data import CASE_DATA
from asparagus.identity import identity
from asparagus.python_file import MODEL_OF
from asparagus.record.differences import of_specs
from asparagus.spec import RunOptions, Spec

DIGITS = "experiment/digits"
SPEC = Spec(
    "train_cls", "Task001_Digits", model={"net": {"_target_": "x.Y", "width": 8}}, optim={"name": "sgd", "lr": 1}
)
TEST_SPLITS = [{}, {"test_split": "TEST_1"}, {"test_split": "TEST_2"}]

SAME = {
    "workers": ["resources.workers=2"],
    "GPUs": ["resources.workers=1", "resources.gpus_per_worker=1", "site.gpus_per_node=1"],
    "site": ["site=cluster", "site.address=somewhere:1", "site.nodes=4", "resources.workers=1"],
    "accelerator": ["trainer.accelerator=cpu"],
    "precision": ["trainer.precision=bf16-mixed"],
    "hardware profile": ["+hardware=cpu"],
    "how loaders fetch": ["data.num_workers=3"],
    "what is kept": ["checkpoint.keep_best=3", "checkpoint.every_n_epochs=2"],
    "what makes the best": ["checkpoint.monitor=val/loss"],
    "another logger": ["+logger=csv"],
    "its name": ["run.name=mine"],
    "how often it is tried": ["run.max_failures=9"],
    "how often it is told": ["trainer.log_every_n_steps=1"],
    "spelling of numbers": ["optim.lr=0.003"],
    "another spelling": ["optim.lr=3e-3"],
    "a whole number": ["data.batch_size=64"],
}
OTHER = {
    "lr": ["optim.lr=1e-2"],
    "seed": ["seed=1"],
    "length": ["trainer.max_epochs=6"],
    "batch": ["data.batch_size=32"],
    "network": ["model.cls_net.hidden=[7]"],
    "optimizer": ["optim=sgd"],
    "gradients": ["trainer.gradient_clip_val=1.0"],
    "a callback": [
        "+callbacks.stop._target_=pytorch_lightning.callbacks.EarlyStopping",
        "+callbacks.stop.monitor=val/loss",
    ],
    "what is done": ["run.mode=validate", "init_from=file:weights.ckpt"],
}


@pytest.mark.parametrize("words", SAME.values(), ids=SAME.keys())
def test_a40_what_cannot_change_the_weights_keeps_the_identity(words, home):
    assert plan_of(DIGITS, words).identity == plan_of(DIGITS).identity


@pytest.mark.parametrize("words", OTHER.values(), ids=OTHER.keys())
def test_a39_what_decides_the_weights_changes_the_identity(words, home):
    (home / "weights.ckpt").write_bytes(b"PK weights")
    assert plan_of(DIGITS, words).identity != plan_of(DIGITS).identity


def test_it_is_the_same_in_any_order_of_keys_and_for_whole_floats():
    turned = dataclasses.replace(
        SPEC, model={"net": {"width": 8.0, "_target_": "x.Y"}}, optim={"lr": 1.0, "name": "sgd"}
    )
    assert identity(turned) == identity(SPEC)
    assert identity(dataclasses.replace(SPEC, optim={"name": "sgd", "lr": True})) != identity(SPEC)


def test_it_is_the_same_in_another_process_on_another_day():
    code = "from asparagus.identity import identity; from asparagus.spec import Spec; "
    code += "print(identity(Spec('train_cls', 'T', optim={'lr': 1e-3, 'name': 'sgd', 'betas': (0.9, 0.98)})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        done.stdout.strip() == "576b8ea925eccbdc5b01dfce81b9b3d04937fc4776ad082f6bf07899ad947dc1"
    )  # changes only with a reason that stands in DECISIONS.md


def test_the_data_and_the_weights_it_starts_from_are_known_by_content():
    known = identity(SPEC, parent_digest="a", fingerprint="f")
    assert known != identity(SPEC, parent_digest="b", fingerprint="f")
    assert known != identity(SPEC, parent_digest="a", fingerprint="g")
    moved = dataclasses.replace(SPEC, init_from="run:5/best", data={"root": "/elsewhere"})
    assert identity(moved, parent_digest="a") == identity(
        dataclasses.replace(moved, init_from="run:5/last"), parent_digest="a"
    )


def test_other_data_are_another_run(home, data_root, monkeypatch):
    import shutil

    before = plan_of(DIGITS)
    copy = home / "data"
    shutil.copytree(data_root, copy)
    monkeypatch.setenv("ASPARAGUS_DATA", str(copy))
    assert plan_of(DIGITS).identity == before.identity  # they only moved
    case = next((copy / "Task001_Digits").rglob("*.pt"))
    case.write_bytes(case.read_bytes() + b"more")
    assert plan_of(DIGITS).identity != before.identity


def test_a_network_from_a_python_file_is_known_by_what_the_file_says():
    net = {"_target_": MODEL_OF, "file": "/here/a.py", "digest": "d", "home": "/here"}
    here = dataclasses.replace(SPEC, model={"net": net})
    there = dataclasses.replace(SPEC, model={"net": {**net, "file": "/there/b.py", "home": "/there"}})
    assert identity(here) == identity(there)
    assert identity(here) != identity(dataclasses.replace(SPEC, model={"net": {**net, "digest": "e"}}))


def test_a40_what_the_best_checkpoint_is_tested_on_decides_nothing_but_what_a_test_finds():
    data = {"_target_": CASE_DATA, "split": "split_80_20"}
    fitted = [dataclasses.replace(SPEC, data={**data, **test}) for test in TEST_SPLITS]
    assert len({identity(spec) for spec in fitted}) == 1
    tested = [dataclasses.replace(spec, run=RunOptions(mode="test")) for spec in fitted]
    assert len({identity(spec) for spec in tested}) == len(TEST_SPLITS)
    own = [dataclasses.replace(SPEC, data={"_target_": "my.Data", **test}) for test in TEST_SPLITS]
    assert len({identity(spec) for spec in own}) == len(TEST_SPLITS), "what it means there is not known"
    (one,) = of_specs(fitted[1].to_dict(), fitted[2].to_dict())
    assert (one.key, one.decides) == ("data.test_split", False)


def test_weights_from_a_file_are_known_by_their_content(home):
    (home / "a.ckpt").write_bytes(b"PK one")
    (home / "b.ckpt").write_bytes(b"PK one")
    (home / "c.ckpt").write_bytes(b"PK two")
    words = ["stage=finetune_cls", "init_from=file:{}.ckpt"]
    one, same, other = (plan_of(DIGITS, [word.format(name) for word in words]).identity for name in "abc")
    assert one == same != other
