"""Named models over two registries, real ones: promoted, listed, started from, restored."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from asparagus.check.parent import resolve_parent
from asparagus.checkpoint.folder import STATE, WRITING, Manifest, digest_of, seal
from asparagus.checkpoint.holds import holds
from asparagus.cli.main import run
from asparagus.errors import ConfigError, RecordError, RequestError
from asparagus.record.model_names import ModelReference, parse
from asparagus.record.numbers import claim
from asparagus.record.promoted import FILE, promotions
from asparagus.record.recorder import Recorder, RunRecord
from asparagus.record.registry import promote, remove, restore, versions
from asparagus.record.run_folder import RunFolder, create
from asparagus.record.store import Store
from asparagus.spec import Parent, Paths, Spec
from tests.helpers import mlflow_server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("server")) as uri:
        yield uri


@pytest.fixture(params=["sqlite", pytest.param("server", marks=[pytest.mark.slow])], scope="module")
def uri(request, tmp_path_factory):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    return request.getfixturevalue("server")


@pytest.fixture(scope="module")
def store(uri):
    return Store(uri)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def recorder(uri, models, tmp_path_factory):
    """One MLflow process for all: it takes seconds to start."""
    with Recorder(uri, tmp_path_factory.mktemp("artifacts"), models) as recorder:
        yield recorder


@pytest.fixture
def name(request) -> str:
    """A name that no other test's models have."""
    return f"brain-{abs(hash(request.node.nodeid))}"


@pytest.fixture
def a_run(recorder, models):
    """Make a recorded run with checkpoints; returns its number and folder."""

    def make(*values: float | None) -> tuple[int, RunFolder]:
        run_id = claim(models, about={"stage": "pretrain", "task": "Task9_X"}, floor=recorder.largest_number())
        folder = create(models, Spec("pretrain", "Task9_X", paths=Paths(models=str(models))), run_id, "{}")
        for number, value in enumerate(values, start=1):
            a_checkpoint(folder, 4 * number, value)
        recorder.open(RunRecord(run_id, "pretrain", "Task9_X", str(folder.path), f"pretrain-{run_id}", {}))
        recorder.close(run_id, state="finished")
        return run_id, folder

    return make


def a_checkpoint(folder: RunFolder, step: int, value: float | None) -> Path:
    writing = folder.checkpoints / f"{WRITING}x"
    writing.mkdir(parents=True)
    (writing / STATE).write_bytes(b"PK" + f"{folder.path}{step}".encode())
    digest, size = digest_of(writing / STATE), (writing / STATE).stat().st_size
    metrics = {} if value is None else {"val/x": value}
    return seal(writing, Manifest(f"epoch=0-step={step}", 0, step, metrics, digest, size, monitor="val/x", mode="max"))


def of(store: Store, name: str) -> list[tuple[str, list[str], int | None, str]]:
    return [
        (one.version, one.aliases, one.run_id, Path(one.checkpoint).name) for one in versions(store) if one.name == name
    ]


def test_the_best_checkpoint_becomes_a_version_that_mlflow_knows_in_its_own_terms(store, a_run, name):
    run_id, folder = a_run(0.9, 0.5)
    promotion = promote(store, folder, run_id, name=name, alias="best")
    assert (promotion.version, promotion.checkpoint) == ("1", "epoch=0-step=4")
    assert of(store, name) == [("1", ["best"], run_id, "epoch=0-step=4")]
    version = store.client.get_model_version_by_alias(name, "best")
    model = store.client.get_logged_model(version.source.removeprefix("models:/"))
    assert version.run_id == model.source_run_id
    assert model.tags["asparagus.digest"] == promotion.digest
    assert f"asp lineage {run_id}" in version.description


def test_without_a_measured_value_the_last_checkpoint_is_taken(store, a_run, name):
    run_id, folder = a_run(None, None)
    assert promote(store, folder, run_id, name=name).checkpoint == "epoch=0-step=8"


