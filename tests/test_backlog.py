"""What was killed before the tracking store was told of a run's end: somebody tells it, and of nobody else's run."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asparagus.record.numbers import claim, enter
from asparagus.record.recorder import Recorder, RunRecord
from asparagus.record.run_folder import (
    FINISHED,
    RUNNING,
    RunFolder,
    create,
    is_left,
    read_state,
    write_json,
    write_state,
)
from asparagus.record.store import Store
from asparagus.spec import Paths, Spec

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
    def waiting(self) -> list[str]:
        return sorted(path.name for path in (self.models / ".asparagus/backlog").iterdir())


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path)


def killed(home: Home, state: str) -> RunFolder:
    """A run whose driver and recorder were killed when its folder said this."""
    with home.recorder() as recorder:
        folder = home.begin(recorder)
        write_state(folder, **{**read_state(folder), "state": state})
        recorder._process.kill()
    assert home.status(folder) == ("RUNNING", "running")
    assert home.waiting == ["1"]
    return folder


@pytest.mark.parametrize(
    ("state", "known"),
    [("finished", ("FINISHED", "finished")), ("pruned", ("KILLED", "pruned")), (RUNNING, ("KILLED", "interrupted"))],
)
def test_the_next_run_that_is_recorded_tells_of_one_that_was_killed(home, state, known):
    folder = killed(home, state)
    with home.recorder() as recorder:
        other = home.begin(recorder)
        until = time.monotonic() + PATIENCE_S
        while "1" in home.waiting and time.monotonic() < until:
            time.sleep(0.1)
        assert home.waiting == ["2"]
        recorder.close(2, state=FINISHED)
    assert home.waiting == []
    assert home.status(folder) == known
    assert read_state(folder)["state"] == known[1]
    assert home.status(other)[0] == "FINISHED"


def test_a_launch_that_shows_it_tells_of_it_at_once(home):
    folder = killed(home, FINISHED)
    with home.recorder() as recorder:
        assert recorder.complete([1])
    assert home.status(folder) == ("FINISHED", "finished")


def test_a_recorder_that_outlives_its_driver_leaves_a_finished_run_finished(home, capfd):
    with home.recorder() as recorder:
        folder = home.begin(recorder)
        write_state(folder, **{**read_state(folder), "state": FINISHED})
    assert home.status(folder) == ("FINISHED", "finished")
    assert read_state(folder)["state"] == FINISHED
    assert "without a word" not in capfd.readouterr().err


def test_a_run_of_another_store_is_left_to_a_launch_with_that_one(home, tmp_path):
    folder = killed(home, FINISHED)
    other = f"sqlite:///{tmp_path}/other.db"
    with home.recorder(other) as recorder:
        assert not recorder.complete([1])
    assert not list(Store(other).runs())
    assert home.waiting == ["1"]
    assert home.status(folder)[0] == "RUNNING"


def test_a_run_that_cannot_begin_leaves_nothing_to_tell(home):
    with home.recorder() as recorder:
        folder = home.begin(recorder)
        record = RunRecord.from_dict(json.loads(folder.record.read_text(encoding="utf-8")))
        recorder.close(1, state=FINISHED)
        with pytest.raises(Exception, match="1 is taken"):
            recorder.open(record)
    assert home.waiting == []


def test_only_a_run_whose_process_is_known_to_be_gone_is_anybody_elses_to_end(home):
    folder = create(home.models, Spec("pretrain", "T", paths=Paths(models=str(home.models))), 1, "{}")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_state(folder, state=RUNNING)
    for holder, left in {
        f"{gone.pid}@{socket.gethostname()}": True,
        f"1@{socket.gethostname()}": False,
        f"{gone.pid}@another-host": False,
    }.items():
        folder.driver.write_text(holder, encoding="utf-8")
        assert is_left(folder) is left, holder
    write_state(folder, state=FINISHED)
    assert is_left(folder)
