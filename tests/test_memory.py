"""Cases are kept while their files are as they were, and while few folders are read."""

from __future__ import annotations

import os

from asparagus.data.memory import FOLDERS, Memory


def test_a_case_is_read_once_until_its_file_changes(tmp_path):
    file, read = tmp_path / "a.pt", []

    def load(path, kind):
        read.append((path, kind))
        return path.read_text()

    file.write_text("one")
    memory = Memory()
    assert [memory.get(file, "cls", load) for _ in range(3)] == ["one"] * 3
    assert read == [(file, "cls")]
    file.write_text("two")
    os.utime(file, ns=(1, 1))
    assert memory.get(file, "cls", load) == "two"
    assert memory.get(file, "seg", load) == "two"  # read in another way
    assert len(read) == 3


def test_only_the_last_folders_are_kept(tmp_path):
    read = []

    def load(path, kind):
        read.append(path)
        return len(read)

    memory = Memory()
    files = [tmp_path / str(number) / "a.pt" for number in range(FOLDERS + 1)]
    for file in files:
        file.parent.mkdir()
        file.touch()
        memory.get(file, "cls", load)
    memory.get(files[-1], "cls", load)
    assert len(read) == FOLDERS + 1
    memory.get(files[0], "cls", load)
    assert len(read) == FOLDERS + 2
