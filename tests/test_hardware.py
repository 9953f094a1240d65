"""What a machine is asked for is there on each system that we speak of."""

from __future__ import annotations

import os

from asparagus.cli.main import run
from asparagus.hardware import cpus_here


def test_a_launch_is_planned_where_no_process_is_kept_to_some_cpus(home, monkeypatch, capsys):
    """As on macOS."""
    assert 1 <= cpus_here() <= (os.cpu_count() or 1)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cpus_here() == os.cpu_count()
    assert run("launch", ["experiment/digits", "--dry-run"]) == 0, capsys.readouterr().err