def test_promoting_again_changes_nothing(store, a_run, name):
    run_id, folder = a_run(0.9)
    first = promote(store, folder, run_id, name=name, alias="best")
    again = promote(store, folder, run_id, name=name, alias="best")
    assert dataclasses.replace(again, time=first.time) == first
    assert len(of(store, name)) == 1
    assert len((folder.path / FILE).read_text().splitlines()) == 1


def test_an_alias_moves_and_takes_its_hold_along(store, a_run, name):
    (old, elder), (new, younger) = a_run(0.5), a_run(0.9)
    promote(store, elder, old, name=name, alias="best")
    assert holds(elder.checkpoints / "epoch=0-step=4") == (f"model={name}@best", f"model={name}@v1")
    promote(store, younger, new, name=name, alias="best")
    assert holds(elder.checkpoints / "epoch=0-step=4") == (f"model={name}@v1",)  # it is a version all the same
    assert holds(younger.checkpoints / "epoch=0-step=4") == (f"model={name}@best", f"model={name}@v2")
    assert of(store, name) == [("2", ["best"], new, "epoch=0-step=4"), ("1", [], old, "epoch=0-step=4")]
    assert promote(store, elder, old, name=name, alias="best").version == "1"  # and back
    assert [promotion.version for promotion in promotions(elder)] == ["1", "1"]


def test_a_version_without_an_alias_is_held_too(store, a_run, name):
    run_id, folder = a_run(0.9)
    promote(store, folder, run_id, name=name)
    assert holds(folder.checkpoints / "epoch=0-step=4") == (f"model={name}@v1",)


def test_a_run_starts_from_a_model_by_alias_and_by_version(store, a_run, name, models):
    run_id, folder = a_run(0.5, 0.9)
    promotion = promote(store, folder, run_id, name=name, alias="best")
    promote(store, folder, run_id, name=name, which="epoch=0-step=4")
    expected = Parent(str(folder.checkpoints / "epoch=0-step=8"), promotion.digest, run_id, str(folder.path), 8)
    assert resolve_parent(f"model:{name}@best", models, store.uri).parent == expected
    assert resolve_parent(f"model:{name}/1", models, store.uri).parent == expected
    assert resolve_parent(f"model:{name}/2", models, store.uri).parent.step == 4


def test_the_model_is_found_where_its_run_lies_now(store, a_run, name, models):
    run_id, folder = a_run(0.9)
    promote(store, folder, run_id, name=name, alias="best")
    moved = models.rename(models.with_name("moved"))
    parent = resolve_parent(f"model:{name}@best", moved, store.uri).parent
    assert parent.folder == str(moved / "Task9_X" / "pretrain" / f"run_id={run_id}")
    moved.rename(models)


def test_a_secret_in_the_address_is_read_only_then(store, a_run, name, models, monkeypatch):
    run_id, folder = a_run(0.9)
    promote(store, folder, run_id, name=name, alias="best")
    monkeypatch.setenv("STORE_TOKEN", store.uri)
    parent = resolve_parent(f"model:{name}@best", models, "${secret:STORE_TOKEN}").parent
    assert parent.run_id == run_id


UNKNOWN = {
    "brian@best": r"no model 'brian' is registered.*asp model promote",
    "{name}@bset": r"has no alias 'bset'\. Did you mean 'best'.*Its aliases: best",
    "{name}/7": "has no version 7",
    "{name}": "neither which alias nor which version",
    "{name}/x": "neither which alias nor which version",
    "a/b@best": "model name 'a/b'",
    "{name}@be st": "model alias 'be st'",
}


def test_what_is_not_registered_is_said_with_what_is(store, a_run, name, models):
    run_id, folder = a_run(0.9)
    promote(store, folder, run_id, name=name, alias="best")
    for reference, said in UNKNOWN.items():
        with pytest.raises(RequestError, match=said):
            resolve_parent(f"model:{reference.format(name=name)}", models, store.uri)


