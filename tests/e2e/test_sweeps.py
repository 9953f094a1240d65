"""Sweeps as users run them: recorded, repeatable, never lost. Real Ray Tune, real Optuna storage, real MLflow store."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
import torch

from asparagus.checkpoint.folder import manifests
from asparagus.checkpoint.transfer import read_weights
from asparagus.journal import JournalReader
from asparagus.record.backlog import put_off
from asparagus.record.store import RUN_ID, TAG, Store
from asparagus.record.sweeps import best_run
from asparagus.record.timing import timing_of_sweep
from tests.conftest import ASP
from tests.counts import watched, within
from tests.e2e.test_exactly_once import below, kill, processes

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(900)]

SWEEP = ("experiment/digits", "-m", "trainer.max_epochs=3", "resources=one_worker", "--json")
SLOW = "+callbacks.slow={_target_: tests.fakes.Slow, seconds: 0.05}"
LONG = 10


@pytest.fixture(autouse=True)
def _pythonpath(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def launched(asp, *words, status=0):
    done = asp("asp-launch", *words, timeout=600)
    assert done.returncode == status, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]) if status == 0 else done


def study_of(home) -> optuna.Study:
    file = next((home / "models").glob("*/sweep/*/study.db"))
    return optuna.load_study(study_name=None, storage=f"sqlite:///{file}")


def states(study) -> Counter:
    return Counter(trial.state.name for trial in study.get_trials(deepcopy=False))


def store_of(home) -> Store:
    return Store(f"sqlite:///{home}/results/mlflow.db")


def runs_of(store) -> list:
    ids = [experiment.experiment_id for experiment in store.experiments()]
    return [run for run in store.client.search_runs(ids, max_results=5000) if run.data.tags.get(RUN_ID)]


def children_of(store, sweep_id) -> list:
    return [run for run in runs_of(store) if run.data.tags.get(f"{TAG}sweep_id") == str(sweep_id)]


def last_weights(folder) -> dict[str, torch.Tensor]:
    place = Path(folder) / "checkpoints"
    return read_weights(place / manifests(place)[-1].name)


def test_a_sweep_is_recorded_shown_extended_and_stood_upon(asp, home):
    words = (*SWEEP, "optim.lr=tag(log,interval(1e-3,1e-1))", "sweep.sampler=random")
    with watched() as seen:
        first = launched(asp, *words, "sweep.trials=2")
    within("processes of a sweep's trials, two at a time", seen.counted()["trials"], seen.told("trials"))

    store, sweep_id = store_of(home), first["sweep_id"]
    times = timing_of_sweep(home / "models", sweep_id)
    assert (len(times.trials), times.untold) == (2, 0)
    assert times.total.keys() >= {"record", "imports", "data", "first step", "steps", "checkpoints", "sweep"}
    children = children_of(store, sweep_id)
    assert [run.info.status for run in children] == ["FINISHED"] * 2
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {first["mlflow_run_id"]}
    assert states(study_of(home)) == {"COMPLETE": 2}
    assert {trial["run_id"] for trial in first["trials"]} == {int(run.data.tags[RUN_ID]) for run in children}
    best = max(first["trials"], key=lambda trial: trial["values"][0])
    assert first["best"]["values"] == best["values"]
    assert first["best"]["run_id"] == best_run(home / "models", sweep_id)
    parent = store.client.get_run(first["mlflow_run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["val/accuracy"] == pytest.approx(best["values"][0])
    plots = [file.path for file in store.client.list_artifacts(first["mlflow_run_id"], "plots")]
    assert "plots/index.html" in plots
    assert any(path.endswith(".png") for path in plots)

    # A trial is the run that is launched alone with its values, weight for weight.
    one = first["trials"][0]
    alone = launched(asp, *SWEEP[:1], *SWEEP[2:], f"optim.lr={one['params']['optim.lr']!r}", "run.resume=false")
    folder = next(run.data.tags[f"{TAG}folder"] for run in children if run.data.tags[RUN_ID] == str(one["run_id"]))
    expected = last_weights(alone["folder"])
    assert {
        name: torch.equal(weight, expected[name]) for name, weight in last_weights(folder).items()
    } == dict.fromkeys(expected, True)

    # The same again is shown, and recorded if that was cut off; more of it goes on, and never asks the same twice.
    cut_off = children[0].info.run_id
    store.client.update_run(cut_off, status="RUNNING")
    put_off(home / "models", int(children[0].data.tags[RUN_ID]), store.uri)
    assert launched(asp, *words, "sweep.trials=2")["sweep_id"] == sweep_id
    assert len(runs_of(store)) == 4
    assert store.client.get_run(cut_off).info.status == "FINISHED"
    more = launched(asp, *words, "sweep.trials=3")
    assert more["sweep_id"] == sweep_id
    assert len(more["trials"]) == 3
    assert len({trial["params"]["optim.lr"] for trial in more["trials"]}) == 3
    assert len(children_of(store, sweep_id)) == 3

    # A finetune stands on the best of it.
    plan = launched(
        asp, "finetune_cls", "task=Task001_Digits", "model=mlp", "data=images", f"init_from=sweep:{sweep_id}@best",
        "--dry-run", "--json",
    )  # fmt: skip
    assert plan["parent"]["run_id"] == more["best"]["run_id"]


def start(home, *words) -> subprocess.Popen:
    command = [str(ASP / "asp-launch"), *words]
    return subprocess.Popen(
        command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def the_driver(process) -> None:
    kill([process.pid])


def the_session(process) -> None:
    kill(below(process.pid))


def a_trial(process) -> None:
    """One of the processes that train; if there is none at this moment, nothing is lost."""
    named = processes()
    training = [pid for pid in below(process.pid) if "ray::Trial" in named.get(pid, (0, ""))[1]]
    training += [pid for pid in below(process.pid) if "ray::_Inner" in named.get(pid, (0, ""))[1]]
    kill(training[:1])


STRIKES = {"driver": the_driver, "session": the_session, "trial": a_trial}
ROUNDS = [
    pytest.param(kind, number, marks=[] if (kind, number) == ("session", 0) else [pytest.mark.slow])
    for kind in STRIKES
    for number in range(LONG)
]


@pytest.mark.parametrize(("kind", "number"), ROUNDS)
def test_a_sweep_that_is_killed_at_any_moment_is_whole_in_the_end(home, kind, number):
    trials = 16 if number else 4
    words = (*SWEEP, "optim.lr=tag(log,interval(1e-3,1e-1))", f"sweep.trials={trials}", SLOW)
    rng = random.Random(f"{kind}-{number}")
    process = start(home, *words)
    time.sleep(rng.uniform(6, 25) if number else 14)
    STRIKES[kind](process)
    out, err = process.communicate(timeout=300)
    assert process.returncode in (0, 1, 3, -9), err
    if process.returncode != 0:
        process = start(home, *words)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    outcome = json.loads(out.splitlines()[-1])
    assert "Traceback" not in err
    study, store = study_of(home), store_of(home)
    assert states(study) == {"COMPLETE": trials}
    children = children_of(store, outcome["sweep_id"])
    assert Counter(run.info.status for run in children) == {"FINISHED": trials}
    assert {run.info.status for run in runs_of(store)} == {"FINISHED"}
    for run in children:
        events = JournalReader(Path(run.data.tags[f"{TAG}folder"]) / "journal.jsonl").read()
        trained = Counter(event["epoch"] for event in events if event["kind"] == "epoch")
        assert set(trained) == {0, 1, 2}
        assert sum(trained.values()) <= 4, trained  # at most one epoch is trained twice


PIPELINE = """# @package _global_
pipeline:
  first: {config: experiment/digits, overrides: {trainer.max_epochs: 2}}
  second:
    config: finetune_cls
    overrides: {task: Task001_Digits, model: mlp, data: images, optim: adam, trainer.max_epochs: 2}
