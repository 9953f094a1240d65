"""Which checkpoints stay: decided by value, kept to while training, and safe against being killed half-way."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from asparagus.callbacks.checkpoints import CheckpointWriter
from asparagus.check import check
from asparagus.checkpoint.folder import (
    REMOVING,
    STATE,
    TORN,
    WRITING,
    Manifest,
    best_of,
    digest_of,
    manifests,
    name_of,
    newest_whole,
    seal,
)
from asparagus.checkpoint.holds import PINNED, child, children, hold, holds, registered, release, told
from asparagus.checkpoint.removal import clear_leftovers, remove, set_aside_torn, size_of, stored
from asparagus.checkpoint.retention import Rule, Stored, bytes_of, reasons, retained, shortages, to_remove
from asparagus.compose import Request, compose
from asparagus.errors import ConfigError, RecordError
from asparagus.journal import Journal
from asparagus.spec import Checkpointing
from tests.helpers import quiet_trainer

MB = 10**6


def there(*scores, size=MB, held=()):
    """One checkpoint per score, of epochs 0, 1, ...; those of epochs in `held` are pinned."""
    return [
        Stored(
            Manifest(name_of(epoch, epoch + 1), epoch, epoch + 1, {"m": score}, "d", size, monitor="m", mode="max"),
            size,
            (PINNED,) if epoch in held else (),
        )
        for epoch, score in enumerate(scores)
    ]


def epochs(names):
    return sorted(int(name.split("=")[1].split("-")[0]) for name in names)


def in_order(names):
    return [int(name.split("=")[1].split("-")[0]) for name in names]


# The rule, by value


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (Rule(keep_best=1), [1, 5]),
        (Rule(keep_best=0), [5]),
        (Rule(keep_best=2), [1, 3, 5]),
        (Rule(keep_best=1, every_n_epochs=2), [1, 3, 5]),
        (Rule(keep_best=1, every_n_epochs=3), [1, 2, 5]),
        (Rule(keep_best=9), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_the_last_the_best_k_and_each_nth_are_kept(rule, kept):
    assert epochs(retained(there(0.1, 0.9, 0.2, 0.8, 0.3, 0.4), rule)) == kept


def test_a_held_one_is_kept_whatever_the_rule():
    assert epochs(retained(there(0.1, 0.9, 0.2, held=[0]), Rule(keep_best=0))) == [0, 2]


def test_of_equals_the_earlier_is_the_best_and_nan_never_is():
    assert epochs(retained(there(0.5, 0.5, float("nan"), 0.1), Rule(keep_best=1))) == [0, 3]


def test_each_one_says_why_it_stays():
    why = reasons(there(0.1, 0.9, 0.2, 0.8, held=[0]), Rule(keep_best=2, every_n_epochs=2))
    assert list(why.values()) == [("pinned",), ("best", "every 2 epochs"), (), ("last", "best 2", "every 2 epochs")]


def test_nothing_is_removed_where_there_is_nothing():
    assert to_remove([], Rule(quota=1)) == []


@pytest.mark.parametrize(
    ("quota", "gone"),
    [
        (8, []),
        (7, [1]),
        (6, [1, 3]),
        (5, [1, 3, 5]),
        (4, [1, 3, 5, 4]),
        (3, [1, 3, 5, 4, 2]),
        (1, [1, 3, 5, 4, 2]),
    ],
)
def test_a_quota_costs_first_the_older_of_every_n_then_further_bests_then_the_best_and_never_the_last(quota, gone):
    found = there(0.1, 0.2, 0.95, 0.3, 0.7, 0.1, 0.6)  # every second: 1, 3, 5; bests: 2, 4; the last is 6
    rule = Rule(keep_best=2, every_n_epochs=2, quota=quota * MB)
    assert in_order(to_remove(found, rule, incoming=MB, besides=MB)) == [0, *gone]


def test_a_quota_never_costs_one_that_is_held():
    found = there(0.1, 0.9, 0.2, held=[0, 1])
    assert to_remove(found, Rule(quota=1)) == []


def test_a_quota_that_cannot_be_held_says_what_holds_it():
    found = there(0.1, 0.9, 0.2, held=[0])
    said = shortages(found, to_remove(found, Rule(quota=MB), incoming=MB), Rule(quota=MB), incoming=MB)
    assert said["quota"] == (
        "checkpoint.quota: 1.0 MB cannot be held, 3.0 MB are taken: epoch=0-step=1 (1.0 MB: pinned); "
        "epoch=2-step=3 (1.0 MB: last); the next one (1.0 MB). The training goes on."
    )
    assert "epoch=1-step=2, the best so far, was removed" in said["best"]


def test_a_quota_that_is_held_says_nothing():
    assert shortages(there(0.1, 0.9), [], Rule(quota=2 * MB), incoming=0) == {}


@pytest.mark.parametrize(
    ("size", "number"),
    [
        ("500MB", 500 * 10**6),
        ("2GB", 2 * 10**9),
        ("1.5GiB", 1610612736),
        ("10 kib", 10240),
        ("7", 7),
        (12, 12),
        ("3b", 3),
        ("1TB", 10**12),
    ],
)
def test_a_size_is_a_number_with_a_unit(size, number):
    assert bytes_of(size) == number


@pytest.mark.parametrize("size", ["5 lemons", "MB", "", "-5MB", "1e9", "nan", -3, True, "5 5MB", "1,5GB", "5iB"])
def test_what_is_no_size_is_said_so(size):
    with pytest.raises(ConfigError, match=r"is no size. Give bytes, or a number with a unit: 500MB, 2GB, 1.5GiB"):
        bytes_of(size)


@pytest.mark.parametrize("size", [0, "0", "0.4 B"])
def test_a_quota_of_nothing_is_said_so(size):
    with pytest.raises(ConfigError, match="leaves room for nothing"):
        bytes_of(size)


# The door


def problems(*words):
    with pytest.raises(ConfigError) as caught:
        check(compose(Request("experiment/digits", words)))
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize("quota", ["500MB", "7", "1.5GiB", "null"])
def test_a_quota_is_taken_as_text_or_number(home, quota):
    assert check(compose(Request("experiment/digits", (f"checkpoint.quota={quota}",))))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("checkpoint.quota=5 lemons", "checkpoint.quota: '5 lemons' is no size"),
        ("checkpoint.quota=0", "checkpoint.quota: 0 leaves room for nothing"),
        ("checkpoint.quota=true", "checkpoint.quota: Value 'True' of type 'bool'"),
        ("checkpoint.keep_every_n_epochs=0", "checkpoint.keep_every_n_epochs: 0 is too small"),
        ("checkpoint.keep_every_n_epochs=often", "checkpoint.keep_every_n_epochs: Value 'often'"),
    ],
)
def test_a_wrong_rule_is_found_before_anything_runs(home, word, said):
    assert said in problems(word)


def test_an_nth_epoch_that_is_never_written_is_found_before_anything_runs(home):
    said = problems("checkpoint.keep_every_n_epochs=5", "checkpoint.every_n_epochs=3")
    assert "5 is no multiple of checkpoint.every_n_epochs=3" in said
    assert "Nearest: 3 or 6." in said
    assert "Nearest: 4." in problems("checkpoint.keep_every_n_epochs=2", "checkpoint.every_n_epochs=4")


# Holds


def write(folder: Path, epoch: int, score: float, *, size: int = 8) -> Path:
    writing = folder / f"{WRITING}x"
    writing.mkdir(parents=True)
    (writing / STATE).write_bytes(b"%d" % epoch * size)
    size, digest = (writing / STATE).stat().st_size, digest_of(writing / STATE)
    name = name_of(epoch, epoch + 1)
    return seal(writing, Manifest(name, epoch, epoch + 1, {"m": score}, digest, size, monitor="m", mode="max"))


def test_a_hold_is_there_until_it_is_released_and_may_be_made_twice(tmp_path):
    checkpoint = write(tmp_path, 0, 0.1)
    for _ in range(2):
        hold(checkpoint, child(12))
    hold(checkpoint, child(7))
    hold(checkpoint, PINNED)
    assert holds(checkpoint) == ("pinned", "run_id=12", "run_id=7")
    assert children(checkpoint) == (7, 12)
    for _ in range(2):
        release(checkpoint, child(12))
    assert holds(checkpoint) == ("pinned", "run_id=7")
    assert sorted(path.name for path in (checkpoint / "held").iterdir()) == ["pinned", "run_id=7"]


def test_odd_names_of_models_are_files_all_the_same(tmp_path):
    checkpoint = write(tmp_path, 0, 0.1)
    reason = registered("brain/mae @ home=1", "best/ever")
    hold(checkpoint, reason)
    assert holds(checkpoint) == (reason,)
    assert told(reason) == "registered as brain/mae @ home=1@best/ever"
    assert told(child(3)) == "held by run 3"


def test_a_checkpoint_that_is_not_there_cannot_be_held_and_has_no_holds(tmp_path):
    with pytest.raises(RecordError, match="is not there any more; it was removed or moved meanwhile"):
        hold(tmp_path / "epoch=0-step=1", PINNED)
    assert holds(tmp_path / "epoch=0-step=1") == ()
    release(tmp_path / "epoch=0-step=1", PINNED)


def test_a_file_of_weights_is_no_checkpoint_to_hold(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"x")
    with pytest.raises(RecordError, match="is not there any more"):
        hold(tmp_path / "weights.pt", PINNED)
    release(tmp_path / "weights.pt", PINNED)


def test_who_holds_while_another_removes_either_has_it_or_is_told(tmp_path):
    """Never both: a hold that was made without an error, and a checkpoint that is gone."""
    outcomes = []
    for _ in range(60):
        checkpoint = write(tmp_path, 0, 0.1)
        gate, removed, error = threading.Barrier(2), [], []

        def take(checkpoint=checkpoint, gate=gate, removed=removed):
            gate.wait()
            removed.append(remove(checkpoint))

        other = threading.Thread(target=take)
        other.start()
        gate.wait()
        try:
            hold(checkpoint, child(1))
        except RecordError as missing:
            error.append(missing)
        other.join()
        assert removed[0] == bool(error)
        assert removed[0] != checkpoint.exists()
        outcomes.append(removed[0])
        if checkpoint.exists():
            release(checkpoint, child(1))
    assert list(tmp_path.glob(".*")) == []


# Taking away


def test_a_held_one_is_not_removed(tmp_path):
    checkpoint = write(tmp_path, 0, 0.1)
    hold(checkpoint, PINNED)
    assert remove(checkpoint) is False
    release(checkpoint, PINNED)
    assert remove(checkpoint) is True
    assert list(tmp_path.iterdir()) == []
    assert remove(checkpoint) is False


def test_a_killed_removal_leaves_nothing_that_looks_like_a_checkpoint_and_is_finished_later(tmp_path):
    write(tmp_path, 0, 0.1).rename(tmp_path / f"{REMOVING}epoch=0-step=1")
    (tmp_path / f"{WRITING}epoch=1-step=2").mkdir()
    kept = write(tmp_path, 2, 0.3)
    assert [manifest.epoch for manifest in manifests(tmp_path)] == [2]
    assert {path.name for path in clear_leftovers(tmp_path)} == {
        f"{REMOVING}epoch=0-step=1",
        f"{WRITING}epoch=1-step=2",
    }
    assert list(tmp_path.iterdir()) == [kept]


def test_a_killed_removal_of_one_that_was_held_meanwhile_is_undone(tmp_path):
    checkpoint = write(tmp_path, 0, 0.1)
    hold(checkpoint, child(5))
    checkpoint.rename(tmp_path / f"{REMOVING}{checkpoint.name}")
    assert clear_leftovers(tmp_path) == []
    assert newest_whole(tmp_path) == checkpoint
    assert children(checkpoint) == (5,)


def damage(checkpoint: Path) -> None:
    state = checkpoint / STATE
    state.write_bytes(b"X" * state.stat().st_size)


def test_a_torn_one_is_moved_aside_with_a_warning_and_neither_counts_nor_is_lost(tmp_path, caplog):
    for epoch, score in enumerate((0.1, 0.5, 0.9, 0.3)):
        write(tmp_path, epoch, score)
    damage(tmp_path / name_of(2, 3))  # the best
    damage(tmp_path / name_of(3, 4))  # the last
    moved = set_aside_torn(tmp_path, keep_best=1)
    assert {path.name for path in moved} == {f"{TORN}epoch=2-step=3", f"{TORN}epoch=3-step=4"}
    assert all((path / STATE).is_file() for path in moved)
    assert caplog.text.count("is torn or was changed; it was moved to .torn-epoch=") == 2
    assert [manifest.epoch for manifest in manifests(tmp_path)] == [0, 1]
    assert best_of(manifests(tmp_path)).epoch == 1
    assert epochs(retained(stored(tmp_path), Rule(keep_best=1))) == [1]
    assert clear_leftovers(tmp_path) == []  # a torn one is nobody's to delete in passing


def test_one_that_was_cut_short_or_has_no_manifest_any_more_is_moved_aside_too(tmp_path):
    short, headless, whole = (write(tmp_path, epoch, 0.1) for epoch in range(3))
    (short / STATE).write_bytes(b"")
    (headless / "checkpoint.json").write_text("{")
    (tmp_path / "epoch=mine").mkdir()  # a user's own
    assert {path.name for path in set_aside_torn(tmp_path, 1)} == {f"{TORN}{short.name}", f"{TORN}{headless.name}"}
    assert {path for path in tmp_path.iterdir() if not path.name.startswith(".")} == {whole, tmp_path / "epoch=mine"}


def test_the_same_one_torn_twice_is_kept_twice(tmp_path):
    for _ in range(2):
        damage(write(tmp_path, 0, 0.1))
        set_aside_torn(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{TORN}epoch=0-step=1", f"{TORN}epoch=0-step=1.2"]


def test_only_what_would_count_is_read_from_end_to_end(tmp_path):
    for epoch in range(4):
        write(tmp_path, epoch, 0.1 * epoch)
    damage(tmp_path / name_of(0, 1))  # neither last nor best: at nobody's cost
    assert set_aside_torn(tmp_path, 1) == []


# While training


class Scores(pl.LightningModule):
    """Logs the scores that it is given, one an epoch; its weights and optimizer take some ten thousand bytes."""

    def __init__(self, *scores: float) -> None:
        super().__init__()
        self.net = torch.nn.Linear(32, 32)
        self.scores = scores

    def training_step(self, batch, index):
        return self.net(batch).mean()

    def on_train_epoch_end(self):
        self.log("m", self.scores[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())


def train(folder: Path, scores, *, resume=None, watch=lambda _: None, **rule) -> pl.Trainer:
    """Train one epoch per score with a writer; `watch` is called at each commit, when most lies on the disk."""
    journal = Journal(folder / "journal.jsonl")
    asked = Checkpointing(**{"monitor": "m", "mode": "max", **rule})
    writer = CheckpointWriter(folder / "checkpoints", asked, lambda path, _: watch(path), journal)
    trainer = quiet_trainer(
        max_epochs=len(scores), callbacks=[writer], enable_checkpointing=True, default_root_dir=folder
    )
    try:
        trainer.fit(Scores(*scores), DataLoader(torch.zeros(2, 32)), ckpt_path=resume, weights_only=True)
    finally:
        journal.close()
    return trainer


def kept(folder: Path) -> list[int]:
    return [manifest.epoch for manifest in manifests(folder / "checkpoints")]


SCORES = (0.1, 0.9, 0.2, 0.8, 0.3, 0.4, 0.5)


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ({}, [1, 6]),
        ({"keep_best": 2}, [1, 3, 6]),
        ({"keep_every_n_epochs": 3}, [1, 2, 5, 6]),
        ({"keep_every_n_epochs": 4, "every_n_epochs": 2, "keep_best": 0}, [3, 6]),
    ],
)
def test_a_training_leaves_what_its_rule_keeps(tmp_path, rule, left):
    train(tmp_path, SCORES, **rule)
    assert kept(tmp_path) == left


def test_a_training_keeps_what_is_held(tmp_path):
    def hold_the_first(path):
        if path.name.startswith("epoch=0"):
            hold(path, child(9))

    train(tmp_path, SCORES, watch=hold_the_first)
    assert kept(tmp_path) == [0, 1, 6]


def size_of_one(tmp_path: Path) -> int:
    train(tmp_path / "one", (0.1,))
    return size_of(tmp_path / "one" / "checkpoints")


class Largest:
    """The most that ever lay in a folder, looked at whenever a file is opened for writing in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bytes = folder, 0

    def __call__(self, _=None) -> None:
        self.bytes = max(self.bytes, size_of(self.folder))


