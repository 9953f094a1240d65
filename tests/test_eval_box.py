"""The evaluation box (SEEDS A.2): checkpoints x experiments as one sweep, checked before, a table and a plot out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml

import asparagus
from asparagus.checkpoint.folder import STATE, WRITING, Manifest, digest_of, name_of, seal
from asparagus.cli.main import run
from asparagus.compose import Request
from asparagus.compose.eval_box import eval_box_of
from asparagus.data.split import make_split
from asparagus.data.synthetic import make_synthetic, make_synthetic_reg
from asparagus.driver.eval_box import weights_must_fit
from asparagus.errors import ConfigError, EvalBoxError, RecordError
from asparagus.journal import Journal
from asparagus.record.eval_box import BoxTable, Cell, Result, collect
from asparagus.record.eval_box_page import grid, to_csv, to_html, to_markdown, write
from asparagus.record.numbers import claim, enter, folder_name
from asparagus.record.run_folder import create
from asparagus.record.sweeps import REQUEST, best_run
from asparagus.space import MONITOR, sample
from asparagus.spec import Spec
from asparagus.sweeps import plan_sweep

PRE, SEG, CLS = "Task998_LauritSyn", "Task997_LauritSynSeg", "Task996_LauritSynCls"
BOX = "experiment/eval_box"
NARROW = "model.features=[4,8]"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in (PRE, SEG, CLS):
        make_synthetic(name, folder, cases=6, size=16)
        make_split(folder, name, "split_80_20")
    make_synthetic_reg(folder, cases=6, size=16)
    make_split(folder, "Task995_LauritSynReg", "split_80_20")
    return folder


def a_run(models: Path, weights: dict[str, torch.Tensor], number: int) -> None:
    """Have a pretraining in the record that has one checkpoint."""
    assert claim(models, about={"stage": "pretrain", "task": PRE}) == number
    writing = create(models, Spec("pretrain", PRE), number, "{}").checkpoints / f"{WRITING}x"
    writing.mkdir(parents=True)
    torch.save({"state_dict": weights}, writing / STATE)
    size, digest = (writing / STATE).stat().st_size, digest_of(writing / STATE)
    metrics = {"val/loss": 1.0}
    seal(writing, Manifest(name_of(4, 25), 4, 25, metrics, digest, size, monitor="val/loss", mode="min"))


def weights_of(features: list[int], seed: int) -> dict[str, torch.Tensor]:
    from asparagus.models.unet import UNet

    torch.manual_seed(seed)
    return {f"net.{name}": value for name, value in UNet(3, 1, 1, features).state_dict().items()}


@pytest.fixture
def two_runs(home, data, monkeypatch) -> Path:
    """A home with two pretrained runs and the data of every row."""
    monkeypatch.setenv("ASPARAGUS_DATA", str(data))
    for number in (1, 2):
        a_run(home / "models", weights_of([4, 8], number), number)
    return home


def planned(*words: str, config: str = BOX, config_dirs: tuple[Path, ...] = ()):
    return plan_sweep(Request(config, (NARROW, *words), config_dirs))


def test_every_row_is_planned_from_scratch_and_from_each_checkpoint(two_runs):
    plan, planner = planned("init_from=run:1/best,run:2/best", "seed=1,2", "probe:trainer.max_epochs=2")
    kinds = [(stage.spec.stage, stage.parent.run_id if stage.parent else None) for stage in plan.stages]
    assert kinds == [
        *(("train_seg", None), ("finetune_seg", 1), ("finetune_seg", 2)),
        *(("train_cls", None), ("finetune_cls", 1), ("finetune_cls", 2)),
        *(("train_reg", None), ("finetune_reg", 1), ("finetune_reg", 2)),
        *(("linear_probe", 1), ("linear_probe", 2)),  # frozen random features are trained by nobody
    ]
    assert (plan.trials, plan.runs_per_trial, plan.metrics) == (11 * 2, 1, (MONITOR,))
    assert plan.parent.run_root.endswith("models/eval_box/sweep")
    trial = planner.plan(0, {"row": "probe", "init_from": "run:2/best", "seed": 2}, before=None)
    assert (trial.spec.stage, trial.spec.seed, trial.spec.trainer["max_epochs"]) == ("linear_probe", 2, 2)
    assert trial.parent is not None
    assert trial.parent.run_id == 2


def test_a_trial_is_the_very_run_that_is_launched_alone(two_runs):
    _, planner = planned("init_from=run:1/best")
    values = {"row": "cls", "init_from": "run:1/best"}
    alone = asparagus.plan_of("experiment/laurit_finetune_cls", [NARROW, "init_from=run:1/best"])
    assert planner.plan(0, values, before=None).identity == alone.identity
    fresh = asparagus.plan_of("experiment/laurit_finetune_cls", [NARROW, "stage=train_cls"])
    assert planner.plan(0, {**values, "init_from": "scratch"}, before=None).identity == fresh.identity


def test_the_same_box_is_the_same_sweep_and_other_weights_are_another(two_runs):
    one, same = (planned("init_from=run:1/best")[0].identity for _ in range(2))
    by_name = planned("init_from=run:1/last")[0].identity
    assert one == same
    assert one not in {planned("init_from=run:2/best")[0].identity, by_name}


def test_what_is_searched_for_one_row_is_no_matter_of_the_others(two_runs):
    plan, planner = planned("init_from=run:1/best", "row=seg,cls", "seg:optim.lr=1e-3,1e-2")
    assert plan.trials == 2 * 2 + 2
    assert "seg:optim.lr" not in planner.plan(0, {"row": "cls", "init_from": "scratch"}, before=None).describe()
    assert sample(plan.space) == {"row": "seg", "init_from": "scratch", "seg:optim.lr": 1e-3}


def test_a_box_with_probes_alone_has_no_column_of_scratch(two_runs):
    plan, _ = planned("init_from=run:1/best,run:2/best", "row=probe")
    assert plan.names == ("probe from run:1/best", "probe from run:2/best")


def test_a_box_is_a_sweep_with_and_without_m_and_by_its_command(two_runs, capsys):
    words = [NARROW, "--dry-run"]
    assert run("launch", [BOX, "init_from=run:1/best", *words]) == 0
    plain = capsys.readouterr().out
    assert run("launch", [BOX, "-m", "init_from=run:1/best", *words]) == 0
    assert capsys.readouterr().out == plain
    assert run("eval-box", ["run", "run:1/best", *words]) == 0
    assert capsys.readouterr().out == plain
    assert "probe from run:1/best  linear_probe of Task996_LauritSynCls, by val/auroc (max)" in plain


MINE = """# @package _global_
init_from: [run:1/best]
eval_box:
  short: {config: experiment/laurit_finetune_cls, overrides: {trainer.max_epochs: 1}}
  plain: experiment/laurit_finetune_seg
