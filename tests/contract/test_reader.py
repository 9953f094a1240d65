"""One suite, two ways to read one store that MLflow's own client filled: its file, and a server over that file."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
import time

import pytest

from asparagus.errors import RecordError
from asparagus.record.asked import Asked, Bound
from asparagus.record.reader import open_reader
from asparagus.record.store import Store
from benchmarks.many_runs import family, loss
from benchmarks.many_runs import fill as fill_many
from tests.helpers import mlflow_server

MANY = 300
CHECKPOINT = "/m/Task1_A/pretrain/run_id=1/checkpoints/epoch=0-step=10"


def record(client, number, *, task="Task1_A", stage="pretrain", started=None, metrics=None, **tags):
    experiment = client.get_experiment_by_name(task)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(task)
    ours = {
        "run_id": number,
        "stage": stage,
        "task": task,
        "state": "finished",
        "folder": f"/m/{task}/{number}",
        **tags,
    }
    run = client.create_run(
        experiment_id,
        start_time=1000 * (number if started is None else started),
        tags={f"asparagus.{key.replace('__', '.')}": str(value) for key, value in ours.items()},
    )
    for name, value in (metrics or {}).items():
        client.log_metric(run.info.run_id, name, value, step=1)
    return run.info.run_id


def fill(client) -> dict[object, str]:
    """Eleven runs of ours, one of somebody else, and two registered models."""
    ids: dict[object, str] = {}
    edge = {"init_from__run_id": 1, "init_from__checkpoint": CHECKPOINT}
    ids[1] = record(client, 1, monitor="val/loss", mode="min", best=0.25, metrics={"val/loss": 0.5, "odd name": -1e-5})
    ids[2] = record(client, 2, stage="finetune", monitor="val/dice", mode="max", metrics={"val/dice": 0.75}, **edge)
    ids[3] = record(client, 3, stage="finetune", metrics={"val/loss": math.nan}, **edge, state="failed")
    ids[9] = record(client, 9, stage="finetune", metrics={"val/loss": 0.1}, init_from__run_id=2,
                    init_from__checkpoint="/m/2/checkpoints/epoch=1-step=5", rerun_of=3)  # fmt: skip
    ids[10] = record(client, 10, task="Task2_B", stage="sweep", started=4)
    for number in (11, 12, 13, 14, 15):
        ids[number] = record(client, number, task="Task2_B", sweep_id=10, metrics={"val/loss": number / 10})
    ids["deleted"] = record(client, 16, task="Task2_B", sweep_id=10)
    client.delete_run(ids["deleted"])
    foreign = client.create_run("0", tags={"asparagus.stage": "pretrain", "who": "'somebody'"}, start_time=99_000)
    client.log_metric(foreign.info.run_id, "val/loss", -5.0)
    client.set_tag(ids[2], "note", 'it\'s "mine"')
    register(client, ids)
    return ids


def register(client, ids) -> None:
    tags = {"asparagus.checkpoint": CHECKPOINT, "asparagus.digest": "d" * 64}
    experiment_id = client.get_run(ids[1]).info.experiment_id
    model = client.create_logged_model(experiment_id, name="epoch-0-step-10", source_run_id=ids[1], tags=tags)
    client.finalize_logged_model(model.model_id, "READY")
    client.create_registered_model("brain-mae")
    client.create_registered_model("by hand")
    client.create_model_version("brain-mae", f"models:/{model.model_id}", run_id=ids[1], model_id=model.model_id)
    client.create_model_version("by hand", "/some/where")
    client.set_registered_model_alias("brain-mae", "best", "1")
    client.set_registered_model_alias("by hand", "best", "1")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The folder of a filled store, and the MLflow run id of each number."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:  # MLflow looks for the model of a version where the environment says
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/db")
        return folder, fill(Store(f"sqlite:///{folder}/db", folder / "artifacts").client)


@pytest.fixture(scope="module")
def server(stored):
    with mlflow_server(stored[0]) as uri:
        yield uri


@pytest.fixture(params=["sqlite", "server"], scope="module")
def reader(request, stored):
    uri = f"sqlite:///{stored[0]}/db" if request.param == "sqlite" else request.getfixturevalue("server")
    return open_reader(uri)


def numbers(runs):
    return [run.run_id for run in runs]


def test_runs_are_told_with_all_that_a_list_shows(reader, stored):
    run = reader.runs(Asked(limit=None))[-1]
    assert (run.run_id, run.stage, run.task, run.state) == (1, "pretrain", "Task1_A", "finished")
    assert (run.mlflow_run_id, run.folder, run.started) == (stored[1][1], "/m/Task1_A/1", 1.0)
    assert (run.monitor, run.mode, run.best) == ("val/loss", "min", 0.25)
    assert run.metrics == {"val/loss": 0.5, "odd name": -1e-5}
    assert run.experiment_id.isdigit()


def test_the_newest_number_comes_first_and_neither_deleted_nor_foreign_runs_do(reader):
    assert numbers(reader.runs(Asked(limit=None))) == [15, 14, 13, 12, 11, 10, 9, 3, 2, 1]


CASES = {
    "stage": (Asked(stage="finetune"), [9, 3, 2]),
    "stage and state": (Asked(stage="finetune", state="finished"), [9, 2]),
    "task": (Asked(task="Task2_B", limit=2), [15, 14]),
    "oldest": (Asked(task="Task2_B", limit=2, ascending=True, sort="started"), [10, 11]),
    "latest": (Asked(sort="started", limit=3), [15, 14, 13]),
    "smallest number": (Asked(ascending=True, limit=3), [1, 2, 3]),
    "tag": (Asked(tags={"asparagus.rerun_of": "3"}), [9]),
    "tag with quotes": (Asked(tags={"note": 'it\'s "mine"'}), [2]),
    "odd tag": (Asked(tags={"odd`tag": "x"}), []),
    "<": (Asked(metrics=(Bound("val/loss", "<", 0.5),)), [9]),
    "<=": (Asked(metrics=(Bound("val/loss", "<=", 0.5),)), [9, 1]),
    "=": (Asked(metrics=(Bound("val/loss", "=", 0.5),)), [1]),
    ">=": (Asked(metrics=(Bound("val/loss", ">=", 1.4),)), [15, 14]),
    ">": (Asked(metrics=(Bound("val/loss", ">", 1.4),)), [15]),
    "!=": (Asked(metrics=(Bound("val/loss", "!=", 0.5), Bound("val/loss", "<", 1.2))), [11, 9]),
    "tiny": (Asked(metrics=(Bound("odd name", "<", -1e-6), Bound("odd name", ">", -1.5e-5))), [1]),
    "none": (Asked(metrics=(Bound("odd name", "<", -1e-5),)), []),
    "no such metric": (Asked(metrics=(Bound("nobody's", "<", 1.0),)), []),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_asked_for_is_what_is_answered(reader, name):
    asked, expected = CASES[name]
    assert numbers(reader.runs(asked)) == expected


def test_by_a_metric_the_largest_is_first_and_runs_without_it_last(reader):
    assert numbers(reader.runs(Asked(sort="val/loss", limit=3))) == [15, 14, 13]
    assert numbers(reader.runs(Asked(sort="val/loss", limit=3, ascending=True))) == [9, 1, 11]
    every = numbers(reader.runs(Asked(sort="val/loss", limit=None, ascending=True)))
    assert every == [9, 1, 11, 12, 13, 14, 15, 10, 3, 2]  # 3 measured no number, 10 and 2 nothing of that name


def test_the_best_is_the_best_by_its_own_monitor_and_mode(reader):
    """Run 2 monitors a score that should be large, run 1 a loss; one without checkpoints counts by what it measured."""
    assert numbers(reader.runs(Asked(sort="best", limit=3))) == [2, 1, 15]
    assert numbers(reader.runs(Asked(sort="best", limit=1, ascending=True))) == [1]
    assert reader.runs(Asked(sort="best", limit=1))[0].best == 0.75


def test_tags_are_brought_along_when_asked_for(reader):
    assert reader.runs(Asked(show=("note", "nothing"), stage="finetune"))[-1].tags == {"note": 'it\'s "mine"'}


def test_runs_are_found_by_number_whether_few_or_many(reader):
    assert numbers(reader.by_numbers([9, 1, 16, 77])) == [9, 1]
    assert numbers(reader.by_numbers(range(100))) == [15, 14, 13, 12, 11, 10, 9, 3, 2, 1]
    assert reader.by_numbers([]) == []


def test_children_are_those_of_every_kind_the_oldest_first(reader):
    assert numbers(reader.children([1])) == [2, 3]
    assert numbers(reader.children([3, 2])) == [9]
    assert numbers(reader.children([10])) == [11, 12, 13, 14, 15]
    assert numbers(reader.children([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])) == [2, 3, 9, 11, 12, 13, 14, 15]
    assert numbers(reader.children([10], limit=2)) == [14, 15]
    assert reader.children([15]) == []


def test_the_largest_number_counts_deleted_runs(reader):
    assert reader.largest_number() == 16


def test_the_mlflow_runs_of_a_number_are_known_deleted_or_not(reader, stored):
    assert reader.with_number(16) == [stored[1]["deleted"]]
    assert reader.with_number(9) == [stored[1][9]]
    assert reader.with_number(77) == []


def test_a_registered_model_is_the_checkpoint_that_its_alias_points_to(reader, stored):
    found = reader.registered("brain-mae", "best")
    assert (found.name, found.version, found.alias) == ("brain-mae", "1", "best")
    assert (found.mlflow_run_id, found.run_id) == (stored[1][1], 1)
    assert (found.checkpoint, found.digest) == (CHECKPOINT, "d" * 64)


@pytest.mark.parametrize(
    ("name", "alias", "told"),
    [
        ("brain-mea", "best", r"no model 'brain-mea'.* Did you mean 'brain-mae'\? Registered: brain-mae \(best\)"),
        ("brain-mae", "bets", r"'brain-mae' has no alias 'bets'\. Did you mean 'best'\? Its aliases: best\."),
        ("by hand", "best", r"version 1 is no checkpoint that asparagus wrote: its source is /some/where"),
    ],
    ids=["name", "alias", "version"],
)
def test_a_model_or_alias_that_is_not_there_names_those_that_are(reader, name, alias, told):
    with pytest.raises(RecordError, match=told):
        reader.registered(name, alias)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    fill_many(f"sqlite:///{folder}/db", MANY, folder / "models")
    with mlflow_server(folder) as uri:
        yield open_reader(f"sqlite:///{folder}/db"), open_reader(uri)


@pytest.mark.slow
def test_of_many_runs_none_is_missed_and_none_doubled(many):
    """A server is asked for many runs in parts, and for many numbers by patterns: together they are all."""
    runs = list(family(MANY))
    values = sorted(loss(run.number) for run in runs)
    for reader in many:
        assert numbers(reader.runs(Asked(limit=None))) == list(range(MANY, 0, -1))
        assert numbers(reader.children([2])) == [run.number for run in runs if run.parent == 2]
        for wanted in (set(range(3, 250, 4)), set(range(7, 150))):
            assert numbers(reader.by_numbers(wanted)) == sorted(wanted, reverse=True)
            assert numbers(reader.children(wanted)) == [
                run.number for run in runs if {run.parent, run.rerun_of, run.sweep_id} & wanted
            ]
        found = reader.runs(Asked(sort="val/loss", ascending=True, limit=40))
        assert [run.metrics["val/loss"] for run in found] == values[:40]
        found = reader.runs(Asked(sort="val/loss", metrics=(Bound("val/loss", "<", 0.5),), limit=60))
        assert [run.metrics["val/loss"] for run in found] == [value for value in values if value < 0.5][:-61:-1]


def test_nothing_is_made_where_nothing_was_recorded(tmp_path):
    with pytest.raises(RecordError, match=r"nothing has been recorded there yet\. .*asp-launch experiment/digits"):
        open_reader(f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_something_else_is_no_store(tmp_path):
    with sqlite3.connect(tmp_path / "db") as database:
        database.execute("create table x (y)")
    with pytest.raises(RecordError, match="is no MLflow store"):
        open_reader(f"sqlite:///{tmp_path}/db")


def test_a_file_that_is_no_database_is_said_so(tmp_path):
    (tmp_path / "db").write_text("hello" * 1000)
    with pytest.raises(RecordError, match="not a database"):
        open_reader(f"sqlite:///{tmp_path}/db")


def test_a_store_of_a_newer_mlflow_is_refused_and_not_touched(tmp_path):
    Store(f"sqlite:///{tmp_path}/db")
    with sqlite3.connect(tmp_path / "db") as database:
        database.execute("update alembic_version set version_num = 'ffffffffffff'")
    before = (tmp_path / "db").read_bytes()
    with pytest.raises(RecordError, match=r"does not know its schema ffffffffffff\. Upgrade it .*asp doctor"):
        open_reader(f"sqlite:///{tmp_path}/db")
    assert (tmp_path / "db").read_bytes() == before


def test_a_store_that_may_only_be_read_is_read(stored, tmp_path):
    copy = tmp_path / "locked" / "db"
    copy.parent.mkdir()
    copy.write_bytes((stored[0] / "db").read_bytes())
    copy.chmod(0o400)
    copy.parent.chmod(0o500)
    try:
        assert open_reader(f"sqlite:///{copy}").largest_number() == 16
    finally:
        copy.parent.chmod(0o700)


KILLED = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("pragma cache_size = 1")
database.execute("begin")
database.execute("update tags set value = value || '0' where key = 'asparagus.run_id'")
database.execute("update tags set value = value || ' ' where key like 'asparagus.%'")
database.execute("create table filler as with recursive n(i) as (select 1 union all select i + 1 from n "
                 "where i < 9999) select i, hex(zeroblob(200)) from n")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_store_whose_writer_was_killed_in_the_middle_is_read_as_it_was_before(stored, tmp_path):
    copy = tmp_path / "db"
    copy.write_bytes((stored[0] / "db").read_bytes())
    subprocess.run([sys.executable, "-c", KILLED, str(copy)], check=False)
    assert (tmp_path / "db-journal").stat().st_size > 0
    assert open_reader(f"sqlite:///{copy}").largest_number() == 16


WRITING = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("begin exclusive")
print("held", flush=True)
time.sleep(0.5)
"""


