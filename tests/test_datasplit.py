"""`datasplit.csv`: found, drawn, written and read; SEEDS E34 to E44 without any volume being opened."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from asparagus.cli.main import run
from asparagus.data.zarr.datasplit import check_classes, must_be_apart, read_datasplit
from asparagus.data.zarr.make import find_crops, make_datasplit_csv, write_datasplit
from asparagus.errors import ConfigError, DataError
from tests.volumes import write_volume

CROPS = {
    "jrc_a": {"crop1": ["nuc", "mito"], "crop2": ["nuc"], "crop10": ["mito", "er"]},
    "jrc_b": {"crop3": ["nuc", "mito", "er"], "crop4": ["er"]},
}

BASE = "{root}/{dataset}/{dataset}.zarr/recon-1"


@pytest.fixture
def folders(tmp_path):
    """Folders that are named as the challenge's, with nothing in them."""
    for dataset, crops in CROPS.items():
        base = Path(BASE.format(root=tmp_path, dataset=dataset))
        (base / "em" / "fibsem-uint8").mkdir(parents=True)
        for crop, classes in crops.items():
            for name in classes:
                (base / "labels" / "groundtruth" / crop / name).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def make(folders):
    def made(classes=("nuc", "mito"), *arguments, **options):
        given = {"search_path": f"{folders}/{{dataset}}/{{dataset}}.zarr/recon-1/{{name}}", **options}
        return make_datasplit_csv(list(classes), *arguments, csv_path=folders / "out.csv", **given)

    return made


def names(found):
    return {Path(crop).name: labels for crop, labels in found.items()}


def usages(folders):
    return {Path(row.labels).name: row.usage for row in read_datasplit(folders / "out.csv")}


def test_e34_the_defaults_are_the_documented_ones():
    defaults = make_datasplit_csv.__defaults__
    assert defaults[:5] == (("nuc", "mito"), False, 0.1, ("*",), ("*",))
    assert defaults[5:] == (
        "data/{dataset}/{dataset}.zarr/recon-1/{name}",
        "em/fibsem-uint8",
        "labels/groundtruth/{crop}/{label}",
        "datasplit.csv",
        False,
    )


def test_e35_crops_are_found_by_patterns_and_list_the_wanted_classes_that_they_have(make):
    assert names(make()) == {
        "crop1": ["nuc", "mito"],
        "crop2": ["nuc"],
        "crop10": ["mito"],
        "crop3": ["nuc", "mito"],
    }
    assert names(make(["er", "nuc"], crops=["crop3"])) == {"crop3": ["er", "nuc"]}
    assert names(make(datasets=["jrc_b"])) == {"crop3": ["nuc", "mito"]}
    assert names(make(crops=["crop1*"])) == {"crop1": ["nuc", "mito"], "crop10": ["mito"]}


def test_e35_a_crop_that_two_patterns_find_is_one(make, folders):
    assert names(make(crops=["*", "crop1"]))["crop1"] == ["nuc", "mito"]
    assert len(read_datasplit(folders / "out.csv")) == 4


def test_e36_each_crop_is_drawn_by_the_validation_probability(make, folders):
    import numpy as np

    drawn = np.random.RandomState(7)  # what the challenge's own command draws from
    expected = ["train" if drawn.rand() > 0.5 else "validate" for _ in range(4)]
    assert set(expected) == {"train", "validate"}
    found = make(validation_prob=0.5, seed=7)
    assert list(usages(folders).values()) == expected
    assert list(usages(folders)) == [Path(crop).name for crop in found]


def test_e36_the_same_seed_draws_the_same_and_another_seed_differs(make, folders):
    drawn = []
    for seed in (1, 1, 2, 3):
        make(validation_prob=0.5, seed=seed)
        drawn.append((folders / "out.csv").read_text())
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("prob", [0, 1])
@pytest.mark.parametrize("seed", range(5))
def test_e37_of_two_crops_or_more_one_is_in_each_part(prob, seed, make, folders):
    make(validation_prob=prob, seed=seed)
    drawn = list(usages(folders).values())
    assert sorted(set(drawn)) == ["train", "validate"]
    assert drawn.count("train" if prob else "validate") == 1


