"""Sample predictions as figures, the table of a test's cases, class maps as NIfTI, and TensorBoard (SEEDS E24, E25)."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import re
import struct
from collections import defaultdict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from PIL import Image
from tensorboardX.proto.event_pb2 import Event
from torch.utils.data import DataLoader

import asparagus
from asparagus.callbacks.case_table import table_of, write_table
from asparagus.callbacks.cellmap_tensorboard import CellMapTensorBoard
from asparagus.callbacks.drawing import (
    FRAME,
    MISSED,
    MOST_CLASSES,
    PREDICTED,
    RIGHT,
    TOO_MUCH,
    TRUTH,
    confusion_counts,
    file_name,
    of_answers,
    of_samples,
)
from asparagus.callbacks.figures import Figures
from asparagus.callbacks.predictions import Predictions
from asparagus.callbacks.volumes import affine_of, map_file, write_map
from asparagus.data.digits import make_digits
from asparagus.data.split import split_80_20
from asparagus.data.synthetic import make_synthetic
from asparagus.errors import ConfigError, DataError
from asparagus.identity import deciding
from asparagus.spec import Assignment
from asparagus.spec import Figures as Asked
from asparagus.stages.masks import MaskModule
from asparagus.stages.shown import Masks, Restored, Segmented, middle
from asparagus.worker.ranks import InProcess
from asparagus.worker.work import work

DIGITS, SEG, PRE, REG = "Task001_Digits", "Task997_LauritSynSeg", "Task998_LauritSyn", "Task995_LauritSynReg"
CLASSES = ["ball", "box", "shell", "core"]
TEST = "data.test_split=TEST_3"
SMALL = ["data.patch_size=[8,8,8]", "model.features=[4,8]", "data.batch_size=2", "trainer.max_epochs=1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Return a data folder; tests only read it."""
    folder = tmp_path_factory.mktemp("data")
    make_digits(folder, cases=100)
    for task in (SEG, PRE, REG):
        make_synthetic(task, folder, cases=10, size=16)
    for task in (DIGITS, SEG, PRE, REG):
        paths = json.loads((folder / task / "paths.json").read_text())
        (folder / task / "split_80_20.json").write_text(json.dumps(split_80_20(paths[3:])))
        (folder / task / "TEST_3.json").write_text(json.dumps(paths[:3]))
    case = folder / SEG / "cases" / f"{SEG}_0001.json"
    case.write_text(json.dumps({**json.loads(case.read_text()), "spacing": [0.5, 0.75, 2.0]}))
    return folder