def test_a_store_that_is_written_to_right_now_is_waited_for(stored, tmp_path):
    copy = tmp_path / "db"
    copy.write_bytes((stored[0] / "db").read_bytes())
    writer = subprocess.Popen([sys.executable, "-c", WRITING, str(copy)], stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"held\n"
    started = time.monotonic()
    assert open_reader(f"sqlite:///{copy}").largest_number() == 16
    assert time.monotonic() - started > 0.3
    writer.wait()


@pytest.mark.parametrize("uri", ["databricks", "./mlruns", "file:///mlruns", "s3://bucket/x"])
def test_a_uri_that_leads_to_no_store_names_those_that_do(uri):
    with pytest.raises(RecordError, match=r"MLFLOW_TRACKING_URI may be http.*sqlite.*postgresql"):
        open_reader(uri)


def test_a_database_without_its_driver_says_what_to_install():
    with pytest.raises(RecordError, match=r"pip install .psycopg\[binary\]"):
        open_reader("mysql+nodriver://me:hidden@localhost/mlflow")


def test_no_password_is_told():
    with pytest.raises(RecordError) as caught:
        open_reader("mysql+nodriver://me:sesame123@localhost/mlflow")
    assert "sesame123" not in str(caught.value)
    with pytest.raises(RecordError) as caught:
        open_reader("http://me:sesame123@127.0.0.1:9").largest_number()
    assert "sesame123" not in str(caught.value)
    assert "127.0.0.1:9 cannot be used" in str(caught.value)
