"""Tests of asparagus.data.register, moved and inspect: tasks of files that are there, moved ones, broken ones."""

from __future__ import annotations

import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from asparagus.cli.main import run
from asparagus.data.inspect import problems_of
from asparagus.data.layout import fingerprint, known_splits, read_paths, read_split, read_task
from asparagus.data.modules import CaseDataModule
from asparagus.data.moved import update_paths
from asparagus.data.register import Registration, register
from asparagus.data.split import make_split
from asparagus.data.synthetic import make_synthetic
from asparagus.errors import DataError

SEG, CLS = "Task997_LauritSynSeg", "Task996_LauritSynCls"
NAME = "PT500_Mine"


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for i in range(20):
        torch.save(torch.rand(1, 16, 16, 16), folder / f"{i:02d}.pt")
    return folder


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_DATA", str(tmp_path / "data"))


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# register


def test_a_folder_is_registered_and_its_files_stay_where_they_are(files, tmp_path, capsys):
    before = snapshot(files)
    words = ["-t", NAME, "-d", str(files), "--train", "80", "--val", "10", "--test", "10"]
    assert run("data", ["register", *words]) == 0
    assert "20 files, split split_80_10_10. Next: asp data check PT500_Mine" in capsys.readouterr().out
    assert snapshot(files) == before
    task = read_task(tmp_path / "data", NAME)
    assert known_splits(task) == ["TEST_80_10_10", "split_80_10_10"]
    assert read_paths(task) == sorted(files.glob("*.pt"))
    folds = [read_split(task, "split_80_10_10", fold) for fold in range(5)]
    assert [(len(fold["train"]), len(fold["val"])) for fold in folds] == [(16, 2)] * 5
    assert len({str(fold) for fold in folds}) == 5
    assert run("data", ["check", NAME]) == 0
    module = CaseDataModule(str(tmp_path / "data"), NAME, "pretrain", split="split_80_10_10", patch_size=[8, 8, 8])
    module.setup()
    assert next(iter(module.train_dataloader()))["image"].shape == (2, 1, 8, 8, 8)


def test_the_same_seed_draws_the_same_and_another_another(files, tmp_path):
    def drawn(name, **options):
        task = register(tmp_path / "data", Registration(name, "pretrain", folder=files, **options))
        return read_split(task, "split_80_10_10", 0)

    assert drawn("A") == drawn("B")
    assert drawn("C", seed=43) != drawn("A2")
    task = register(tmp_path / "data", Registration("D", "pretrain", folder=files, n_folds=2))
    assert len(json.loads((task.folder / "split_80_10_10.json").read_text())) == 2


def test_files_in_a_folder_that_is_called_as_the_task_stay_there(tmp_path):
    """The name of the task in a path is no sign that the file belongs into the task's own folder."""
    folder = tmp_path / "sub-studies" / NAME
    folder.mkdir(parents=True)
    for i in range(10):
        torch.save(torch.rand(1, 8, 8, 8), folder / f"{i}.pt")
    torch.save(torch.rand(1, 8, 8, 8), folder / "._0.pt")  # a Mac's, no case
    task = register(tmp_path / "data", Registration(NAME, "pretrain", folder=folder, percents=(60, 20, 20)))
    assert read_paths(task) == sorted(folder.glob("[0-9].pt"))
    assert problems_of(tmp_path / "data", NAME) == []  # nor is the folder above them anybody's subject
    fingerprint(task, "split_60_20_20")
    assert update_paths(tmp_path / "data", NAME).files == []
    folder = tmp_path / "data/PT501_Own"
    (folder / "cases").mkdir(parents=True)
    for i in range(10):
        torch.save(torch.rand(1, 8, 8, 8), folder / f"cases/{i}.pt")
    register(tmp_path / "data", Registration("PT501_Own", "pretrain", folder=folder, percents=(60, 20, 20)))
    shutil.move(tmp_path / "data", tmp_path / "disk2")  # those in it move with it
    assert read_paths(read_task(tmp_path / "disk2", "PT501_Own"))[0] == tmp_path / "disk2/PT501_Own/cases/0.pt"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([{"train": ["a"], "val": ["b"]}, {"train": ["a"]}], r"fold 1, 'val' is not a list of paths"),
        ([{"train": "a", "val": ["b"]}], r"fold 0, 'train' is not a list of paths"),
        ([{"train": ["a"], "val": []}], r"fold 0, 'val' is empty"),
        ([{"train": ["a"], "val": [3]}], r"fold 0, 'val' is not a list of paths"),
        (["a", {"train": ["a"], "val": ["b"]}], r"fold 0 is not a dict"),
    ],
)
def test_a_split_of_another_form_is_told_by_check_and_by_a_launch(tmp_path, content, match):
    make_synthetic(SEG, tmp_path / "data", cases=2, size=16)
    task = read_task(tmp_path / "data", SEG)
    (task.folder / "mine.json").write_text(json.dumps(content))
    assert re.search(f"mine.json: {match}", "\n".join(problems_of(tmp_path / "data", SEG)))
    with pytest.raises(DataError, match=f"mine.json: {match}"):
        fingerprint(task, "mine")


