"""A thousand real trials of the least training there is: the last ones cost what the first ones do."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.many_trials import quarters, sweep

TRIALS = 1000


@pytest.mark.e2e
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_neither_memory_nor_time_per_trial_grows_over_a_thousand_trials(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    taken = sweep(TRIALS, [], tmp_path)
    assert len(taken.ends) == TRIALS
    first, last = quarters(taken.efforts())
    assert last < 1.3 * first, taken.efforts()
    for name in ("driver", "desk", "trial workers, the largest"):
        sizes = taken.sizes(name)
        first, last = quarters(sizes)
        assert last < 1.15 * first, (name, sizes)
