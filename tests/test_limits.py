"""What ends a sweep early, each by its own figure."""

from __future__ import annotations

import pytest

from asparagus.sweep.limits import CAPPED, HOPELESS, INTERRUPTED, Limits


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_time_counts_over_all_launches_and_only_while_it_runs():
    clock = Clock()
    limits = Limits(seconds=60, spent=(50.0, 0.0), clock=clock)
    clock.now += 9
    limits.look(list)
    assert limits.kind is None
    clock.now += 1
    limits.look(list)
    assert limits.kind == CAPPED
    assert limits.reason == "sweep.time: 60 s of 60 s are used"


def test_gpu_hours_count_every_gpu():
    clock = Clock()
    limits = Limits(gpu_seconds=3600, gpus=2, clock=clock)
    clock.now += 1000  # nothing is being trained yet
    limits.running(2)
    clock.now += 800
    limits.running(1)  # the other place stands empty
    clock.now += 199
    limits.look(list)
    assert limits.kind is None
    clock.now += 1
    limits.look(list)
    assert limits.reason == "sweep.gpu_hours: 1.00 of 1.00 hours are used"


def test_disk_counts_the_files_of_all_runs(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_bytes(b"x" * 600)
    clock = Clock()
    limits = Limits(disk_bytes=1000, clock=clock)
    limits.look(lambda: [tmp_path])
    assert limits.kind is None
    (tmp_path / "deep/b").write_bytes(b"x" * 400)
    clock.now += 60
    limits.look(lambda: [tmp_path])
    assert limits.kind == CAPPED
    assert "sweep.disk" in limits.reason


@pytest.mark.parametrize(("failures", "without_better", "kind"), [(2, 4, None), (3, 0, HOPELESS), (0, 5, CAPPED)])
def test_failures_and_no_progress(failures, without_better, kind):
    limits = Limits(max_failures=3, patience=5)
    limits.count(failures=failures, without_better=without_better)
    assert limits.kind == kind


def test_the_first_reason_counts():
    limits = Limits()
    limits.end(INTERRUPTED, "first")
    limits.end(CAPPED, "second")
    assert (limits.kind, limits.reason) == (INTERRUPTED, "first")
