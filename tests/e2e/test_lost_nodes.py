"""Nodes that break, or are taken away with notice: the run goes on, on another one. On a cluster of two nodes."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from asparagus.checkpoint.folder import manifests
from asparagus.faults.nodes import ray_nodes
from asparagus.journal import JournalReader
from tests.conftest import ASP

WORDS = ("experiment/digits", "trainer.max_epochs=4", "resources=one_worker", "--json", "site=cluster")
SLOW = "+callbacks.slow={_target_: tests.fakes.Slow, seconds: 0.2}"
pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def two_nodes(monkeypatch):
    """A Ray with a head, which the launch hangs on, and two nodes with a place each."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "0")
    with ray_nodes({"num_cpus": 0}, {"num_cpus": 1}, {"num_cpus": 1}) as cluster:
        yield cluster


def folder_of(home) -> Path:
    return home / "models/Task001_Digits/train_cls/run_id=1"


def test_a_node_whose_gpu_breaks_is_left_out(home, asp, two_nodes):
    broken = f"+callbacks.broken={{_target_: tests.fakes.RaiseOnce, kind: hardware, mark: {home}/struck, times: 2}}"
    done = asp("asp-launch", *WORDS, f"site.address={two_nodes.address}", broken, "failures.hardware=2", timeout=600)
    assert done.returncode == 0, done.stderr
    places = folder_of(home) / "post_mortem"
    first, second = (json.loads((places / f"attempt={number}/post_mortem.json").read_text()) for number in (1, 2))
    assert first["first"]["kind"] == second["first"]["kind"] == "hardware"
    assert first["first"]["node"] != second["first"]["node"]  # and the second is all that is left: it is tried again


def test_a_notice_that_a_node_is_taken_away_moves_the_run_to_the_other_one(home, two_nodes):
    command = [str(ASP / "asp-launch"), *WORDS, SLOW, f"site.address={two_nodes.address}"]
    process = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    reader, starts, steps = JournalReader(folder_of(home) / "journal.jsonl"), [], 0
    while steps < 5 and process.poll() is None:
        for event in reader.read():
            starts += [event] if event["kind"] == "start" else []
            steps += event["kind"] == "metrics"
        time.sleep(0.1)
    assert starts, process.communicate()
    node = two_nodes.of(starts[0]["pid"])
    drain = [
        "drain-node",
        f"--address={two_nodes.address}",
        f"--node-id={node.node_id}",
        "--reason=DRAIN_NODE_REASON_PREEMPTION",
    ]
    drain += ["--reason-message=spot", "--deadline-remaining-seconds=120"]
    subprocess.run([str(ASP / "ray"), *drain], check=True, capture_output=True)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    assert "preemption: a notice that nodes are taken away" in err
    assert "failures.preemption=100: try 1 of 100 more" in err
    starts += [event for event in reader.read() if event["kind"] == "start"]
    assert len(starts) == 2
    assert starts[1]["step"] > 0  # from the checkpoint that it wrote when it was told
    assert manifests(folder_of(home) / "checkpoints")[-1].epoch == 3
    assert json.loads(out.splitlines()[-1])["state"] == "finished"