def test_nifti_files_are_registered_and_trained_on(tmp_path):
    (tmp_path / "nii").mkdir()
    for i in range(4):
        nib.save(nib.Nifti1Image(np.full((16, 16, 16), i + 1, np.float32), np.eye(4)), tmp_path / f"nii/{i}.nii.gz")
    asked = Registration(NAME, "pretrain", folder=tmp_path / "nii", extension=".nii.gz", percents=(50, 50, 0))
    task = register(tmp_path / "data", asked)
    assert problems_of(tmp_path / "data", NAME) == []
    module = CaseDataModule(str(tmp_path / "data"), task.name, "pretrain", split="split_50_50_00", patch_size=[8, 8, 8])
    module.setup()
    assert next(iter(module.val_dataloader()))["image"].shape == (2, 1, 8, 8, 8)


def test_lists_are_a_manual_split(files, tmp_path):
    names = sorted(map(str, files.glob("*.pt")))
    words = ["-t", NAME, "--train", *names[:5], "--val", *names[5:8], "--test", *names[8:10]]
    assert run("data", ["register", *words]) == 0
    task = read_task(tmp_path / "data", NAME)
    assert known_splits(task) == ["TEST_manual", "split_manual"]
    assert [str(path) for path in read_split(task, "split_manual", 0)["val"]] == names[5:8]
    assert len(read_paths(task)) == 10


def test_all_problems_are_listed_at_once_and_nothing_is_written(files, tmp_path, capsys):
    names = sorted(map(str, files.glob("*.pt")))
    lists = ["--train", "relative.pt", names[0], names[0], "--val", names[0], "/gone/1.pt", f"{files}/a.txt"]
    assert run("data", ["register", "-t", "a b", "--kind", "segm", "--n_classes", "0", *lists]) == 2
    err = capsys.readouterr().err
    for problem in (
        "--task: 'a b' is no name for a task",
        "--kind: 'segm' is not known. Did you mean 'seg'?",
        "--n_classes: 0 is not at least 1",
        "--train: 1 paths are not absolute: relative.pt",
        f"--train: named twice: {names[0]}",
        "--val: 2 files are not there: /gone/1.pt",
        f"--train, --val: 1 files are in both: {names[0]}",
        "--val: the loaders read .pt, .nii.gz, .nii, .png, and not",
    ):
        assert problem in err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"percents": (80, 10, 20)}, "--train, --val, --test: 80 10 20 is not train, val and test in percent"),
        ({"extension": ".nii.gz"}, r"holds 0 files \*.nii.gz, and a task needs at least 2"),
        ({"extension": ".mha"}, "--extension: '.mha' is not known"),
        ({"n_folds": 0}, "--n_folds, --seed: 0, 42"),
        ({"subjects": "BIDZ"}, "--subjects: 'BIDZ' is not known. Did you mean 'BIDS'"),
        ({"train": ("/a.pt",)}, "lists of files, and a folder was given too"),
        ({"subjects": "BIDS"}, "BIDSsplit: 20 paths of PT500_Mine name no subject"),
    ],
)
def test_what_cannot_be_registered_is_refused(files, tmp_path, options, match):
    with pytest.raises(DataError, match=match):
        register(tmp_path / "data", Registration(NAME, "pretrain", folder=files, **options))
    assert not (tmp_path / "data" / NAME / "dataset.json").exists()


