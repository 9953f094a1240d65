"""Code of one's own through the whole corridor: found on Ray workers, with id, record, secrets and lineage for free."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
import yaml
from own_code import OWN, write_own_code

SECRET = "correct-horse-battery-staple"
GUARD = f'''
import os
import pytorch_lightning as pl


class Guard(pl.Callback):
    """Sees the secret on the worker, and says it where it must not be kept."""

    def __init__(self, key):
        assert key == "{SECRET[:7]}" + "{SECRET[7:]}", key
        self.key = key

    def on_train_start(self, trainer, module):
        print("the key is", self.key)


def fit_twice(trainer, module, datamodule, ckpt_path=None, epochs=1):
    """A training function of one's own in place of trainer.fit."""
    trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path)
    open(os.path.join(trainer.default_root_dir, f"rank{{trainer.global_rank}}.txt"), "w").write(str(epochs))
'''


@pytest.fixture
def lab(home, monkeypatch) -> str:
    """`src/lab_e2e.py` beside where the command is typed, and a secret in `.env`."""
    module = write_own_code(home / "src" / "lab_e2e.py", monkeypatch)
    with (home / "src" / "lab_e2e.py").open("a") as file:
        file.write(GUARD)
    (home / ".env").write_text(f"LAB_API_KEY={SECRET}\n")
    return module


def kept(home: Path) -> dict[str, bytes]:
    """Return everything that was written under models and results."""
    return {
        str(file): file.read_bytes()
        for part in ("models", "results")
        for file in (home / part).rglob("*")
        if file.is_file()
    }


@pytest.mark.ray
@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_own_module_data_callback_and_script_run_on_two_ray_workers(home, lab, asp, ray_address):
    words = [
        *OWN(lab),
        f"callbacks.guard={{_target_: {lab}.Guard, key: '${{oc.env:LAB_API_KEY}}'}}",
        f"script={{_target_: {lab}.fit_twice, epochs: 3}}",
        "logger=csv",
        "resources=two_workers",
        f"site.address={ray_address}",
        "--json",
    ]
    done = asp("asp-launch", *words)
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout.splitlines()[-1])
    folder = Path(ended["folder"])
    assert ended["state"] == "finished"
    assert [(folder / f"rank{rank}.txt").read_text() for rank in (0, 1)] == ["3", "3"]
    assert len(list((folder / "csv").rglob("metrics.csv"))) == 1
    assert yaml.safe_load((folder / "config.yaml").read_text())["callbacks"]["guard"]["key"] == "${oc.env:LAB_API_KEY}"
    assert "the key is ***" in (folder / "train.log").read_text()
    leaks = [name for name, content in kept(home).items() if SECRET.encode() in content]
    assert leaks == []
    assert SECRET not in done.stdout + done.stderr
    with sqlite3.connect(home / "results" / "mlflow.db") as store:
        (status,) = store.execute("select status from runs").fetchone()
    assert status == "FINISHED"


@pytest.mark.e2e
def test_a_run_of_ones_own_repeats_from_its_record_and_is_a_parent(home, lab, asp):
    first = json.loads(asp("asp-launch", *OWN(lab), "--json").stdout.splitlines()[-1])
    again = asp("asp", "rerun", str(first["run_id"]), "--json")
    assert again.returncode == 0, again.stderr
    repeated = json.loads(again.stdout.splitlines()[-1])
    assert repeated["run_id"] > first["run_id"]
    assert repeated["metrics"]["val/loss"] == first["metrics"]["val/loss"]

    words = ["finetune", *OWN(lab)[1:], f"init_from=run:{first['run_id']}/last"]
    child = asp("asp-launch", *words, "--json")
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout.splitlines()[-1])["init_from"]["run_id"] == first["run_id"]