@pytest.mark.parametrize("room", [2.3, 3.3, 4.3])
def test_a_quota_holds_at_every_moment_of_a_training(tmp_path, room, monkeypatch):
    """Sealing comes when the new one is whole and nothing was tidied yet: the fullest moment."""
    quota = int(room * size_of_one(tmp_path))
    largest = Largest(tmp_path / "checkpoints")

    def sealing(writing, manifest):
        largest()
        return seal(writing, manifest)

    monkeypatch.setattr("asparagus.callbacks.checkpoints.seal", sealing)
    train(tmp_path, SCORES, quota=quota, keep_best=2, keep_every_n_epochs=1, watch=largest)
    assert 0 < largest.bytes <= quota
    assert kept(tmp_path)[-1] == 6
    assert newest_whole(tmp_path / "checkpoints") is not None
    if room > 3:
        assert 1 in kept(tmp_path)  # room for the best, the last and the next


def test_a_quota_that_costs_the_best_says_so_once(tmp_path, caplog):
    train(tmp_path, SCORES, quota=int(2.3 * size_of_one(tmp_path)))
    assert caplog.text.count("has no room for the best checkpoint") == 1
    assert kept(tmp_path)[-1] == 6


def test_a_quota_that_cannot_be_held_is_warned_of_once_and_the_training_goes_on(tmp_path, caplog):
    train(tmp_path, SCORES, quota="1kB")
    assert caplog.text.count("checkpoint.quota: 1.0 kB cannot be held") == 1
    assert kept(tmp_path) == [6]