def test_e37_of_one_crop_nothing_is_forced(make, folders):
    make(validation_prob=0, crops=["crop2"])
    assert usages(folders) == {"crop2": "train"}


@pytest.mark.parametrize("seed", range(5))
def test_e38_crops_that_lack_a_class_are_dropped_or_moved(seed, make, folders):
    make(force_all_classes=True, validation_prob=0.5, seed=seed)
    assert set(usages(folders)) == {"crop1", "crop3"}
    make(force_all_classes="validate", validation_prob=0.5, seed=seed)
    drawn = usages(folders)
    assert {drawn["crop2"], drawn["crop10"]} == {"train"}
    assert "validate" in drawn.values()
    make(force_all_classes="train", validation_prob=0.5, seed=seed)
    drawn = usages(folders)
    assert {drawn["crop2"], drawn["crop10"]} == {"validate"}
    assert "train" in drawn.values()
    make(force_all_classes=False, seed=seed)
    assert len(usages(folders)) == 4


def test_e39_the_file_byte_for_byte(make, folders):
    make(["nuc", "er"], crops=["crop3"])
    base = f"{folders}/jrc_b/jrc_b.zarr"
    assert (folders / "out.csv").read_bytes() == (
        f'"train","{base}","recon-1/em/fibsem-uint8","{base}","recon-1/labels/groundtruth/crop3/[nuc,er]"\n'.encode()
    )


def test_e39_five_columns_three_columns_and_comments_are_read(tmp_path):
    file = tmp_path / "d.csv"
    file.write_text(
        "# usage, raw, labels\n"
        '"train","/d/a.zarr","recon-1/em/fibsem-uint8","/d/a.zarr","recon-1/labels/groundtruth/crop1/[nuc,er]"\n'
        "\n"
        'validate, b.zarr/em, "b.zarr/labels/crop2/[nuc]"\n'
        "train,s3://bucket/c.zarr/em,s3://bucket/c.zarr/labels/crop3\n"
    )
    first, second, third = read_datasplit(file)
    assert (first.usage, first.raw) == ("train", "/d/a.zarr/recon-1/em/fibsem-uint8")
    assert (first.labels, first.classes) == ("/d/a.zarr/recon-1/labels/groundtruth/crop1", ("nuc", "er"))
    assert (second.usage, second.raw, second.classes) == ("validate", f"{tmp_path}/b.zarr/em", ("nuc",))
    assert (third.raw, third.labels, third.classes) == (
        "s3://bucket/c.zarr/em",
        "s3://bucket/c.zarr/labels/crop3",
        None,
    )
    assert second.where == f"{file}:4"


def test_e40_an_image_in_the_n5_twin_is_named_and_a_crop_without_one_left_out(make, folders, caplog):
    a = Path(BASE.format(root=folders, dataset="jrc_a"))
    (a / "em" / "fibsem-uint8").rmdir()
    with caplog.at_level("INFO", logger="asparagus"):
        make()
    assert set(usages(folders)) == {"crop3"}
    assert "crop1: left out" in caplog.text
    (folders / "jrc_a" / "jrc_a.n5" / "recon-1" / "em" / "fibsem-uint8").mkdir(parents=True)
    make()
    raw = {Path(row.labels).name: row.raw for row in read_datasplit(folders / "out.csv")}
    assert raw["crop1"] == f"{folders}/jrc_a/jrc_a.n5/recon-1/em/fibsem-uint8"
    labels = {Path(row.labels).name: row.labels for row in read_datasplit(folders / "out.csv")}
    assert labels["crop1"] == f"{folders}/jrc_a/jrc_a.zarr/recon-1/labels/groundtruth/crop1"


