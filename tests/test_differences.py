"""What differs between two runs, decided and told."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml

from asparagus.cli.main import run
from asparagus.identity import identity
from asparagus.record.differences import NOT_THERE, SAME, Difference, between, describe, of_metrics, of_specs
from asparagus.record.numbers import claim
from asparagus.record.run_folder import create, write_json, write_state
from asparagus.spec import Paths, Spec

RECORD = {
    "run_id": 1,
    "folder": "/here",
    "started": 1.0,
    "code": {"commit": "a" * 40, "branch": "main", "diff_digest": ""},
    "machine": {"host": "one", "python": "3.11.2", "gpus": [], "packages": {"torch": "2.8.0", "ray": "2.60.0"}},
    "fingerprint": "f" * 64,
    "parent": {"run_id": 5, "checkpoint": "/models/epoch=1-step=4", "digest": "d" * 64, "folder": "/x", "step": 4},
}


def keys(differences: list[Difference]) -> list[tuple[str, str]]:
    return [(difference.what, difference.key) for difference in differences]


def changed(**sections: object) -> dict[str, object]:
    merged = {key: {**RECORD[key], **value} if isinstance(value, dict) else value for key, value in sections.items()}
    return {**RECORD, **merged}


def test_nothing_differs_is_said():
    assert between(RECORD, RECORD) == []
    assert describe([]) == SAME


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"code": {"commit": "b" * 40}}, [("code", "commit")]),
        ({"code": {"diff_digest": "e" * 64}}, [("code", "diff_digest")]),
        ({"code": {"branch": "other"}}, []),
        ({"machine": {"python": "3.12.1"}}, [("packages", "python")]),
        ({"machine": {"packages": {"torch": "2.9.0", "ray": "2.60.0"}}}, [("packages", "torch")]),
        ({"machine": {"packages": {"torch": "2.8.0"}}}, [("packages", "ray")]),
        ({"machine": {"host": "two", "gpus": ["H100"]}}, []),
        ({"fingerprint": None}, [("data", "fingerprint")]),
        ({"parent": None}, [("init_from", "parent")]),
        ({"parent": {"digest": "0" * 64}}, [("init_from", "parent")]),
        ({"parent": {"checkpoint": "/moved/epoch=1-step=4"}}, []),
        ({"parent": {"digest": None, "checkpoint": "/models/epoch=2-step=8"}}, [("init_from", "parent")]),
        ({"parent": {"folder": "/moved"}}, []),
        ({"started": 2.0, "folder": "/there", "run_id": 2}, []),
    ],
)
def test_records_differ_in_code_packages_data_and_parent(sections, expected):
    assert keys(between(RECORD, changed(**sections))) == expected
    assert all(difference.decides for difference in between(RECORD, changed(**sections)))


def test_what_one_of_two_records_does_not_tell_is_not_compared():
    assert between(RECORD, {"code": RECORD["code"]}) == []
    assert between(RECORD, {}) == []
    assert between({}, RECORD) == []


def test_specs_differ_by_dotted_keys_with_both_values():
    left, right = {"optim": {"lr": 1e-3, "betas": [0.9, 0.99]}}, {"optim": {"lr": 1e-2, "betas": [0.9, 0.98]}}
    assert between(left, right) == [
        Difference("spec", "optim.lr", 1e-3, 1e-2),
        Difference("spec", "optim.betas", [0.9, 0.99], [0.9, 0.98]),
    ]


def test_a_key_that_one_side_has_not_is_told_from_one_that_is_null():
    assert of_specs({"model": {"width": None}}, {"model": {}})[0].right == NOT_THERE
    assert of_specs({"model": {"width": None}}, {"model": {"width": None}}) == []


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (math.nan, math.nan, True),
        ((1, 2), [1, 2], True),
        ([1, {"a": 2}], [1, {"a": 2.0}], True),
        ([1, {"a": 2}], [1, {"a": True}], False),
        ("1", 1, False),
        (None, "None", False),
        ({}, None, False),
    ],
)
def test_values_are_the_same_when_they_mean_the_same(left, right, same):
    assert (of_specs({"data": {"x": left}}, {"data": {"x": right}}) == []) == same


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("seed", {"seed": 1}),
        ("stage", {"stage": "train_seg"}),
        ("optim.lr", {"optim": {"lr": 2}}),
        ("model.compile_mode", {"model": {"compile_mode": "default"}}),
        ("data.batch_size", {"data": {"batch_size": 3}}),
        ("data.num_workers", {"data": {"num_workers": 3}}),
        ("data.train.num_workers", {"data": {"train": {"batch_size": 1, "num_workers": 3}}}),
        ("data.root", {"data": {"root": "/elsewhere"}}),
        ("trainer.max_epochs", {"trainer": {"max_epochs": 3}}),
        ("trainer.devices", {"trainer": {"devices": 3}}),
        ("resources.workers", {"resources": {"workers": 2}}),
        ("checkpoint.keep_best", {"checkpoint": {"keep_best": 9}}),
        ("run.name", {"run": {"name": "x"}}),
        ("run.mode", {"run": {"mode": "test"}}),
        ("site.name", {"site": {"name": "x"}}),
        ("paths.models", {"paths": {"models": "/x"}}),
    ],
)
def test_a_difference_decides_exactly_when_the_identity_does(key, change):
    plain = Spec("train_cls", "Task9_X", data={"train": {"batch_size": 1}})
    values = plain.to_dict()
    other = Spec.from_dict({**values, **{name: _merged(values[name], part) for name, part in change.items()}})
    (found,) = of_specs(values, other.to_dict())
    assert found.key.startswith(key)
    assert found.decides == (identity(plain) != identity(other))


def _merged(values: object, part: object) -> object:
    return {**values, **part} if isinstance(values, dict) and isinstance(part, dict) else part


def test_what_decides_comes_first_and_places_last():
    left = {"paths": {"models": "/a"}, "site": {"name": "a"}, "run": {"name": "a"}, "optim": {"lr": 1}}
    right = {"paths": {"models": "/b"}, "site": {"name": "b"}, "run": {"name": "b"}, "optim": {"lr": 2}}
    found = of_specs(left, right)
    assert [difference.key for difference in found] == ["optim.lr", "run.name", "site.name", "paths.models"]
    assert describe(found).splitlines()[0] == "spec: optim.lr: 1 -> 2"
    assert describe(found).splitlines()[3] == "spec: paths.models: /a -> /b  (does not decide the weights)"


def test_digests_are_told_short_long_values_are_cut_and_many_lines_are_counted():
    told = describe(between(RECORD, changed(code={"commit": "b" * 40}, fingerprint="0" * 64)))
    assert told.splitlines() == [
        "code: commit: aaaaaaaaaaaa -> bbbbbbbbbbbb",
        "data: fingerprint: ffffffffffff -> 000000000000",
    ]
    (line,) = describe([Difference("spec", "a", "x" * 500, None)]).splitlines()
    assert len(line) < 130
    assert "... -> none" in line
    packages = {f"p{number}": "1" for number in range(40)}
    told = describe(between(changed(machine={"packages": packages}), changed(machine={"packages": {}}))).splitlines()
    assert told[-1] == "packages: and 28 more"


def test_metrics_stand_side_by_side_also_where_one_run_has_none():
    found = of_metrics({"loss": 1.0, "acc": 0.5}, {"loss": 1.0})
    assert found == [Difference("metrics", "acc", 0.5, None), Difference("metrics", "loss", 1.0, 1.0)]
    assert not any(difference.decides for difference in found)


# asp diff
@pytest.fixture
def two(home: Path):
    """Make two runs' folders; returns how to change the second."""

    def make(*, spec: Spec | None = None, record: dict[str, object] | None = None, metrics: object = None) -> None:
        models = home / "models"
        plain = Spec("train_cls", "Task9_X", paths=Paths(models=str(models)))
        for one, said, values in ((plain, RECORD, {"loss": 1.0, "acc": 0.5}), (spec or plain, record, metrics)):
            run_id = claim(models, about={"stage": one.stage, "task": one.task})
            folder = create(models, one, run_id, "{}")
            write_state(folder, run_id=run_id, state="finished", metrics=values or {"loss": 1.0, "acc": 0.5})
            if said is not None:
                write_json(folder.record, {**said, "run_id": run_id})

    return make