def test_the_only_whole_one_is_never_gone_while_the_next_is_written(tmp_path, monkeypatch):
    seen = []

    def sealing(writing, manifest):
        seen.append(newest_whole(writing.parent))
        return seal(writing, manifest)

    monkeypatch.setattr("asparagus.callbacks.checkpoints.seal", sealing)
    train(tmp_path, SCORES, quota=1)
    assert seen[0] is None
    assert [path.name for path in seen[1:]] == [name_of(epoch, 2 * epoch + 2) for epoch in range(6)]


def test_a_run_that_goes_on_puts_its_folder_in_order_first(tmp_path, caplog):
    train(tmp_path, SCORES[:4], keep_best=2)
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / f"{WRITING}epoch=4-step=10").mkdir()
    damage(checkpoints / name_of(3, 8))
    start = newest_whole(checkpoints)
    with caplog.at_level(logging.WARNING, logger="asparagus"):
        trainer = train(tmp_path, SCORES, resume=start / STATE, keep_best=2)
    assert start.name == name_of(1, 4)
    assert trainer.current_epoch == 7
    assert sorted(path.name for path in checkpoints.glob(".*")) == [f"{TORN}{name_of(3, 8)}"]
    assert kept(tmp_path) == [1, 3, 6]  # epoch 3 was trained again, and is whole
    assert "it was moved to .torn-epoch=3-step=8" in caplog.text


