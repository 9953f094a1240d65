"""Regression (SEEDS A22, A.2), and `asp test` of every kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import asparagus
from asparagus.cli.main import run
from asparagus.data.datasets import load_case
from asparagus.data.split import make_split
from asparagus.data.synthetic import make_synthetic_reg
from asparagus.errors import ConfigError, DataError
from asparagus.stages.reg import RegModule

TASK = "Task995_LauritSynReg"
SMALL = (f"task={TASK}", "model=mlp", "trainer.max_epochs=1", "data.batch_size=4")


def module(outputs=2):
    return RegModule(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, outputs)), {}, n_classes=2)


def test_errors_are_those_of_all_numbers_of_all_cases():
    reg, logged, errors = module(), {}, []
    reg.log = lambda name, value, **_: logged.update({name: float(value)})
    for size in (1, 3):  # batches of several sizes weigh by their cases
        batch = {"image": torch.randn(size, 1, 2, 2), "label": torch.randn(size, 2)}
        reg.validation_step(batch, 0)
        errors.append((reg(batch["image"]) - batch["label"]).detach())
        assert logged["val/loss"] == pytest.approx(float((errors[-1] ** 2).mean()))
    reg.on_validation_epoch_end()
    every = torch.cat(errors)
    assert logged["val/mse"] == pytest.approx(float((every**2).mean()))
    assert logged["val/mae"] == pytest.approx(float(every.abs().mean()))


def test_the_summary_of_a_test_has_mse_and_mae_by_value():
    cases = {
        "a": {"prediction": [1.0, 2.0], "label": [2.0, 4.0]},
        "b": {"prediction": [0.0, 0.0], "label": [3.0, -1.0]},
    }
    assert module().summarize_cases(cases) == {"metrics": {"MSE": (1 + 4 + 9 + 1) / 4, "MAE": (1 + 2 + 3 + 1) / 4}}


def test_another_number_of_outputs_is_refused_and_not_spread():
    batch = {"image": torch.zeros(3, 1, 2, 2), "label": torch.zeros(3, 2)}
    with pytest.raises(ConfigError, match=r"gives \(1,\) for a case, and the task has 2 numbers"):
        module(1).training_step(batch, 0)


def test_a_case_is_data_and_numbers(tmp_path):
    file = tmp_path / "case.pt"
    for label, numbers in ((3, [3.0]), (torch.tensor([1.5, 2.5]), [1.5, 2.5]), ([0.5], [0.5])):
        torch.save([torch.zeros(1, 4, 4), label], file)
        assert load_case(file, "reg").label.tolist() == numbers
    torch.save(torch.zeros(1, 4, 4), file)
    with pytest.raises(DataError, match=r"expected \[data, label\] for regression"):
        load_case(file, "reg")


@pytest.fixture
def reg_home(home):
    data = home / "own"
    make_synthetic_reg(data, cases=10, size=16)
    make_split(data, TASK, "split_80_20")
    paths = json.loads((data / TASK / "paths.json").read_text())
    (data / TASK / "held_out.json").write_text(json.dumps(paths[:3]))
    return f"data.root={data}"


def test_a22_reg_is_trained_finetuned_and_tested_and_the_record_says_on_what(reg_home, home, capsys):
    trained = asparagus.launch("train_reg", overrides=[*SMALL, reg_home])
    assert {"val/mse", "val/mae", "val/loss"} <= trained.metrics.keys()
    finetuned = asparagus.launch("finetune_reg", overrides=[*SMALL, reg_home, "init_from=run:1/best", "seed=7"])
    assert finetuned.run_id == 2
    capsys.readouterr()
    assert run("test", ["--kind", "seg", "2"]) == 2
    assert "asp_test_seg: run 2 is of stage finetune_reg. Write asp_test_reg 2." in capsys.readouterr().err
    assert run("test", ["--kind", "reg", "checkpoint_run_id=2", "test_split=held_out", "--json"]) == 0
    tested = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (tested["init_from"]["run_id"], tested["state"]) == (2, "finished")
    (file,) = Path(tested["folder"]).glob("predictions/*.json")
    assert file.name.startswith(f"{TASK}__held_out__epoch=0")
    found = json.loads(file.read_text())
    assert len([name for name in found if name.endswith(".pt")]) == 3
    assert found["metrics"]["MSE"] == pytest.approx(tested["metrics"]["test/mse"], rel=1e-4)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give the number of one run"),
        (["1", "checkpoint_run_id=2"], "found: 1, 2"),
        (["77"], "run 77: there is no such run"),
    ],
)
def test_a_test_of_no_run_is_refused(home, capsys, words, told):
    assert run("test", words) == 2
    assert told in capsys.readouterr().err
