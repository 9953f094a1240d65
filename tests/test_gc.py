"""What `asp gc` says can go, why the rest stays, and that only that goes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from asparagus.checkpoint.folder import (
    MANIFEST,
    REMOVING,
    STATE,
    TORN,
    WRITING,
    Manifest,
    digest_of,
    manifests,
    name_of,
    newest_whole,
    pick,
    seal,
)
from asparagus.checkpoint.holds import PINNED, child, hold, holds, registered
from asparagus.cli.main import run
from asparagus.record import run_folder
from asparagus.record.gc import Wish, free, survey
from asparagus.record.numbers import claim
from asparagus.record.run_folder import create, note_child, write_state
from asparagus.spec import Checkpointing, Parent, Paths, Spec

SIZE = 1000


@pytest.fixture
def models(home):
    return home / "models"


def checkpoint(folder: Path, epoch: int, score: float, *, created: float = 0.0) -> Path:
    writing = folder / "checkpoints" / f"{WRITING}x"
    writing.mkdir(parents=True)
    (writing / STATE).write_bytes(b"%d" % epoch * SIZE)
    metrics, digest = {"m": score}, digest_of(writing / STATE)
    name, size = name_of(epoch, epoch + 1), (writing / STATE).stat().st_size
    made = Manifest(name, epoch, epoch + 1, metrics, digest, size, monitor="m", mode="max", created=created)
    return seal(writing, made)


def a_run(models: Path, *scores: float, stage="pretrain", task="Task9_X", state="finished", parent=None, **rule):
    """A run with one checkpoint per score, as if its rule had changed since."""
    spec = Spec(stage, task, checkpoint=Checkpointing("m", "max", **rule), paths=Paths(models=str(models)))
    run_id = claim(models, about={"stage": stage, "task": task})
    folder = create(models, spec, run_id, "{}")
    about = {"run_id": run_id, "stage": stage, "task": task, "mlflow_run_id": None}
    edge = dataclasses.asdict(parent) if parent else None
    write_state(folder, **about, state=state, metrics={}, init_from=edge)
    for epoch, score in enumerate(scores):
        checkpoint(folder.path, epoch, score, created=100 * run_id + epoch)
    return folder


def started_from(folder: Path, which: str) -> Parent:
    path, manifest = pick(folder / "checkpoints", which)
    return Parent(str(path), manifest.digest, int(folder.name.partition("=")[2]), str(folder), manifest.step)


def can_go(models: Path, **wish) -> dict[int, list[str]]:
    return {found.run_id: [row.name for row in found.freed] for found in survey(models, Wish(**wish))}


def why(models: Path, run_id: int = 1, **wish) -> dict[str, tuple[str, ...]]:
    (found,) = [found for found in survey(models, Wish(**wish)) if found.run_id == run_id]
    return {row.name: row.why for row in found.rows}


E0, E1, E2, E3 = (name_of(epoch, epoch + 1) for epoch in range(4))


def test_each_checkpoint_can_go_or_has_its_reasons(models):
    folder = a_run(models, 0.1, 0.9, 0.2, 0.3, 0.4, keep_every_n_epochs=3)
    hold(folder.checkpoints / E3, child(12))
    hold(folder.checkpoints / E3, registered("brain-mae", "best"))
    hold(folder.checkpoints / E3, PINNED)
    assert why(models) == {
        E0: (),
        E1: ("best",),
        E2: ("every 3 epochs",),
        E3: ("registered as brain-mae@best", "pinned", "held by run 12"),
        name_of(4, 5): ("last",),
    }


def test_looking_changes_nothing_and_applying_frees_what_was_shown(models):
    folder = a_run(models, 0.1, 0.9, 0.2, 0.3)
    (found,) = survey(models, Wish())
    assert [row.name for row in found.freed] == [E0, E2]
    assert len(manifests(folder.checkpoints)) == 4
    assert [row.name for row in free(found)] == [E0, E2]
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == [E1, E3]
    assert survey(models, Wish())[0].freed == ()


def test_fewer_or_more_best_ones_can_be_asked_for(models):
    a_run(models, 0.1, 0.9, 0.8, 0.3)
    assert can_go(models, keep_best=0) == {1: [E0, E1, E2]}
    assert can_go(models, keep_best=2) == {1: [E0]}


def test_only_the_runs_that_are_asked_for_are_looked_at(models):
    for stage, task in (("pretrain", "Task1_A"), ("train_cls", "Task1_A"), ("pretrain", "Task2_B")):
        a_run(models, 0.2, 0.1, 0.1, stage=stage, task=task)
    assert can_go(models) == {1: [E1], 2: [E1], 3: [E1]}
    assert can_go(models, task="Task1_A") == {1: [E1], 2: [E1]}
    assert can_go(models, stage="pretrain") == {1: [E1], 3: [E1]}
    assert can_go(models, stage="pretrain", task="Task2_B") == {3: [E1]}


def test_a_child_without_a_hold_is_a_reason_too(models):
    """Runs that were made before there were holds: their own run.json names the checkpoint."""
    parent = a_run(models, 0.1, 0.9, 0.2, 0.3)
    grown = a_run(models, stage="finetune", parent=started_from(parent.path, E0))
    assert why(models)[E0] == ("held by run 2",)
    assert can_go(models) == {1: [E2]}
    grown.path.rename(models / "elsewhere")  # a child that is not there any more holds nothing
    assert can_go(models) == {1: [E0, E2]}


def test_a_child_in_another_models_folder_is_found_through_the_parents_own_note(models, tmp_path):
    parent = a_run(models, 0.1, 0.9, 0.2)
    other = tmp_path / "other_models"
    grown = a_run(other, parent=started_from(parent.path, E0))
    note_child(parent.path, run_id=77, folder=grown.path)
    assert why(models)[E0] == ("held by run 77",)
    assert can_go(models) == {1: []}


def test_a_run_that_is_being_trained_is_left_alone(models):
    folder = a_run(models, 0.1, 0.9, 0.2, 0.3, state="running")
    (folder.checkpoints / f"{WRITING}y").mkdir()
    (before,) = survey(models, Wish())
    lock = run_folder.hold(folder)
    try:
        assert can_go(models, quota=1) == {1: []}
        assert why(models)[E0] == ("is being trained",)
        assert free(before) == ()  # it began between the looking and the freeing
    finally:
        lock.release()
    assert can_go(models) == {1: [E0, E2, f"{WRITING}y"]}


def test_one_that_was_held_since_it_was_looked_at_stays(models):
    folder = a_run(models, 0.1, 0.9, 0.2, 0.3)
    (found,) = survey(models, Wish())
    hold(folder.checkpoints / E0, child(9))
    assert [row.name for row in free(found)] == [E2]
    assert (folder.checkpoints / E0).is_dir()


def damage(path: Path) -> None:
    state = path / STATE
    state.write_bytes(b"X" * state.stat().st_size)


def test_nothing_goes_for_a_last_or_best_that_is_torn(models):
    folder = a_run(models, 0.3, 0.9, 0.5, 0.1, 0.1)
    damage(folder.checkpoints / E1)
    damage(folder.checkpoints / name_of(4, 5))
    (found,) = survey(models, Wish())
    assert {row.name: (row.why, row.what) for row in found.rows} == {
        E0: ((), ""),
        E2: (("best",), ""),
        E3: (("last",), ""),
        E1: ((), "torn"),
        name_of(4, 5): ((), "torn"),
    }
    free(found)
    assert [manifest.epoch for manifest in manifests(folder.checkpoints)] == [2, 3]
    assert newest_whole(folder.checkpoints).name == E3


def test_the_only_whole_one_stays_and_so_does_a_torn_one_if_there_is_no_other(models):
    folder = a_run(models, 0.1, 0.2)
    damage(folder.checkpoints / E0)
    damage(folder.checkpoints / E1)
    assert can_go(models, quota=1) == {1: []}
    assert set(why(models, quota=1).values()) == {("the only one of its run",)}
    checkpoint(folder.path, 2, 0.3)
    assert sorted(can_go(models, quota=1)[1]) == [E0, E1]
    a_run(models, 0.1)
    assert can_go(models, quota=1)[2] == []


def test_what_killed_processes_left_is_found_and_put_right(models):
    folder = a_run(models, 0.1)
    for begins in (WRITING, TORN):
        (folder.checkpoints / f"{begins}{E3}").mkdir()
        (folder.checkpoints / f"{begins}{E3}" / STATE).write_bytes(b"x" * 10)
    held = checkpoint(folder.path, 2, 0.2)
    hold(held, child(4))
    held.rename(folder.checkpoints / f"{REMOVING}{E2}")
    (found,) = survey(models, Wish())
    assert {row.name: (row.why, row.what) for row in found.rows if row.what} == {
        f"{REMOVING}{E2}": (("held by run 4",), "left by a process that was killed"),
        f"{TORN}{E3}": ((), "torn"),
        f"{WRITING}{E3}": ((), "left by a process that was killed"),
    }
    assert sum(row.bytes for row in free(found)) == 20
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == [E0, E2]
    assert holds(folder.checkpoints / E2) == (child(4),)


def test_where_a_runs_rule_cannot_be_read_everything_stays(models):
    folder = a_run(models, 0.1, 0.9, 0.2)
    folder.config.write_text("checkpoint: [")
    assert set(why(models).values()) == {("what its run keeps cannot be read",)}
    assert can_go(models, keep_best=0) == {1: [E0, E1]}


def test_a_register_or_manifest_that_was_cut_short_hides_no_other_run(models):
    broken, good = a_run(models, 0.1, 0.2), a_run(models, 0.2, 0.1, 0.1)
    (models / ".asparagus" / "runs" / "1.json").write_text("{")
    assert can_go(models) == {2: [E1]}
    (good.checkpoints / E1 / MANIFEST).write_text("{")
    assert can_go(models) == {2: []}
    assert broken.path.is_dir()


@pytest.mark.parametrize(
    ("room", "gone"),
    [
        (8.5, {1: [], 2: []}),
        (7.5, {1: [E1], 2: []}),  # of each n-th, the oldest
        (5.5, {1: [E1], 2: [E1, E3]}),
        (4.5, {1: [E1, E2], 2: [E1, E3]}),  # then bests beyond the first
        (3.5, {1: [E1, E2, E3], 2: [E1, E3]}),  # then the last of a run that is finished, which has its best
        (2.5, {1: [E1, E2, E3], 2: [E0, E1, E3]}),  # or the best of one that is to go on, which has its last
        (0.5, {1: [E1, E2, E3], 2: [E0, E1, E3]}),  # and never the one that is left
    ],
)
def test_a_quota_for_all_runs_takes_the_least_needed_first(models, room, gone):
    a_run(models, 0.9, 0.1, 0.8, 0.2, keep_best=2, keep_every_n_epochs=2, state="finished")  # all 4 stay
    a_run(models, 0.9, 0.1, 0.2, 0.1, 0.3, keep_every_n_epochs=2, state="interrupted")  # all but 2
    one = survey(models, Wish())[0].rows[0].bytes
    (second,) = [found for found in can_go(models).items() if found[0] == 2]
    assert second == (2, [E2])
    found = can_go(models, quota=int(room * one))
    assert {run_id: sorted(set(names) - {E2} if run_id == 2 else names) for run_id, names in found.items()} == gone


def test_a_quota_costs_none_that_is_held(models):
    folder = a_run(models, 0.9, 0.1, 0.8, keep_best=3)
    for name in (E0, E1):
        hold(folder.checkpoints / name, PINNED)
    assert can_go(models, quota=1) == {1: [E2]}
    hold(folder.checkpoints / E2, PINNED)
    assert can_go(models, quota=1) == {1: []}


def test_a_quota_trusts_no_best_that_is_torn(models):
    folder = a_run(models, 0.9, 0.1, state="finished")
    damage(folder.checkpoints / E0)
    (found,) = survey(models, Wish(quota=1))
    free(found)
    assert newest_whole(folder.checkpoints).name == E1


# The command


def test_the_command_shows_and_frees_nothing_then_frees_with_apply(models, capsys):
    folder = a_run(models, 0.1, 0.9, 0.2)
    assert run("gc", []) == 0
    said = capsys.readouterr().out
    assert "run 1  pretrain Task9_X" in said
    assert f"{E0}    1.3 kB  can go" in said
    assert f"{E1}    1.3 kB  stays: best" in said
    assert "1.3 kB of 3.8 kB in 1 runs can go. Free it: the same command with --apply." in said
    assert len(manifests(folder.checkpoints)) == 3
    assert run("gc", ["--apply"]) == 0
    assert "Freed 1.3 kB of 3.8 kB in 1 runs." in capsys.readouterr().out
    assert [manifest.name for manifest in manifests(folder.checkpoints)] == [E1, E2]
    assert run("gc", []) == 0
    assert "0 B of 2.5 kB in 1 runs can go.\n" in capsys.readouterr().out


def test_json_has_all_of_it(models, capsys):
    folder = a_run(models, 0.1, 0.9)
    assert run("gc", ["--json", "--keep-best", "0"]) == 0
    told = json.loads(capsys.readouterr().out)
    (shown,) = told["runs"]
    assert (told["applied"], told["free"], told["bytes"]) == (False, shown["checkpoints"][0]["bytes"], shown["bytes"])
    assert (shown["run_id"], shown["stage"], shown["task"], shown["folder"]) == (
        1, "pretrain", "Task9_X", str(folder.path)
    )  # fmt: skip
    assert [(row["name"], row["free"], row["why"]) for row in shown["checkpoints"]] == [
        (E0, True, []),
        (E1, False, ["last"]),
    ]


def test_a_quota_that_cannot_be_held_is_said_so(models, capsys):
    a_run(models, 0.1)
    assert run("gc", ["--quota", "1kB"]) == 0
    assert "over the quota, and all of it has a reason to stay" in capsys.readouterr().out


def test_without_runs_there_is_nothing_to_free(models, capsys):
    assert run("gc", []) == 0
    assert capsys.readouterr().out == "No run has a checkpoint.\n"


def test_a_pin_keeps_one_that_would_go_and_is_taken_back(models, capsys):
    folder = a_run(models, 0.1, 0.9, 0.2, 0.3)
    assert run("gc", ["--pin", f"1/{E0}"]) == 0
    assert f"{folder.checkpoints / E0} is pinned" in capsys.readouterr().out
    assert run("gc", ["--pin", "1", "--json"]) == 0  # unnamed: the best
    assert json.loads(capsys.readouterr().out) == [str(folder.checkpoints / E1)]
    assert can_go(models, keep_best=0) == {1: [E2]}
    assert run("gc", ["--unpin", f"1/{E0}"]) == 0
    assert can_go(models, keep_best=0) == {1: [E0, E2]}
    assert run("gc", ["--unpin", "1"]) == 0
    assert can_go(models, keep_best=0) == {1: [E0, E1, E2]}
    capsys.readouterr()
    assert run("gc", ["--unpin", "1"]) == 0
    assert "nothing was pinned there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--quota", "lots"], "--quota: 'lots' is no size"),
        (["--keep-best", "-1"], "--keep-best: -1 is too small"),
        (["--pin", "mine"], "'mine' names no checkpoint. Give a run's number, or <number>/<checkpoint>: 12/last."),
        (["--pin", "5"], "run 5: there is no such run"),
        (["--pin", "1/epoch=7-step=7"], f"There are: last, best, {E0}"),
        (["--unpin", "1/nothing"], "no checkpoint 'nothing'"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_status_2(models, capsys, words, said):
    a_run(models, 0.1)
    assert run("gc", words) == 2
    assert said in capsys.readouterr().err


def test_pinning_and_freeing_at_once_is_refused(models, capsys):
    with pytest.raises(SystemExit) as caught:
        run("gc", ["--pin", "1", "--apply"])
    assert caught.value.code == 2


def test_what_the_newest_attempt_is_asked_to_keep_is_kept(models):
    folder = a_run(models, 0.1, 0.9, 0.5, keep_best=1)
    assert can_go(models)[1]
    plan = {"spec": {"checkpoint": {"keep_best": 5, "keep_every_n_epochs": None, "quota": None}}}
    (folder.path / "plan.attempt2.json").write_text(json.dumps(plan))
    assert not can_go(models)[1]
