"""The logs of all ranks: found, read from the end, followed while they grow."""

from __future__ import annotations

import threading
import time

import pytest

from asparagus.attempts import begin_attempt, log_of
from asparagus.errors import RecordError
from asparagus.record.rank_logs import find_log, follow_log, rank_logs, read_log


def write(folder, attempt, rank, text):
    path = log_of(folder, attempt, rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_logs_are_listed_by_attempt_and_rank_as_numbers(tmp_path):
    for attempt, rank in ((10, 0), (2, 11), (2, 3)):
        write(tmp_path, attempt, rank, "")
    (tmp_path / "logs/attempt=2/rank=3.log.swp").touch()
    assert [(log.attempt, log.rank) for log in rank_logs(tmp_path)] == [(2, 3), (2, 11), (10, 0)]


def test_the_newest_attempt_that_has_the_rank_is_found(tmp_path):
    for attempt, rank in ((1, 0), (1, 1), (2, 0)):
        write(tmp_path, attempt, rank, f"{attempt} {rank}\n")
    assert read_log(find_log(tmp_path)) == ["2 0"]
    assert read_log(find_log(tmp_path, rank=1)) == ["1 1"]
    assert read_log(find_log(tmp_path, attempt=1)) == ["1 0"]


def test_a_rank_that_there_is_not_is_refused_with_those_that_there_are(tmp_path):
    for rank in (0, 1, 2, 5):
        write(tmp_path, 1, rank, "")
    with pytest.raises(RecordError, match=r"no log of rank 3 in attempt 1. There are: attempt 1: ranks 0-2, 5"):
        find_log(tmp_path, rank=3, attempt=1)
    with pytest.raises(RecordError, match="none; no worker has started yet"):
        find_log(tmp_path / "nothing")


@pytest.mark.parametrize("last", [0, 1, 3, 50_000])
def test_the_last_lines_are_those_of_the_whole(tmp_path, last):
    lines = [f"line {number} äöü" for number in range(20_000)]
    write(tmp_path, 1, 0, "\n".join(lines) + "\n")
    log = find_log(tmp_path)
    assert read_log(log, last=last) == (lines[-last:] if last else [])
    assert read_log(log) == lines


def test_a_growing_log_is_followed_to_its_end(tmp_path):
    write(tmp_path, 1, 0, "first\nhal")
    over = threading.Event()

    def go_on():
        time.sleep(0.5)
        with log_of(tmp_path, 1, 0).open("a") as file:
            file.write("f\nlast, without an end")
        over.set()

    thread = threading.Thread(target=go_on)
    thread.start()
    assert list(follow_log(find_log(tmp_path), over.is_set)) == ["first", "half", "last, without an end"]
    thread.join()


def test_attempts_are_counted_over_the_life_of_a_run(tmp_path):
    taken = []
    for _ in range(3):
        taken.append(begin_attempt(tmp_path))
        write(tmp_path, taken[-1], 0, "")
    assert taken == [1, 2, 3]
    assert [begin_attempt(tmp_path), begin_attempt(tmp_path)] == [4, 4]  # nobody has spoken in it
