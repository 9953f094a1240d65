"""Each behaviour that a source system promises has a test that carries its number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = "\n".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
DONE = [
    *(f"a{number}" for number in [*range(1, 5), *range(15, 27), 29, 30, 33, *range(38, 52)]),
    *(f"b{number}" for number in range(1, 6)),
    *(f"c{number}" for number in range(1, 31)),
    *(f"d{number}" for number in [*range(1, 18), *range(26, 31)]),
    *("e1", "e2", "e3", "e4", "e11", "e19", "e31", "e32", "e46"),
    *("b12", "b17", "d18", "d19"),
    *("a31", "a36", "b8", "b13", "b14", "b15", "b16", "b18", "b19", "b21", "b22", "b27", "b28", "b29", "b30"),
    *(f"b{number}" for number in [6, 7, 9, 10, 11, 20, *range(23, 27), *range(31, 44)]),
    *(f"d{number}" for number in [*range(20, 26), 31, 32]),
    *("e7", "e15", "e16", "e17", "e24", "e25", "e28", "e29", "e30"),
]
"""The numbers of experiment files, runs and their record, things of one's own, and of the training library so far."""


@pytest.mark.parametrize("number", DONE)
def test_a_number_has_its_test(number):
    assert re.search(rf"def test_(a\d+_)?{number}_", TESTS), f"no test begins with test_{number}_"