def test_a_task_that_is_there_is_not_registered_over(files, tmp_path):
    register(tmp_path / "data", Registration(NAME, "pretrain", folder=files))
    before = snapshot(tmp_path / "data")
    with pytest.raises(DataError, match="is a task already, and was left as it is"):
        register(tmp_path / "data", Registration(NAME, "pretrain", folder=files, seed=1))
    assert snapshot(tmp_path / "data") == before


# update paths


def moved(tmp_path, name=SEG):
    make_synthetic(SEG, tmp_path / "old", cases=10, size=16)
    make_split(tmp_path / "old", SEG, "split_80_20")
    make_split(tmp_path / "old", SEG, "split_40_10_50")
    (tmp_path / "data").mkdir()
    shutil.move(tmp_path / "old" / SEG, tmp_path / "data" / name)
    return tmp_path / "data" / name


@pytest.mark.parametrize("name", [SEG, "SEG500_Renamed"])
def test_paths_of_moved_data_are_brought_up_to_date_and_the_old_files_kept(tmp_path, capsys, name):
    folder = moved(tmp_path, name)
    before = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    print_before = None if name != SEG else fingerprint(read_task(tmp_path / "data", name), "split_80_20")
    assert run("data", ["update-paths", name.partition("_")[0]]) == 0
    files = ["TEST_40_10_50.json", "paths.json", "split_40_10_50.json", "split_80_20.json"]
    assert ", ".join(files) in capsys.readouterr().out
    for file in files:
        assert (folder / f"backup_{file}").read_bytes() == before[file]
        assert str(tmp_path / "old") not in (folder / file).read_text()
    assert known_splits(read_task(tmp_path / "data", name)) == ["TEST_40_10_50", "split_40_10_50", "split_80_20"]
    assert all(path.is_file() for path in read_paths(read_task(tmp_path / "data", name)))
    if print_before:
        assert fingerprint(read_task(tmp_path / "data", name), "split_80_20") == print_before
    assert run("data", ["update-paths", "--all"]) == 0
    assert "nothing to change" in capsys.readouterr().out


def test_paths_of_cases_that_were_left_behind_are_not_updated(tmp_path):
    folder = moved(tmp_path)
    lost = next((folder / "cases").glob("*.pt"))
    lost.unlink()
    before = snapshot(folder)
    with pytest.raises(
        DataError, match=rf"1 of the 10 cases in paths.json are not there: {lost}. .*nothing was changed"
    ):
        update_paths(tmp_path / "data", SEG)
    assert snapshot(folder) == before


def test_registered_files_elsewhere_stay_as_they_are_named(files, tmp_path):
    register(tmp_path / "data", Registration(NAME, "pretrain", folder=files))
    assert update_paths(tmp_path / "data", NAME).files == []


def test_a_task_without_its_list_of_cases_is_told_so(files, tmp_path, capsys):
    register(tmp_path / "data", Registration(NAME, "pretrain", folder=files))
    (tmp_path / "data" / NAME / "paths.json").unlink()
    for command in ("update-paths", "check", "card"):
        assert run("data", [command, NAME]) == 2
        assert "paths.json: missing. It lists the case files" in capsys.readouterr().err


def test_registering_by_files_warns_where_paths_name_subjects(tmp_path, caplog):
    (tmp_path / "nii").mkdir()
    for i in range(10):
        torch.save(torch.rand(1, 8, 8, 8), tmp_path / f"nii/sub-{i}_t1.pt")
    register(tmp_path / "data", Registration("A", "pretrain", folder=tmp_path / "nii", subjects="BIDS"))
    assert not caplog.records
    register(tmp_path / "data", Registration("B", "pretrain", folder=tmp_path / "nii"))
    assert "paths name subjects (sub-0)" in caplog.text
    assert "--subjects BIDS and its like keep subjects together" in caplog.text


