"""Sweeps where much goes on at once: machines come and go, trials pause, eight of them write, others look in."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from asparagus.checkpoint.folder import manifests
from asparagus.journal import JournalReader
from asparagus.record.store import TAG
from tests.conftest import ASP
from tests.e2e.test_exactly_once import below, histories, kill, processes
from tests.e2e.test_sweeps import children_of, runs_of, start, states, store_of, study_of
from tests.helpers import free_port, living_in, wait_for_port
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
    epochs, trials = 9, 8
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
        nodes.add(cpus=2)
        nodes.wait_for(2)
        outcome = finished(process)
    assert at_once(home) == 3  # the one that came is larger
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


# Eight at a time, and who looks in meanwhile -------------------------------------------------------------------------


@contextmanager
def dashboard(url: str, folder: Path):
    """Have Optuna's own dashboard over a study for a while; yields what asks it for a path of its API."""
    port = free_port()
    command = [str(ASP / "optuna-dashboard"), url, "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "dashboard.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def ask(path: str) -> dict:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=60) as answer:
            return json.load(answer)

    try:
        wait_for_port(port, 90)
        yield ask
    finally:
        process.terminate()
        process.wait(timeout=30)


def optuna_says(*words: str) -> list[dict]:
    command = [str(ASP / "optuna"), *words, "-f", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)


def looked_at(url: str, folder: Path) -> dict:
    """What Optuna's dashboard and command show of a study at this moment."""
    with dashboard(url, folder) as ask:
        (found,) = ask("studies")["study_summaries"]
        shown = ask(f"studies/{found['study_id']}?after=0")
    (summary,) = optuna_says("studies", "--storage", url)
    trials = optuna_says("trials", "--storage", url, "--study-name", found["study_name"])
    return {"name": found["study_name"], "dashboard": shown, "summary": summary, "trials": trials}


@pytest.fixture(scope="module")
def crowd(tmp_path_factory, data_root):
    """A sweep of eight trials, all at once, that others look into while it runs and when it is over."""
    home = tmp_path_factory.mktemp("crowd")
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as session,
        living_in(home, data_root),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        patch.setenv("RAY_TMPDIR", session)  # its logs are all its own
        gate = home / "gate"
        gate.mkdir()
        process = start(
            home, *SWEEP, "sweep.trials=8", "sweep.concurrency=8", "site.cpus_per_node=8",
            "trainer.max_epochs=4", "trainer.log_every_n_steps=1",
            f"+callbacks.hold={{_target_: tests.fakes.Hold, folder: {gate}, epoch: 1}}",
        )  # fmt: skip
        end = time.monotonic() + 400
        while len(list(gate.iterdir())) < 8:  # all eight are there at one moment, in processes of their own
            assert time.monotonic() < end
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        url = f"sqlite:///{next((home / 'models').glob('*/sweep/*/study.db'))}"
        meanwhile = looked_at(url, home)
        (gate / "go").touch()
        outcome = finished(process)
        logs = {
            str(file): file.read_text(errors="replace")
            for place in (Path(session), home)
            for file in place.rglob("*")
            if file.is_file() and file.suffix in {".log", ".err", ".out"}
        }
        yield {
            "home": home,
            "outcome": outcome,
            "meanwhile": meanwhile,
            "afterwards": looked_at(url, home),
            "logs": logs,
        }


def test_eight_trials_at_once_lose_no_metric_to_the_embedded_store(crowd):
    store = store_of(crowd["home"])
    children = children_of(store, crowd["outcome"]["sweep_id"])
    assert Counter(run.info.status for run in children) == {"FINISHED": 8}
    for run in children:
        events = JournalReader(Path(run.data.tags[f"{TAG}folder"]) / "journal.jsonl").read()
        measured = {
            (key, event["step"]): value
            for event in events
            if event["kind"] == "metrics"
            for key, value in {**event["values"], "epoch": float(event["epoch"])}.items()
        }
        assert {event["epoch"] for event in events if event["kind"] == "epoch"} == {0, 1, 2, 3}
        told = {
            (key, step): value
            for key, points in histories(store, run.info.run_id).items()
            for step, value in points
            if not key.startswith("system/")
        }
        assert len(measured) > 4 * 20
        assert told.keys() == measured.keys()
        assert [key for key in told if not math.isclose(told[key], measured[key])] == []


