"""What sweeps promise where much goes on at once: machines come and go, eight trials write, others look in meanwhile."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from pathlib import Path

import pytest

from asparagus.journal import JournalReader
from asparagus.record.store import TAG
from tests.e2e.test_sweeps import children_of, runs_of, start, states, store_of, study_of
from tests.sweep_cluster import cluster

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

SWEEP = ("experiment/digits", "-m", "resources=one_worker", "optim.lr=tag(log,interval(1e-3,1e-1))", "--json")
SLOW = "+callbacks.slow={_target_: tests.fakes.Slow, seconds: 0.05}"


@pytest.fixture(autouse=True)
def _pythonpath(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def finished(process, timeout=600) -> dict:
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err[-3000:]
    assert "Traceback" not in err
    return json.loads(out.splitlines()[-1])


def attempts(folder) -> list[list[int]]:
    """The epochs that each attempt of a run has trained."""
    found: list[list[int]] = []
    for event in JournalReader(Path(folder) / "journal.jsonl").read():
        if event["kind"] == "start":
            found.append([])
        if event["kind"] == "epoch":
            found[-1].append(event["epoch"])
    return found


def wait_for_epochs(home, runs: int, epoch: int, timeout: float = 180) -> None:
    """Wait until so many runs have trained that epoch."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        journals = (home / "models").glob("*/train_cls/*/journal.jsonl")
        if sum(any(epoch in epochs for epochs in attempts(file.parent)) for file in journals) >= runs:
            return
        time.sleep(0.2)
    raise TimeoutError(f"no {runs} runs have trained epoch {epoch}")


@pytest.mark.parametrize("loss", ["lose_its_raylet", "lose_its_power"])
def test_a_sweep_over_two_machines_outlives_one_and_uses_another_that_comes(home, loss):
    epochs, trials = 9, 6
    with cluster(home / "cluster") as nodes:
        nodes.add(cpus=1)
        nodes.wait_for(1)
        lost = nodes.add(cpus=1)
        nodes.wait_for(2)
        process = start(
            home, *SWEEP, SLOW, f"sweep.trials={trials}", f"trainer.max_epochs={epochs}", "run.max_failures=3",
            "sweep.scheduler={name: asha, grace_period: 6}", "site=cluster", f"site.address={nodes.address}",
        )  # fmt: skip
        wait_for_epochs(home, runs=2, epoch=1)
        getattr(lost, loss)()
        nodes.wait_for(1)
        nodes.add(cpus=1)
        nodes.wait_for(2)
        outcome = finished(process)
    counted = states(study_of(home))
    assert counted["COMPLETE"] + counted["PRUNED"] == trials == counted.total()
    store = store_of(home)
    children = children_of(store, outcome["sweep_id"])
    status = Counter(run.info.status for run in children)
    assert status == {"FINISHED": counted["COMPLETE"], **({"KILLED": counted["PRUNED"]} if counted["PRUNED"] else {})}
    assert "RUNNING" not in {run.info.status for run in runs_of(store)}
    trained = {run.data.tags[f"{TAG}run_id"]: attempts(run.data.tags[f"{TAG}folder"]) for run in children}
    again = {run_id: parts for run_id, parts in trained.items() if len(parts) > 1}
    assert again, "no trial was on the machine that was lost"
    for parts in again.values():
        assert parts[1][0] >= 1, parts  # from its checkpoint
        assert sum(map(len, parts)) <= len({*itertools.chain(*parts)}) + 1, parts  # at most one epoch is trained twice
