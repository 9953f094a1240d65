"""`asp ui` opens the right store."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request

import pytest

from tests.conftest import ASP
from tests.helpers import free_port, wait_for_port

pytestmark = [pytest.mark.e2e]


def test_the_ui_serves_the_store_that_runs_are_recorded_in(home, asp):
    assert asp("asp-launch", "experiment/digits", "trainer.max_epochs=1").returncode == 0
    port = free_port()
    process = subprocess.Popen(
        [str(ASP / "asp"), "ui", "--port", str(port)], cwd=home, stdout=subprocess.PIPE, text=True
    )
    try:
        wait_for_port(port, timeout=60)
        url = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(url) as page:
            assert b"<title>MLflow</title>" in page.read()
        with urllib.request.urlopen(f"{url}/api/2.0/mlflow/experiments/search?max_results=10") as answer:
            assert "Task001_Digits" in {found["name"] for found in json.load(answer)["experiments"]}
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
