from __future__ import annotations

import math

from asparagus.journal import Journal, JournalReader


def test_a_reader_sees_each_event_once_and_in_order(tmp_path):
    journal, reader = Journal(tmp_path / "j"), JournalReader(tmp_path / "j")
    journal.append("metrics", step=1, values={"loss": 0.5})
    journal.append("metrics", step=2, values={"loss": 0.25})
    assert [event["step"] for event in reader.read()] == [1, 2]
    journal.append("end", step=2)
    assert [event["kind"] for event in reader.read()] == ["end"]
    assert reader.read() == []


def test_a_reader_of_a_file_that_is_not_there_yet_waits(tmp_path):
    assert JournalReader(tmp_path / "none").read() == []


def test_half_a_line_is_left_until_it_is_whole(tmp_path):
    path = tmp_path / "j"
    reader = JournalReader(path)
    path.write_bytes(b'{"kind": "metrics", "step": 1}\n{"kind": "met')
    assert len(reader.read()) == 1
    with path.open("ab") as file:
        file.write(b'rics", "step": 2}\n')
    assert [event["step"] for event in reader.read()] == [2]


def test_a_writer_that_follows_a_killed_one_does_not_glue_its_line_to_the_torn_one(tmp_path):
    path = tmp_path / "j"
    path.write_bytes(b'{"kind": "metrics", "step": 1}\n{"kind": "metrics", "st')
    journal = Journal(path)
    journal.append("metrics", step=2)
    assert [event["step"] for event in JournalReader(path).read()] == [1, 2]


def test_nan_and_infinity_survive(tmp_path):
    journal = Journal(tmp_path / "j")
    journal.append("metrics", step=1, values={"a": math.nan, "b": math.inf})
    values = JournalReader(tmp_path / "j").read()[0]["values"]
    assert math.isnan(values["a"])
    assert values["b"] == math.inf


def test_metrics_wait_in_memory_and_a_flush_shows_them(tmp_path):
    journal, reader = Journal(tmp_path / "j"), JournalReader(tmp_path / "j")
    journal.append("metrics", flush=False, step=1)
    assert reader.read() == []
    journal.flush()
    assert len(reader.read()) == 1