def test_diff_says_that_nothing_differs(two, capsys):
    two(record=RECORD)
    assert run("diff", ["1", "2"]) == 0
    assert SAME in capsys.readouterr().out


def test_diff_tells_spec_code_and_metrics(two, home, capsys):
    spec = Spec("train_cls", "Task9_X", seed=7, paths=Paths(models=str(home / "models")))
    two(spec=spec, record=changed(code={"commit": "b" * 40}), metrics={"loss": 0.75, "acc": 0.5, "new": 1.0})
    assert run("diff", ["1", "2"]) == 0
    said = capsys.readouterr().out
    assert "spec: seed: 0 -> 7" in said
    assert "code: commit: aaaaaaaaaaaa -> bbbbbbbbbbbb" in said
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.startswith(("loss", "new", "acc"))}
    assert rows == {"loss": ["1", "0.75", "-0.25"], "new": ["-", "1", "-"]}
    assert "1 of 3 metrics have equal last values" in said


def test_diff_in_json_holds_every_value(two, home, capsys):
    spec = Spec("train_cls", "Task9_X", seed=7, paths=Paths(models=str(home / "models")))
    two(spec=spec, record=changed(fingerprint="0" * 64), metrics={"loss": math.inf})
    assert run("diff", ["1", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["differences"] == [
        {"what": "spec", "key": "seed", "left": 0, "right": 7, "decides": True},
        {"what": "data", "key": "fingerprint", "left": "f" * 64, "right": "0" * 64, "decides": True},
    ]
    assert found["metrics"] == [
        {"metric": "acc", "left": 0.5, "right": None, "difference": None},
        {"metric": "loss", "left": 1.0, "right": None, "difference": None},
    ]


def test_diff_says_when_only_the_place_differs(two, home, capsys):
    two(spec=Spec("train_cls", "Task9_X", paths=Paths(models=str(home / "models"), data="/elsewhere")), record=RECORD)
    assert run("diff", ["1", "2"]) == 0
    assert "Nothing that decides the weights differs." in capsys.readouterr().out


def test_diff_of_a_run_without_a_record_says_what_is_unknown(two, capsys):
    two(record=None)
    assert run("diff", ["1", "2"]) == 0
    assert "run 2: no record.json: its code, packages and data are unknown" in capsys.readouterr().out


def test_diff_with_a_broken_file_compares_the_rest(two, home, capsys):
    two(record=RECORD, metrics={"loss": 0.5})
    broken = home / "models" / "Task9_X" / "train_cls" / "run_id=2" / "config.yaml"
    broken.write_text("optim: [")
    assert run("diff", ["1", "2"]) == 0
    said = capsys.readouterr().out
    assert f"! {broken}: cannot be read" in said
    assert "loss" in said


def test_diff_of_a_run_that_is_not_there_is_a_clear_error(two, capsys):
    two(record=RECORD)
    assert run("diff", ["1", "77"]) == 2
    assert "run 77: there is no such run" in capsys.readouterr().err


def test_config_of_two_runs_is_all_yaml(two, home):
    """The specs that are compared are those that a rerun would use."""
    two(record=RECORD)
    file = home / "models" / "Task9_X" / "train_cls" / "run_id=1" / "config.yaml"
    assert yaml.safe_load(file.read_text())["stage"] == "train_cls"