def test_e40_nothing_left_is_an_error_that_names_what_was_looked_for(make, folders):
    with pytest.raises(DataError, match=r"No datasets found: nothing is at .*jrc_x"):
        make(datasets=["jrc_x"])
    for dataset in CROPS:
        (Path(BASE.format(root=folders, dataset=dataset)) / "em" / "fibsem-uint8").rmdir()
    with pytest.raises(DataError, match="No datasets found: of 4 crops, none has an image"):
        make()
    assert not (folders / "out.csv").exists()


def test_e41_a_file_that_is_there_is_written_anew_and_the_old_one_kept(make, folders):
    file = folders / "out.csv"
    file.write_text("mine\n")
    make()
    assert len(read_datasplit(file)) == 4
    assert (folders / "out.csv.1").read_text() == "mine\n"
    make()
    assert not (folders / "out.csv.2").exists(), "the same rows again are no other file"
    make(crops=["crop3"])
    assert len(read_datasplit(folders / "out.csv.2")) == 4


def test_e41_it_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "d.csv"
    write_datasplit(file, "before\n")

    def no_room(self, *arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_room)
    with pytest.raises(DataError, match=r"d.csv: cannot be written \(No space"):
        write_datasplit(file, "after\n")
    assert file.read_text() == "before\n"
    assert not list(tmp_path.glob(".d.csv*"))


def test_a_datasplit_that_would_be_where_a_folder_is_is_refused(tmp_path):
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write_datasplit(tmp_path / "d.csv", "train,a,b\n")
    assert [file.name for file in tmp_path.iterdir()] == ["d.csv"]


def test_a_mark_at_the_beginning_as_spreadsheets_write_it_is_no_part_of_the_first_row(tmp_path):
    (tmp_path / "d.csv").write_text("train,a.zarr/em,a.zarr/c1/[nuc]\n", encoding="utf-8-sig")
    assert read_datasplit(tmp_path / "d.csv")[0].usage == "train"


def test_a_crop_in_both_parts_is_refused_unless_it_is_meant(tmp_path):
    file = tmp_path / "d.csv"
    file.write_text("train,a.zarr/em,a.zarr/c1/[nuc]\n\nvalidate,a.zarr/em,a.zarr/c1/[nuc]\n")
    rows = read_datasplit(file)
    with pytest.raises(DataError, match=r"d.csv:3: .*c1 is validated on, and trained on by .*d.csv:1"):
        must_be_apart(rows, allowed=False)
    must_be_apart(rows, allowed=True)


def test_e42_a_dry_run_writes_nothing_and_returns_what_is_found(make, folders):
    found = make(dry_run=True)
    assert names(found)["crop1"] == ["nuc", "mito"]
    assert all(Path(crop).is_dir() for crop in found)
    assert not (folders / "out.csv").exists()


def test_e44_the_counts_are_told(make, caplog, folders):
    with caplog.at_level("INFO", logger="asparagus"):
        make(validation_prob=0)
    for line in (
        "Number of datasets: 4",
        "Number of training datasets: 3 (75.00%)",
        "Number of validation datasets: 1 (25.00%)",
        f"CSV written to {folders / 'out.csv'}",
    ):
        assert line in caplog.text


# The command


@pytest.fixture
def command(folders, monkeypatch, capsys):
    monkeypatch.setenv("ASPARAGUS_DATA", str(folders))
    monkeypatch.chdir(folders)

    def call(*words):
        status = run("data", ["datasplit", *words])
        return status, capsys.readouterr()

    return call


def test_e34_the_command_writes_the_file_and_prints_the_counts(command, folders):
    status, said = command("--classes", "nuc,er", "--validate-ratio", "0.5", "--csv-path", "out.csv")
    assert status == 0
    assert "Number of datasets: 5" in said.out
    assert len(read_datasplit(folders / "out.csv")) == 5


