"""The tutorial, typed as it stands, in an empty folder."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ASP
from tests.test_docs import FENCED, NAMED, ROOT

PAGE = ROOT / "docs/tutorial.md"
TYPED = re.compile(r"^\$ (.*)\n((?:[^$\n].*\n)*)", flags=re.MULTILINE)
"""A line of a reader, and what is shown of the answer."""


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_the_tutorial_goes_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASPARAGUS_HOME", str(tmp_path / "home"))
    steps = 0
    for block in FENCED.findall(PAGE.read_text()):
        if name := NAMED.match(block):
            (tmp_path / name[1]).write_text(block)
        for line, shown in TYPED.findall(block):
            said = answer(line, tmp_path)
            for words in begins_with(shown):
                assert words in said, line
            steps += 1
    assert steps > 15
    assert "run 3 finetune_seg" in answer("asp lineage 2", tmp_path)
    assert list((tmp_path / "home").glob("models/*/*/*/plots/*.html"))


def answer(line: str, folder: Path) -> str:
    """Type a line and return all that is printed; what shows a mistake ends with 2."""
    program, *words = shlex.split(line)
    done = subprocess.run([ASP / program, *words], cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == (2 if "optim.lrr" in line else 0), said
    return re.sub(r" +", " ", said)


def begins_with(shown: str) -> list[str]:
    """Return the first words of each line that is shown: what follows may be a time, or another processor's number."""
    return [" ".join(line.partition("...")[0].split()[:2]) for line in shown.splitlines()]
