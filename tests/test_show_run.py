"""One run on a page: `asp show N`."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from asparagus.checkpoint.folder import STATE, WRITING, Manifest, digest_of, seal
from asparagus.checkpoint.holds import child, hold, registered
from asparagus.cli.main import run
from asparagus.journal import Journal
from asparagus.record.numbers import claim
from asparagus.record.promoted import Promotion, note
from asparagus.record.recorder import Recorder, RunRecord
from asparagus.record.run_folder import RunFolder, create, note_child, write_json, write_state
from asparagus.record.run_folder import hold as train
from asparagus.record.run_page import size
from asparagus.spec import Paths, Spec

COMMIT = "c0ffee" * 6 + "abcd"
RECORD = {
    "name": "my try",
    "started": 1_700_000_000.0,
    "command": ["asp-launch", "finetune_cls", "init_from=run:1/best"],
    "identity": "1d" * 32,
    "fingerprint": "fa" * 32,
    "rerun_of": 3,
    "sweep_id": None,
    "code": {"commit": COMMIT, "branch": "main", "diff_digest": ""},
    "machine": {
        "host": "node7",
        "user": "laura",
        "system": "Linux-6.1",
        "python": "3.11.2",
        "cpus": 8,
        "gpus": ["H100, 80 GiB"],
        "packages": {"torch": "2.8.0", "ray": "2.60.0", "zarr": "3.1"},
    },
}


def a_folder(home: Path, stage: str = "finetune_cls") -> tuple[int, RunFolder]:
    models = home / "models"
    spec = Spec(stage, "Task9_X", paths=Paths(models=str(models)))
    run_id = claim(models, about={"stage": stage, "task": "Task9_X"})
    folder = create(models, spec, run_id, "{}")
    folder.log.write_text("hello\n")
    return run_id, folder


def a_checkpoint(folder: RunFolder, step: int, value: float) -> Path:
    writing = folder.checkpoints / f"{WRITING}x"
    writing.mkdir(parents=True)
    (writing / STATE).write_bytes(b"PK" + b"x" * 3000)
    name, digest = f"epoch=0-step={step}", digest_of(writing / STATE)
    return seal(writing, Manifest(name, 0, step, {"val/x": value}, digest, 3002, monitor="val/x", mode="max"))


@pytest.fixture
def shown(home, capsys):
    """Show a run; returns its lines by their first word, or what `--json` prints."""

    def show(run_id: int, *words: str) -> str:
        assert run("show", [str(run_id), *words]) == 0
        return capsys.readouterr().out

    return show


def of(page: str, label: str) -> str:
    """Return what stands behind a label."""
    return next(line.split(label, 1)[1].strip() for line in page.splitlines() if line.startswith(f"  {label}"))


def test_a_page_tells_where_how_and_from_what(home, shown):
    _, elder = a_folder(home, "pretrain")
    checkpoint = a_checkpoint(elder, 4, 0.5)
    run_id, folder = a_folder(home)
    parent = {"run_id": 1, "checkpoint": str(checkpoint), "digest": "d" * 64, "folder": str(elder.path), "step": 4}
    write_json(folder.record, {**RECORD, "run_id": run_id, "parent": parent})
    write_json(folder.transfer, {"source": str(checkpoint), "taken": ["a", "b"], "fresh": ["c"], "left": {"d": "why"}})
    write_state(folder, run_id=run_id, state="finished", metrics={"val/x": 0.25}, attempt=2, mlflow_run_id="m1")
    page = shown(run_id)
    assert page.splitlines()[0] == "run 2 · finetune_cls · Task9_X · finished, attempt 2"
    assert of(page, "name") == "my try"
    assert of(page, "started").startswith("2023-11-1")
    assert of(page, "ended").startswith("20")
    assert of(page, "where") == "laura@node7: 8 CPUs, 1 x H100, 80 GiB, Linux-6.1"
    assert of(page, "packages") == "python 3.11.2, torch 2.8.0, ray 2.60.0"
    assert of(page, "command") == "asp-launch finetune_cls init_from=run:1/best"
    assert of(page, "code") == f"{COMMIT} on main, no uncommitted changes"
    assert of(page, "data") == "fa" * 32
    assert of(page, "identity") == "1d" * 32
    assert of(page, "from") == f"run 1 {checkpoint}"
    assert "d" * 64 in page
    assert of(page, "weights") == "2 of 3 tensors taken, 1 fresh, 1 of the parent's not used"
    assert of(page, "rerun of") == "run 3"
    assert of(page, "mlflow") == "m1"
    assert "val/x                            0.25" in page


def test_uncommitted_changes_are_said(home, shown):
    run_id, folder = a_folder(home)
    write_json(folder.record, {**RECORD, "code": {**RECORD["code"], "diff_digest": "e" * 64}})
    assert "with uncommitted changes (uncommitted.diff)" in of(shown(run_id), "code")
    write_json(folder.record, {**RECORD, "code": {"commit": "", "branch": "", "diff_digest": ""}})
    assert of(shown(run_id), "code") == "no git repository"


def test_checkpoints_children_promotions_and_plots_are_listed(home, shown):
    run_id, folder = a_folder(home, "pretrain")
    first, last = a_checkpoint(folder, 4, 0.75), a_checkpoint(folder, 8, 0.5)
    hold(first, child(12))
    hold(first, registered("brain", "best"))
    note_child(folder.path, run_id=12, folder=Path("/models/run_id=12"))
    note_child(folder.path, run_id=12, folder=Path("/models/run_id=12"))  # as a version before this one doubled it
    note(folder, Promotion("brain", "best", "3", first.name, "d" * 64))
    folder.plots.mkdir()
    (folder.plots / "curve.png").write_bytes(b"")
    page = shown(run_id)
    (best,) = (line for line in page.splitlines() if line.strip().startswith(first.name))
    assert " ".join(best.split()) == f"{first.name} val/x 0.75 2.9 KiB best, registered as brain@best, held by run 12"
    (newest,) = (line for line in page.splitlines() if line.strip().startswith(last.name))
    assert newest.endswith("last")
    assert page.count("/models/run_id=12") == 1
    assert "brain@best (version 3, " in page
    assert str(folder.plots / "curve.png") in page


def test_json_has_every_fact(home, shown):
    run_id, folder = a_folder(home)
    a_checkpoint(folder, 4, math.nan)
    note_child(folder.path, run_id=12, folder=Path("/models/run_id=12"))
    write_json(folder.record, {**RECORD, "run_id": run_id, "parent": None})
    write_state(folder, run_id=run_id, state="failed", metrics={"a": math.nan, "b": 1.0}, attempt=1)
    found = json.loads(shown(run_id, "--json"), parse_constant=pytest.fail)
    assert (found["run_id"], found["stage"], found["task"], found["state"]) == (1, "finetune_cls", "Task9_X", "failed")
    assert found["metrics"] == {"a": None, "b": 1.0}
    assert found["children"] == [{"run_id": 12, "folder": "/models/run_id=12"}]
    assert found["checkpoints"][0]["name"] == "epoch=0-step=4"
    assert found["checkpoints"][0]["value"] is None
    assert found["machine"]["packages"]["zarr"] == "3.1"
    assert found["init_from"] is None
    assert found["problems"] == []


def test_a_run_that_is_training_is_running_and_one_that_nobody_trains_is_said_so(home, shown):
    run_id, folder = a_folder(home)
    write_state(folder, run_id=run_id, state="running", metrics={})
    assert "running, but nobody is training it" in shown(run_id).splitlines()[0]
    lock = train(folder)
    try:
        assert shown(run_id).splitlines()[0].endswith("· running")
    finally:
        lock.release()


def test_metrics_of_a_run_that_has_not_ended_come_from_its_journal(home, shown):
    run_id, folder = a_folder(home)
    write_state(folder, run_id=run_id, state="running", metrics={})
    journal = Journal(folder.journal)
    for step in range(3):
        journal.append("metrics", step=step, epoch=0, values={"train/loss": 1.0 / (step + 1)})
    journal.close()
    assert json.loads(shown(run_id, "--json"))["metrics"] == {"train/loss": 1.0 / 3}


def test_missing_and_broken_files_hide_no_other(home, shown):
    run_id, folder = a_folder(home)
    write_state(folder, run_id=run_id, state="finished", metrics={"a": 1.0})
    assert "there is no record.json: with which command" in shown(run_id)
    folder.record.write_text('{"name": ')
    folder.transfer.write_text("[]")
    page = shown(run_id)
    assert f"! {folder.record}: cannot be read" in page
    assert f"! {folder.transfer}: holds no keys and values" in page
    assert "finished" in page
    folder.state.unlink()
    assert "unknown" in shown(run_id).splitlines()[0]


def test_a_run_that_is_nowhere_is_a_clear_error(home, capsys):
    assert run("show", ["7"]) == 2
    assert "run 7: there is no such run under" in capsys.readouterr().err


def test_of_a_folder_that_is_gone_mlflow_is_asked(home, shown, monkeypatch):
    run_id, folder = a_folder(home)
    write_json(folder.record, {**RECORD, "run_id": run_id})
    uri = f"sqlite:///{home}/results/mlflow.db"
    record = RunRecord(
        run_id, "finetune_cls", "Task9_X", str(folder.path), "x", {}, tags={"asparagus.monitor": "val/x"}
    )
    with Recorder(uri, home / "artifacts", home / "models") as recorder:
        recorder.open(record)
        journal = Journal(folder.journal)
        journal.append("metrics", step=1, epoch=0, values={"val/x": 0.5})
        journal.close()
        recorder.close(run_id, state="finished")
    moved = folder.path.rename(home / "run_id=1")
    page = shown(run_id)
    assert "is gone. Was it moved or deleted?" in page
    assert of(page, "folder") == f"{folder.path} (not on this machine)"
    assert of(page, "best") == "val/x 0.5"
    assert json.loads(shown(run_id, "--json"))["metrics"]["val/x"] == 0.5
    moved.rename(folder.path)
    monkeypatch.setenv(
        "ASPARAGUS_MODELS", str(home / "elsewhere")
    )  # trained into another models folder of this machine
    assert of(shown(run_id), "name") == "my try"


def test_showing_a_run_imports_neither_mlflow_nor_torch(home):
    run_id, _ = a_folder(home)
    code = "import sys; from asparagus.cli.main import run; run('show', [sys.argv[1]]); "
    code += "print([name for name in ('mlflow', 'torch', 'ray') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, str(run_id)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 2**30, "5.0 GiB"), (2**50, "1024.0 TiB")]
)
def test_sizes_are_told_in_their_unit(count, told):
    assert size(count) == told
