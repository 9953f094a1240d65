"""A tracking server that goes away in the middle of a run: nothing is lost, nothing is doubled."""

from __future__ import annotations

import os
import time

import pytest

from asparagus.journal import Journal
from asparagus.record.recorder import Recorder, RunRecord
from asparagus.record.run_folder import create
from asparagus.record.store import Store
from asparagus.spec import Paths, Spec
from tests.helpers import free_port, start_mlflow

pytestmark = [pytest.mark.e2e]


def test_what_is_logged_while_the_server_is_killed_arrives_when_it_is_back(tmp_path):
    port = free_port()
    server = start_mlflow(tmp_path, port)
    uri = f"http://127.0.0.1:{port}"
    folder = create(tmp_path, Spec("pretrain", "Task9_X", paths=Paths(models=str(tmp_path))), 1, "{}")
    record = RunRecord(1, "pretrain", "Task9_X", str(folder.path), "pretrain-1", {})
    try:
        with Recorder(uri, tmp_path, tmp_path) as recorder:
            mlflow_run_id = recorder.open(record)
            journal = Journal(folder.journal)
            journal.append("metrics", step=1, epoch=0, values={"loss": 1.0})
            time.sleep(1)
            os.killpg(server.pid, 9)
            server.wait()
            for step in range(2, 50):
                journal.append("metrics", step=step, epoch=0, values={"loss": 1.0 / step})
            time.sleep(1)
            server = start_mlflow(tmp_path, port)
            assert recorder.close(1, state="finished")
        points = Store(uri).client.get_metric_history(mlflow_run_id, "loss")
        assert [point.step for point in points] == list(range(1, 50))
    finally:
        os.killpg(server.pid, 9)
        server.wait()