def test_e34_the_spellings_of_csc_make_datasplit(command, folders):
    pattern = f"{folders}/{{dataset}}/{{dataset}}.zarr/recon-1/{{name}}"
    words = ("-c", "nuc,mito", "-vr", "0.5", "-sp", pattern, "-rn", "em/fibsem-uint8", "-cp", "out.csv")
    assert command(*words, "-cn", "labels/groundtruth/{crop}/{label}", "-ds", "jrc_a", "-cr", "*")[0] == 0
    assert set(usages(folders)) == {"crop1", "crop2", "crop10"}
    for flags in (["-fa"], ["-ft", "-fv"]):
        assert command(*words, *flags)[0] == 0
        assert set(usages(folders)) == {"crop1", "crop3"}
    assert command(*words, "-fv")[0] == 0
    assert usages(folders)["crop2"] == "train"


def test_e42_a_dry_run_of_the_command_prints_the_rows(command, folders):
    status, said = command("--dry-run")
    assert status == 0
    assert said.out.count("\n") == 4
    assert not (folders / "datasplit.csv").exists()


def test_e41_the_command_says_where_the_old_rows_are(command, folders):
    (folders / "datasplit.csv").write_text("mine\n")
    assert "datasplit.csv.1" in command()[1].out


def test_e34_scale_leaves_out_what_is_annotated_in_larger_voxels(command, folders):
    for place in Path(folders).glob("*/*.zarr/recon-1/labels/groundtruth/*/*"):
        coarse = place.name == "mito" or place.parent.name == "crop3"
        size = (8, 8, 16) if coarse else (8, 8, 8)
        write_volume(place, [(np.zeros((2, 2, 2), np.uint8), size, (0, 0, 0))])
    every = {crop: labels for labels, crop in ((row.classes, Path(row.labels).name) for row in rows_with(command))}
    assert ("mito" in every["crop1"], "crop3" in every) == (True, True)
    for words in (("-s", "8"), ("--scale", "8,8,15.9")):
        left = rows_with(command, *words)
        assert left
        assert all("mito" not in row.classes and Path(row.labels).name != "crop3" for row in left)
    assert rows_with(command, "-s", "8,8,16") == rows_with(command)
    status, said = command("-s", "4")
    assert (status, "are coarser than 4 x 4 x 4 nm" in said.err) == (2, True)


def rows_with(command, *words):
    assert command(*words)[0] == 0
    return read_datasplit(Path("datasplit.csv"))


# What is wrong


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("-c", "nucleus"), "No datasets found"),
        (("-c", "nuc,nuc"), "different names"),
        (("-c", ""), "list of different names"),
        (("-vr", "1.5"), "validation_prob: 1.5"),
        (("-sp", "/x/{dataset}.zarr"), "search_path"),
        (("-sp", "/x/{name}"), "search_path"),
        (("-cn", "{label}/{crop}"), "crop_name"),
        (("-s", "fine"), "--scale: 'fine' is no voxel size"),
        (("-s", "8,8"), "scale.scale: (8.0, 8.0) has to be three"),
        (("-s", "8,8,-8"), "has to be three positive"),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_written(words, named, command, folders):
    status, said = command(*words)
    assert status == 2
    assert named in said.err
    assert "Traceback" not in said.err
    assert not list(folders.glob("*.csv*"))


BROKEN = {
    "two columns": ("train,/a.zarr\n", ":1: 2 columns"),
    "four columns": ("train,a,b,c/[nuc]\n", ":1: 4 columns"),
    "six columns": ("train,a,b,c,d,e\n", "6 columns"),
    "third row": ("train,a,b/[n]\n# c\ntrainn,a,b/[n]\n", ":3: usage: 'trainn'"),
    "no classes": ("train,a,b/[]\n", ":1: 'b/[]' does not end with the classes"),
    "an empty field": ('"train","","b/[n]"\n', "column 2 is empty"),
    "only comments": ("# nothing\n\n", "lists no crop"),
    "empty": ("", "lists no crop"),
}


