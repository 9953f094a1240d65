"""A launch of what ran before: it goes on, is shown, is refused or is new; and a run that is repeated."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import asparagus
from asparagus.checkpoint.folder import STATE, manifests
from asparagus.checkpoint.transfer import read_weights
from asparagus.cli.main import run
from asparagus.errors import ConfigError, RecordError, RunError
from asparagus.journal import JournalReader
from asparagus.record.run_folder import RunFolder, hold, is_running
from asparagus.record.store import Store

DIGITS = "experiment/digits"
TWO = "trainer.max_epochs=2"
BREAKS = "+callbacks.fuse={_target_: tests.fakes.Fuse, mark: MARK, epoch: 1}"


@pytest.fixture
def fuse(home):
    """The word for a callback that breaks the first attempt in its second epoch; identical in every attempt."""
    return BREAKS.replace("MARK", str(home / "blown"))


def broken(words, config=DIGITS) -> Path:
    """Launch what breaks; returns the run's folder."""
    with pytest.raises(RunError, match="The same command goes on from there"):
        asparagus.launch(config, words)
    return max(Path("models").glob("*/*/run_id=*"), key=lambda path: path.stat().st_mtime).absolute()


def events(folder, kind):
    return [event for event in JournalReader(Path(folder) / "journal.jsonl").read() if event["kind"] == kind]


def store(home) -> Store:
    return Store(f"sqlite:///{home}/results/mlflow.db")


def last_weights(folder) -> dict[str, torch.Tensor]:
    checkpoints = Path(folder) / "checkpoints"
    return read_weights(checkpoints / manifests(checkpoints)[-1].name)


def test_a38_a41_an_unfinished_run_goes_on_under_its_number_from_its_last_checkpoint(home, fuse):
    folder = broken([TWO, fuse])
    assert (
        asparagus.plan_of(DIGITS, [TWO, fuse])
        .notes[-1]
        .startswith("run 1 is identical and failed: it goes on from epoch=0-step=23")
    )
    outcome = asparagus.launch(DIGITS, [TWO, fuse, "trainer.log_every_n_steps=7", "checkpoint.keep_best=2"])
    assert (outcome.run_id, outcome.folder, outcome.state) == (1, str(folder), "finished")
    assert [event["epoch"] for event in events(folder, "start")] == [0, 1]
    (attempt,) = events(folder, "attempt")
    assert attempt["attempt"] == 2
    assert "checkpoint.keep_best: 1 -> 2" in attempt["news"]
    facts = json.loads((folder / "run.json").read_text())
    assert (facts["attempt"], facts["state"], facts["mlflow_run_id"]) == (2, "finished", outcome.mlflow_run_id)
    assert len(store(home).with_number(1)) == 1
    steps = [point.step for point in store(home).client.get_metric_history(outcome.mlflow_run_id, "val/loss")]
    assert steps == [22, 45]
    recorded = store(home).client.get_run(outcome.mlflow_run_id)
    assert (recorded.info.status, recorded.data.tags["asparagus.attempts"]) == ("FINISHED", "2")


