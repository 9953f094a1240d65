"""Runs into the trash, back out of it, and out of the world, with everything that knows of them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from asparagus.checkpoint.folder import STATE, WRITING, Manifest, digest_of, name_of, pick, seal
from asparagus.checkpoint.holds import PINNED, child, hold, holds, registered
from asparagus.cli.main import run
from asparagus.errors import RecordError
from asparagus.record import run_folder
from asparagus.record.numbers import claim, find_folder
from asparagus.record.run_folder import create, note_child, write_state
from asparagus.record.store import Store
from asparagus.record.tracking import RUN_ID, TAG
from asparagus.record.trash import bring_back, empty, throw_away
from asparagus.spec import Parent, Paths, Spec
from tests.helpers import mlflow_server

TASK = "Task9_X"
OTHER_DISK = Path("/dev/shm")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("server")) as uri:
        yield uri


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A sqlite file with MLflow's schema, which takes seconds to make."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    Store(f"sqlite:///{path}").experiment_id(TASK)
    return path


@pytest.fixture
def here(home, empty_store):
    """A store that the commands find by themselves."""
    (home / "results").mkdir()
    shutil.copyfile(empty_store, home / "results" / "mlflow.db")
    return Store(f"sqlite:///{home}/results/mlflow.db")


@pytest.fixture(params=["sqlite", "server"])
def store(request):
    return request.getfixturevalue("here") if request.param == "sqlite" else Store(request.getfixturevalue("server"))


@pytest.fixture
def models(home):
    return home / "models"


def a_run(models: Path, store: Store, *, stage="pretrain", parent=None, state="finished"):
    """A recorded run with one checkpoint; its parent knows of it, as the driver has it."""
    run_id = claim(models, about={"stage": stage, "task": TASK})
    folder = create(models, Spec(stage, TASK, paths=Paths(models=str(models))), run_id, "{}")
    tags = {RUN_ID: str(run_id), f"{TAG}stage": stage, f"{TAG}task": TASK, f"{TAG}folder": str(folder.path)}
    recorded = store.client.create_run(store.experiment_id(TASK), tags=tags).info.run_id
    edge = dataclasses.asdict(parent) if parent else None
    about = {"run_id": run_id, "stage": stage, "task": TASK, "state": state, "metrics": {}}
    write_state(folder, **about, mlflow_run_id=recorded, init_from=edge)
    writing = folder.checkpoints / f"{WRITING}x"
    writing.mkdir(parents=True)
    (writing / STATE).write_bytes(b"weights" * 100)
    seal(writing, Manifest(name_of(0, 10), 0, 10, {}, digest_of(writing / STATE), 700))
    if parent is not None:
        hold(Path(parent.checkpoint), child(run_id))
        note_child(Path(parent.folder), run_id=run_id, folder=folder.path)
    return folder


def number(folder) -> int:
    return int(folder.path.name.partition("=")[2])


def started_from(folder) -> Parent:
    path, manifest = pick(folder.checkpoints, "last")
    return Parent(str(path), manifest.digest, number(folder), str(folder.path), manifest.step)


def lifecycle(store: Store, folder: Path) -> str:
    return store.client.get_run(json.loads((folder / "run.json").read_text())["mlflow_run_id"]).info.lifecycle_stage


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_goes_to_the_trash_and_comes_back_as_it_was(models, store):
    parent = a_run(models, store)
    grown = a_run(models, store, stage="finetune", parent=started_from(parent))
    run_id, before = number(grown), everything_in(grown.path)
    (moved,) = throw_away(models, [run_id], store)
    trash = models / ".asparagus" / "trash" / f"run_id={run_id}"
    assert (moved.folder, moved.notes) == (trash, ())
    assert not grown.path.exists()
    assert everything_in(trash) == before
    assert lifecycle(store, trash) == "deleted"
    assert store.run_of(run_id) is None
    assert holds(parent.checkpoints / name_of(0, 10)) == ()
    assert parent.children.read_text() == f"{run_id}, {grown.path}\n"  # what happened, happened
    with pytest.raises(RecordError, match=rf"run {run_id}: is in the trash. Bring it back: asp rm --restore {run_id}"):
        find_folder(models, run_id)

    back = bring_back(models, run_id, store)
    assert (back.folder, back.notes) == (grown.path, ())
    assert everything_in(grown.path) == before
    assert lifecycle(store, grown.path) == "active"
    assert store.run_of(run_id) is not None
    assert holds(parent.checkpoints / name_of(0, 10)) == (child(run_id),)
    assert find_folder(models, run_id) == grown.path


def test_a_number_is_never_used_again_not_even_when_the_trash_is_emptied(models, here):
    a_run(models, here)
    throw_away(models, [1], here)
    assert number(a_run(models, here)) == 2
    (gone,) = empty(models)
    assert (gone.run_id, gone.bytes > 700) == (1, True)
    assert list((models / ".asparagus" / "trash").iterdir()) == []
    assert number(a_run(models, here)) == 3
    with pytest.raises(RecordError, match=r"run 1: its folder .* is gone"):
        find_folder(models, 1)


def test_a_parent_stays_while_it_has_children_and_goes_together_with_them(models, here):
    parent = a_run(models, here)
    children = [a_run(models, here, stage="finetune", parent=started_from(parent)) for _ in range(2)]
    with pytest.raises(RecordError) as caught:
        throw_away(models, [1], here)
    assert "run 1: run 2, run 3 started from it, and could not be traced or repeated without it." in str(caught.value)
    assert "Remove them too: asp rm 1 2 3" in str(caught.value)
    with pytest.raises(RecordError, match="run 3 started from it"):
        throw_away(models, [1, 2], here)
    assert parent.path.is_dir()
    assert children[0].path.is_dir()
    assert lifecycle(here, parent.path) == lifecycle(here, children[0].path) == "active"
    assert [moved.run_id for moved in throw_away(models, [1, 2, 3], here)] == [1, 2, 3]


def test_a_child_of_old_that_no_hold_knows_counts_too(models, here):
    parent = a_run(models, here)
    grown = a_run(models, here, stage="finetune", parent=started_from(parent))
    (parent.checkpoints / name_of(0, 10) / "held" / child(2)).unlink()
    parent.children.unlink()
    with pytest.raises(RecordError, match="run 2 started from it"):
        throw_away(models, [1], here)
    throw_away(models, [number(grown)], here)
    assert throw_away(models, [1], here)[0].run_id == 1


def test_a_family_comes_back_parents_first(models, here):
    parent = a_run(models, here)
    grown = a_run(models, here, stage="finetune", parent=started_from(parent))
    throw_away(models, [1, 2], here)
    with pytest.raises(RecordError, match=r"run 2: started from run 1, which is in the trash too.*--restore 1 2"):
        bring_back(models, 2, here)
    bring_back(models, 1, here)
    assert holds(parent.checkpoints / name_of(0, 10)) == ()  # its child is still away
    bring_back(models, 2, here)
    assert holds(parent.checkpoints / name_of(0, 10)) == (child(2),)
    assert grown.path.is_dir()


def test_a_child_whose_parents_checkpoint_is_gone_comes_back_and_says_so(models, here):
    parent = a_run(models, here)
    a_run(models, here, stage="finetune", parent=started_from(parent))
    throw_away(models, [2], here)
    (parent.checkpoints / name_of(0, 10)).rename(parent.path / "moved by hand")
    assert bring_back(models, 2, here).notes == (
        "the checkpoint that it started from is not there any more: epoch=0-step=10 of run 1",
    )


def test_a_run_that_is_being_trained_stays(models, here):
    folder = a_run(models, here, state="running")
    lock = run_folder.hold(folder)
    try:
        with pytest.raises(RecordError, match=r"run 1: is being trained. Stop it first, or wait for it."):
            throw_away(models, [1], here)
    finally:
        lock.release()
    assert folder.path.is_dir()


@pytest.mark.parametrize(
    ("reason", "said"), [(PINNED, "is pinned"), (registered("brain-mae", "best"), "is registered as brain-mae@best")]
)
def test_a_run_whose_checkpoint_is_pinned_or_registered_stays(models, here, reason, said):
    folder = a_run(models, here)
    hold(folder.checkpoints / name_of(0, 10), reason)
    with pytest.raises(RecordError, match=f"its checkpoint epoch=0-step=10 {said}. Take that back first"):
        throw_away(models, [1], here)
    assert folder.path.is_dir()


def test_a_run_that_no_store_knows_goes_and_comes_back_all_the_same(models, here, tmp_path):
    folder = a_run(models, here)
    other = Store(f"sqlite:///{tmp_path}/other/mlflow.db")
    (moved,) = throw_away(models, [1], other)
    assert moved.notes == (f"{other.uri} has no record of it",)
    assert bring_back(models, 1, other).folder == folder.path


def test_a_store_that_is_away_is_an_error_before_anything_is_moved(models, here, monkeypatch, capsys):
    folder = a_run(models, here)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for words in (["1"], ["--restore", "1"]):
        assert run("rm", words) == 2
        assert "http://127.0.0.1:9 cannot be used" in capsys.readouterr().err
    assert folder.path.is_dir()


def test_one_that_is_in_the_trash_is_not_thrown_away_twice(models, here):
    a_run(models, here)
    throw_away(models, [1], here)
    with pytest.raises(RecordError, match=r"run 1: is in the trash already. asp rm --empty removes it for good."):
        throw_away(models, [1], here)


@pytest.mark.skipif(not OTHER_DISK.is_dir(), reason="there is no second disk")
def test_a_folder_that_cannot_be_moved_leaves_everything_as_it_was(models, here):
    folder = a_run(models, here)
    (models / ".asparagus" / "trash").symlink_to(OTHER_DISK)
    with pytest.raises(RecordError, match=r"run 1: .* cannot be moved to .*cross-device"):
        throw_away(models, [1], here)
    assert folder.path.is_dir()
    assert lifecycle(here, folder.path) == "active"


def test_of_a_run_that_was_deleted_by_hand_the_traces_go(models, here):
    parent = a_run(models, here)
    grown = a_run(models, here, stage="finetune", parent=started_from(parent))
    recorded = json.loads(grown.state.read_text())["mlflow_run_id"]
    grown.path.rename(models / "moved by hand")
    with pytest.raises(RecordError, match=r"run 2 \(whose folder is gone\) started from it"):
        throw_away(models, [1], here)
    (forgotten,) = throw_away(models, [2], here)
    assert "what it held is free now" in forgotten.notes[0]
    assert holds(parent.checkpoints / name_of(0, 10)) == ()
    assert here.client.get_run(recorded).info.lifecycle_stage == "deleted"
    assert throw_away(models, [1], here)[0].run_id == 1


def test_an_emptying_that_was_killed_is_finished_and_brings_back_no_half_run(models, here):
    a_run(models, here)
    throw_away(models, [1], here)
    trash = models / ".asparagus" / "trash"
    (trash / "run_id=1").rename(trash / ".removing-run_id=1")
    with pytest.raises(RecordError, match=r"run 1: is not in the trash. The trash is empty"):
        bring_back(models, 1, here)
    assert list(empty(models)) == []
    assert list(trash.iterdir()) == []


# The command


def test_the_command_says_what_it_did_and_how_to_undo_it(models, here, capsys):
    folder = a_run(models, here)
    assert run("rm", ["1"]) == 0
    said = capsys.readouterr().out
    assert f"run 1 is in the trash: {models / '.asparagus' / 'trash' / 'run_id=1'} (" in said
    assert "Bring back: asp rm --restore 1. Remove for good: asp rm --empty." in said
    assert run("rm", ["--restore", "1"]) == 0
    assert f"run 1 is back: {folder.path} (" in capsys.readouterr().out
    assert run("rm", ["1", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["run_id"], told["notes"]) == (1, [])
    assert run("rm", ["--empty"]) == 0
    said = capsys.readouterr().out
    assert "run 1 is removed for good: " in said
    assert "Freed " in said
    assert run("rm", ["--empty"]) == 0
    assert capsys.readouterr().out == "The trash is empty.\n"
    assert run("rm", ["--empty", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["5"], "run 5: there is no such run"),
        (["--restore", "1"], "run 1: is not in the trash. The trash is empty."),
        (["--restore", "5"], "run 5: there is no such run"),
    ],
)
def test_a_run_that_is_not_there_is_said_so_with_status_2(models, here, capsys, words, said):
    a_run(models, here)
    assert run("rm", words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--restore"], ["--empty", "1"], ["--empty", "--restore"], ["one"]])
def test_words_that_cannot_be_meant_are_refused(home, words, capsys):
    with pytest.raises(SystemExit) as caught:
        run("rm", words)
    assert caught.value.code == 2
    assert "usage: asp rm" in capsys.readouterr().err


def test_one_that_cannot_go_keeps_all_that_were_named(models, here, capsys):
    first, second = a_run(models, here), a_run(models, here)
    hold(second.checkpoints / name_of(0, 10), PINNED)
    assert run("rm", ["1", "2"]) == 2
    assert "is pinned" in capsys.readouterr().err
    assert first.path.is_dir()
