"""The house rules of STYLE, held by machine: layers, sizes, docstrings, and what may not stand in a room."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "asparagus"
MODULES = sorted(PACKAGE.rglob("*.py"))
TREES = {module: ast.parse(module.read_text()) for module in MODULES}
NAMES = [str(module.relative_to(ROOT)) for module in MODULES]

MEDIAN_LINES, P90_LINES, MOST_LINES = 10, 35, 60
MODULE_LINES = 400
GRAB_BAGS = {"util", "utils", "helper", "helpers", "common", "misc"}
MACHINE = re.compile(r"/(root|work|home|Users|mnt|scratch)/")


def functions() -> Iterator[tuple[int, str]]:
    """Lines of each function, from `def` to its end, and where it is."""
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                yield lines, f"{module.relative_to(ROOT)}:{node.lineno} {node.name}"


def test_imports_keep_every_contract_of_the_corridor():
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([str(linter), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken." in done.stdout


@pytest.mark.parametrize("module", MODULES, ids=NAMES)
def test_a_module_says_in_its_first_line_what_lives_there(module):
    text = ast.get_docstring(TREES[module]) or ""
    first = text.partition("\n")[0]
    assert first.endswith("."), f"the first line is no sentence: {first!r}"
    assert len(first.split()) >= 3, f"the first line says too little: {first!r}"


def test_functions_are_short():
    lengths = [lines for lines, _ in functions()]
    assert len(lengths) > 100, "the package was not found"
    assert statistics.median(lengths) <= MEDIAN_LINES
    assert statistics.quantiles(lengths, n=10)[-1] <= P90_LINES


def test_no_function_is_an_event():
    assert [where for lines, where in functions() if lines > MOST_LINES] == []


def test_no_module_has_swelled():
    lengths = {name: len(module.read_text().splitlines()) for name, module in zip(NAMES, MODULES, strict=True)}
    assert {name: lines for name, lines in lengths.items() if lines > MODULE_LINES} == {}


def test_only_the_commands_print():
    found = [
        f"{module.relative_to(ROOT)}:{node.lineno}"
        for module, tree in TREES.items()
        if module.parent != PACKAGE / "cli"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert found == []


def test_no_module_is_a_grab_bag():
    assert [name for name, module in zip(NAMES, MODULES, strict=True) if GRAB_BAGS & set(module.parts)] == []
    assert [name for name, module in zip(NAMES, MODULES, strict=True) if module.stem in GRAB_BAGS] == []


@pytest.mark.parametrize("folder", ["configs", "launch"])
def test_what_and_where_are_said_without_code(folder):
    assert list((ROOT / folder).rglob("*.yaml")), f"{folder} was not found"
    assert list((ROOT / folder).rglob("*.py")) == []


def test_the_package_names_no_machine():
    found = [
        f"{module.relative_to(ROOT)}:{number}: {line.strip()}"
        for module in MODULES
        for number, line in enumerate(module.read_text().splitlines(), start=1)
        if MACHINE.search(line)
    ]
    assert found == []
