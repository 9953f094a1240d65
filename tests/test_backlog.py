"""What was killed before the tracking store was told of a run's end: somebody tells it, and of nobody else's run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from asparagus.record.backlog import waiting
from asparagus.record.book import LOCK
from asparagus.record.numbers import claim, enter, find_folder
from asparagus.record.recorder import Recorder, RunRecord
from asparagus.record.run_folder import (
    FINISHED,
    RUNNING,
    RunFolder,
    create,
    left,
    read_state,
    write_json,
    write_state,
)
from asparagus.record.store import Store
from asparagus.spec import Paths, Spec
from asparagus.storage import holder
from asparagus.storage.holder import this_process

PATIENCE_S = 60.0


class Home:
    """A models folder and a store."""

    def __init__(self, at: Path) -> None:
        self.models, self.uri, self.artifacts = at / "models", f"sqlite:///{at}/mlflow.db", at / "artifacts"

    def recorder(self, uri: str = "") -> Recorder:
        return Recorder(uri or self.uri, self.artifacts, self.models)

    def begin(self, recorder: Recorder) -> RunFolder:
        """Begin a run as a launch does."""
        about = {"stage": "pretrain", "task": "T"}
        run_id = claim(self.models, about=about)
        enter(self.models, run_id, about)
        folder = create(self.models, Spec("pretrain", "T", paths=Paths(models=str(self.models))), run_id, "{}")
        record = RunRecord(run_id, "pretrain", "T", str(folder.path), f"pretrain-{run_id}", {})
        write_json(folder.record, record.to_dict())
        mlflow_run_id = recorder.open(record)
        write_state(folder, run_id=run_id, state=RUNNING, mlflow_run_id=mlflow_run_id, attempt=1)
        return folder

    def status(self, folder: RunFolder) -> tuple[str, str]:
        run = Store(self.uri).client.get_run(read_state(folder)["mlflow_run_id"])
        return run.info.status, run.data.tags["asparagus.state"]

    @property
    def waiting(self) -> list[int]:
        return waiting(self.models, self.uri)


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path)


def killed(home: Home, state: str) -> RunFolder:
    """A run whose driver and recorder were killed when its folder said this."""
    with home.recorder() as recorder:
        folder = home.begin(recorder)
        write_state(folder, **{**read_state(folder), "state": state})
        write_json(folder.driver, {**this_process(), "pid": gone()})
        recorder._process.kill()
    assert home.status(folder) == ("RUNNING", "running")
    assert home.waiting == [1]
    return folder


@pytest.mark.parametrize(
    ("state", "known"),
    [
        ("finished", ("FINISHED", "finished")),
        pytest.param("pruned", ("KILLED", "pruned"), marks=pytest.mark.slow),
        (RUNNING, ("KILLED", "interrupted")),
    ],
)
def test_the_next_run_that_is_recorded_tells_of_one_that_was_killed(home, state, known):
    folder = killed(home, state)
    with home.recorder() as recorder:
        other = home.begin(recorder)
        until = time.monotonic() + PATIENCE_S
        while 1 in home.waiting and time.monotonic() < until:
            time.sleep(0.1)
        assert home.waiting == [2]
        recorder.close(2, state=FINISHED)
    assert home.waiting == []
    assert home.status(folder) == known
    assert read_state(folder)["state"] == known[1]
    assert home.status(other)[0] == "FINISHED"


def test_a_launch_that_shows_it_tells_of_it_at_once(home):
    folder = killed(home, FINISHED)
    with home.recorder() as recorder:
        assert recorder.complete([1]) == []
    assert home.status(folder) == ("FINISHED", "finished")


def test_a_recorder_that_outlives_its_driver_leaves_a_finished_run_finished(home, capfd):
    with home.recorder() as recorder:
        folder = home.begin(recorder)
        write_state(folder, **{**read_state(folder), "state": FINISHED})
    assert home.status(folder) == ("FINISHED", "finished")
    assert read_state(folder)["state"] == FINISHED
    assert "without a word" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_run_of_another_store_is_left_to_a_launch_with_that_one(home, tmp_path):
    folder = killed(home, FINISHED)
    other = f"sqlite:///{tmp_path}/other.db"
    with home.recorder(other) as recorder:
        assert recorder.complete([1]) == []
    assert not list(Store(other).runs())
    assert home.waiting == [1]
    assert home.status(folder)[0] == "RUNNING"


def test_a_run_that_cannot_begin_leaves_nothing_to_tell(home):
    with home.recorder() as recorder:
        folder = home.begin(recorder)
        record = RunRecord.from_dict(json.loads(folder.record.read_text(encoding="utf-8")))
        recorder.close(1, state=FINISHED)
        with pytest.raises(Exception, match="1 is taken"):
            recorder.open(record)
    assert home.waiting == []


def test_a_run_that_somebody_has_is_not_waited_for(home):
    killed(home, FINISHED)
    folder = RunFolder(find_folder(home.models, 1), "pretrain")
    for lock in (folder.lock, folder.path / LOCK):  # who trains it; who records it
        with FileLock(lock), home.recorder() as recorder:
            began = time.monotonic()
            (problem,) = recorder.complete([1])
            assert time.monotonic() - began < PATIENCE_S / 2
        assert problem.startswith("run 1: ")
        assert home.waiting == [1]


def test_what_cannot_be_told_of_one_run_does_not_end_the_record_of_another(home):
    folder = killed(home, RUNNING)
    folder.state.unlink()
    folder.state.mkdir()  # nobody can read it
    with home.recorder() as recorder:
        (problem,) = recorder.complete([1])
        assert "run 1: [Errno 21] Is a directory" in problem
        other = home.begin(recorder)
        time.sleep(2)  # it is tried meanwhile
        recorder.close(2, state=FINISHED)
    assert home.status(other)[0] == "FINISHED"


@pytest.mark.slow
def test_a_run_ended_when_it_gave_its_last_sign_of_life(home):
    folder = killed(home, RUNNING)
    friday = time.time() - 3 * 86_400
    os.utime(folder.state, (friday, friday))
    with home.recorder() as recorder:
        recorder.complete([1])
    ended = Store(home.uri).client.get_run(read_state(folder)["mlflow_run_id"]).info.end_time / 1000
    assert ended == pytest.approx(friday, abs=1)


def gone() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("who", "is_left"),
    [
        (lambda me: {**me, "pid": gone()}, True),
        (lambda me: me, False),
        (lambda me: {**me, "pid": gone(), "room": "pid:[1]"}, False),  # of another container
        (lambda me: {**me, "boot": "before", "pid": 1}, True),  # the machine was started anew
        (lambda me: {**me, "boot": "there", "host": "another"}, False),
        (lambda _: {}, False),
    ],
)
def test_only_a_run_whose_process_is_known_to_be_gone_is_anybodys_to_end(home, monkeypatch, who, is_left):
    me = {**this_process(), "machine": "m"}
    monkeypatch.setattr(holder, "this_process", lambda: me)
    folder = create(home.models, Spec("pretrain", "T", paths=Paths(models=str(home.models))), 1, "{}")
    write_state(folder, state=RUNNING)
    write_json(folder.driver, who(me))
    with left(folder) as found:
        assert found is is_left
    write_state(folder, state=FINISHED)
    with left(folder) as found:
        assert found
