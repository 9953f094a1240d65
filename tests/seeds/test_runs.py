"""Runs as the first Asparagus promises them (SEEDS A29, A30, A33, A38..A47): numbers, identity, what they leave."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import asparagus
from asparagus.api import plan_of
from asparagus.cli.main import run
from asparagus.errors import ConfigError
from asparagus.record.numbers import claim
from tests.conftest import ASP
from tests.helpers import living_in

DIGITS = "experiment/digits"
TWO = "trainer.max_epochs=2"
FINETUNE = (DIGITS, "stage=finetune_cls", TWO)


@pytest.fixture(scope="module")
def family(tmp_path_factory, data_root):
    """A home with a training (1) and a finetuning of it by the documented keys (2)."""
    home = tmp_path_factory.mktemp("family")
    with living_in(home, data_root):
        parent = asparagus.launch(DIGITS, [TWO])
        name = Path(parent.checkpoint).name
        child = asparagus.launch(
            DIGITS, [*FINETUNE[1:], "pretrained_run_id=1", f"pretrained_checkpoint_name={name}.ckpt"]
        )
    return home, parent, child


@pytest.fixture
def here(family, data_root):
    with living_in(family[0], data_root):
        yield family


def problems(*words) -> str:
    with pytest.raises(ConfigError) as error:
        plan_of(words[0], words[1:])
    return str(error.value)


def test_a29_a_finetuning_starts_from_a_run_by_its_number(here):
    _, parent, _ = here
    found = plan_of(DIGITS, [*FINETUNE[1:], "pretrained_run_id=1"]).parent
    assert (found.run_id, found.folder) == (1, parent.folder)
    assert Path(found.checkpoint).name == "epoch=1-step=46"  # the last, unless it is named


def test_a29_a_number_that_is_not_there_and_one_with_two_folders_are_refused(here):
    home, parent, _ = here
    told = problems(*FINETUNE, "pretrained_run_id=77")
    assert "run 77: there is no such run" in told
    assert "[command line: pretrained_run_id=77]" in told
    copied = home / "models/Task001_Digits/train_seg/run_id=1"
    copied.mkdir(parents=True)
    try:
        told = problems(*FINETUNE, "pretrained_run_id=1")
    finally:
        copied.rmdir()
        copied.parent.rmdir()
    assert f"there are 2 folders of it, {parent.folder} and {copied}" in told


def test_a30_the_checkpoint_is_named_as_lightning_names_files(here):
    _, parent, child = here
    assert child.parent.checkpoint == parent.checkpoint
    told = problems(*FINETUNE, "pretrained_run_id=1", "pretrained_checkpoint_name=epoch=9-step=1.ckpt")
    assert "no checkpoint 'epoch=9-step=1.ckpt'" in told
    assert "There are: last, best, " in told


def test_a30_a_file_that_holds_no_weights_is_refused(here):
    home, _, _ = here
    (home / "weights.ckpt").write_text("no weights")
    assert "is no file that torch.save wrote" in problems(*FINETUNE, f"checkpoint_path={home}/weights.ckpt")


def test_a30_a_path_into_a_run_folder_is_that_runs_checkpoint(here):
    _, parent, _ = here
    found = plan_of(DIGITS, [*FINETUNE[1:], f"checkpoint_path='{parent.checkpoint}'"]).parent
    assert (found.run_id, found.checkpoint) == (1, parent.checkpoint)


def test_a33_the_parent_has_a_line_for_each_child(here):
    _, parent, child = here
    assert (Path(parent.folder) / "derived_models.log").read_text() == f"2, {child.folder}\n"


def test_a33_the_line_is_there_before_the_training_starts(here):
    _, parent, child = here
    written = (Path(parent.folder) / "derived_models.log").stat().st_mtime
    events = [json.loads(line) for line in (Path(child.folder) / "journal.jsonl").read_text().splitlines()]
    assert written < next(event["time"] for event in events if event["kind"] == "start")


def test_a38_a_number_is_unique_over_tasks_and_stages(here):
    _, parent, child = here
    assert (parent.run_id, child.run_id) == (1, 2)


def test_a41_the_newest_identical_run_is_the_one_that_counts(here):
    notes = plan_of(DIGITS, [TWO]).notes
    assert notes[-1].startswith("run 1 is identical and finished")
    assert plan_of(DIGITS, ["trainer.max_epochs=3"]).notes == ()


def test_a42_a_new_number_is_larger_than_all_that_were_ever_taken(tmp_path):
    about = {"stage": "pretrain", "task": "T"}
    for wanted in (3, 40, 7):
        claim(tmp_path, about=about, wanted=wanted)
    assert claim(tmp_path, about=about) == 41


def test_a44_the_number_is_found_in_a_log(here, tmp_path):
    _, parent, _ = here
    log = Path(parent.folder) / "train_cls.log"
    done = subprocess.run([str(ASP / "asp_getid"), str(log)], capture_output=True, text=True, check=True)
    assert done.stdout == "found run-ID: 1\n"
    (tmp_path / "other.log").write_text("nothing here")
    done = subprocess.run(
        [str(ASP / "asp_getid"), str(tmp_path / "other.log")], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("found 0 run-IDs\n", 2)


def test_a46_a_run_folder_holds_what_there_is_to_know(here):
    _, _, child = here
    found = {path.name for path in Path(child.folder).iterdir()}
    expected = {
        "checkpoints",
        "config.yaml",
        "finetune_cls.log",
        "journal.jsonl",
        "plan.json",
        "record.json",
        "run.json",
    }
    assert expected | {"transfer.json", "plots"} <= found
    assert not list(Path(child.folder).rglob("*.pickle"))


def test_a43_a_number_given_by_hand_is_the_runs_number(here, capsys):
    assert run("launch", [DIGITS, "run_id=500", "--dry-run"]) == 0
    capsys.readouterr()
    assert plan_of(DIGITS, ["run_id=500"]).spec.run.id == 500
    assert "run.id: 1 is taken" in problems(DIGITS, "run_id=1", "seed=7")
