"""Whatever is killed, at whatever moment: one run, one record, nothing twice, and the weights of an undisturbed run.

The short form kills a few times; the long one (marker `slow`) twenty times each.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from asparagus.checkpoint.folder import manifests
from asparagus.checkpoint.transfer import read_weights
from asparagus.journal import JournalReader
from asparagus.record.store import RUN_ID, Store
from tests.conftest import ASP
from tests.helpers import free_port, living_in, start_mlflow

EPOCHS = 6
STEPS_PER_EPOCH = 23
WORDS = (
    *("experiment/digits", f"trainer.max_epochs={EPOCHS}", "trainer.log_every_n_steps=1", "--json"),
    "+callbacks.slow={_target_: tests.fakes.Slow, seconds: 0.03}",
)
ON_RAY = ("resources=one_worker",)
LONG, SHORT = 20, 1
pytestmark = [pytest.mark.e2e]


@pytest.fixture(autouse=True)
def _pythonpath(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def start(home, *words) -> subprocess.Popen[str]:
    """Start a launch in a session of its own: Ray's processes are in it, the recorder has one to itself."""
    command = [str(ASP / "asp-launch"), *WORDS, *words]
    return subprocess.Popen(
        command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(home, *words) -> dict:
    process = start(home, *words)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def processes() -> dict[int, tuple[int, str]]:
    """Every process with its parent and command line."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(entry.name)] = parent, (entry / "cmdline").read_text().replace("\0", " ")
        except (OSError, ValueError):
            continue
    return found


def below(pid: int) -> list[int]:
    """A process and all that it started."""
    every, found = processes(), [pid]
    for one in found:
        found += [child for child, (parent, _) in every.items() if parent == one]
    return found


def kill(pids) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def the_driver(process) -> None:
    kill([process.pid])


def driver_and_recorder(process) -> None:
    kill(below(process.pid))


def a_worker(process) -> None:
    """The worker that trains; if there is none at this moment, nothing is lost."""
    named = processes()
    kill([pid for pid in below(process.pid) if "ray::" in named.get(pid, (0, ""))[1]])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_root):
    """The weights and the history of each metric of a run that nobody disturbs."""
    return _undisturbed(tmp_path_factory.mktemp("undisturbed"), data_root)


@pytest.fixture(scope="module")
def undisturbed_on_ray(tmp_path_factory, data_root):
    """The same on a Ray worker: torch has one thread there, and adds up in another order."""
    return _undisturbed(tmp_path_factory.mktemp("undisturbed_on_ray"), data_root, *ON_RAY)


def _undisturbed(home, data_root, *words):
    with living_in(home, data_root), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        outcome = finish(home, *words)
    return weights(outcome), histories(Store(f"sqlite:///{home}/results/mlflow.db"), outcome["mlflow_run_id"])


def weights(outcome) -> dict[str, torch.Tensor]:
    folder = Path(outcome["folder"]) / "checkpoints"
    return read_weights(folder / manifests(folder)[-1].name)


def histories(store, mlflow_run_id) -> dict[str, list[tuple[int, float]]]:
    run = store.client.get_run(mlflow_run_id)
    return {
        key: [(point.step, point.value) for point in store.client.get_metric_history(mlflow_run_id, key)]
        for key in run.data.metrics
        if not key.startswith("system/")  # of the machine, which is otherwise each time
    }


def must_be_whole(home, store, outcome, undisturbed) -> None:
    """Check the books after a storm."""
    expected, expected_histories = undisturbed
    runs = [run for run in store.client.search_runs(["1"], run_view_type=3) if run.data.tags.get(RUN_ID)]
    assert [run.data.tags[RUN_ID] for run in runs] == ["1"]
    assert runs[0].info.status == "FINISHED"
    assert outcome["run_id"] == 1
    assert outcome["metrics"]
    assert [path.name for path in (home / "models/.asparagus/runs").glob("*.json")] == ["1.json"]
    assert histories(store, outcome["mlflow_run_id"]) == expected_histories
    for name, weight in weights(outcome).items():
        assert torch.equal(weight, expected[name]), name
    events = JournalReader(Path(outcome["folder"]) / "journal.jsonl").read()
    trained = Counter(event["epoch"] for event in events if event["kind"] == "epoch")
    starts = [event["epoch"] for event in events if event["kind"] == "start"]
    assert set(trained) == set(range(EPOCHS))
    assert starts == sorted(starts)  # no attempt went back further than its own last checkpoint
    assert all(count <= 2 for count in trained.values()), trained


def storm(home, strike, words, after, rng) -> dict:
    """Strike once at a random moment of a launch, then launch again; returns the outcome."""
    process = start(home, *words)
    time.sleep(rng.uniform(*after))
    strike(process)
    out, err = process.communicate(timeout=200)
    if process.returncode == 0:  # it had finished, or went on by itself
        return json.loads(out.splitlines()[-1])
    # 2: the server was away when it began. 1: Ray's core ends the driver when every process of Ray's is lost at once.
    assert process.returncode in (-9, 1, 2, 3), err
    return finish(home, *words)


def rounds(kind: str, count: int, short: int = SHORT) -> list:
    names = [f"{kind}-{number}" for number in range(count)]
    return [pytest.param(name, marks=[pytest.mark.slow] if names.index(name) >= short else []) for name in names]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", rounds("driver", LONG))
def test_a_driver_that_is_killed_at_any_moment(home, seed, undisturbed):
    outcome = storm(home, the_driver, (), (0.3, 11), random.Random(seed))
    must_be_whole(home, Store(f"sqlite:///{home}/results/mlflow.db"), outcome, undisturbed)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", rounds("all", LONG, 0))
def test_driver_and_recorder_killed_together(home, seed, undisturbed):
    outcome = storm(home, driver_and_recorder, (), (0.3, 11), random.Random(seed))
    must_be_whole(home, Store(f"sqlite:///{home}/results/mlflow.db"), outcome, undisturbed)


def test_all_killed_when_only_the_record_is_not_at_its_end(home, undisturbed):
    """The narrowest of moments: the folder says that the run has finished, the tracking store that it runs."""
    process, state = start(home), home / "models/Task001_Digits/train_cls/run_id=1/run.json"
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.05)
    named = processes()
    (recorder,) = [pid for pid in below(process.pid) if "asparagus.record.writer" in named.get(pid, (0, ""))[1]]
    while '"finished"' not in state.read_text(encoding="utf-8"):
        assert process.poll() is None
        time.sleep(0.002)
    kill([recorder])
    driver_and_recorder(process)
    process.wait()
    store = Store(f"sqlite:///{home}/results/mlflow.db")
    assert store.client.get_run(json.loads(state.read_text(encoding="utf-8"))["mlflow_run_id"]).info.status == "RUNNING"
    must_be_whole(home, store, finish(home), undisturbed)


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", rounds("worker", LONG, 0))
def test_a_worker_that_is_killed_at_any_moment(home, seed, undisturbed_on_ray):
    outcome = storm(home, a_worker, ON_RAY, (6, 16), random.Random(seed))
    must_be_whole(home, Store(f"sqlite:///{home}/results/mlflow.db"), outcome, undisturbed_on_ray)


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", rounds("session", LONG, 0))
def test_driver_ray_and_recorder_killed_together(home, seed, undisturbed_on_ray):
    outcome = storm(home, driver_and_recorder, ON_RAY, (0.3, 18), random.Random(seed))
    must_be_whole(home, Store(f"sqlite:///{home}/results/mlflow.db"), outcome, undisturbed_on_ray)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", rounds("server", LONG, 0))
def test_a_tracking_server_that_is_killed_at_any_moment(home, seed, undisturbed, monkeypatch):
    port, folder = free_port(), home / "server"
    folder.mkdir()
    servers = [start_mlflow(folder, port)]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")

    def strike(_):
        os.killpg(servers[-1].pid, signal.SIGKILL)
        servers[-1].wait()
        servers.append(start_mlflow(folder, port))

    try:
        outcome = storm(home, strike, (), (0.3, 11), random.Random(seed))
        must_be_whole(home, Store(f"http://127.0.0.1:{port}"), outcome, undisturbed)
    finally:
        os.killpg(servers[-1].pid, signal.SIGKILL)
        servers[-1].wait()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", ["one"])
def test_twenty_kills_in_one_training(home, asp, seed):
    """Workers, nodes and the driver, one after the other, at steps drawn at random."""
    rng, words = random.Random(seed), ("resources.workers=2", "data.batch_size=16")
    kinds = [*["kill_worker"] * 10, *["kill_node"] * 5, *["kill_driver"] * 5]
    rng.shuffle(kinds)
    steps = sorted(rng.sample(range(2, EPOCHS * STEPS_PER_EPOCH), len(kinds)))
    faults = ",".join(f"{kind}@step={step}" for kind, step in zip(kinds, steps, strict=True))
    expected = finish(home, *words)
    done = asp("asp-launch", *WORDS, *words, "run.max_failures=50", f"rehearse={faults}", timeout=3000)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert len(report["costs"]) == LONG
    assert report["launches"] == 6
    rehearsed = Path(report["folder"])
    (folder,) = rehearsed.glob("models/*/*/run_id=*")
    trained = weights({"folder": folder})
    for name, weight in weights(expected).items():
        assert torch.equal(weight, trained[name]), name
    store = Store(f"sqlite:///{rehearsed}/results/mlflow.db")
    found = histories(store, store.run_of(1).info.run_id)
    undisturbed_ones = histories(Store(f"sqlite:///{home}/results/mlflow.db"), expected["mlflow_run_id"])
    for one in (found, undisturbed_ones):  # an epoch that was left in its middle has the mean of what was left of it
        del one["train/loss_epoch"]
    assert found == undisturbed_ones