def test_update_paths_needs_tasks_or_all(capsys):
    for words in ([], ["--all", SEG]):
        assert run("data", ["update-paths", *words]) == 2
        assert "name tasks, or say --all" in capsys.readouterr().err
    assert run("data", ["update-paths", "Task404"]) == 2
    assert "no task 'Task404'" in capsys.readouterr().err


# check


def test_every_broken_case_and_split_is_named_with_its_reason(tmp_path, capsys):
    make_synthetic(SEG, tmp_path / "data", cases=10, size=16)
    make_split(tmp_path / "data", SEG, "split_80_20")
    folder = tmp_path / "data" / SEG
    case = [folder / f"cases/{SEG}_{i:04d}.pt" for i in range(10)]
    whole = torch.load(case[0], weights_only=True)
    case[1].write_bytes(case[1].read_bytes()[:500])
    case[2].unlink()
    torch.save(torch.cat([whole, whole[:1]]), case[3])
    torch.save(whole[:, :, :8], case[4])
    torch.save(whole[:, 0], case[5])
    for number, (channel, value) in {6: (0, float("nan")), 7: (1, 9.0)}.items():
        wrong = whole.clone()
        wrong[channel, 3, 3, 3] = value
        torch.save(wrong, case[number])
    torch.save([whole, torch.tensor(1)], case[8])
    folds = json.loads((folder / "split_80_20.json").read_text())
    (folder / "odd.json").write_text(json.dumps([{"train": folds[0]["train"], "val": folds[0]["train"][:1]}]))
    (folder / "torn.json").write_text('[{"train": [')
    assert run("data", ["check", SEG]) == 2
    err = capsys.readouterr().err
    for problem in (
        f"{case[1]}: not readable as a case",
        f"{case[2]}: is not there. Convert or copy it again",
        f"{case[3]}: has 2 channels, and n_modalities is 1",
        f"{case[4]}: its shape [16, 8, 16] is not that of the task, [16, 16, 16]",
        f"{case[5]}: is 2-D [16, 16], and the task is 3-D",
        f"{case[6]}: holds NaN",
        f"{case[7]}: has labels [9], and n_classes=5 knows 0 to 4",
        f"{case[8]}: has 2 channels, and n_modalities is 1",
        f"{folder}/split_80_20.json: names 1 files that are not there: {case[2]}",
        f"{folder}/odd.json: fold 0: 1 cases are in both train and val",
        f"{folder}/torn.json: is no JSON",
    ):
        assert problem in err, problem
    assert str(case[0]) not in err
    assert run("data", ["check", SEG, "--json"]) == 2
    assert len(json.loads(capsys.readouterr().out)["problems"]) == int(re.search(r"(\d+) problems", err)[1])


def test_a_class_beyond_the_last_and_a_pair_that_is_none_are_found(tmp_path):
    make_synthetic(CLS, tmp_path / "data", cases=4, size=16)
    case = [tmp_path / f"data/{CLS}/cases/{CLS}_{i:04d}.pt" for i in range(4)]
    image, _ = torch.load(case[0], weights_only=True)
    torch.save([image, torch.tensor(3)], case[0])
    torch.save([3, image], case[1])
    found = problems_of(tmp_path / "data", CLS)
    assert [problem.partition(": ")[0] for problem in found] == [str(case[0]), str(case[1])]
    assert "has labels [3], and n_classes=3 knows 0 to 2" in found[0]


def test_a_folder_without_dataset_json_is_no_task(tmp_path, capsys):
    (tmp_path / "data" / NAME).mkdir(parents=True)
    for command in (["check", NAME], ["card", NAME], ["update-paths", NAME]):
        assert run("data", command) == 2
        assert f"no task '{NAME}'" in capsys.readouterr().err


# card


def test_the_card_counts_what_is_there(tmp_path, capsys):
    make_synthetic(SEG, tmp_path / "data", cases=4, size=16)
    assert run("data", ["card", SEG]) == 0
    numbers = json.loads((tmp_path / f"data/{SEG}/card.json").read_text())
    assert (numbers["cases"], numbers["n_classes"], numbers["shape"]["median"]) == (4, 5, [16, 16, 16])
    assert capsys.readouterr().out.strip() == f"{tmp_path}/data/{SEG}/card.html"
    assert "card" not in known_splits(read_task(tmp_path / "data", SEG))
