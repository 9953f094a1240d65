"""`--check`: what only torch can tell is told before a machine is taken, and nothing is left behind."""

from __future__ import annotations

import json

import pytest
import torch
from own_code import OWN, write_own_code

from asparagus.cli.main import run

DIGITS = "experiment/digits"


@pytest.fixture
def own(home, monkeypatch):
    """A module with code of one's own on the path."""
    return write_own_code(home / "src" / "lab_rehearsal.py", monkeypatch)


def check(words, capsys) -> tuple[int, dict[str, tuple[str, str]]]:
    status = run("launch", [*words, "--check"])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    rows = [line.split(None, 2) for line in said.out.splitlines() if line.startswith(("ok ", "BAD "))]
    texts = {what: (state, rest) for state, what, rest in rows}
    return status, texts


def test_a_good_experiment_is_rehearsed_from_shapes_to_package(home, capsys):
    before = set(home.rglob("*"))
    status, found = check([DIGITS], capsys)
    assert status == 0
    assert {state for state, _ in found.values()} == {"ok"}
    assert "17,226 weights" in found["shapes"][1]
    assert "image [2, 1, 8, 8], label [2] through fit" in found["batch"][1]
    assert {"train/loss", "val/loss"} <= set(found["batch"][1].replace(",", " ").split())
    assert "val/accuracy is logged" in found["best"][1]
    assert "files" in found["package"][1]
    assert set(home.rglob("*")) == before


def test_a_network_that_does_not_fit_the_data_is_found_by_its_batch(home, capsys):
    network = "model.net={_target_: torch.nn.Linear, in_features: 3, out_features: 10}"
    status, found = check([DIGITS, network], capsys)
    assert status == 2
    assert found["batch"][0] == "BAD"
    assert "shapes cannot be multiplied" in found["batch"][1]


def test_too_few_outputs_for_the_classes_are_found(home, capsys):
    status, found = check(
        [DIGITS, "model.net={_target_: asparagus.models.mlp.MLP, hidden: [4], out_channels: 3}"], capsys
    )
    assert status == 2
    assert "contradicts the data, which need 10" in found["shapes"][1]


def test_a_parent_of_which_nothing_fits_is_found(home, capsys):
    torch.save({"state_dict": {"other.weight": torch.zeros(3)}}, home / "weights.pt")
    words = ["finetune_cls", "task=Task001_Digits", "model=mlp", "data=images", f"init_from=file:{home}/weights.pt"]
    status, found = check(words, capsys)
    assert status == 2
    assert found["weights"][0] == "BAD"


def test_a_parents_weights_are_matched_by_name_and_shape(home, capsys):
    weights = {"net.classify.weight": torch.zeros(1)}
    from asparagus.api import load_config, load_from_config

    _, module, _ = load_from_config(load_config([DIGITS]))
    torch.save({"state_dict": {**module.state_dict(), **weights}}, home / "weights.pt")
    words = ["finetune_cls", "task=Task001_Digits", "model=mlp", "data=images", f"init_from=file:{home}/weights.pt"]
    status, found = check(words, capsys)
    assert status == 0
    assert found["weights"][0] == "ok"


def test_a_monitor_that_a_module_of_ones_own_does_not_log_is_found(own, capsys):
    assert check([*OWN(own), "checkpoint.monitor=val/loss"], capsys)[0] == 0
    status, found = check([*OWN(own), "checkpoint.monitor=val/dice"], capsys)
    assert status == 2
    assert found["best"][0] == "BAD"
    assert "val/dice is not logged. Logged: train/loss, val/loss." in found["best"][1]


def test_an_exception_in_code_of_ones_own_is_the_finding(own, capsys):
    status, found = check([*OWN(own), "model.module.fails=true"], capsys)
    assert status == 2
    state, told = found["batch"]
    assert (state, told.partition(" [")[0]) == ("BAD", "ZeroDivisionError: on purpose")
    assert "lab_rehearsal.py:" in told


def test_a_loss_that_is_not_a_number_is_found(own, capsys):
    status, found = check([*OWN(own), "model.module.nan=true"], capsys)
    assert status == 2
    assert "not a number: train/loss" in found["batch"][1]


def test_a_tracking_server_that_is_away_is_found(home, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    status, found = check([DIGITS], capsys)
    assert status == 2
    assert found["tracking"][0] == "BAD"
    assert "MLFLOW_TRACKING_URI" in found["tracking"][1]


def test_as_json_it_is_one_object_on_the_last_line(home, capsys):
    assert run("launch", [DIGITS, "--check", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["plan"]["spec"]["stage"] == "train_cls"
    assert {"shapes", "built", "batch", "best by", "tracking", "package"} == {row["what"] for row in told["check"]}
