"""The first minutes: one command makes data that the next one trains on, and what is mistyped is answered."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import asparagus
from asparagus.cli.main import COMMANDS, USAGE, run
from asparagus.data import MAKERS
from asparagus.data.layout import read_task
from tests.conftest import ASP


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with nothing in it."""
    monkeypatch.setenv("ASPARAGUS_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("task", MAKERS)
def test_the_command_that_a_made_task_ends_with_is_ready_to_go(task, empty, capsys):
    assert run("data", ["make", task, "--cases", "8"]) == 0
    told = re.search(r"Next: asp-launch (.*)", capsys.readouterr().out)
    assert told
    assert run("launch", [*shlex.split(told[1]), "--dry-run"]) == 0
    assert re.search(rf"^task +{task}$", capsys.readouterr().out, re.MULTILINE)


def test_making_a_task_again_leaves_a_split_of_ones_own_alone(empty, capsys):
    assert run("data", ["make", "Task001_Digits", "--cases", "8"]) == 0
    split = empty / "data" / "Task001_Digits" / "split_80_20.json"
    split.write_text("[]")
    assert run("data", ["make", "Task001_Digits", "--cases", "8"]) == 0
    assert split.read_text() == "[]"


def test_a_task_that_is_there_is_taken_however_many_cases_are_asked_for(empty, capsys):
    folder = asparagus.make_task("Task001_Digits", cases=12)
    assert asparagus.make_task("Task001_Digits", cases=30) == folder, "a notebook after the command"
    assert run("data", ["make", "Task001_Digits"]) == 0, "the command after a notebook"
    assert read_task(empty / "data", "Task001_Digits").folder == folder
    assert len(list(folder.glob("**/*.pt"))) == 12
    assert run("data", ["make", "Task001_Digits", "--cases", "30"]) == 2
    assert "was made with cases=12" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["data", "mak"], "Did you mean 'make'"),
        (["data", "make"], "TASK is missing. Give one: asp data make Task001_Digits"),
        (["data", "make", "Task001_Digit"], "Did you mean 'Task001_Digits'"),
        (["launch", "experiment/digits"], "`asp data make Task001_Digits` builds it"),
        (["ui"], "Train something: asp-launch experiment/digits"),
        (["runs"], "Train something: asp-launch experiment/digits"),
    ],
)
def test_a_wrong_first_step_is_answered_with_the_right_one(words, answer, empty, capsys):
    assert run(words[0], words[1:]) == 2
    told = capsys.readouterr()
    assert answer in told.err
    assert "━" not in told.err + told.out, "a bar for what cannot begin"


def test_the_list_of_commands_is_a_table():
    shown = subprocess.run([str(ASP / "asp"), "--help"], capture_output=True, text=True, check=True).stdout
    rows = [line for line in shown.splitlines() if line.startswith("  ")]
    assert len(rows) == len(COMMANDS)
    assert USAGE.splitlines()[0] in shown
    assert len({len(row) - len(re.split(r"^  \S+ +", row)[1]) for row in rows}) == 1


@pytest.mark.ray
def test_a_ray_that_does_not_start_is_said_in_words(home):
    """A folder that is too long for a socket's path is one reason; a machine that is too busy is another."""
    long = home / ("x" * 90)
    long.mkdir()
    command = [str(ASP / "asp-launch"), "experiment/digits", "resources=one_worker"]
    done = subprocess.run(
        ["env", f"RAY_TMPDIR={long}", sys.executable, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "error: site: Ray does not start on this machine" in done.stderr
    assert "resources.workers=0" in done.stderr
    assert "Traceback" not in done.stderr
