"""`asp doctor [--fix]`: what a killed process left behind is found, explained and mended; the second look is clean."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

from asparagus.cli.main import run
from asparagus.record.backlog import put_off
from asparagus.record.numbers import claim
from asparagus.record.recorder import Recorder, RunRecord
from asparagus.record.run_folder import RUNNING, RunFolder, create, read_state, write_json, write_state
from asparagus.record.sql_engine import newest_schema
from asparagus.record.store import Store
from asparagus.spec import Paths, Spec

ABOUT = {"stage": "pretrain", "task": "Task9_X"}


def a_run(home, *, state=RUNNING, parent=None, recorded=True) -> RunFolder:
    """A run as its driver leaves it; `recorded` in the store too, where it then runs."""
    models = home / "models"
    run_id = claim(models, about=ABOUT)
    folder = create(models, Spec("pretrain", "Task9_X", paths=Paths(models=str(models))), run_id, "{}")
    record = RunRecord(run_id, "pretrain", "Task9_X", str(folder.path), f"pretrain-{run_id}", {"a": "1"})
    write_json(folder.record, record.to_dict())
    mlflow_run_id = None
    if recorded:
        with Recorder(f"sqlite:///{home}/results/mlflow.db", home / "results/mlartifacts", models) as recorder:
            mlflow_run_id = recorder.open(record)
    facts = {**ABOUT, "run_id": run_id, "state": state, "metrics": {}, "mlflow_run_id": mlflow_run_id}
    write_state(folder, **facts, init_from=parent, attempt=1)
    return folder


def doctor(capsys, *words) -> tuple[int, list[dict], str]:
    status = run("doctor", [*words, "--json"])
    said = capsys.readouterr()
    return status, json.loads(said.out.splitlines()[-1]), said.err


def of(findings, what) -> list[dict]:
    return [finding for finding in findings if finding["what"] == what and finding["state"] != "ok"]


def test_a_run_with_nobody_behind_it_is_found_and_ended(home, capsys):
    folder = a_run(home)
    mlflow_run_id = read_state(folder)["mlflow_run_id"]
    Store(f"sqlite:///{home}/results/mlflow.db").client.update_run(mlflow_run_id, status="RUNNING")
    _, findings, _ = doctor(capsys)
    (found,) = of(findings, "lost run")
    assert found["found"] == "run 1 is 'running', and no process trains it"
    assert "The same asp-launch goes on with it" in found["do"]
    assert read_state(folder)["state"] == RUNNING  # looking changes nothing
    _, findings, said = doctor(capsys, "--fix")
    assert "mended: run 1 is interrupted" in said
    assert not of(findings, "lost run")
    assert read_state(folder)["state"] == "interrupted"
    copy = shutil.copyfile(home / "results/mlflow.db", home / "copy.db")
    assert Store(f"sqlite:///{copy}").client.get_run(mlflow_run_id).info.status == "KILLED"
    assert not of(doctor(capsys)[1], "lost run")


def test_a_run_that_is_being_trained_is_left_alone(home, capsys):
    folder = a_run(home, recorded=False)
    (folder.checkpoints / ".writing-epoch=0-step=1").mkdir(parents=True)
    code = "import sys, time; from pathlib import Path; from asparagus.record.run_folder import RunFolder, hold; "
    code += "lock = hold(RunFolder(Path(sys.argv[1]), 'pretrain')); print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        _, findings, _ = doctor(capsys, "--fix")
        other.kill()
    assert not of(findings, "lost run")
    assert (folder.checkpoints / ".writing-epoch=0-step=1").is_dir()


def test_half_a_checkpoint_is_found_and_removed_and_a_whole_one_stays(home, capsys):
    folder = a_run(home, state="failed", recorded=False)
    for name in (".writing-epoch=1-step=2", ".removing-epoch=0-step=1", "epoch=2-step=3"):
        (folder.checkpoints / name).mkdir(parents=True)
    assert len(of(doctor(capsys)[1], "half a checkpoint")) == 1
    doctor(capsys, "--fix")
    assert [path.name for path in folder.checkpoints.iterdir()] == ["epoch=2-step=3"]
    assert not of(doctor(capsys)[1], "half a checkpoint")


def test_a_parent_that_was_moved_is_found_again_and_one_that_is_gone_is_said_once(home, capsys):
    parent = a_run(home, state="finished", recorded=False)
    (parent.checkpoints / "epoch=0-step=1").mkdir(parents=True)
    edge = {"digest": "d", "run_id": 1, "step": 1}
    away = {**edge, "folder": "/old/run_id=1", "checkpoint": "/old/run_id=1/checkpoints/epoch=0-step=1"}
    moved = a_run(home, state="finished", recorded=False, parent=away)
    lost = {**edge, "run_id": 1, "folder": str(parent.path), "checkpoint": str(parent.checkpoints / "epoch=7-step=8")}
    orphan = a_run(home, state="finished", recorded=False, parent=lost)
    first, second = of(doctor(capsys)[1], "lineage")
    assert f"which is at {parent.checkpoints}/epoch=0-step=1 now" in first["found"]
    assert "run 3 started from" in second["found"]
    assert "is gone: moved or deleted" in second["found"]
    doctor(capsys, "--fix")
    assert read_state(moved)["init_from"]["checkpoint"] == str(parent.checkpoints / "epoch=0-step=1")
    assert read_state(orphan)["init_from"] == lost  # what it came from stays on record
    assert not of(doctor(capsys)[1], "lineage")


@pytest.mark.slow
def test_a_run_that_the_store_was_not_told_of_is_told(home, capsys):
    a_run(home, state="finished")
    put_off(home / "models", 1, f"sqlite:///{home}/results/mlflow.db")
    assert of(doctor(capsys)[1], "record")
    _, findings, said = doctor(capsys, "--fix")
    assert "mended: run 1: kept" in said
    assert not of(findings, "record")
    assert not of(doctor(capsys)[1], "record")


@pytest.mark.slow
def test_a_run_that_runs_in_the_store_and_has_no_folder_is_ended(home, capsys):
    folder = a_run(home)
    client = Store(f"sqlite:///{home}/results/mlflow.db").client
    client.set_tag(read_state(folder)["mlflow_run_id"], "asparagus.state", "running")
    shutil.rmtree(folder.path)
    (found,) = of(doctor(capsys)[1], "lost run")
    assert "its folder" in found["found"]
    doctor(capsys, "--fix")
    assert not of(doctor(capsys)[1], "lost run")


def test_stale_temporary_files_are_removed_and_fresh_ones_stay(home, capsys):
    a_run(home, state="finished", recorded=False)
    stale, fresh = (home / "models/.asparagus/runs" / name for name in ("a.writing", "b.writing"))
    for path in (stale, fresh):
        path.touch()
    os.utime(stale, (time.time() - 7200,) * 2)
    assert of(doctor(capsys)[1], "temporary files")
    doctor(capsys, "--fix")
    assert (stale.exists(), fresh.exists()) == (False, True)


def version(file) -> str:
    with closing(sqlite3.connect(file)) as store:
        return store.execute("SELECT version_num FROM alembic_version").fetchone()[0]


def test_a_store_of_a_newer_mlflow_is_said_and_nothing_is_changed(home, capsys):
    Store(f"sqlite:///{home}/results/mlflow.db")
    file = home / "results/mlflow.db"
    with closing(sqlite3.connect(file)) as store:
        store.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        store.commit()
    before = file.read_bytes()
    status, findings, _ = doctor(capsys, "--fix")
    (found,) = of(findings, "store schema")
    assert status == 2
    assert "written by a newer MLflow (schema ffffffffffff)" in found["found"]
    assert "pip install --upgrade mlflow" in found["do"]
    assert file.read_bytes() == before
    assert run("launch", ["experiment/digits"]) == 2
    assert "asp doctor" in capsys.readouterr().err
    assert not (home / "models").exists()


def test_a_store_of_an_older_mlflow_is_upgraded_and_the_old_one_kept(home, capsys):
    Store(f"sqlite:///{home}/results/mlflow.db")
    file = home / "results/mlflow.db"
    old = a_version_ago(file)
    assert run("launch", ["experiment/digits"]) == 2
    assert "asp doctor --fix" in capsys.readouterr().err
    status, findings, _ = doctor(capsys)
    assert status == 2
    assert "is of an older MLflow" in of(findings, "store schema")[0]["found"]
    status, _, said = doctor(capsys, "--fix")
    assert status == 0, said
    assert version(file) == newest_schema()
    assert version(file.with_name(f"mlflow.db.{old}")) == old
    assert not of(doctor(capsys)[1], "store schema")


def a_version_ago(file) -> str:
    """Make a store what it was before its newest migration."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config

    command.downgrade(_get_alembic_config(f"sqlite:///{file}"), "-1")
    return version(file)


def test_a_store_that_may_not_be_written_is_refused_and_nothing_is_changed(home, capsys):
    results = home / "results"
    results.mkdir()
    Store(f"sqlite:///{results}/mlflow.db")
    if subprocess.run(["mount", "--bind", results, results], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", results], check=True)
        assert run("launch", ["experiment/digits"]) == 2
    finally:
        subprocess.run(["umount", results], check=True)
    said = capsys.readouterr().err
    assert f"{results}" in said
    assert "written" in said
    assert not (home / "models").exists()