"""


@pytest.fixture
def pipeline(home):
    (home / "own/experiment").mkdir(parents=True)
    (home / "own/experiment/two.yaml").write_text(PIPELINE)
    return ("experiment/two", "-cd", str(home / "own"))


def test_a_pipeline_runs_its_stages_in_turn_and_goes_on_where_it_was_left(asp, pipeline):
    outcome = launched(asp, *pipeline, "--json")
    first, second = outcome["stages"]["first"], outcome["stages"]["second"]
    assert second["init_from"]["run_id"] == first["run_id"]
    assert outcome["run_id"] == second["run_id"]
    again = launched(asp, *pipeline, "--json", "second:optim.lr=1e-2")
    assert again["stages"]["first"]["run_id"] == first["run_id"]  # identical: shown, not repeated
    assert again["stages"]["second"]["run_id"] not in (first["run_id"], second["run_id"])


@pytest.mark.slow
def test_twelve_trials_over_three_pretrain_settings_pretrain_three_times(asp, home, pipeline):
    outcome = launched(
        asp, *pipeline, "-m", "first:optim.lr=1e-3,1e-2,3e-2", "second:optim.lr=1e-3,3e-3,1e-2,3e-2", "--json"
    )
    runs = runs_of(store_of(home))
    stages = Counter(run.data.tags[f"{TAG}stage"] for run in runs)
    assert stages == {"sweep": 1, "train_cls": 3, "finetune_cls": 12}
    parents = Counter(
        run.data.tags.get(f"{TAG}init_from.run_id") for run in runs if "finetune" in run.data.tags[f"{TAG}stage"]
    )
    assert sorted(parents.values()) == [4, 4, 4]
    assert outcome["best"]["values"][0] == max(trial["values"][0] for trial in outcome["trials"])


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_schedulers_stop_trials_and_optuna_hears_of_it(asp, home, scheduler):
    outcome = launched(
        asp, *SWEEP, "optim.lr=tag(log,interval(1e-5,1e-1))", f"sweep.scheduler={scheduler}", "sweep.trials=12",
        "trainer.max_epochs=9",
    )  # fmt: skip
    study = study_of(home)
    counted = states(study)
    assert counted["COMPLETE"] + counted["PRUNED"] == 12
    assert counted["PRUNED"] >= 1
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name == "PRUNED":
            assert 1 <= len(trial.intermediate_values) < 9
    assert outcome["best"]["state"] == "finished"
    assert "RUNNING" not in {run.info.status for run in runs_of(store_of(home))}


@pytest.mark.slow
def test_a_cap_leaves_no_trial_that_runs_for_ever_and_the_same_command_trains_nothing_more(asp, home):
    slow = "+callbacks.slow={_target_: tests.fakes.Slow, seconds: 0.1}"
    words = (*SWEEP, "optim.lr=interval(1e-3,1e-1)", "sweep.trials=50", "sweep.time=6s", "trainer.max_epochs=9", slow)
    outcome = launched(asp, *words)
    counted = states(study_of(home))
    assert set(counted) <= {"COMPLETE", "PRUNED"}
    assert counted["PRUNED"] >= 1
    children = children_of(store_of(home), outcome["sweep_id"])
    assert {run.info.status for run in children} <= {"FINISHED", "KILLED"}
    assert len(children) == counted.total()
    launched(asp, *words)
    assert states(study_of(home)) == counted


@pytest.mark.slow
def test_population_based_training_goes_on_from_better_states_with_mutated_rates(asp, home):
    launched(
        asp, *SWEEP, "optim.lr=interval(1e-3,1e-1)", "sweep.scheduler=pbt", "sweep.trials=4", "trainer.max_epochs=8"
    )
    exploits = [json.loads(file.read_text()) for file in (home / "models").glob("*/train_cls/*/exploit.json")]
    assert exploits
    for file in (home / "models").glob("*/train_cls/*/exploit.json"):
        told = json.loads(file.read_text())
        new = told["optim"]["lr"][1]
        place = file.parent / "checkpoints"
        state = torch.load(place / manifests(place)[-1].name / "checkpoint.ckpt", weights_only=True)
        assert state["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(new)
    assert states(study_of(home)) == {"COMPLETE": 4}


@pytest.mark.slow
def test_stopped_trials_with_workers_of_their_own_leave_no_places_behind(asp, home):
    outcome = launched(
        asp, "experiment/digits", "-m", "optim.lr=tag(log,interval(1e-5,1e-1))", "sweep.trials=5",
        "sweep.scheduler={name: asha, grace_period: 1, reduction_factor: 2}", "trainer.max_epochs=6",
        "resources=two_workers", "site.cpus_per_node=3", "--json",
    )  # fmt: skip
    counted = states(study_of(home))
    assert counted["COMPLETE"] + counted["PRUNED"] == 5
    assert counted["PRUNED"] >= 1
    assert len(outcome["trials"]) == 5


@pytest.mark.slow
def test_a_failing_trial_does_not_end_the_sweep_and_a_hopeless_one_ends_early(asp, home):
    outcome = launched(
        asp, *SWEEP, "optim.lr=1e-3,1e-2", "sweep.concurrency=1",
        f"+callbacks.fuse={{_target_: tests.fakes.Fuse, epoch: 1, mark: {home}/fuse}}",
    )  # fmt: skip
    assert Counter(trial["state"] for trial in outcome["trials"]) == {"failed": 1, "finished": 1}
    failed = [run for run in runs_of(store_of(home)) if run.info.status == "FAILED"]
    assert len(failed) == 1
    log = Path(failed[0].data.tags[f"{TAG}folder"]) / "train_cls.log"
    assert "the fuse has blown" in log.read_text()
    done = launched(
        asp, *SWEEP, "optim.lr=1e-3,2e-3,3e-3,4e-3,5e-3,6e-3,7e-3,8e-3", "+callbacks.boom={_target_: tests.fakes.Boom}",
        "sweep.max_failures=3", status=3,
    )  # fmt: skip
    assert "sweep.max_failures: 3 trials have failed" in done.stderr


@pytest.mark.slow
def test_a_metric_that_is_never_reported_ends_the_sweep_after_the_first_validation(asp):
    done = launched(asp, *SWEEP, "optim.lr=1e-3,1e-2", "sweep.metric=val/acc", "sweep.mode=max", SLOW, status=3)
    assert "sweep.metric: val/acc is not reported. Reported are: " in done.stderr
    assert "val/accuracy" in done.stderr


@pytest.mark.slow
def test_ctrl_c_lets_running_trials_finish_and_the_same_command_goes_on(home):
    words = (*SWEEP, "optim.lr=tag(log,interval(1e-3,1e-1))", "sweep.trials=12", SLOW)
    process = start(home, *words)
    lines = iter(process.stderr.readline, "")
    next(line for line in lines if " finished " in line)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "no new trials" in err
    assert states(study_of(home)).keys() == {"COMPLETE"}
    done = start(home, *words)
    out, err = done.communicate(timeout=300)
    assert done.returncode == 0, err
    assert len(json.loads(out.splitlines()[-1])["trials"]) == 12
