"""The limits on what can be counted: each is held somewhere, and what has grown is told so that it can be found."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.counts import LIMITS, LOOK_S, watched, within

SLEEPING = [sys.executable, "-c", "import time; time.sleep(30)"]


def test_what_has_grown_is_named_with_what_it_was_what_it_is_made_of_and_where_to_look():
    within("files per checkpoint", 2)
    said = r"files per checkpoint: 3, it was 2 and may be 2\. Look at asparagus/checkpoint/folder\.py\na\nb\nc"
    with pytest.raises(AssertionError, match=said):
        within("files per checkpoint", 3, "a\nb\nc")


def test_every_limit_is_held_by_a_test():
    sources = "".join(file.read_text() for file in Path(__file__).parent.rglob("test_*.py"))
    by_command = "modules imported by asp-launch "
    assert [what for what in LIMITS if f'within("{what}"' not in sources and not what.startswith(by_command)] == []
    assert f'within(f"{by_command}' in sources


def test_processes_are_counted_by_kind_and_those_of_others_are_not():
    earlier = subprocess.Popen([*SLEEPING, "asparagus.record.writer"])
    with watched() as seen:
        ours = [subprocess.Popen([*SLEEPING, name]) for name in ("asparagus.record.writer", "ray::Trial", "ray::IDLE")]
        end = time.monotonic() + 60
        while len(seen.commands) < len(ours) and time.monotonic() < end:
            time.sleep(LOOK_S)
    for process in (earlier, *ours):
        process.kill()
        process.wait()
    assert seen.counted() == {"recorder": 1, "trials": 1}
    assert seen.told("trials").endswith("ray::Trial")
