"""The benchmark as a tool: typed rows, goals in one place, parts that fail alone, figures that are never lost."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import A_PART_FAILED, DONE, main
from benchmarks.chart import SHOWN, bars
from benchmarks.figures import Measured, Row, Section, load, save
from benchmarks.goals import GOALS
from benchmarks.parts import PARTS, Part
from benchmarks.report import page, quoted_in

ROOT = Path(__file__).parent.parent
HERE = ROOT / "benchmarks"
GOOD = """
from benchmarks.figures import Measured, Row
def measure(asked):
    ours = Row("ours", 8.0, "s", "stock", 2.0, "launch on Ray")
    slow = Row("slow", 12.0, "s", "stock", 3.0, "launch on Ray")
    return Measured(f"quick: {asked.quick}, repeats: {asked.turns(3)}.", (Row("stock", 4.0, "s"), ours, slow))
"""
BAD = """
from benchmarks.commands import timed
def measure(asked):
    timed(["sh", "-c", "echo no disk >&2; exit 7"])
"""
BUGGY = """
def measure(asked):
    return {}["nothing"]
"""
DYING = """
import os
def measure(asked):
    os._exit(9)
"""
AWAY = """
from benchmarks.commands import LeftOut
def measure(asked):
    raise LeftOut("there is no GPU here")