@pytest.mark.parametrize(("text", "named"), BROKEN.values(), ids=BROKEN.keys())
def test_a_row_that_cannot_be_meant_is_named_by_its_number(text, named, tmp_path):
    file = tmp_path / "d.csv"
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        read_datasplit(file)
    assert named in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00train"])
def test_a_file_that_cannot_be_read_says_so(content, tmp_path):
    file = tmp_path / "d.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read .*asp data datasplit writes one"):
        read_datasplit(file)


def test_a_class_that_no_training_crop_has_is_named_with_the_nearest(tmp_path):
    file = tmp_path / "d.csv"
    file.write_text('train,a.zarr/em,"a.zarr/c1/[nuc,mito]"\nvalidate,a.zarr/em,a.zarr/c2/[er]\n')
    rows = read_datasplit(file)
    check_classes(file, rows, ["mito", "nuc"])
    with pytest.raises(DataError, match=r"data.classes: 'mitto' is annotated in no training crop .*'mito'"):
        check_classes(file, rows, ["nuc", "mitto"])
    with pytest.raises(DataError, match=r"data.classes: 'er'"):
        check_classes(file, rows, ["nuc", "er"])


def test_without_a_training_crop_there_is_nothing_to_train_on(tmp_path):
    file = tmp_path / "d.csv"
    file.write_text("validate,a.zarr/em,a.zarr/c2/[er]\n")
    with pytest.raises(DataError, match="no row is for training"):
        check_classes(file, read_datasplit(file), ["er"])


def test_places_outside_of_a_container_are_refused(tmp_path):
    place = tmp_path / "plain" / "jrc_a" / "labels" / "groundtruth" / "crop1" / "nuc"
    place.mkdir(parents=True)
    (tmp_path / "plain" / "jrc_a" / "em" / "fibsem-uint8").mkdir(parents=True)
    with pytest.raises(DataError, match="is not inside a container"):
        make_datasplit_csv(["nuc"], search_path=f"{tmp_path}/plain/{{dataset}}/{{name}}", csv_path=tmp_path / "d.csv")
    assert [file.name for file in tmp_path.iterdir()] == ["plain"]


def test_a_force_that_is_not_known_is_refused(make):
    with pytest.raises(ConfigError, match="force_all_classes: 'validation'"):
        make(force_all_classes="validation")


def test_finding_crops_imports_neither_torch_nor_zarr(folders):
    code = (
        "import sys; from asparagus.data.zarr.make import make_datasplit_csv; "
        f"make_datasplit_csv(['nuc'], search_path='{folders}/{{dataset}}/{{dataset}}.zarr/recon-1/{{name}}', "
        f"csv_path='{folders}/d.csv'); assert not {{'torch', 'zarr', 'ray', 'mlflow'}} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    for name in ("settings", "datasplit", "make", "generate"):
        code = f"import sys, asparagus.data.zarr.{name}; assert 'numpy' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert find_crops(["nuc"], search_path=f"{folders}/{{dataset}}/{{dataset}}.zarr/recon-1/{{name}}")


WRITER = """
import itertools, sys
from pathlib import Path
from asparagus.data.zarr.make import write_datasplit
print("ready", flush=True)
for name in itertools.cycle("ab"):
    write_datasplit(Path(sys.argv[1]), f"train,{name}.zarr/em,{name}.zarr/c/[n]\\n" * 2000)
    for kept in Path(sys.argv[1]).parent.glob("*.csv.*"):
        kept.unlink()
"""


@pytest.mark.slow
def test_a_hundred_kills_leave_no_half_file(tmp_path):
    file = tmp_path / "d.csv"
    chance = random.Random(3)
    for _ in range(100):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout
            writer.stdout.readline()
            time.sleep(chance.random() / 20)
            writer.kill()
        if file.exists():
            assert len({row.raw for row in read_datasplit(file)}) == 1
            assert len(read_datasplit(file)) == 2000
    assert file.exists()
