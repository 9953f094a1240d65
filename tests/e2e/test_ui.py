"""`asp ui` opens the right store."""

from __future__ import annotations

import json
import os
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
        [str(ASP / "asp"), "ui", "--port", str(port)],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for_port(port, timeout=120)
        url = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(url) as page:
            assert b"<title>MLflow</title>" in page.read()
        with urllib.request.urlopen(f"{url}/api/2.0/mlflow/experiments/search?max_results=10") as answer:
            assert "Task001_Digits" in {found["name"] for found in json.load(answer)["experiments"]}
        again = asp("asp", "ui", "--port", str(port))
        assert again.returncode == 2
        assert f"asp ui --port {port + 1}" in again.stderr
    finally:
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        told, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"Open {url} (Ctrl-C ends it)" in told
    assert "Traceback" not in errors
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url)