"""


@pytest.fixture
def written(two_runs):
    def write_config(text: str) -> Request:
        (two_runs / "own").mkdir(exist_ok=True)
        (two_runs / "own/mine.yaml").write_text(text)
        return Request("mine", (NARROW,), (two_runs / "own",))

    return write_config


def test_a_box_of_ones_own_may_name_its_checkpoints_itself(written):
    plan, _ = plan_sweep(written(MINE))
    assert [stage.spec.trainer["max_epochs"] for stage in plan.stages][:2] == [1, 1]
    assert len(plan.stages) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("eval_box: {}\n", "eval_box: has no rows"),
        ("eval_box: [a]\n", "eval_box: has no rows"),
        ("eval_box: {a: {overrides: {seed: 1}}}\n", "eval_box.a: names no config"),
        ("eval_box: {a: {config: train_cls, from: b}}\n", "eval_box.a.from: no such key"),
        ("init_from: run:1/best\neval_box: {a: {config: finetune_clss}}\n", "config 'finetune_clss' is not known"),
    ],
)
def test_what_is_wrong_with_a_box_is_said(written, text, said):
    with pytest.raises(ConfigError) as error:
        plan_sweep(written(text))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "init_from: an evaluation box judges checkpoints, and none was given"),
        (("init_from=run:77/best",), "run 77: there is no such run"),
        (("init_from=run:1/epoch=9",), "no checkpoint 'epoch=9'"),
        (("init_from=77",), "'77' is neither run:<id>/last"),
        (("init_from=run:1/best", "row=segg"), "row: 'segg' is not known. Did you mean 'seg'?"),
        (("init_from=run:1/best", "segg:seed=1"), "there is no stage 'segg'. Did you mean 'seg'?"),
        (("init_from=run:1/best", "cls:task=Task9_Gone"), "[row cls]"),
        (("init_from=run:1/best", "cls:task=Task9_Gone", "seg:optim.lrr=1"), "optim.lrr"),
    ],
)
def test_a_request_that_cannot_be_is_refused_before_anything_starts(two_runs, words, said):
    with pytest.raises(ConfigError) as error:
        planned(*words)
    assert said in str(error.value)
    assert not (two_runs / "models" / "eval_box").exists()


def test_a_problem_of_several_rows_is_said_once(two_runs):
    with pytest.raises(ConfigError) as error:
        planned("init_from=run:77/best")
    assert str(error.value).count("there is no such run") == 1
    assert "[row seg, cls, reg, probe]" in str(error.value)


def test_a_network_that_does_not_fit_is_told_with_the_report_of_every_row_that_it_is(two_runs):
    a_run(two_runs / "models", weights_of([8, 16], 3), 3)
    plan, _ = planned("init_from=run:1/best,run:3/best", "row=cls,probe")
    with pytest.raises(ConfigError) as error:
        weights_must_fit(plan)
    said = str(error.value)
    assert "cls from run:3/best: init_from: no weight of run 3" in said
    assert "probe from run:3/best: init_from: no weight of run 3" in said
    assert "run:1/best" not in said
    assert "shape (8, 1, 3, 3, 3), here (4, 1, 3, 3, 3)" in said
    weights_must_fit(planned("init_from=run:1/best", "row=cls,probe")[0])


def test_where_one_experiment_is_expected_a_box_is_refused(two_runs):
    with pytest.raises(EvalBoxError, match="is several, seg, cls, reg, probe: asp eval-box run"):
        asparagus.plan_of(BOX)
    assert eval_box_of(Request("experiment/digits")) is None


def test_prepare_says_what_is_missing_and_how_it_is_made(two_runs, capsys, monkeypatch):
    assert run("eval-box", ["prepare"]) == 0
    assert "ok   seg        Task997_LauritSynSeg: " in capsys.readouterr().out
    monkeypatch.setenv("ASPARAGUS_DATA", str(two_runs / "empty"))
    assert run("eval-box", ["prepare", "row=seg,probe"]) == 2
    said = capsys.readouterr().out
    assert "BAD  seg " in said
    assert "asp data make Task996_LauritSynCls" in said
    assert "reg" not in said


# the table


def a_box() -> BoxTable:
    def cell(row: str, column: str, mode: str, *values: float, state: str = "finished") -> Cell:
        results = tuple(Result(10 + n, state, value, n) for n, value in enumerate(values))
        return Cell(row, column, "finetune_x", "T", "val/x", mode, results)

    cells = (
        cell("seg", "scratch", "max", 0.5, 0.7),
        cell("seg", "run:1/best", "max", 0.8, 0.9),
        cell("reg", "scratch", "min", 2.0),
        cell("reg", "run:1/best", "min", 1.5),
        cell("probe", "run:1/best", "max", 0.9, state="interrupted"),
    )
    columns = ("scratch", "run:1/best")
    return BoxTable(9, "finished", ("seg", "reg", "probe"), columns, {(one.row, one.init_from): one for one in cells})


def test_a_cell_is_mean_standard_deviation_and_gain_over_scratch_by_value():
    table = a_box()
    seg, reg = table.cells["seg", "run:1/best"], table.cells["reg", "run:1/best"]
    assert (seg.mean, seg.sd) == (pytest.approx(0.85), pytest.approx(0.1 / 2**0.5))
    assert table.gain(seg) == pytest.approx(0.25)
    assert (reg.sd, table.gain(reg)) == (None, pytest.approx(0.5))  # a lower error is a gain
    assert grid(table)[1:] == [
        ["seg", "val/x (higher is better)", "0.6 ± 0.141", "0.85 ± 0.0707  +0.25"],
        ["reg", "val/x (lower is better)", "2", "1.5  +0.5"],
        ["probe", "val/x (higher is better)", "", "0 of 1: interrupted"],
    ]


def test_the_table_is_written_in_every_form(tmp_path):
    table = a_box()
    files = write(table, tmp_path / "a", tmp_path / "b")
    assert len(files) == 10
    lines = list(csv.DictReader((tmp_path / "b" / "eval_box.csv").read_text().splitlines()))
    assert [line["value"] for line in lines] == ["0.5", "0.7", "0.8", "0.9", "2.0", "1.5", "0.9"]
    assert [float(line["gain"]) for line in lines if line["gain"]] == pytest.approx([0.25, 0.25, 0.5])
    assert yaml.safe_load((tmp_path / "a" / "eval_box.yaml").read_text()) == json.loads(json.dumps(table.to_dict()))
    assert (tmp_path / "a" / "eval_box.png").read_bytes().startswith(b"\x89PNG")
    assert "| seg | val/x (higher is better) | 0.6 ± 0.141 | 0.85 ± 0.0707  +0.25 |" in to_markdown(table)
    assert to_html(table).count("<tr>") == 4
    assert to_csv(table).startswith("row,stage,task,metric,mode,init_from,run_id,")


def test_a_box_that_is_under_way_is_collected_and_says_so(two_runs, capsys):
    plan, _ = planned("init_from=run:1/best", "row=seg,probe", "seed=1,2")
    models = two_runs / "models"
    assert claim(models, about={"stage": "sweep", "task": "eval_box"}) == 3
    folder = create(models, plan.parent.spec, 3, "{}")
    (folder.path / REQUEST).write_text(json.dumps(plan.to_dict(), default=str))
    about = {"stage": "train_seg", "task": SEG, "trial": "3/0-0"}
    assert claim(models, about=about) == 4
    enter(models, 4, about)
    done = models / folder_name(SEG, "train_seg", 4)
    create(models, Spec("train_seg", SEG), 4, "{}")
    (done / "run.json").write_text(json.dumps({"state": "finished", "metrics": {"val/dice": 0.4, "test/dice": 0.25}}))
    (done / "record.json").write_text(json.dumps({"tags": {"asparagus.monitor": "val/dice", "asparagus.mode": "max"}}))
    journal = Journal(folder.journal)
    for number, seed in enumerate((1, 2)):
        journal.append("trial_started", number=number, values={"row": "seg", "init_from": "scratch", "seed": seed})
    journal.close()
    table = collect(models, 3)
    assert table.rows == ("seg", "probe")
    (cell,) = table.cells.values()
    assert (cell.metric, [(one.run_id, one.state, one.value) for one in cell.results]) == (
        "test/dice",  # of the best checkpoint, where there are test data
        [(4, "finished", 0.25), (None, "waiting", None)],
    )
    assert run("eval-box", ["collect", "3"]) == 0
    assert "0.25 (1 of 2: waiting)" in capsys.readouterr().out
    assert (two_runs / "results" / "eval_box" / "sweep_3" / "eval_box.yaml").is_file()
    with pytest.raises(RecordError, match="none of them is the best"):
        best_run(models, 3)


def test_what_is_no_box_is_not_collected(two_runs, capsys):
    assert run("eval-box", ["collect", "77"]) == 2
    assert "run 77: there is no such run" in capsys.readouterr().err
    assert run("eval-box", ["collect", "1"]) == 2
    assert "is no sweep's" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_box_is_trained_recorded_shown_again_and_not_repeated(two_runs, capsys):
    words = ["run", "run:1/best", "row=cls", NARROW, "trainer.max_epochs=1", "--json"]
    assert run("eval-box", words) == 0
    captured = capsys.readouterr()
    outcome = json.loads(captured.out.splitlines()[-1])
    assert (outcome["state"], outcome["best"], len(outcome["trials"])) == ("finished", None, 2)
    table = collect(two_runs / "models", outcome["sweep_id"])
    assert {key: cell.stage for key, cell in table.cells.items()} == {
        ("cls", "scratch"): "train_cls",
        ("cls", "run:1/best"): "finetune_cls",
    }
    trials = {trial["run_id"]: trial["values"][0] for trial in outcome["trials"]}
    for cell in table.cells.values():
        (result,) = cell.results
        assert (cell.metric, result.value) == ("val/accuracy", pytest.approx(trials[result.run_id]))
    (result,) = table.cells["cls", "run:1/best"].results
    children = (two_runs / "models" / folder_name(PRE, "pretrain", 1) / "derived_models.log").read_text()
    assert [line.partition(",")[0] for line in children.splitlines()] == [str(result.run_id)]
    assert run("lineage", [str(outcome["sweep_id"]), "--json"]) == 0
    lineage = json.loads(capsys.readouterr().out)
    assert {(one["run_id"], one["kind"]) for one in lineage["descendants"]} == {(one, "sweep") for one in trials}
    results = two_runs / "results"
    assert list(results.glob(f"eval_box/sweep_{outcome['sweep_id']}/eval_box.png"))
    assert list(results.glob("mlartifacts/**/plots/eval_box.csv"))
    assert run("eval-box", words) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1])["sweep_id"] == outcome["sweep_id"]
    assert "identical and finished before" in captured.err
    assert "from scratch" in captured.err
