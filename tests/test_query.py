from __future__ import annotations

from pathlib import Path

import pytest

from asparagus.errors import RecordError
from asparagus.record.asked import Asked
from asparagus.record.descent import prefixes, rows
from asparagus.record.query import edges, lineage, list_runs
from asparagus.record.summary import RunSummary


class Kept:
    """A record in a dict: runs by number, and the questions that were asked."""

    uri = "sqlite:///kept"

    def __init__(self, *runs: RunSummary) -> None:
        self._runs = {run.run_id: run for run in runs}
        self.questions: list[tuple[str, list[int]]] = []

    def runs(self, asked):
        return asked.in_order(run for run in self._runs.values() if asked.stage in (None, run.stage))

    def by_numbers(self, numbers):
        self.questions.append(("by_numbers", sorted(numbers)))
        return [self._runs[number] for number in sorted(numbers, reverse=True) if number in self._runs]

    def children(self, numbers, *, limit=None):
        self.questions.append(("children", sorted(numbers)))
        found = [run for run in self._runs.values() if {edge.older for edge in edges(run)} & set(numbers)]
        return found[-limit:] if limit is not None else found


def a_run(number, parent=None, *, folder="", checkpoint=None, **facts):
    checkpoint = checkpoint or (f"/m/T/pretrain/run_id={parent}/checkpoints/epoch=0-step=1" if parent else None)
    facts = {"stage": "finetune", "task": "T", "state": "finished", "started": float(number), **facts}
    return RunSummary(
        run_id=number,
        folder=folder,
        mlflow_run_id=f"m{number}",
        parent_id=parent,
        parent_checkpoint=checkpoint,
        **facts,
    )


def found(relatives):
    return [(relative.run.run_id, relative.kind, relative.distance, relative.via) for relative in relatives]


def test_ancestors_and_descendants_are_told_nearest_first_with_the_kind_of_each_edge():
    record = Kept(
        a_run(1), a_run(2, 1), a_run(3, 2, sweep_id=10), a_run(10), a_run(4, 3), a_run(5, rerun_of=3), a_run(6, 4)
    )
    family = lineage(record, 3)
    assert found(family.ancestors) == [(2, "init_from", 1, 3), (10, "sweep", 1, 3), (1, "init_from", 2, 2)]
    assert found(family.descendants) == [(4, "init_from", 1, 3), (5, "rerun", 1, 3), (6, "init_from", 2, 4)]
    assert found(lineage(record, 10).descendants)[0] == (3, "sweep", 1, 10)


def test_a_run_that_is_reached_two_ways_is_told_once_at_its_nearest():
    """1 to 2 to 4 and 1 to 3 to 4; and 4 repeats 1."""
    record = Kept(a_run(1), a_run(2, 1), a_run(3, rerun_of=1), a_run(4, 2, rerun_of=3, sweep_id=1))
    assert found(lineage(record, 4).ancestors) == [(2, "init_from", 1, 4), (3, "rerun", 1, 4), (1, "sweep", 1, 4)]
    assert found(lineage(record, 1).descendants) == [(2, "init_from", 1, 1), (3, "rerun", 1, 1), (4, "sweep", 1, 1)]


def test_a_generation_is_one_question_however_many_parents_it_has():
    record = Kept(a_run(1), *(a_run(number, 1) for number in range(2, 500)), a_run(500, 7), a_run(501, 8))
    assert len(lineage(record, 1).descendants) == 500
    assert record.questions == [
        ("by_numbers", [1]),
        ("children", [1]),
        ("children", list(range(2, 500))),
        ("children", [500, 501]),
    ]


def test_no_more_descendants_than_asked_for_are_told_the_nearest_of_them_the_newest():
    record = Kept(a_run(1), *(a_run(number, 1) for number in range(2, 9)), a_run(9, 8))
    cut = lineage(record, 1, limit=3)
    assert [relative.run.run_id for relative in cut.descendants] == [6, 7, 8]
    assert cut.is_cut
    assert ("children", [6, 7, 8]) not in record.questions
    assert not lineage(record, 1, limit=8).is_cut
    assert lineage(record, 1, limit=7).is_cut


def test_weights_that_no_run_wrote_are_the_origin():
    record = Kept(a_run(1, checkpoint="/weights/of/someone.ckpt"), a_run(2, 1))
    assert lineage(record, 2).origin == "/weights/of/someone.ckpt"
    assert lineage(record, 1).origin == "/weights/of/someone.ckpt"


def test_a_parent_that_is_recorded_no_more_is_told_and_said_so():
    (parent,) = lineage(Kept(a_run(2, 1)), 2).ancestors
    assert (parent.run.run_id, parent.run.stage, parent.run.task) == (1, "pretrain", "T")
    assert parent.missing == "run 1 is not recorded here: it was deleted, or is recorded elsewhere"


def test_runs_that_name_each_other_end_the_search():
    assert found(lineage(Kept(a_run(1, 2), a_run(2, 1)), 1).ancestors) == [(2, "init_from", 1, 1)]


