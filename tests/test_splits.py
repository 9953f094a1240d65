"""Tests of asparagus.data.split and subjects: upstream's draws by value, subjects kept together, what is refused."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from sklearn.model_selection import train_test_split

import asparagus
from asparagus.cli.main import run
from asparagus.data.layout import known_splits, read_split, read_task, read_test
from asparagus.data.modules import CaseDataModule
from asparagus.data.split import SPLITS, make_split, plain_name, split_named
from asparagus.data.subjects import SUBJECTS, overlaps
from asparagus.data.synthetic import make_synthetic
from asparagus.errors import ConfigError, DataError

SEG = "Task997_LauritSynSeg"
PATHS = {
    "BIDS": "sub-{:02d}/ses-{}/t1.pt",
    "ABVIB": "ABVIB/{:d}/{}.pt",
    "PatientID": "PatientID_{:04d}/{}.pt",
    "MCSA": "MCSA_{:05d}/{}.pt",
    "UCSD": "UCSD-PTGBM-{:04d}_{}/t1.pt",
}


def task_of(root, names, task="Task500_Mine"):
    """A task of empty files of these names."""
    folder = root / task
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    config = {"n_classes": 2, "n_modalities": 1}
    (folder / "paths.json").write_text(json.dumps([str(folder / name) for name in reversed(names)]))
    (folder / "dataset.json").write_text(json.dumps({"name": task, "dataset_config": config}))
    return read_task(root, task)


def of_subjects(root, family, subjects=20, scans=3):
    return task_of(root, [PATHS[family].format(s, scan) for s in range(1, subjects + 1) for scan in range(scans)])


def read(task, name):
    return json.loads((task.folder / f"{name}.json").read_text())


def test_a11_the_file_is_called_as_the_function(tmp_path):
    task = task_of(tmp_path, [f"{i}.pt" for i in range(10)])
    assert make_split(tmp_path, task.name, "split_80_20") == task.folder / "split_80_20.json"
    assert known_splits(task) == ["split_80_20"]


def test_a12_five_folds_and_the_first_is_upstreams(tmp_path):
    task = task_of(tmp_path, [f"{i:02d}.pt" for i in range(30)])
    make_split(tmp_path, task.name, "split_80_20")
    folds = read(task, "split_80_20")
    files = sorted(str(task.folder / f"{i:02d}.pt") for i in range(30))
    train, val = train_test_split(files, test_size=0.2, random_state=963421)
    assert folds[0] == {"train": train, "val": val}
    assert len({json.dumps(fold) for fold in folds}) == 5


@pytest.mark.parametrize("percents", [(40, 10, 50), (80, 10, 10)])
def test_a14_plain_splits_are_upstreams_by_value(tmp_path, percents):
    task = task_of(tmp_path, [f"{i:02d}.pt" for i in range(40)])
    name = plain_name(percents)
    make_split(tmp_path, task.name, name)
    train, val, test = (percent / 100 for percent in percents)
    files = sorted(str(task.folder / f"{i:02d}.pt") for i in range(40))
    rest, tested = train_test_split(files, test_size=test, random_state=28300211)
    assert read(task, name.replace("split_", "TEST_")) == tested
    for fold, parts in enumerate(read(task, name)):
        expected = train_test_split(sorted(rest), test_size=val / (val + train), random_state=28300211 + fold + 1)
        assert [parts["train"], parts["val"]] == list(expected)


@pytest.mark.parametrize("family", SUBJECTS)
def test_a14_subject_splits_are_upstreams_by_value_and_no_subject_is_in_two_parts(tmp_path, family):
    task = of_subjects(tmp_path, family)
    make_split(tmp_path, task.name, f"{family}split_40_10_50")
    test = read(task, f"{family}TEST_40_10_50")
    subject = {str(task.folder / PATHS[family].format(s, scan)): s for s in range(1, 21) for scan in range(3)}
    # ours are named as upstream's patterns find them, so they sort alike
    names = sorted(PATHS[family].format(s, "").split("/ses")[0] for s in range(1, 21))
    by_name = {PATHS[family].format(s, "").split("/ses")[0]: s for s in range(1, 21)}
    rest, tested = train_test_split(names, test_size=0.5, random_state=283123111)
    assert {subject[file] for file in test} == {by_name[name] for name in tested}
    for fold, parts in enumerate(read(task, f"{family}split_40_10_50")):
        train, val = train_test_split(sorted(rest), test_size=0.1 / 0.5, random_state=283123111 + fold)
        assert {subject[file] for file in parts["train"]} == {by_name[name] for name in train}
        assert {subject[file] for file in parts["val"]} == {by_name[name] for name in val}
        assert overlaps({**parts, "test": test}, task) == []
        assert len(parts["train"] + parts["val"] + test) == 60


def test_a13_percents_make_a_split_and_its_test_cases(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ASPARAGUS_DATA", str(tmp_path))
    task = task_of(tmp_path, [f"{i:02d}.pt" for i in range(40)])
    assert run("split", ["-d", task.name, "--vals", "70", "20", "10"]) == 0
    files = [f"{task.folder}/split_70_20_10.json", f"{task.folder}/TEST_70_20_10.json"]
    assert capsys.readouterr().out.split() == files
    folds, test = read(task, "split_70_20_10"), read(task, "TEST_70_20_10")
    assert [(len(fold["train"]), len(fold["val"])) for fold in folds] == [(28, 8)] * 5
    assert len(test) == 4
    assert all(not set(test) & {*fold["train"], *fold["val"]} for fold in folds)
    assert read_test(task, "TEST_70_20_10", "split_70_20_10", 0) == [task.folder / file for file in map(str, test)]
    assert len(read_split(task, "split_70_20_10", 4)["val"]) == 8


def test_a13_without_test_cases_there_is_no_file_of_them(tmp_path):
    task = task_of(tmp_path, [f"{i:02d}.pt" for i in range(10)])
    make_split(tmp_path, task.name, "split_90_10_00")
    assert known_splits(task) == ["split_90_10_00"]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--vals", "40", "10"], r"--vals: 40 10 is not train, val and test in percent"),
        (["--vals", "40", "10", "40"], r"three whole numbers that make 100"),
        (["--vals", "100", "0", "0"], r"something to train and to validate on"),
        (["--fn", "split_80_21"], r"--fn: 'split_80_21' is not known. Did you mean 'split_80_20'\?"),
        (["--fn", "split_40_10_60"], r"--fn: 40 10 60 is not train"),
        (["--fn", "BIDSplit_40_10_50"], r"Did you mean 'BIDSsplit_40_10_50'\?"),
        (["--fn", "BIDSsplit"], r"BIDSsplit: 40 paths of Task500_Mine name no subject .*: .*00.pt, .*02.pt, \.\.\."),
        (["--vals", "1", "1", "98"], r"1 cases or subjects cannot be split|cannot be split"),
    ],
)
def test_a13_what_is_no_split_is_refused_and_nothing_written(tmp_path, monkeypatch, capsys, words, match):
    monkeypatch.setenv("ASPARAGUS_DATA", str(tmp_path))
    task = task_of(tmp_path, [f"{i:02d}.pt" for i in range(40)])
    assert run("split", ["-t", task.name, *words]) == 2
    assert re.search(match, capsys.readouterr().err)
    assert known_splits(task) == []


def test_a13_one_of_the_two_is_needed(capsys):
    for words in ([], ["--fn", "split_80_20", "--vals", "40", "10", "50"]):
        with pytest.raises(SystemExit) as end:
            run("split", ["-t", "Task500_Mine", *words])
        assert end.value.code == 2


def test_a14_the_short_names_of_subject_splits():
    assert split_named("ABVIBsplit") == ("ABVIBsplit_40_10_50", "ABVIB", (40, 10, 50))
    assert split_named("MCSAsplit_60_20_20") == ("MCSAsplit_60_20_20", "MCSA", (60, 20, 20))
    assert all(split_named(name)[0] == name for name in SPLITS)


def test_a14_a_plain_split_warns_where_paths_name_subjects(tmp_path, caplog):
    task = of_subjects(tmp_path, "BIDS")
    make_split(tmp_path, task.name, "split_40_10_50")
    assert "the paths name subjects (sub-" in caplog.text
    assert "BIDSsplit_40_10_50" in caplog.text
    caplog.clear()
    make_split(tmp_path, task.name, "BIDSsplit_40_10_50")
    assert caplog.text == ""


def test_a_subject_of_letters_is_one_and_a_folder_above_the_task_is_none(tmp_path):
    names = [f"sub-{name}/t1.pt" for name in ("CTRL01", "CTRL02", "PAT01", "PAT02", "PAT03", "PAT04")]
    task = task_of(tmp_path / "sub-99/data", names)
    make_split(tmp_path / "sub-99/data", task.name, "BIDSsplit_34_33_33")
    assert len(read(task, "BIDSTEST_34_33_33")) == 2


def test_a_split_of_moved_data_is_the_same_split(tmp_path):
    task = of_subjects(tmp_path / "a", "BIDS")
    make_split(tmp_path / "a", task.name, "BIDSsplit_40_10_50")
    shutil.move(tmp_path / "a", tmp_path / "b")
    moved = make_split(tmp_path / "b", task.name, "BIDSsplit_40_10_50")
    assert str(tmp_path / "a") in moved.read_text()


def test_a_split_that_is_there_with_another_content_stays(tmp_path):
    task = task_of(tmp_path, [f"{i:02d}.pt" for i in range(40)])
    (task.folder / "TEST_40_10_50.json").write_text("[]")
    with pytest.raises(DataError, match=r"TEST_40_10_50\.json: exists with another content"):
        make_split(tmp_path, task.name, "split_40_10_50")
    assert known_splits(task) == ["TEST_40_10_50"]


# what a launch says of them


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a task whose splits share cases and subjects; tests only read it."""
    root = tmp_path_factory.mktemp("data")
    folder = make_synthetic(SEG, root, cases=8, size=16).folder
    files = sorted((folder / "cases").glob("*.pt"))
    for number, file in enumerate(files):
        for suffix in (".pt", ".json"):
            target = folder / f"cases/sub-{number // 2}/ses-{number % 2}{suffix}"
            target.parent.mkdir(exist_ok=True)
            file.with_suffix(suffix).rename(target)
    paths = sorted(map(str, folder.glob("cases/*/*.pt")))
    (folder / "paths.json").write_text(json.dumps(paths))
    (folder / "same_case.json").write_text(json.dumps([{"train": paths[:6], "val": paths[5:]}]))
    (folder / "same_subject.json").write_text(json.dumps([{"train": paths[:5], "val": paths[5:]}]))
    (folder / "TEST_trained.json").write_text(json.dumps(paths[:1]))
    (folder / "gone.json").write_text(json.dumps([{"train": paths, "val": [f"/old/{SEG}/cases/gone.pt"]}]))
    make_split(root, SEG, "BIDSsplit_50_25_25")
    return root


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["data.split=same_case"], r"data.split: .*: 1 cases are in both train and val: .*ses-1.pt; 1 subjects"),
        (["data.split=same_subject"], r"1 subjects are in both train and val: sub-2\. Make .*BIDSsplit_40_10_50"),
        (["data.split=BIDSsplit_50_25_25", "data.test_split=TEST_trained"], r"are in both (train|val) and test: "),
        (["data.split=gone"], r"cases/gone.pt: the case file cannot be seen"),
    ],
)
def test_a_launch_refuses_a_split_that_names_missing_files_or_a_subject_twice(root, monkeypatch, words, match):
    monkeypatch.setenv("ASPARAGUS_DATA", str(root))
    with pytest.raises(ConfigError, match=match):
        asparagus.plan_of("train_seg", [f"task={SEG}", *words])
    if "gone" not in words[0]:
        assert asparagus.plan_of("train_seg", [f"task={SEG}", *words, "+data.subject_overlap=true"])


def test_the_data_module_refuses_it_where_it_runs(root):
    with pytest.raises(DataError, match="1 subjects are in both train and val: sub-2"):
        CaseDataModule(str(root), SEG, "seg", split="same_subject").setup("fit")
    CaseDataModule(str(root), SEG, "seg", split="same_subject", subject_overlap=True).setup("fit")
    CaseDataModule(str(root), SEG, "seg", split="BIDSsplit_50_25_25").setup("fit")


def test_a15_the_documented_spellings_choose_the_files(root, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_DATA", str(root))
    for key in ("data.split", "+data.splits", "+data.train_split"):
        words = [f"{key}=BIDSsplit_50_25_25", "data.test_split=BIDSTEST_50_25_25"]
        plan = asparagus.plan_of("train_seg", [f"task={SEG}", *words])
        assert (plan.spec.data["split"], plan.spec.data["test_split"]) == ("BIDSsplit_50_25_25", "BIDSTEST_50_25_25")
        assert plan.cases == {"train": 4, "val": 2, "test": 2}