def test_a_checkpoint_that_is_gone_or_another_one_now_is_refused(store, a_run, name, models):
    run_id, folder = a_run(0.9)
    promote(store, folder, run_id, name=name, alias="best")
    checkpoint = folder.checkpoints / "epoch=0-step=4"
    state = (checkpoint / STATE).read_bytes()
    (checkpoint / STATE).write_bytes(b"PK" + b"?" * (len(state) - 2))
    with pytest.raises(RequestError, match="is not as it was written"):
        resolve_parent(f"model:{name}@best", models, store.uri)
    facts = json.loads((checkpoint / "checkpoint.json").read_text())
    (checkpoint / "checkpoint.json").write_text(json.dumps({**facts, "digest": digest_of(checkpoint / STATE)}))
    with pytest.raises(
        RequestError, match=f"not the one that was registered.*asp model promote {run_id} --name {name}"
    ):
        resolve_parent(f"model:{name}@best", models, store.uri)
    checkpoint.rename(folder.path / "elsewhere")
    with pytest.raises(RequestError, match=f"model:{name}@best is version 1, run {run_id}.*is gone"):
        resolve_parent(f"model:{name}@best", models, store.uri)


def test_nothing_is_registered_when_the_request_is_wrong(store, a_run, name, models):
    run_id, folder = a_run(0.9)
    with pytest.raises(ConfigError, match="a name may have letters"):
        promote(store, folder, run_id, name="a/b")
    with pytest.raises(ConfigError, match="MLflow's own"):
        promote(store, folder, run_id, name=name, alias="v3")
    with pytest.raises(RecordError, match=r"no checkpoint 'bets'. Did you mean 'best'"):
        promote(store, folder, run_id, name=name, which="bets")
    with pytest.raises(RecordError, match="asp record rebuild"):
        promote(store, folder, 987_654, name=name)
    (folder.checkpoints / "epoch=0-step=4" / STATE).write_bytes(
        b"?" * (folder.checkpoints / "epoch=0-step=4" / STATE).stat().st_size
    )
    with pytest.raises(RecordError, match="not as it was written"):
        promote(store, folder, run_id, name=name, alias="best")
    assert of(store, name) == []
    assert promotions(folder) == []
    assert holds(folder.checkpoints / "epoch=0-step=4") == ()


def test_a_checkpoint_that_cannot_be_held_is_not_registered(store, a_run, name):
    run_id, folder = a_run(0.9)
    (folder.checkpoints / "epoch=0-step=4" / "held").write_text("in the way of the folder of holds")
    with pytest.raises(RecordError, match="cannot be held"):
        promote(store, folder, run_id, name=name, alias="best")
    assert of(store, name) == []


def test_a_lost_registry_is_restored_from_the_folders(store, a_run, name):
    (old, elder), (new, younger) = a_run(0.5, 0.6), a_run(0.9)
    promote(store, elder, old, name=name, alias="best")
    promote(store, elder, old, name=name, alias="first", which="epoch=0-step=4")
    promote(store, younger, new, name=name, alias="best")
    before = of(store, name)
    store.client.delete_registered_model(name)
    assert of(store, name) == []
    runs = [(new, younger), (old, elder)]
    assert restore(store, runs) == []
    assert of(store, name) == before
    assert restore(store, runs) == []
    assert of(store, name) == before


def test_what_cannot_be_restored_is_said(store, a_run, name):
    run_id, folder = a_run(0.9)
    promote(store, folder, run_id, name=name, alias="best")
    store.client.delete_registered_model(name)
    (folder.checkpoints / "epoch=0-step=4").rename(folder.path / "gone")
    (problem,) = restore(store, [(run_id, folder)])
    assert problem.startswith(f"model {name}@best, version 1:")


@pytest.mark.parametrize("odd", ["", " ", "a/b", "a:b", "a@b", "../x", "a..b", "-a", "a" * 300, "a\n"])
def test_names_that_mlflow_or_init_from_cannot_have_are_refused(odd):
    for reference in (f"{odd}@best", f"{odd}/3"):
        with pytest.raises(ConfigError):
            parse(reference)


def test_names_that_are_allowed_are_read():
    assert parse("brain mae_2.1@best-so-far") == ModelReference("brain mae_2.1", alias="best-so-far")
    assert parse("Gehirn-ü/012") == ModelReference("Gehirn-ü", version="12")