def test_what_is_gone_from_the_models_folder_of_this_machine_is_said_and_nothing_of_another(tmp_path):
    models = tmp_path / "models"
    kept = models / "T/pretrain/run_id=1"
    (kept / "checkpoints/epoch=0-step=1").mkdir(parents=True)
    there = str(kept / "checkpoints/epoch=0-step=1")
    gone = str(kept / "checkpoints/epoch=1-step=2")
    record = Kept(
        a_run(1, folder=str(kept)),
        a_run(2, 1, checkpoint=there, folder=str(models / "T/finetune/run_id=2")),
        a_run(3, 1, checkpoint=gone, folder=str(kept)),
        a_run(4, 1, checkpoint=there, folder="/of/another/machine/run_id=4"),
    )
    missing = {relative.run.run_id: relative.missing for relative in lineage(record, 1, models=models).descendants}
    assert missing == {
        2: f"its folder {models}/T/finetune/run_id=2 is gone: moved or deleted",
        3: f"the checkpoint {gone} is gone: moved or deleted",
        4: None,
    }
    assert lineage(record, 2, models=models).missing == missing[2]
    assert [one.missing for one in lineage(record, 2, models=models).ancestors] == [None]
    kept.rename(models / "T/pretrain/renamed")
    (parent,) = lineage(record, 2, models=models).ancestors
    assert parent.missing == f"its folder {kept} is gone: moved or deleted"
    assert [one.missing for one in lineage(record, 2).ancestors] == [None]  # nobody said where to look


def test_json_has_the_documented_keys_and_what_is_missing():
    record = Kept(a_run(1, stage="pretrain"), a_run(2, 1), a_run(3, rerun_of=2))
    checkpoint = "/m/T/pretrain/run_id=1/checkpoints/epoch=0-step=1"
    assert lineage(record, 2).to_dict() == {
        "run_id": 2,
        "ancestors": [
            {
                "run_id": 1,
                "stage": "pretrain",
                "task": "T",
                "checkpoint": checkpoint,
                "kind": "init_from",
                "via": 2,
                "missing": None,
            }
        ],
        "descendants": [
            {
                "run_id": 3,
                "stage": "finetune",
                "task": "T",
                "checkpoint": None,
                "kind": "rerun",
                "via": 2,
                "missing": None,
            }
        ],
        "origin": None,
        "missing": None,
    }


def test_a_number_that_is_not_recorded_names_the_newest():
    record = Kept(*(a_run(number) for number in range(1, 9)))
    with pytest.raises(RecordError, match=r"run 77: is not recorded in .*kept\. The newest there: 8, 7, 6, 5, 4\."):
        lineage(record, 77)
    with pytest.raises(RecordError, match=r"No run is\. asp runs lists"):
        lineage(Kept(), 1)


def test_all_runs_are_listed_unless_fewer_are_asked_for():
    record = Kept(*(a_run(number) for number in range(1, 150)), a_run(150, stage="pretrain"))
    assert len(list_runs(record)) == 150
    assert [run.run_id for run in list_runs(record, Asked(stage="pretrain"))] == [150]


def drawn(family):
    tree = rows(family)
    return [
        f"{prefix}{row.run.run_id}" for prefix, row in zip(prefixes([row.depth for row in tree]), tree, strict=True)
    ]


def test_the_tree_has_each_run_below_what_it_came_from():
    record = Kept(a_run(1), a_run(2, 1), a_run(3, 2), a_run(4, 3), a_run(5, 3), a_run(6, 4), a_run(7, 5))
    assert drawn(lineage(record, 2)) == [
        "1",
        "└── 2",
        "    └── 3",
        "        ├── 4",
        "        │   └── 6",
        "        └── 5",
        "            └── 7",
    ]


def test_an_ancestor_beside_the_line_of_weights_stands_before_it_with_a_note():
    tree = rows(lineage(Kept(a_run(1), a_run(9), a_run(8), a_run(2, 1, sweep_id=9, rerun_of=8)), 2))
    assert [(row.depth, row.run.run_id, row.note) for row in tree] == [
        (0, 9, "run 2 is a trial of it"),
        (0, 8, "run 2 repeats it"),
        (0, 1, ""),
        (1, 2, ""),
    ]
    assert [row.is_asked for row in tree] == [False, False, False, True]


def test_each_edge_is_told_at_its_younger_end():
    tree = rows(lineage(Kept(a_run(1, checkpoint="/w/x.ckpt"), a_run(2, 1), a_run(3, rerun_of=2)), 2))
    assert [row.edge for row in tree] == ["/w/x.ckpt", "epoch=0-step=1", "repeated as"]


def test_a_long_line_of_descent_is_no_trouble():
    record = Kept(a_run(1), *(a_run(number, number - 1) for number in range(2, 1500)))
    assert len(rows(lineage(record, 1499))) == 1499
    assert len(rows(lineage(record, 1))) == 1499


def test_a_run_of_no_edge_stands_alone():
    assert drawn(lineage(Kept(a_run(1)), 1)) == ["1"]
    assert Path(lineage(Kept(a_run(1)), 1).run.folder) == Path()