def test_no_log_of_eight_trials_at_once_speaks_of_a_locked_database(crowd):
    assert any("worker-" in name for name in crowd["logs"])  # Ray's own logs were read
    locked = [name for name, text in crowd["logs"].items() if "is locked" in text]
    assert locked == []


def test_optunas_dashboard_and_command_open_the_study_while_the_sweep_runs(crowd):
    seen = crowd["meanwhile"]
    assert seen["name"].startswith("sweep-1-")
    assert seen["summary"]["name"] == seen["name"]
    shown = seen["dashboard"]["trials"]
    assert len(shown) == len(seen["trials"]) == 8
    assert [trial["state"] for trial in shown] == ["Running"] * 8
    assert [len(trial["intermediate_values"]) for trial in shown] == [1] * 8
    assert {param["name"] for trial in shown for param in trial["params"]} == {"optim.lr"}


def test_optunas_dashboard_and_command_open_the_study_of_a_finished_sweep(crowd):
    seen = crowd["afterwards"]
    shown = seen["dashboard"]["trials"]
    assert [trial["state"] for trial in shown] == ["Complete"] * 8
    assert [trial["state"] for trial in seen["trials"]] == ["COMPLETE"] * 8
    values = {trial["number"]: trial["values"][0] for trial in shown}
    assert values == {trial["number"]: trial["values"][0] for trial in crowd["outcome"]["trials"]}
    assert seen["dashboard"]["directions"] == ["maximize"]


# Trials with workers of their own that pause -------------------------------------------------------------------------

NESTED = ("experiment/digits", "-m", "resources=two_workers", "--json", "site=cluster")


def starts(folder) -> list[int]:
    """The epochs that the attempts of a run began with."""
    events = JournalReader(Path(folder) / "journal.jsonl").read()
    return [event["epoch"] for event in events if event["kind"] == "start"]


@pytest.fixture
def five_cpus(home):
    """A machine on which two trials of two workers each fit, and a CPU is left."""
    with cluster(home / "cluster") as nodes:
        nodes.add(cpus=5)
        nodes.wait_for(1)
        yield nodes
        assert nodes.reserved() == []
        assert nodes.free_cpus() == 5


