"""What people read and see of a run in the MLflow UI."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from asparagus.checkpoint.folder import Manifest
from asparagus.journal import Journal
from asparagus.record.curves import MOST, POINTS, curves_of, draw, families, thinned
from asparagus.record.presentation import (
    PARENT_RUN,
    description,
    experiment_description,
    files_to_attach,
    merged,
    nesting,
    run_page,
)
from asparagus.record.recorder import RunRecord
from asparagus.record.run_folder import RunFolder
from asparagus.spec import Parent

FOLDER = "/models/Task998/pretrain/run_id=531"
PARENT = Parent(f"{FOLDER}/checkpoints/epoch=4-step=25", "d" * 64, 531, FOLDER, 25)


def a_record(**facts: object) -> RunRecord:
    return RunRecord(532, "finetune_seg", "Task997", "/models/Task997/finetune_seg/run_id=532", "x", {}, **facts)


def a_manifest(step: int, value: float | None) -> Manifest:
    metrics = {} if value is None else {"val/dice": value}
    return Manifest(f"epoch=0-step={step}", 0, step, metrics, "d" * 64, 1, monitor="val/dice", mode="max")


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path, "train")


def measured(folder: RunFolder, points: list[tuple[int, dict[str, float]]]) -> None:
    journal = Journal(folder.journal)
    for step, values in points:
        journal.append("metrics", flush=False, step=step, epoch=0, values=values)
    journal.close()


def test_a_description_says_what_it_is_its_parent_and_how_to_repeat_it():
    told = description(a_record(parent=PARENT), parent_page=run_page("7", "abc"))
    assert told == (
        "**Run 532**: finetune_seg on Task997. Starts from [run 531 (pretrain, Task998)]"
        "(#/experiments/7/runs/abc?workflowType=machine_learning), checkpoint `epoch=4-step=25`. "
        "Again: `asp rerun 532`; all of it: `asp show 532`; its ancestry: `asp lineage 532`."
    )


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"parent": PARENT}, "Starts from run 531 (pretrain, Task998), checkpoint `epoch=4-step=25`."),
        ({"parent": Parent("/w/a.pt", "d")}, "Starts from the file `/w/a.pt`."),
        ({"rerun_of": 5}, "Repeats run 5."),
        ({"sweep_id": 9}, "A trial of sweep 9."),
    ],
)
def test_where_a_run_comes_from_is_told(facts, told):
    assert f" {told} " in description(a_record(**facts))
    assert "Starts from" not in description(a_record())


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (
            [a_manifest(4, 0.75), a_manifest(8, 0.5)],
            "Result: val/dice 0.75 at `epoch=0-step=4`, the last is `epoch=0-step=8`.",
        ),
        ([a_manifest(4, 0.75)], "Result: val/dice 0.75 at `epoch=0-step=4`, the last."),
        ([a_manifest(4, None)], "Result: checkpoint `epoch=0-step=4`."),
        ([a_manifest(4, math.nan)], "Result: checkpoint `epoch=0-step=4`."),
    ],
)
def test_at_the_end_the_best_checkpoint_is_told(found, told):
    assert description(a_record(), checkpoints=found) == f"{description(a_record())} {told}"


def test_what_people_wrote_into_a_description_stays():
    opening = description(a_record())
    first = description(a_record(), checkpoints=[a_manifest(4, 0.5)])
    second = description(a_record(), checkpoints=[a_manifest(4, 0.5), a_manifest(8, 0.75)])
    assert merged("", opening, first) == first
    assert merged(opening, opening, first) == first
    assert merged(first, opening, second) == second
    assert merged(first, opening, first) == first
    assert merged(f"Mine!\n\n{first}\n\nAnd **more**.", opening, second) == f"Mine!\n\n{second}\n\nAnd **more**."
    assert merged("all mine", opening, second) == "all mine"


def test_an_experiment_says_how_to_find_the_best_run():
    assert "asp runs --task Task997 --sort best" in experiment_description("Task997")


def test_a_trial_stands_below_its_sweep():
    assert nesting(a_record(sweep_id=9), {9: "abc"}) == {PARENT_RUN: "abc"}
    assert nesting(a_record(sweep_id=9), {}) == {}
    assert nesting(a_record(), {9: "abc"}) == {}


def test_plots_are_attached_where_they_lie(folder):
    names = ["a.png", "b.SVG", "deep/er/c.html", "raw.npy", "empty.png", ".d.png.writing"]
    for name in names:
        path = folder.plots / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name == "empty.png" else b"x")
    found = [(path.name, where) for path, where in files_to_attach(folder)]
    assert found == [("a.png", "plots"), ("b.SVG", "plots"), ("c.html", "plots/deep/er")]


def test_a_run_without_plots_attaches_nothing(folder):
    assert files_to_attach(folder) == []


def test_losses_and_other_metrics_are_drawn_apart_and_attached(folder):
    measured(folder, [(step, {"train/loss": 1 / (step + 1), "val/acc_$1": step / 9, "lr": 0.1}) for step in range(10)])
    started = time.monotonic()
    drawn = draw(folder)
    assert [path.name for path in drawn] == ["loss.png", "other.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert [where for _, where in files_to_attach(folder)] == ["plots/curves"] * 2
    assert time.monotonic() - started < 10  # ten times what it takes when nothing else runs


@pytest.mark.parametrize("points", [[], [(1, {"a": math.nan})], [(1, {})]])
def test_nothing_measured_draws_nothing(folder, points):
    measured(folder, points)
    assert draw(folder) == []
    assert not folder.plots.exists()


def test_one_point_is_a_curve_and_a_huge_range_too(folder):
    measured(folder, [(1, {"loss": 1e30, "x": -1.0}), (2, {"loss": 1e-30})])
    assert len(draw(folder)) == 2


def test_of_a_step_that_was_repeated_the_last_value_is_drawn(folder):
    measured(folder, [(1, {"a": 1.0}), (2, {"a": 2.0}), (2, {"a": 3.0}), (3, {"a": math.inf})])
    assert curves_of(folder) == {"a": [(1, 1.0), (2, 3.0)]}


def test_long_curves_are_thinned_to_their_ends_and_many_are_counted():
    points = [(step, float(step)) for step in range(123_456)]
    short = thinned(points)
    assert len(short) <= POINTS + 1
    assert (short[0], short[-1]) == (points[0], points[-1])
    many = {f"metric{number}": [(1, 1.0)] for number in range(50)}
    assert {family: len(curves) for family, curves in families(many).items()} == {"other": MOST}


def test_drawing_again_replaces_the_old_picture(folder):
    measured(folder, [(1, {"a": 1.0})])
    assert draw(folder) == []  # a point is no curve
    measured(folder, [(2, {"a": 2.0})])
    (first,) = draw(folder)
    before = first.read_bytes()
    measured(folder, [(3, {"a": 5.0})])
    assert draw(folder) == [first]
    assert first.read_bytes() != before
    assert [path.name for path in Path(first.parent).iterdir()] == ["other.png"]
