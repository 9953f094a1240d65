"""`init_from=run:...` and `file:...`: the very checkpoint, whole, or why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from asparagus.check.parent import resolve_parent
from asparagus.checkpoint.folder import STATE, WRITING, Manifest, digest_of, seal
from asparagus.errors import RequestError
from asparagus.record.numbers import claim
from asparagus.record.run_folder import RunFolder, create, hold
from asparagus.spec import Parent, Spec


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    run_id = claim(tmp_path, about={"stage": "pretrain", "task": "Task9_X"})
    return create(tmp_path, Spec("pretrain", "Task9_X"), run_id, "{}")


def a_checkpoint(folder: RunFolder, step: int, value: float) -> Path:
    writing = folder.checkpoints / f"{WRITING}x"
    writing.mkdir(parents=True)
    (writing / STATE).write_bytes(b"PK" + bytes([step]) * 50)
    digest = digest_of(writing / STATE)
    manifest = Manifest(f"epoch=0-step={step}", 0, step, {"val/x": value}, digest, 52, monitor="val/x", mode="max")
    return seal(writing, manifest)


def damage(checkpoint: Path) -> None:
    """Change a byte; the size stays."""
    (checkpoint / STATE).write_bytes(b"PK" + b"?" * 50)


def found(init_from: str, tmp_path: Path) -> str:
    return Path(resolve_parent(init_from, tmp_path, None).parent.checkpoint).name


def test_last_best_and_a_name_are_what_they_say(folder, tmp_path):
    best, last = a_checkpoint(folder, 4, 0.9), a_checkpoint(folder, 8, 0.5)
    assert found("run:1/last", tmp_path) == found("run:1", tmp_path) == last.name
    assert found("run:1/best", tmp_path) == best.name
    assert found("run:1/epoch=0-step=4.ckpt", tmp_path) == best.name
    expected = Parent(str(best), digest_of(best / STATE), 1, str(folder.path), 4)
    assert resolve_parent("run:1/best", tmp_path, None).parent == expected
    assert resolve_parent(f"file:{best}", tmp_path, None).parent == expected


@pytest.mark.parametrize("text", ["5", "run:", "run:x/last", "run:²/last", "run:-1", "model:", "file:", "s3:x", ""])
def test_what_names_no_parent_is_refused_with_what_would(text, tmp_path):
    with pytest.raises(RequestError, match=r"run:<id>/last.*model:<name>@<alias>.*file:/path/to/weights"):
        resolve_parent(text, tmp_path, None)


def test_while_the_parent_trains_last_and_best_may_move(folder, tmp_path):
    a_checkpoint(folder, 4, 0.9)
    lock = hold(folder)
    try:
        for which in ("last", "best", ""):
            with pytest.raises(
                RequestError, match=r"run 1 is still training.*name one: init_from=run:1/epoch=0-step=4"
            ):
                resolve_parent(f"run:1/{which}", tmp_path, None)
        assert found("run:1/epoch=0-step=4", tmp_path) == "epoch=0-step=4"
    finally:
        lock.release()
    assert found("run:1/last", tmp_path) == "epoch=0-step=4"


def test_a_parent_without_a_checkpoint_yet_has_to_be_waited_for(folder, tmp_path):
    lock = hold(folder)
    try:
        with pytest.raises(RequestError, match=r"still training.*wait for it\.$"):
            resolve_parent("run:1/last", tmp_path, None)
    finally:
        lock.release()


@pytest.mark.parametrize(("which", "torn", "expected"), [("last", 12, 8), ("best", 4, 8), ("best", 12, 4)])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it_and_is_told(which, torn, expected, folder, tmp_path):
    saved = {step: a_checkpoint(folder, step, value) for step, value in ((4, 0.9), (8, 0.8), (12, 0.7))}
    damage(saved[torn])
    result = resolve_parent(f"run:1/{which}", tmp_path, None)
    assert result.parent.step == expected
    told = [f"init_from: {saved[torn]} is not as it was written"] if expected != 4 or torn == 4 else []
    assert [note.partition(" (")[0] for note in result.notes] == told


def test_a_damaged_checkpoint_that_was_named_is_refused(folder, tmp_path):
    a_checkpoint(folder, 4, 0.9)
    damaged = a_checkpoint(folder, 8, 0.8)
    damage(damaged)
    for text in ("run:1/epoch=0-step=8", f"file:{damaged}"):
        with pytest.raises(RequestError, match=r"is not as it was written.*Take another one: epoch=0-step=4"):
            resolve_parent(text, tmp_path, None)


def test_where_every_checkpoint_is_damaged_nothing_is_started(folder, tmp_path):
    for step in (4, 8):
        damage(a_checkpoint(folder, step, 0.5))
    for which in ("last", "best"):
        with pytest.raises(RequestError, match=f"no checkpoint that could be {which} is as it was written"):
            resolve_parent(f"run:1/{which}", tmp_path, None)


def test_weights_from_elsewhere_have_their_digest(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"PK weights")
    parent = resolve_parent(f"file:{tmp_path}/weights.pt", tmp_path, None).parent
    assert parent == Parent(str(tmp_path / "weights.pt"), digest_of(tmp_path / "weights.pt"))