def test_a38_a42_a_finished_run_is_shown_and_false_gives_a_new_and_larger_number(home, capsys):
    first = asparagus.launch(DIGITS, [TWO])
    shown = asparagus.launch(DIGITS, [TWO])
    assert (shown.run_id, shown.metrics, shown.checkpoint) == (first.run_id, first.metrics, first.checkpoint)
    assert shown.repeated is False
    assert len(events(first.folder, "start")) == 1
    assert run("launch", [DIGITS, TWO, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["run_id"] == 1
    again = asparagus.launch(DIGITS, [TWO, "resume_training=false"])
    assert again.run_id == 2
    assert asparagus.launch(DIGITS, [TWO]).run_id == 2  # the newest
    assert asparagus.launch(DIGITS, [TWO, "optim.lr=0.01"]).run_id == 3


def test_a43_a_number_by_hand_is_never_another_runs(home, fuse):
    broken([TWO, fuse, "run.id=7"])
    with pytest.raises(ConfigError, match=r"run.id: 7 is taken, which was another experiment .*optim.lr: 0.003 -> 0.1"):
        asparagus.launch(DIGITS, [TWO, fuse, "run.id=7", "optim.lr=0.1"])
    outcome = asparagus.launch(DIGITS, [TWO, fuse, "run.id=7"])  # the same command again
    assert (outcome.run_id, outcome.state) == (7, "finished")
    with pytest.raises(ConfigError, match=r"run.id: 7 is taken"):
        asparagus.launch(DIGITS, [TWO, fuse, "run.id=7"])
    with pytest.raises(ConfigError, match=r"run.id: 7 is taken"):
        asparagus.launch(DIGITS, [TWO, fuse, "run.id=7", "run.resume=false"])


def test_a_name_that_stands_for_something_else_is_refused_with_the_difference(home, capsys):
    asparagus.launch(DIGITS, [TWO, "run.name=baseline"])
    assert run("launch", [DIGITS, TWO, "run.name=baseline", "seed=5"]) == 2
    said = capsys.readouterr().err
    assert "run.name: 'baseline' is run 1's, which was another experiment" in said
    assert "seed: 42 -> 5" in said
    assert [path.name for path in Path("models/Task001_Digits/train_cls").iterdir()] == ["run_id=1"]
    assert asparagus.launch(DIGITS, [TWO, "run.name=baseline"]).repeated is False
    assert asparagus.launch(DIGITS, [TWO, "run.name=baseline", "run.resume=false"]).run_id == 2


def test_a47_a_finetune_goes_on_from_its_own_checkpoint_and_its_parent_keeps_one_line(home, fuse):
    parent = asparagus.launch(DIGITS, [TWO])
    words = ["stage=finetune_cls", "init_from=run:1/best", TWO, fuse]
    folder = broken(words)
    assert asparagus.launch(DIGITS, words).run_id == 2
    assert len(events(folder, "transfer")) == 1  # the first attempt's
    assert (Path(parent.folder) / "derived_models.log").read_text() == f"2, {folder}\n"
    config = (folder / "config.yaml").read_text()
    assert f"init_from: run:1/{Path(parent.checkpoint).name}" in config  # not `best`, which may move


def test_other_code_or_packages_are_said_and_refused_where_that_is_asked(home, fuse, capsys):
    folder = broken([TWO, fuse])
    record = json.loads((folder / "record.json").read_text())
    record["machine"]["packages"]["torch"] = "1.0"
    (folder / "record.json").write_text(json.dumps(record))
    assert run("launch", [DIGITS, TWO, fuse, "--strict"]) == 2
    said = capsys.readouterr().err
    assert "run.strict: run 1 was started with other code, packages or data" in said
    assert "torch: 1.0 -> " in said
    assert not is_running(RunFolder(folder, "train_cls"))
    assert run("launch", [DIGITS, TWO, fuse]) == 0
    assert "torch: 1.0 -> " in capsys.readouterr().err


def test_a_run_that_is_being_trained_is_not_trained_twice(home, fuse):
    folder = RunFolder(broken([TWO, fuse]), "train_cls")
    code = "import sys, time; from pathlib import Path; from asparagus.record.run_folder import RunFolder, hold; "
    code += "lock = hold(RunFolder(Path(sys.argv[1]), 'train_cls')); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert is_running(folder)
        with pytest.raises(RecordError, match=r"is being trained already, by process \d+ on .*run.resume=false"):
            asparagus.launch(DIGITS, [TWO, fuse])
        other.kill()
    assert not is_running(folder)
    started = time.monotonic()
    hold(folder).release()
    assert time.monotonic() - started < 5


def test_a_run_lost_after_its_last_epoch_ends_with_what_it_measured(home):
    first = asparagus.launch(DIGITS, [TWO])
    facts = json.loads((Path(first.folder) / "run.json").read_text())
    (Path(first.folder) / "run.json").write_text(json.dumps({**facts, "state": "running", "metrics": {}}))
    outcome = asparagus.launch(DIGITS, [TWO])
    assert (outcome.run_id, outcome.repeated, outcome.metrics) == (1, True, first.metrics)


@pytest.mark.parametrize("damage", [pytest.param("cut", marks=[pytest.mark.slow]), "changed"])
def test_a_torn_checkpoint_is_passed_over_and_the_run_ends_as_if_nothing_had_been(home, fuse, damage, caplog):
    words = ["trainer.max_epochs=3", fuse.replace("epoch: 1", "epoch: 2"), "checkpoint.keep_best=5"]
    folder = broken(words)
    state = folder / "checkpoints/epoch=1-step=46" / STATE
    content = state.read_bytes()
    state.write_bytes(content[:-99] if damage == "cut" else content[:-99] + b"\0" * 99)
    outcome = asparagus.launch(DIGITS, words)
    assert [event["epoch"] for event in events(folder, "start")] == [0, 1]
    assert "epoch=1-step=46" in caplog.text
    whole = asparagus.launch(DIGITS, ["trainer.max_epochs=3", "run.resume=false"])
    expected = last_weights(whole.folder)
    for name, weight in last_weights(outcome.folder).items():
        assert torch.equal(weight, expected[name])


def test_a45_a_run_is_repeated_from_its_record_with_the_same_weights(home, capsys):
    first = asparagus.launch(DIGITS, [TWO])
    assert run("rerun", ["1", "--json"]) == 0
    second = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert second["run_id"] == 2
    ours, theirs = last_weights(first.folder), last_weights(second["folder"])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    tags = store(home).client.get_run(second["mlflow_run_id"]).data.tags
    assert tags["asparagus.rerun_of"] == "1"
    assert run("launch", ["--experimental-rerun", f"{first.folder}/config.yaml", "optim.lr=0.02", "--json"]) == 0
    third = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((Path(third["folder"]) / "record.json").read_text())["rerun_of"] == 1
    assert third["metrics"] != second["metrics"]


def test_a45_what_is_otherwise_now_is_said_when_a_run_is_repeated(home, capsys):
    first = asparagus.launch(DIGITS, [TWO])
    record = Path(first.folder) / "record.json"
    values = json.loads(record.read_text())
    record.write_text(json.dumps({**values, "fingerprint": "0" * 64, "code": {**values["code"], "commit": "c" * 40}}))
    assert run("rerun", ["1", "--strict"]) == 2
    said = capsys.readouterr().err
    assert "run.strict: run 1 was made with other code, packages or data" in said
    assert "fingerprint: 000000000000 -> " in said
    assert len(list(Path("models/Task001_Digits/train_cls").iterdir())) == 1
    assert run("rerun", ["1"]) == 0
    assert "commit: cccccccccccc -> " in capsys.readouterr().err


@pytest.mark.slow
def test_a45_a_run_whose_folder_is_gone_is_repeated_from_mlflow(home, capsys):
    import shutil

    first = asparagus.launch(DIGITS, [TWO])
    shutil.rmtree(first.folder)
    assert run("rerun", ["1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["run_id"] == 2
    assert run("rerun", ["77"]) == 2
    assert "run 77: there is no such run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("config.pickle", b"\x80\x04N.", "is a pickle, and loading one runs whatever code is in it"),
        ("config.yaml", b"\x80\x04N.", "is a pickle"),
        ("config.json", b"{}", "is no YAML file"),
        ("nowhere.yaml", None, "cannot be read"),
    ],
)
def test_a45_no_pickle_is_loaded(home, capsys, name, content, told):
    if content is not None:
        (home / name).write_bytes(content)
    assert run("launch", ["--experimental-rerun", name]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "asp rerun N" in said


@pytest.mark.slow
def test_a_finished_run_is_shown_with_what_is_otherwise_and_not_at_all_where_that_is_refused(home, capsys):
    first = asparagus.launch(DIGITS, [TWO])
    record = Path(first.folder) / "record.json"
    values = json.loads(record.read_text())
    record.write_text(json.dumps({**values, "code": {**values["code"], "commit": "c" * 40}}))
    assert run("launch", [DIGITS, TWO]) == 0
    assert "commit: cccccccccccc -> " in capsys.readouterr().err
    assert run("launch", [DIGITS, TWO, "--strict"]) == 2
    assert "run.strict: run 1 was made with other code" in capsys.readouterr().err


def test_a45_a_run_of_another_home_is_repeated_here(home, tmp_path_factory, monkeypatch, capsys):
    first = asparagus.launch(DIGITS, [TWO, "run.name=baseline"])
    here = tmp_path_factory.mktemp("here")
    monkeypatch.setenv("ASPARAGUS_HOME", str(here))
    monkeypatch.chdir(here)
    assert run("launch", ["--experimental-rerun", f"{first.folder}/config.yaml", "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert Path(again["folder"]).is_relative_to(here)
    assert json.loads((Path(again["folder"]) / "record.json").read_text())["rerun_of"] is None  # run 1 here is itself
    assert again["metrics"] == first.metrics
    assert (here / "results/mlflow.db").is_file()


@pytest.mark.slow
def test_a45_a_named_run_is_repeated_with_a_change(home, capsys):
    asparagus.launch(DIGITS, [TWO, "run.name=baseline"])
    assert run("rerun", ["1", "seed=8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["run_id"] == 2


@pytest.mark.parametrize(("name", "told"), [("x" * 300, "has 300 characters"), ("''", "has 0 characters")])
def test_a_name_that_cannot_be_one_is_refused(home, capsys, name, told):
    assert run("launch", [DIGITS, TWO, f"run.name={name}"]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_a_name_of_dots_and_slashes_stays_a_name(home):
    for name in ("..", "a/b", "."):
        asparagus.launch(DIGITS, ["trainer.max_epochs=1", f"run.name='{name}'", "run.resume=false"])
    kept = home / "models/.asparagus/names/Task001_Digits"
    assert [path.name for path in kept.iterdir()] == ["train_cls"]
    assert sorted(path.name for path in (kept / "train_cls").iterdir()) == ["%2E", "%2E%2E", "a%2Fb"]
