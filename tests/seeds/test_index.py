"""Each behaviour that a source system promises has a test that carries its number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = "\n".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
SMOOTHING = 33
"""`smoothing_window` came after the seed, and nothing of it is there yet."""
DONE = [
    *(f"a{number}" for number in range(1, 52)),
    *(f"b{number}" for number in range(1, 44)),
    *(f"c{number}" for number in range(1, 31)),
    *(f"d{number}" for number in range(1, 33)),
    *(f"e{number}" for number in range(1, 47) if number != SMOOTHING),
]
"""The numbers of experiment files, runs and their record, things of one's own, and of the training library so far."""


@pytest.mark.parametrize("number", DONE)
def test_a_number_has_its_test(number):
    is_test, is_row = (
        rf"def test_(a\d+_)?{number}_",
        rf'^    "{number} [a-z]',
    )  # of a table of rows, each with its number
    assert re.search(f"{is_test}|{is_row}", TESTS, re.MULTILINE), f"no test begins with test_{number}_"