# asp model
@pytest.fixture
def trained(home, monkeypatch):
    """Record a run in the test's home."""
    models, results = home / "models", home / "results"
    run_id = claim(models, about={"stage": "pretrain", "task": "Task001_Digits"})
    folder = create(models, Spec("pretrain", "Task001_Digits", paths=Paths(models=str(models))), run_id, "{}")
    a_checkpoint(folder, 4, 0.5)
    with Recorder(f"sqlite:///{results}/mlflow.db", results / "mlartifacts", models) as recorder:
        recorder.open(RunRecord(run_id, "pretrain", "Task001_Digits", str(folder.path), "x", {}))
        recorder.close(run_id, state="finished")
    return run_id


def test_the_command_promotes_lists_and_an_experiment_starts_from_it(trained, capsys):
    assert run("model", ["promote", str(trained), "--name", "digits-mae", "--alias", "best", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["version"], told["run_id"], told["init_from"]) == ("1", 1, "model:digits-mae@best")
    assert run("model", ["list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["aliases"], listed["run_id"], listed["is_there"]) == (
        "digits-mae",
        ["best"],
        1,
        True,
    )
    assert run("model", ["list"]) == 0
    assert "digits-mae" in capsys.readouterr().out
    words = ["finetune_cls", "task=Task001_Digits", "data.split=split_80_20", "model.dimensions=2D", "--dry-run"]
    assert run("launch", [*words, "init_from=model:digits-mae@best"]) == 0
    plan = capsys.readouterr().out
    assert "epoch=0-step=4" in plan
    assert run("launch", [*words, "init_from=model:digits-mae@bset"]) == 2
    assert "Did you mean 'best'" in capsys.readouterr().err


def test_resolving_a_model_imports_no_mlflow(trained, home, capsys):
    assert run("model", ["promote", str(trained), "--name", "digits-mae", "--alias", "best"]) == 0
    code = "import sys; from pathlib import Path; from asparagus.check.parent import resolve_parent; "
    code += "resolve_parent('model:digits-mae@best', Path(sys.argv[1]), sys.argv[2]); "
    code += "print([name for name in ('mlflow', 'torch', 'ray') if name in sys.modules])"
    uri = f"sqlite:///{home}/results/mlflow.db"
    command = [sys.executable, "-c", code, str(home / "models"), uri]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_listing_makes_no_store(home, capsys):
    assert run("model", ["list"]) == 2
    assert "nothing has been recorded there yet" in capsys.readouterr().err
    assert not (home / "results").exists()


def test_a_version_is_held_until_it_is_taken_back(store, a_run, name):
    first, second = a_run(0.5), a_run(0.7)
    promote(store, first[1], first[0], name=name, alias="best")
    promote(store, second[1], second[0], name=name, alias="best")
    checkpoint = next(first[1].checkpoints.glob("epoch*"))
    assert holds(checkpoint) == (f"model={name}@v1",)  # the alias moved on
    assert remove(store, name, "1") == checkpoint
    assert holds(checkpoint) == ()
    assert [version.version for version in versions(store) if version.name == name] == ["2"]
    assert promotions(first[1]) == []
    with pytest.raises(RecordError, match=f"model {name}/1: there is no such version"):
        remove(store, name, "1")


def test_versions_keep_their_numbers_when_the_registry_is_restored(uri, store, a_run, name, models, tmp_path):
    runs = [a_run(0.5), a_run(0.6), a_run(0.7)]
    for run_id, folder in runs:
        promote(store, folder, run_id, name=name)
    remove(store, name, "2")
    fresh = Store(f"sqlite:///{tmp_path}/fresh.db")
    with Recorder(fresh.uri, tmp_path / "artifacts", models) as other:
        for run_id, folder in runs:
            other.open(RunRecord(run_id, "pretrain", "Task9_X", str(folder.path), "x", {}))
            other.close(run_id, state="finished")
    assert restore(fresh, runs) == []
    assert {found.version: found.run_id for found in versions(fresh) if found.name == name} == {
        "1": runs[0][0],
        "3": runs[2][0],
    }
    assert restore(fresh, runs) == []