def test_one_that_is_held_is_not_replaced_when_its_step_is_trained_again(tmp_path):
    train(tmp_path, SCORES[:2])
    first = tmp_path / "checkpoints" / name_of(0, 2)
    train(tmp_path / "other", SCORES[:1])
    hold(tmp_path / "checkpoints" / name_of(1, 4), child(3))
    before = digest_of(tmp_path / "checkpoints" / name_of(1, 4) / STATE)
    assert not first.exists()
    train(tmp_path, SCORES[:2])  # from its start: a script that fits twice
    names = [manifest.name for manifest in manifests(tmp_path / "checkpoints")]
    assert names == ["epoch=1-step=4", "epoch=1-step=4-v1"]
    assert digest_of(tmp_path / "checkpoints" / name_of(1, 4) / STATE) == before
    assert newest_whole(tmp_path / "checkpoints").name == "epoch=1-step=4-v1"


def test_a_checkpoint_goes_straight_to_its_place_and_not_through_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "not there"))
    train(tmp_path, SCORES[:2])
    assert kept(tmp_path) == [1]


def test_a_checkpoint_io_of_ones_own_is_used(tmp_path):
    from lightning_fabric.plugins import TorchCheckpointIO

    class Own(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint, path, storage_options=None):
            super().save_checkpoint({**checkpoint, "mine": True}, path)

    journal = Journal(tmp_path / "journal.jsonl")
    writer = CheckpointWriter(tmp_path / "checkpoints", Checkpointing(), lambda *_: None, journal)
    given = {"callbacks": [writer], "enable_checkpointing": True, "plugins": [Own()], "default_root_dir": tmp_path}
    trainer = quiet_trainer(max_epochs=1, **given)
    trainer.fit(Scores(0.1), DataLoader(torch.zeros(2, 32)))
    state = torch.load(newest_whole(tmp_path / "checkpoints") / STATE, weights_only=True)
    assert state["mine"] is True


def test_a_killed_removal_in_a_real_process_leaves_the_run_able_to_go_on(tmp_path):
    for epoch in range(3):
        write(tmp_path, epoch, 0.1 * epoch, size=100)
    code = (
        "import os, shutil, sys; from pathlib import Path; from asparagus.checkpoint import removal\n"
        "shutil.rmtree = lambda path, **_: os._exit(9) if Path(path).is_dir() else None\n"
        "removal.remove(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / name_of(2, 3))], check=False)
    assert done.returncode == 9
    assert [path.name for path in tmp_path.glob(".*")] == [f"{REMOVING}epoch=2-step=3"]
    assert newest_whole(tmp_path).name == name_of(1, 2)
    clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name_of(0, 1), name_of(1, 2)]


def test_what_is_said_of_a_rule_is_in_the_configs(home):
    spec = compose(Request("experiment/digits"))
    assert (spec.checkpoint.keep_every_n_epochs, spec.checkpoint.quota) == (None, None)
    assert json.loads(spec.to_json())["checkpoint"]["quota"] is None