@pytest.fixture
def _at_home(home, root, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_DATA", str(root))


def train(words, config, folder="run", **facts) -> dict[str, float]:
    """Do what a worker does, without a record."""
    plan = asparagus.plan_of(config, words)
    (Path.cwd() / folder).mkdir(exist_ok=True)
    return work(Assignment(plan.spec, 1, str(Path.cwd() / folder), **facts), InProcess())["metrics"]


def events_in(folder: Path) -> list[Event]:
    """Return what the event files in a folder hold."""
    found = []
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        block = file.read_bytes()
        while block:
            (length,) = struct.unpack("<Q", block[:8])
            found.append(Event.FromString(block[12 : 12 + length]))
            block = block[12 + length + 4 :]
    return found


def scalars_in(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = defaultdict(list)
    for event in events_in(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found[value.tag].append((event.step, value.simple_value))
    return found


def title_of(file: Path) -> str:
    with Image.open(file) as image:
        return str(image.text["Title"])


def drawn(folder="run") -> list[str]:
    plots = Path(folder) / "plots"
    return sorted(path.relative_to(plots).as_posix() for path in plots.rglob("*.*"))


# what is drawn


def a_case(image=(6, 8), size=(6, 8), name="case_1.pt") -> Segmented:
    truth, predicted = torch.zeros(size, dtype=torch.long), torch.zeros(size, dtype=torch.long)
    truth[1:3, 1:3], predicted[1:3, 2:4] = 2, 2
    return Segmented(name, torch.arange(float(image[0] * image[1])).reshape(image), truth, predicted)


def one(figures) -> Any:
    ((_, figure),) = figures
    return figure


@pytest.mark.parametrize("depth", [1, 4, 5])
def test_e25_of_a_volume_the_middle_slice_is_shown_and_a_plane_as_it_is(depth):
    volume = torch.randn(3, 2, depth)
    assert torch.equal(middle(volume), volume[..., depth // 2])
    assert torch.equal(middle(volume[..., 0]), volume[..., 0])
    assert middle(volume).untyped_storage().nbytes() == 3 * 2 * 4, "a view would keep the batch"


def test_e25_a_figure_for_each_class_and_a_row_for_each_sample():
    samples = [a_case(name="one.pt"), a_case(name="two.pt"), a_case(name="three.pt")]
    figures = dict(of_samples(samples, ["background", "nuc", "er"], "epoch 3, step 7"))
    assert list(figures) == ["nuc", "er"]
    for name, figure in figures.items():
        assert len(figure.axes) == 3 * 5
        assert [field.get_title() for field in figure.axes[:5]] == ["image", "raw", "truth", "prediction", "error"]
        assert [field.get_ylabel() for field in figure.axes[::5]] == ["one", "two", "three"]
        assert figure.get_suptitle() == f"{name}: epoch 3, step 7"


def test_e25_truth_prediction_and_error_have_their_colours():
    figure = dict(of_samples([a_case()], ["background", "nuc", "er"], ""))["er"]
    _, raw, truth, predicted, error = (field.images[0].get_array() for field in figure.axes)
    assert raw.shape == (6, 8)
    assert painted(truth, TRUTH) == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert painted(predicted, PREDICTED) == {(1, 2), (1, 3), (2, 2), (2, 3)}
    assert painted(error, RIGHT) == {(1, 2), (2, 2)}
    assert painted(error, MISSED) == {(1, 1), (2, 1)}
    assert painted(error, TOO_MUCH) == {(1, 3), (2, 3)}
    assert figure.axes[4].texts[0].get_text() == "dice 0.50 in this plane"


def painted(picture: Any, colour: str) -> set[tuple[int, int]]:
    """Return the pixels that have a colour over the grey of an image."""
    greys = (np.asarray(picture) - 0.7 * np.array(to_rgb(colour))) / 0.3
    same = (np.ptp(greys, axis=-1) < 1e-6) & (greys.min(-1) > -1e-6) & (greys.max(-1) < 1 + 1e-6)
    return {(int(row), int(column)) for row, column in np.argwhere(same)}


@pytest.mark.parametrize(("size", "frames"), [((6, 8), 0), ((4, 4), 1)])
def test_e25_a_red_rectangle_shows_the_output_only_where_it_is_smaller(size, frames):
    figure = dict(of_samples([a_case(size=size)], ["background", "nuc", "er"], ""))["er"]
    found = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert len(found) == frames
    assert figure.axes[1].images[0].get_array().shape == size
    for frame in found:
        assert frame.get_edgecolor()[:3] == to_rgb(FRAME)
        assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((1.5, 0.5), 4, 4)
        assert figure.axes[1].images[0].get_array()[0, 0] == 1 * 8 + 2, "the raw is what the frame shows"


def test_a_class_that_is_not_in_the_plane_is_said_to_be_elsewhere():
    figure = dict(of_samples([a_case()], ["background", "nuc", "er"], ""))["nuc"]
    assert figure.axes[4].texts[0].get_text() == "not in this plane"


def test_of_very_many_classes_the_first_ones_are_drawn():
    figures = dict(of_samples([a_case()], [str(number) for number in range(30)], ""))
    assert list(figures) == [str(number) for number in range(1, MOST_CLASSES + 1)]


def test_a_reconstruction_shows_what_was_hidden_and_how_far_it_is_off():
    image, output, hidden = torch.randn(4, 6), torch.randn(4, 6), torch.rand(4, 6) > 0.5
    figure = one(of_samples([Restored("a", image, hidden, output)], [], "epoch 0, step 2"))
    whole, seen, made, error = (field.images[0].get_array() for field in figure.axes)
    assert np.allclose(whole, image)
    assert np.allclose(made, output)
    assert np.allclose(error, (output - image).abs())
    assert (np.abs(np.asarray(seen) - to_rgb(MISSED)).max(-1) < 1e-6).tolist() == hidden.tolist()
    assert f"{(output - image).abs()[hidden].mean():.2g} where hidden" in figure.axes[3].texts[0].get_text()


def test_e25_masks_that_overlap_have_a_figure_each_and_what_nobody_annotated_is_no_error():
    truth, predicted = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool)
    truth[0, :2], truth[1, 2:], predicted[:] = 1, math.nan, True
    figures = dict(of_samples([Masks("a", torch.randn(4, 4), truth, predicted)], ["nuc", "er"], "now"))
    assert list(figures) == ["nuc", "er"]
    wrong = {name: painted(figure.axes[4].images[0].get_array(), TOO_MUCH) for name, figure in figures.items()}
    assert wrong["nuc"] == {(row, column) for row in (2, 3) for column in range(4)}
    assert wrong["er"] == {(row, column) for row in (0, 1) for column in range(4)}
    assert figures["er"].axes[4].texts[0].get_text() == "dice 0.00 in this plane"


def test_e25_a_module_of_masks_shows_the_middle_of_its_cases():
    module = MaskModule(torch.nn.Conv3d(1, 2, 1), {"name": "sgd", "lr": 0.1}, n_classes=2)
    batch = {"image": torch.randn(3, 1, 4, 5, 6), "label": torch.randint(0, 2, (3, 2, 4, 5, 6)).float()}
    predicted = torch.rand(3, 2, 4, 5, 6) > 0.5
    shown = module.shown(batch, {"predicted": predicted}, 2)
    assert [case.case for case in shown] == ["case 1", "case 2"]
    assert torch.equal(shown[1].truth, batch["label"][1, ..., 3])
    assert torch.equal(shown[1].predicted, predicted[1, ..., 3])
    assert torch.equal(shown[1].image, batch["image"][1, 0, ..., 3])


def test_half_precision_and_flat_images_are_drawn_too():
    flat = torch.ones(4, 4, dtype=torch.bfloat16)
    classes = torch.zeros(4, 4, dtype=torch.long)
    one(of_samples([Segmented("a", flat, classes, classes)], ["background", "x"], "")).savefig(io.BytesIO())
    one(of_samples([Restored("a", flat, classes.bool(), flat)], [], "")).savefig(io.BytesIO())


def test_a_confusion_matrix_counts_true_classes_in_rows():
    truth, predicted = [0, 0, 0, 1, 2, 2], [0, 1, 1, 1, 0, 2]
    assert confusion_counts(predicted, truth, 4).tolist() == [[1, 2, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    figure = one(of_answers(predicted, truth, ["a", "b", "c", "d"], "now"))
    (field,) = figure.axes
    assert figure.get_suptitle() == "now\n3 of 6 cases are right"
    assert {text.get_position(): text.get_text() for text in field.texts}[1, 0] == "2", "x is what was predicted"
    assert np.allclose(field.images[0].get_array()[0], [1 / 3, 2 / 3, 0, 0])
    assert [label.get_text() for label in field.get_yticklabels()] == ["a", "b", "c", "d"]


def test_numbers_are_drawn_against_the_true_ones():
    truth, predicted = [[1.0, 10.0], [2.0, 20.0]], [[1.5, 10.0], [2.5, 21.0]]
    first, second = one(of_answers(predicted, truth, ["age"], "now")).axes
    assert first.collections[0].get_offsets().tolist() == [[1.0, 1.5], [2.0, 2.5]]
    assert (first.get_title(), second.get_title()) == ("age: mean |error| 0.5", "1: mean |error| 0.5")


def test_nothing_is_drawn_of_nothing():
    assert list(of_answers([], [], [], "")) == []
    assert list(of_samples([], ["background", "x"], "")) == []


def test_a_name_is_a_file_wherever_it_is_written():
    assert file_name("left/right $x$ (mm)") == "left_right_x_mm.png"
    assert file_name("Größe") == "Größe.png"
    figure = dict(of_samples([a_case(name="$\\frac$.pt")], ["background", "$a_{"], "now"))["$a_{"]
    figure.savefig(io.BytesIO())


# the table of a test's cases


def measured(*dice) -> dict[str, Any]:
    return {str(label): {"dice": value, "FN": 3, "FP": label} for label, value in enumerate((0.99, *dice))}


def test_the_table_of_a_segmentation_has_the_lowest_mean_dice_first_and_what_has_none_last():
    cases = {"good": measured(0.9, 0.8), "empty": measured(None, None), "bad": measured(0.2, None)}
    table = table_of(cases, ["background", "ball", "box"])
    assert table is not None
    assert [row[0] for row in table.rows] == ["bad", "good", "empty"]
    assert [row[1] for row in table.rows] == [pytest.approx(0.2), pytest.approx(0.85), None]
    assert table.columns[:4] == ["case", "mean dice", "dice ball", "dice box"]
    assert table.rows[0][4:] == [6, 3]


def test_the_table_of_classes_has_the_wrong_ones_first():
    cases = {name: {"prediction": a, "label": b} for name, a, b in (("x", 1, 1), ("y", 0, 1), ("z", 0, 0))}
    table = table_of(cases, ["cat", "dog"])
    assert table is not None
    assert table.rows == [["y", "wrong", "cat", "dog"], ["z", "right", "cat", "cat"], ["x", "right", "dog", "dog"]]


def test_the_table_of_numbers_has_the_largest_error_first():
    cases = {
        "near": {"prediction": [1.0, 2.0], "label": [1.0, 2.5]},
        "far": {"prediction": [1.0, 9.0], "label": [1.0, 2.0]},
        "none": {"prediction": [None, None], "label": [1.0, 2.0]},
    }
    table = table_of(cases, ["age", "size"])
    assert table is not None
    assert [row[:2] for row in table.rows] == [["none", None], ["far", 3.5], ["near", 0.25]]
    assert table.columns[2:] == ["predicted age", "true age", "predicted size", "true size"]


@pytest.mark.parametrize("cases", [{}, {"a": 1}, {"a": {"y": 2.0}}, {"a": measured(1), "b": {"y": 1}}])
def test_of_an_unknown_form_there_is_no_table(cases):
    assert table_of(cases, []) is None


def test_a_table_is_written_as_csv_and_as_a_page(tmp_path):
    table = table_of({"<b>": measured(0.25), "c": measured(None)}, ["background", "a,b"])
    assert table is not None
    write_table(table, "T & co", tmp_path / "new" / "a.csv", tmp_path / "new" / "a.html")
    with (tmp_path / "new" / "a.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["case", "mean dice", "dice a,b", "voxels missed", "too much"]
    assert rows[1:] == [["<b>", "0.25", "0.25", "3", "1"], ["c", "", "", "3", "1"]]
    page = (tmp_path / "new" / "a.html").read_text()
    assert "T &amp; co: 2 cases, the lowest Dice first" in page
    assert re.findall(r"<td>(.*?)</td>", page)[0] == "&lt;b&gt;"


# class maps


def test_a_class_map_is_read_back_with_its_place_in_space(tmp_path):
    classes = torch.randint(0, 5, (4, 5, 6))
    affine = [[0, 2, 0, -7], [3, 0, 0, 8], [0, 0, 1, 9], [0, 0, 0, 1]]
    file = map_file(tmp_path / "maps", "sub/case 1.pt")
    assert file == tmp_path / "maps" / "sub_case_1.nii.gz"
    write_map(file, classes, {"affine": affine, "spacing": [9, 9, 9], "shape": [4, 5, 6]})
    image = nibabel.load(file)
    assert (np.asarray(image.dataobj) == classes.numpy()).all()
    assert image.get_data_dtype() == np.uint8
    assert image.affine.tolist() == affine
    assert list(file.parent.iterdir()) == [file], "no half is left"


@pytest.mark.parametrize(
    ("properties", "shape", "diagonal", "origin"),
    [
        ({}, (4, 4, 4), [1, 1, 1], [0, 0, 0]),
        ({"spacing": [0.5, 0.75, 2.0], "shape": [4, 4, 4]}, (4, 4, 4), [0.5, 0.75, 2], [0, 0, 0]),
        ({"spacing": [0.5, 0.75, 2.0], "shape": [4, 4, 9]}, (4, 4, 1), [0.5, 0.75, 2], [0, 0, 8]),
        ({"spacing": [0.5, 0.75], "shape": [4, 4]}, (4, 4, 1), [0.5, 0.75, 1], [0, 0, 0]),
    ],
)
def test_without_an_affine_the_spacing_says_how_large_a_voxel_is(properties, shape, diagonal, origin):
    affine = affine_of(properties, shape)
    assert np.diag(affine)[:3].tolist() == diagonal
    assert affine[:3, 3].tolist() == origin


def test_an_affine_that_is_none_is_refused():
    with pytest.raises(DataError, match=r"affine: \[1, 2\] beside a case is no matrix of 4 x 4"):
        affine_of({"affine": [1, 2]}, (1, 1, 1))


def test_many_classes_have_room(tmp_path):
    write_map(tmp_path / "a.nii.gz", torch.tensor([[0, 300]]), {})
    assert np.asarray(nibabel.load(tmp_path / "a.nii.gz").dataobj).ravel().tolist() == [0, 300]


# runs


@pytest.mark.usefixtures("_at_home")
def test_e25_a_segmentation_leaves_figures_in_its_folder_and_in_tensorboard_and_its_test_a_table_and_maps(root):
    words = [f"task={SEG}", TEST, *SMALL, "+logger=tensorboard", "run.save_predictions=true"]
    train(words, "train_seg")
    (tested,) = (Path("run") / "plots" / "test").iterdir()
    stem = tested.name
    assert re.fullmatch(rf"{SEG}__TEST_3__epoch=0-step=3", stem)
    assert drawn() == [
        *(f"test/{stem}/cases.{kind}" for kind in ("csv", "html")),
        *(f"validation/epoch=0-step=3/{name}.png" for name in sorted(CLASSES)),
    ]
    assert title_of(Path("run/plots/validation/epoch=0-step=3/box.png")) == "box: epoch 0, step 3"
    pictures = {
        value.tag: (event.step, value.image)
        for event in events_in(Path("run"))
        for value in event.summary.value
        if value.HasField("image")
    }
    assert {tag: step for tag, (step, _) in pictures.items()} == dict.fromkeys(CLASSES, 3)
    shown = Image.open(io.BytesIO(pictures["box"][1].encoded_image_string))
    assert np.asarray(shown.convert("RGB")).std() > 10

    found = json.loads((Path("run") / "predictions" / f"{stem}.json").read_text())
    found.pop("mean")
    assert [case["file"] for case in found.values()] == [f"{stem}/{SEG}_000{number}.nii.gz" for number in range(3)]
    for case in found.values():
        image = nibabel.load(Path("run") / "predictions" / case["file"])
        counts = np.bincount(np.asarray(image.dataobj).ravel(), minlength=5).tolist()
        assert counts == [case[str(label)]["total_pos_pred"] for label in range(5)]
    assert nibabel.load(f"run/predictions/{stem}/{SEG}_0001.nii.gz").header.get_zooms() == (0.5, 0.75, 2.0)
    rows = list(csv.DictReader((tested / "cases.csv").open()))
    assert {row["case"] for row in rows} == set(found)
    assert [float(row["mean dice"]) for row in rows] == sorted(float(row["mean dice"]) for row in rows)


@pytest.mark.usefixtures("_at_home")
def test_a_classification_draws_all_cases_of_the_epochs_that_were_asked_for():
    words = ["trainer.max_epochs=3", "data.batch_size=7", "figures.every_n_epochs=2", TEST]
    metrics = train(words, "experiment/digits")
    validations = sorted((Path("run") / "plots" / "validation").iterdir())
    assert [path.name.partition("-")[0] for path in validations] == ["epoch=1", "epoch=2"], "the second, and the last"
    right = round(metrics["val/accuracy"] * 20)
    step = validations[-1].name.rpartition("=")[2]
    assert title_of(validations[-1] / "confusion.png") == f"epoch 2, step {step}, {right} of 20 cases are right"
    (test,) = (Path("run") / "plots" / "test").iterdir()
    assert sorted(path.name for path in test.iterdir()) == ["cases.csv", "cases.html", "confusion.png"]
    assert title_of(test / "confusion.png").endswith(f"{round(metrics['test/accuracy'] * 3)} of 3 cases are right")


@pytest.mark.usefixtures("_at_home")
@pytest.mark.parametrize(
    ("config", "task", "words", "name"),
    [
        ("pretrain", PRE, SMALL, "reconstruction"),
        ("train_reg", REG, ["model=mlp", "data.patch_size=null", "trainer.max_epochs=1"], "predicted_and_true"),
    ],
)
def test_each_stage_draws_what_it_has_to_show(config, task, words, name):
    train([f"task={task}", *words], config)
    (drawn_one,) = drawn()
    assert drawn_one.startswith("validation/epoch=0-step=")
    assert drawn_one.endswith(f"/{name}.png")


@pytest.mark.usefixtures("_at_home")
@pytest.mark.parametrize(("words", "facts"), [(["figures.enabled=false"], {}), ([], {"has_figures": False})])
def test_nothing_is_drawn_where_it_is_turned_off_or_of_a_trial(words, facts):
    train(["trainer.max_epochs=1", *words], "experiment/digits", **facts)
    assert not (Path("run") / "plots").exists()


class Shows(pl.LightningModule):
    """A module of one's own with something to show, or an error in place of it."""

    def __init__(self, shows: Any) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.shows = shows
        self.class_names = ["background", "x"]

    def training_step(self, batch, index):
        loss = self.layer(batch).mean() ** 2
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, index):
        self.log("val/loss", torch.tensor(2.0 + self.current_epoch), batch_size=1)
        return {"batch": index}

    def shown(self, batch, outputs, most):
        return self.shows(batch, outputs, most)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(module: pl.LightningModule, folder: Path, logger: Any = (), **asked: Any) -> pl.Trainer:
    """Train 2 epochs of 3 steps, with a sanity check before and 2 batches of validation."""
    figures = Figures(folder, Asked(**asked), Predictions(folder, "T", "now"))
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(
        max_epochs=2, callbacks=[figures], logger=logger, log_every_n_steps=1, accelerator="cpu", **quiet
    )
    trainer.fit(module, DataLoader(torch.ones(6, 1), batch_size=2), DataLoader(torch.ones(4, 1), batch_size=2))
    return trainer


def test_a_module_of_ones_own_shows_its_last_batch(tmp_path):
    asked = []

    def shows(batch, outputs, most):
        asked.append((outputs["batch"], most))
        return [a_case(name=f"batch {outputs['batch']}")]

    fit(Shows(shows), tmp_path, cases=3)
    assert asked == [(0, 3), (1, 3)] * 2, "the sanity check is none of it"
    assert drawn(tmp_path) == ["validation/epoch=1-step=6/x.png"]


def test_what_cannot_be_drawn_is_told_once_and_the_training_goes_on(tmp_path, caplog):
    def shows(batch, outputs, most):
        raise ValueError("no such plane")

    with caplog.at_level(logging.WARNING, logger="asparagus"):
        trainer = fit(Shows(shows), tmp_path)
    assert trainer.current_epoch == 2
    told = [record.getMessage() for record in caplog.records if record.name == "asparagus"]
    assert told == ["figures: something could not be drawn (ValueError: no such plane)"]
    assert not (tmp_path / "plots").exists()


def test_a_folder_that_cannot_be_written_costs_the_figures_alone(tmp_path, caplog):
    (tmp_path / "plots").write_text("in the way")
    with caplog.at_level(logging.WARNING, logger="asparagus"):
        assert fit(Shows(lambda *_: [a_case()]), tmp_path).current_epoch == 2
    assert "figures: something could not be drawn (NotADirectoryError" in caplog.text


# scalars


def test_e24_loss_is_logged_for_each_iteration_and_validation_for_each_epoch_at_iterations_from_one(tmp_path):
    logger = CellMapTensorBoard(save_dir=str(tmp_path), name="")
    fit(Shows(lambda *_: None), tmp_path, logger)
    logger.finalize("success")
    found = scalars_in(tmp_path)
    assert [step for step, _ in found["loss"]] == [1, 2, 3, 4, 5, 6]
    assert found["validation"] == [(3, 2.0), (6, 3.0)]
    assert not {"train/loss", "val/loss"} & found.keys()


@pytest.mark.usefixtures("_at_home")
def test_e24_a_training_config_in_python_that_names_a_folder_for_logs_has_these_scalars(home):
    config = home / "mine.py"
    config.write_text(f'task = "{SEG}"\nlogs_save_path = "logs/{{model_name}}"\nmodel_name = "2d_unet"\n')
    spec = asparagus.plan_of(str(config), []).spec
    assert spec.logger["tensorboard"] == {
        "_target_": "asparagus.callbacks.cellmap_tensorboard.CellMapTensorBoard",
        "save_dir": f"{home}/logs/2d_unet",
        "name": "",
    }
    assert spec.trainer["log_every_n_steps"] == 1
    assert asparagus.plan_of(str(config), ["trainer.log_every_n_steps=5"]).spec.trainer["log_every_n_steps"] == 5


# requests


@pytest.mark.usefixtures("_at_home")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["figures.cases=0"], "figures.cases: 0 is too small. The least is 1"),
        (["figures.every_n_epochs=0"], "figures.every_n_epochs: 0 is too small"),
        (["figures.every_n_epoch=1"], "figures.every_n_epoch"),
        (["run.save_predictions=true"], "run.save_predictions: writes the class maps of a segmentation, and train_cls"),
    ],
)
def test_wrong_requests_are_answered_before_anything_runs(words, expected):
    with pytest.raises(ConfigError, match=re.escape(expected)):
        asparagus.plan_of("experiment/digits", words)


@pytest.mark.usefixtures("_at_home")
def test_figures_are_no_part_of_an_identity_and_the_maps_of_a_test_are(home):
    def decided(*words):
        (home / "w.pt").write_bytes(b"PK")
        return deciding(asparagus.plan_of("train_seg", [f"task={SEG}", TEST, *words]).spec)

    assert decided() == decided("figures.enabled=false", "figures.every_n_epochs=1", "run.save_predictions=true")
    look = ("run.mode=test", "init_from=file:w.pt")
    assert decided(*look) != decided(*look, "run.save_predictions=true")


# on Ray


@pytest.mark.ray
@pytest.mark.usefixtures("_at_home")
@pytest.mark.timeout(600)
def test_e25_two_workers_draw_once_and_each_case_has_one_map():
    words = [f"task={SEG}", TEST, *SMALL, "run.save_predictions=true", "resources.workers=2"]
    folder = Path(asparagus.launch("train_seg", words).folder)
    (validation,) = (folder / "plots" / "validation").iterdir()
    assert sorted(path.stem for path in validation.iterdir()) == sorted(CLASSES)
    (maps,) = (path for path in (folder / "predictions").iterdir() if path.is_dir())
    assert sorted(path.name for path in maps.iterdir()) == [f"{SEG}_000{number}.nii.gz" for number in range(3)]
    found = json.loads((maps.parent / f"{maps.name}.json").read_text())
    assert [found[f"{SEG}_000{number}.pt"]["file"] for number in range(3)] == [
        f"{maps.name}/{SEG}_000{number}.nii.gz" for number in range(3)
    ]
