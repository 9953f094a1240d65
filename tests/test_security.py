"""Nothing that comes from outside is run as code: files of weights, states, cases and configs that try it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asparagus.cli.main import run

ROOT = Path(__file__).parent.parent
DIGITS = "experiment/digits"
LOADERS = {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.fixture
def evil(home) -> tuple[Path, Path]:
    """A file of weights with code in it, and what that code would leave."""
    torch.save({"state_dict": Evil(home / "executed"), "epoch": 0, "global_step": 0}, home / "evil.ckpt")
    return home / "evil.ckpt", home / "executed"


def test_the_bait_is_real(evil):
    file, executed = evil
    torch.load(file, weights_only=False)
    assert executed.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("finetune_cls", "task=Task001_Digits", "model=mlp", "data=images", "init_from=file:{file}"),
        (DIGITS, "run.resume_from_checkpoint={file}"),
    ],
)
@pytest.mark.parametrize("ending", ["--check", ""])
def test_code_in_a_file_of_weights_is_not_run(words, ending, evil, capsys):
    file, executed = evil
    status = run("launch", [word.format(file=file) for word in (*words, ending) if word])
    assert status in {2, 3}
    said = capsys.readouterr()
    assert "evil.ckpt" in said.out + said.err
    assert not executed.exists()


@pytest.mark.slow
def test_a_checkpoint_of_our_own_that_was_exchanged_is_not_run(home):
    short = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1")
    assert run("launch", [DIGITS, *short]) == 0
    (file,) = home.glob("models/*/*/run_id=*/checkpoints/epoch=*/checkpoint.ckpt")
    torch.save(Evil(home / "executed"), file)
    run("launch", ["finetune_cls", "task=Task001_Digits", "model=mlp", "data=images", *short, "init_from=run:1/last"])
    run("launch", [DIGITS, *short[1:], "trainer.max_epochs=2"])
    assert not (home / "executed").exists()


def calls(file: Path) -> list[tuple[int, str, ast.Call]]:
    tree = ast.parse(file.read_text())
    return [(node.lineno, ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_no_line_of_ours_unpickles():
    found = []
    for file in (ROOT / "asparagus").rglob("*.py"):
        for line, name, call in calls(file):
            module, _, function = name.rpartition(".")
            safe = any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in call.keywords)
            if name == "torch.load" and not safe:
                found.append(f"{file}:{line}: torch.load without weights_only=True")
            if module in LOADERS and function in {"load", "loads", "Unpickler", "open"}:
                found.append(f"{file}:{line}: {name}")
            if name in {"yaml.load", "yaml.unsafe_load", "eval", "exec"} and "safe" not in ast.unparse(call):
                found.append(f"{file}:{line}: {name}")
    assert found == []


WAITING = """
import signal, sys, time
from asparagus.driver.wall_time import leaving_in_time
def asked(number, frame):
    print("asked to leave")
    sys.exit(0)
signal.signal(signal.SIGTERM, asked)
with leaving_in_time(1 / 3600):
    time.sleep(20)
print("not asked")
"""


def test_a_run_is_asked_to_leave_before_the_hours_of_its_site_are_over():
    done = subprocess.run([sys.executable, "-c", WAITING], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "asked to leave\n"
    assert "1 h" not in done.stderr
    assert "site.max_hours" in done.stderr