"""


@pytest.fixture
def parts(tmp_path, monkeypatch) -> dict[str, Part]:
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in (("good", GOOD), ("bad", BAD), ("buggy", BUGGY), ("dying", DYING), ("away", AWAY)):
        (tmp_path / f"bench_{name}.py").write_text(code)
    made = [
        Part(name, f"bench_{name}", f"What {name} does", name, ("ray",))
        for name in ("bad", "good", "buggy", "dying", "away")
    ]
    return {part.name: part for part in made}


def old(part: str) -> Section:
    row = Row("old", 0.1, "s", goal="help")
    return Section(
        part, f"What {part} does", "before", "2020-01-01", "a machine", {"ray": "1"}, Measured("Old.", (row,))
    )


def test_a_part_that_fails_costs_no_other_its_figures_and_ends_with_3(parts, tmp_path, capfd):
    save(tmp_path, [old("bad"), old("good"), old("gone")])
    assert main(["--into", str(tmp_path)], parts) == A_PART_FAILED
    out = capfd.readouterr().out
    assert "ended with 7" in out
    assert "no disk" in out
    assert "KeyError: 'nothing'" in out
    assert "dying failed: its process ended with 9" in out
    assert "away is left out: there is no GPU here" in out
    assert "failed, see above: bad, buggy, dying." in out
    kept = {section.part: section for section in load(tmp_path)}
    assert list(kept) == ["bad", "good", "gone"]
    assert kept["bad"] == old("bad")
    assert kept["good"].measured.about == "quick: False, repeats: 3."
    assert kept["good"].versions.keys() == {"ray"}
    assert kept["good"].command == "python -m benchmarks --only good"  # and no folder of this machine
    written = (tmp_path / "RESULTS.md").read_text()
    assert "3 of 4 goals are met. Missed:\n\n- good: slow: 3.000x, the goal is <= 2.5x\n" in written
    assert "Not measured yet: away, buggy, dying." in written


def test_the_one_table_has_ratio_goal_and_verdict_of_what_was_measured_now(parts, tmp_path, capsys):
    save(tmp_path, [old("bad")])
    assert main(["--only", "good", "--into", str(tmp_path)], parts) == DONE
    table = capsys.readouterr().out.rpartition("| part ")[2]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    assert cells[1:] == [
        ["good", "ours", "8.00 s", "stock", "2.000x", "<= 2.5x", "met"],
        ["good", "slow", "12.00 s", "stock", "3.000x", "<= 2.5x", "**missed**"],
    ]
    assert [section.part for section in load(tmp_path)] == ["bad", "good"]


def test_quick_is_asked_for_and_changes_no_figure_that_is_kept(parts, capsys):
    before = {name: (HERE / name).read_bytes() for name in ("RESULTS.md", "figures.json")}
    assert main(["--quick", "--only", "good"], parts) == DONE
    assert "quick: True, repeats: 1." in capsys.readouterr().out
    assert {name: (HERE / name).read_bytes() for name in before} == before


def test_the_command_starts_a_part_and_says_what_is_left_out(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--only", "gpu", "--into", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == DONE, done.stderr
    assert "[1/1] gpu: " in done.stdout
    assert "gpu is left out: there is no GPU here." in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "good,god"], "'god'. Known: bad, good"),
        (["fast"], "fast"),
        (["--repeats", "0"], "'0' is no number from 1 on"),
    ],
)
def test_what_is_no_part_is_refused_with_those_that_are(words, said, parts, capsys):
    with pytest.raises(SystemExit) as end:
        main(words, parts)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_a_row_is_compared_or_not_and_its_goal_is_one_of_ours():
    with pytest.raises(ValueError, match="belong together"):
        Row("x", 1.0, "s", ratio=2.0)
    with pytest.raises(ValueError, match=r"no goal is called 'hlep'. Known: launch in-process"):
        Row("x", 1.0, "s", goal="hlep")
    assert (Row("x", 0.25, "s", goal="help").met, Row("x", 0.26, "s", goal="help").met) == (True, False)
    shares = [Row("x", 1.0, "s", "y", ratio, "patches").met for ratio in (0.96, 0.94)]
    assert shares == [True, False]


def test_the_page_of_results_is_what_the_kept_figures_say():
    assert (HERE / "RESULTS.md").read_text() == page(load(HERE), PARTS), "write it anew: make bench ONLY=..."
    assert {section.part for section in load(HERE)} <= PARTS.keys()
    readme = (ROOT / "README.md").read_text()
    assert readme == quoted_in(readme, load(HERE))
    assert "| asp-launch, in-process" in readme
    picture = (HERE / "figures.svg").read_text()
    drawn = [row for section in load(HERE) if section.part in SHOWN for row in bars(section)]
    assert [row.what for row in drawn if row.what not in picture or f">{row.value:.3g}<" not in picture] == []


def test_figures_that_nothing_is_compared_with_make_a_page_too():
    alone = Section("alone", "Alone", "", "", "", {}, Measured("One.", (Row("ours", 2.0, "s"),)))
    assert "| ours | 2.00 |" in page([alone], [])


def test_a_page_beside_the_folder_quotes_the_newest_figures_of_a_part(parts, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("above\n<!-- figures of good -->\nold\n<!-- end of figures -->\nbelow\n")
    assert main(["--only", "good", "--into", str(tmp_path / "figures")], parts) == DONE
    lines = readme.read_text().splitlines()
    assert (lines[:2], lines[-2:]) == (["above", "<!-- figures of good -->"], ["<!-- end of figures -->", "below"])
    assert "| ours " in readme.read_text()
    assert "old" not in lines


def test_every_part_has_its_function_and_every_goal_is_somebodys():
    sources = {file.stem: file.read_text() for file in HERE.glob("*.py")}
    for part in PARTS.values():
        tree = ast.parse(sources[part.module.removeprefix("benchmarks.")])
        assert part.function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, part
    texts = "".join(text for name, text in sources.items() if name != "goals")
    assert [goal for goal in GOALS if f'"{goal}"' not in texts] == []


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.e2e
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", PARTS)
def test_every_part_works_in_its_quick_form(part, tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", part, "--into", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == DONE, done.stdout[-3000:] + done.stderr[-3000:]
    (section,) = load(tmp_path)
    assert section.part == part
    assert section.measured.rows
    assert json.loads((tmp_path / "figures.json").read_text())[0]["title"] in (tmp_path / "RESULTS.md").read_text()