def test_population_based_training_exploits_trials_with_workers_of_their_own(home, five_cpus):
    process = start(
        home, *NESTED, f"site.address={five_cpus.address}", SLOW, "optim.lr=interval(1e-3,1e-1)", "sweep.trials=3",
        "sweep.scheduler={name: pbt, perturbation_interval: 2, quantile_fraction: 0.34}", "trainer.max_epochs=5",
    )  # fmt: skip
    finished(process)
    assert states(study_of(home)) == {"COMPLETE": 3}
    exploits = sorted((home / "models").glob("*/train_cls/*/exploit.json"))
    assert exploits
    for file in exploits:
        noted = json.loads(file.read_text())
        old, new = noted["optim"]["lr"]
        assert old != new
        place = file.parent / "checkpoints"
        last = manifests(place)[-1].name
        assert last != noted["after"]  # it was trained on
        state = torch.load(place / last / "checkpoint.ckpt", weights_only=True)
        assert state["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(new)
    runs = sorted((home / "models").glob("*/train_cls/run_id=*"))
    assert all({*itertools.chain(*attempts(run))} == set(range(5)) for run in runs)
    assert any(len(starts(run)) > 1 for run in runs)


def test_hyperband_pauses_trials_with_workers_of_their_own_and_they_go_on_from_their_state(home, five_cpus):
    process = start(
        home, *NESTED, f"site.address={five_cpus.address}", SLOW, "optim.lr=tag(log,interval(1e-5,1e-1))",
        "sweep.trials=6", "sweep.scheduler={name: hyperband, reduction_factor: 2}", "trainer.max_epochs=4",
    )  # fmt: skip  # a bracket of three that train to their end, and one where two of three go on after two epochs
    outcome = finished(process)
    counted = states(study_of(home))
    assert counted["COMPLETE"] + counted["PRUNED"] == 6 == counted.total()
    assert counted["PRUNED"] == 1
    assert outcome["best"]["state"] == "finished"
    runs = sorted((home / "models").glob("*/train_cls/run_id=*"))
    paused = [run for run in runs if len(starts(run)) > 1]
    assert paused
    for run in paused:
        began = starts(run)
        assert began == sorted(began), run
        assert began[1] >= 1  # from its state
        trained = Counter(itertools.chain(*attempts(run)))
        assert trained.total() <= len(trained) + len(began) - 1  # what a pause cuts off is trained again
    assert "RUNNING" not in {run.info.status for run in runs_of(store_of(home))}


# How many at a time, and how many in all -----------------------------------------------------------------------------


def at_once(home) -> int:
    """How many trainings there were at the moment when there were most."""
    moments = []
    for file in (home / "models").glob("*/train_cls/*/journal.jsonl"):
        spans: list[list[float]] = []
        for event in JournalReader(file).read():
            if event["kind"] == "start":
                spans.append([])
            spans[-1].append(event["time"])
        moments += [moment for span in spans for moment in ((span[0], 1), (span[-1], -1))]
    return max(itertools.accumulate(step for _, step in sorted(moments)))


@pytest.mark.parametrize("scheduler", ["pbt", "hyperband"])
def test_no_more_trials_are_trained_at_a_time_than_was_said_where_they_pause(home, scheduler):
    with cluster(home / "cluster") as nodes:
        nodes.add(cpus=5)
        nodes.wait_for(1)
        process = start(
            home, *SWEEP, SLOW, "sweep.trials=5", "sweep.concurrency=2", f"sweep.scheduler={scheduler}",
            "trainer.max_epochs=6", "site=cluster", f"site.address={nodes.address}",
        )  # fmt: skip
        finished(process)
    counted = states(study_of(home))
    assert counted["COMPLETE"] + counted["PRUNED"] == 5 == counted.total()
    assert at_once(home) == 2
    runs = sorted((home / "models").glob("*/train_cls/run_id=*"))
    assert any(len(starts(run)) > 1 for run in runs)  # some were put aside
    if scheduler == "pbt":
        assert list((home / "models").glob("*/train_cls/*/exploit.json"))


def test_a_sweep_is_extended_by_its_number(home):
    words = (*SWEEP, "sweep.sampler=random", "trainer.max_epochs=2")
    first = finished(start(home, *words, "sweep.trials=1"))
    more = finished(start(home, *words, "sweep.trials=3", f"sweep.resume={first['sweep_id']}"))
    assert more["sweep_id"] == first["sweep_id"]
    assert first["trials"][0]["run_id"] in {trial["run_id"] for trial in more["trials"]}
    assert states(study_of(home)) == {"COMPLETE": 3}
    store = store_of(home)
    assert len(children_of(store, first["sweep_id"])) == 3
    shown = finished(start(home, *words, "sweep.trials=3", f"sweep.resume={first['sweep_id']}"))
    assert [trial["number"] for trial in shown["trials"]] == [trial["number"] for trial in more["trials"]]
    assert len(runs_of(store)) == 4


def test_a_desk_that_is_killed_ends_the_launch_in_words_and_the_same_command_goes_on(home):
    words = (*SWEEP, SLOW, "sweep.trials=4", "trainer.max_epochs=4", "site.cpus_per_node=2")
    process = start(home, *words)
    wait_for_epochs(home, runs=2, epoch=1)
    named = processes()
    (desk,) = [pid for pid in below(process.pid) if "ray::Desk" in named.get(pid, (0, ""))[1]]
    kill([desk])
    _, err = process.communicate(timeout=180)
    assert process.returncode == 3, err[-3000:]
    assert "Traceback" not in err
    assert "the same command" in err
    outcome = finished(start(home, *words))
    assert states(study_of(home)) == {"COMPLETE": 4}
    store = store_of(home)
    assert Counter(run.info.status for run in children_of(store, outcome["sweep_id"])) == {"FINISHED": 4}
    assert {run.info.status for run in runs_of(store)} == {"FINISHED"}
    for run in (home / "models").glob("*/train_cls/run_id=*"):
        trained = Counter(itertools.chain(*attempts(run)))
        assert set(trained) == set(range(4))
        assert trained.total() <= 5
