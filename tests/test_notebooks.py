"""The notebooks of examples/ run from their first cell to their last, and so do the commands that stand in them."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

import asparagus
from tests.conftest import ASP

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(path for path in EXAMPLES.glob("*.py") if "# %%" in path.read_text())
COMMAND = re.compile(r"^# !(asp.*)$", re.MULTILINE)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with nothing in it, and figures that go nowhere."""
    monkeypatch.setenv("ASPARAGUS_HOME", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_cells(name: str) -> dict[str, Any]:
    """Run a notebook as a person does, and then its commands in a shell; returns its variables."""
    found = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    for line in COMMAND.findall((EXAMPLES / f"{name}.py").read_text()):
        program, *words = shlex.split(line.format(**found))
        done = subprocess.run([str(ASP / program), *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stderr)
        assert done.stdout or done.stderr
    return found


def test_each_notebook_is_run_here():
    mine = Path(__file__).read_text()
    assert len(NOTEBOOKS) == 3
    assert [path.stem for path in NOTEBOOKS if f'run_cells("{path.stem}")' not in mine] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_calls_is_there_and_what_it_launches_composes(path, empty):
    """The short form of running it."""
    text = path.read_text()
    for name in set(re.findall(r"\basparagus\.(\w+)", text)):
        assert name in asparagus.__all__, name
    for task in re.findall(r'make_task\("(\w+)"', text):
        asparagus.make_task(task, cases=8)
    for experiment in re.findall(r'"(experiment/(?!laurit_finetune)\w+)"', text):  # a finetune needs its parent
        assert asparagus.plan_of(experiment).describe()


@pytest.mark.e2e
def test_a_quick_look(empty, capsys):
    found = run_cells("quick_look")
    told = capsys.readouterr()
    assert "Did you mean 'lr'?" in told.out
    assert "###RUN-ID=1###" in told.err
    assert found["outcome"].metrics["val/accuracy"] > 0.8
    # The module has the best weights: what it says of a batch is as right as what was recorded.
    assert (found["predicted"] == found["batch"]["label"]).float().mean() > 0.8
    assert not found["module"].training
    assert [run.run_id for run in asparagus.runs()] == [1], "the command showed the run and trained no other"


@pytest.mark.e2e
def test_pretrain_finetune_and_lineage(empty, capsys):
    found = run_cells("pretrain_finetune_lineage")
    (parent,) = found["tree"].ancestors
    assert (parent.run.run_id, parent.kind) == (found["pretrained"].run_id, "init_from")
    out = capsys.readouterr().out
    assert f"└── {Path(parent.checkpoint).name} → run 2 finetune_seg Task997_LauritSynSeg · finished" in out
    assert (empty / "lineage.html").is_file()


@pytest.mark.e2e
@pytest.mark.ray
def test_a_sweep_and_its_plots(empty, capsys):
    found = run_cells("sweep_and_plots")
    outcome, study = found["outcome"], found["study"]
    assert len(outcome.trials) == len(study.trials) == found["TRIALS"]
    assert study.best_value == outcome.best["values"][0]
    assert Path(outcome.folder, "plots", "index.html").is_file()
    told = capsys.readouterr().err
    assert len(re.findall(r"^trial .* \d/6 ", told, re.MULTILINE)) == found["TRIALS"]


def test_what_is_not_there_is_said(home):
    for ask in (asparagus.load_run, asparagus.load_study, asparagus.metric_history):
        with pytest.raises(asparagus.AsparagusError, match="7"):
            ask(7)
    with pytest.raises(asparagus.AsparagusError, match="Did you mean 'Task001_Digits'"):
        asparagus.make_task("Task001_Digit")
    with pytest.raises(asparagus.AsparagusError, match="is not NAME, one of"):
        asparagus.runs(metrics=["val/loss"])
