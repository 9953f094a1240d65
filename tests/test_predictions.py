"""The test of the best checkpoint after a fit, and the predictions file that it leaves (SEEDS A46, A48)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from PIL import Image

import asparagus
from asparagus.callbacks.predictions import predictions_file
from asparagus.checkpoint.folder import STATE, manifests
from asparagus.cli.main import run
from asparagus.data.digits import make_digits
from asparagus.data.split import split_80_20
from asparagus.data.synthetic import make_synthetic
from asparagus.errors import ConfigError, RunError
from asparagus.journal import JOURNAL, JournalReader
from asparagus.spec import Assignment
from asparagus.worker.ranks import InProcess
from asparagus.worker.work import work
from tests.own_code import OWN, SOURCE

DIGITS, CASES, TESTED = "Task001_Digits", 100, 30
SEG = "Task997_LauritSynSeg"
TEST = "data.test_split=TEST_30"
TWO = [TEST, "trainer.max_epochs=2", "data.batch_size=16"]
FIRST = ["checkpoint.monitor=val/loss", "checkpoint.mode=max"]
"""The worst is the best: a checkpoint that is not the last."""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Return a data folder with test splits; tests only read it."""
    folder = tmp_path_factory.mktemp("data")
    make_digits(folder, cases=CASES)
    make_synthetic(SEG, folder, cases=8, size=16)
    for task, count in ((DIGITS, TESTED), (SEG, 3)):
        paths = json.loads((folder / task / "paths.json").read_text())
        (folder / task / "split_80_20.json").write_text(json.dumps(split_80_20(paths[count:])))
        (folder / task / f"TEST_{count}.json").write_text(json.dumps(paths[:count]))
        (folder / task / "TEST_gone.json").write_text(json.dumps([*paths[:2], f"/old/{task}/cases/gone.pt"]))
    return folder


@pytest.fixture(autouse=True)
def _at_home(home, root, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_DATA", str(root))


def launch(words, config="experiment/digits"):
    return asparagus.launch(config, words)


def train(words, folder="run", config="experiment/digits") -> dict[str, float]:
    """Do what a worker does, without a record: in the same folder again, the run goes on. Return the metrics."""
    plan = asparagus.plan_of(config, words)
    (Path.cwd() / folder).mkdir(exist_ok=True)
    return work(Assignment(plan.spec, 1, str(Path.cwd() / folder)), InProcess())["metrics"]


def events(folder, kind):
    return [event for event in JournalReader(Path(folder) / JOURNAL).read() if event["kind"] == kind]


def written(folder="run") -> list[str]:
    return [path.name for path in (Path(folder) / "predictions").glob("*")]


def read(folder="run"):
    (file,) = (Path(folder) / "predictions").glob("*")
    return json.loads(file.read_text())


# after a fit


def test_a48_the_best_checkpoint_is_tested_after_the_fit_and_its_predictions_are_written():
    outcome = launch([*TWO, *FIRST])
    best = Path(outcome.checkpoint).name
    assert best.startswith("epoch=0-")
    assert written(outcome.folder) == [f"{DIGITS}__TEST_30__{best}.json"]
    found = read(outcome.folder)
    metrics = found.pop("metrics")
    assert {name: case["label"] for name, case in found.items()} == {
        f"{DIGITS}_{number:04d}.pt": number % 10 for number in range(TESTED)
    }
    right = [case["prediction"] == case["label"] for case in found.values()]
    assert outcome.metrics["test/accuracy"] == pytest.approx(sum(right) / TESTED)
    assert metrics["Recall"][3] == pytest.approx(sum(right[3::10]) / 3)
    assert len(metrics["Precision"]) == len(metrics["Recall"]) == 10
    last = events(outcome.folder, "epoch")[-1]["values"]
    assert outcome.metrics["val/accuracy"] == last["val/accuracy"]
    assert outcome.metrics["test/loss"] != pytest.approx(last["val/loss"])
    (event,) = events(outcome.folder, "test")
    assert (event["checkpoint"], event["split"]) == (best, "TEST_30")
    assert json.loads((Path(outcome.folder) / "run.json").read_text())["metrics"] == outcome.metrics

    looked = launch([TEST, "run.mode=test", "init_from=run:1/best"])
    assert written(looked.folder) == written(outcome.folder)
    assert read(looked.folder) == {**found, "metrics": metrics}
    assert looked.metrics == pytest.approx({key: value for key, value in outcome.metrics.items() if "test/" in key})


def test_a48_a_segmentation_is_tested_on_whole_cases_label_by_label():
    words = [f"task={SEG}", "data.test_split=TEST_3", "data.patch_size=[8,8,8]", "model.features=[4,8]"]
    metrics = train([*words, "trainer.max_epochs=1", "optim.lr=0.03"], config="train_seg")
    found = read()
    mean = found.pop("mean")
    assert list(found) == [f"{SEG}_{number:04d}.pt" for number in range(3)]
    for case in found.values():
        assert list(case) == list(mean) == ["0", "1", "2", "3", "4"]
        assert sum(label["total_pos_gt"] for label in case.values()) == 16**3
        assert sum(label["total_pos_pred"] for label in case.values()) == 16**3
    for label, means in mean.items():
        assert len(means) == 12
        for name, value in means.items():
            numbers = [case[label][name] for case in found.values() if case[label][name] is not None]
            assert value == (round(sum(numbers) / len(numbers), 4) if numbers else None)
    assert metrics["test/dice"] == pytest.approx(dice_over_all(found), abs=1e-5)
    assert metrics["test/loss"] > 0


def dice_over_all(found) -> float:
    """Return the mean over foreground classes of the Dice over all voxels, as `val/dice` is."""
    scores = []
    for label in ("1", "2", "3", "4"):
        cases = [case[label] for case in found.values()]
        volume = sum(case["total_pos_gt"] + case["total_pos_pred"] for case in cases)
        scores += [2 * sum(case["TP"] for case in cases) / volume] if volume else []
    return sum(scores) / len(scores)


@pytest.mark.parametrize("words", [[], [TEST, "trainer.limit_test_batches=0"]])
def test_without_test_data_nothing_is_done(words, home):
    metrics = train(["trainer.max_epochs=1", *words])
    assert not (home / "run" / "predictions").exists()
    assert events("run", "test") == []
    assert "val/accuracy" in metrics
    assert not [key for key in metrics if key.startswith("test/")]


def test_a_part_of_the_splits_fold_is_tested_on(root):
    folds = json.loads((root / DIGITS / "split_80_20.json").read_text())
    listed = [{**fold, "train": fold["train"][7:], "test": fold["train"][:7]} for fold in folds]
    (root / DIGITS / "three_parts.json").write_text(json.dumps(listed))
    train(["data.split=three_parts", "trainer.max_epochs=1"])
    assert len(read()) == 7 + 1
    assert written()[0].startswith(f"{DIGITS}__three_parts__epoch=0-")


def test_an_interrupted_fit_is_not_tested_and_one_that_goes_on_is(home):
    words = [*TWO, f"+callbacks.stop={{_target_: tests.fakes.Interrupt, mark: {home}/mark}}"]
    with pytest.raises(KeyboardInterrupt):
        train(words)
    assert (events("run", "test"), written()) == ([], [])
    assert "test/accuracy" in train(words)
    assert len(written()) == 1


def test_a_fit_that_was_lost_before_its_test_is_tested_when_the_run_goes_on_and_only_then(home):
    words = [*TWO, f"+callbacks.fuse={{_target_: tests.fakes.TestFuse, mark: {home}/blown}}"]
    with pytest.raises(RunError, match="the fuse has blown"):
        launch(words)
    (folder,) = Path("models").glob("*/*/run_id=*")
    fitted = events(folder, "epoch")
    outcome = launch(words)
    assert outcome.run_id == 1
    assert events(folder, "epoch") == fitted, "nothing was trained again"
    assert outcome.metrics["val/accuracy"] == fitted[-1]["values"]["val/accuracy"]
    assert "test/accuracy" in outcome.metrics
    assert len(written(folder)) == 1


def test_what_was_tested_is_not_tested_again_unless_its_file_is_gone():
    metrics = train(TWO)
    found = read()
    assert train(TWO) == metrics
    assert len(events("run", "test")) == 1
    (Path("run") / "predictions" / written()[0]).unlink()
    assert train(TWO) == metrics
    assert (len(events("run", "test")), read()) == (2, found)


def test_a_torn_best_checkpoint_is_not_what_is_tested(home):
    words = [*TWO, *FIRST, f"+callbacks.fuse={{_target_: tests.fakes.TestFuse, mark: {home}/blown}}"]
    with pytest.raises(ValueError, match="the fuse has blown"):
        train(words)
    first, last = manifests(home / "run" / "checkpoints")
    state = home / "run" / "checkpoints" / first.name / STATE
    state.write_bytes(state.read_bytes()[:-1] + b"x")
    train(words)
    assert written() == [f"{DIGITS}__TEST_30__{last.name}.json"]


# modules of one's own

TESTS = """

class Tested(Line):
    def __init__(self, offers=False):
        super().__init__()
        self.offers = offers

    def test_step(self, batch, index):
        self.log_dict({"val/loss": self._loss(batch) + 1, "test/points": float(len(batch[0]))})
        x, y = batch
        return {"cases": {f"{index}": {"y": y.mean(), "nothing": float("nan")}}} if self.offers else None


class Testing(Points):
    def test_dataloader(self):
        return DataLoader(self.data, batch_size=16)
"""


@pytest.mark.parametrize("offers", [False, True])
def test_a_module_of_ones_own_is_tested_too_and_has_a_file_if_it_offers_cases(offers, tmp_path, monkeypatch):
    module = f"tested_{offers}"
    (tmp_path / f"{module}.py").write_text(SOURCE + TESTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    config, *words = OWN(module)
    words += [f"model.module._target_={module}.Tested", f"model.module.offers={offers}"]
    metrics = train([*words, f"data._target_={module}.Testing"], config=config)
    assert metrics["test/points"] == 16
    assert metrics["test/val/loss"] == pytest.approx(metrics["val/loss"] + 1), "what both measure is told apart"
    (event,) = events("run", "test")
    if not offers:
        assert (event["file"], written()) == (None, [])
        return
    found = read()
    assert found["1"] == {"y": pytest.approx(sum(range(32, 64)) / 16 / 32, rel=1e-4), "nothing": None}
    assert event["file"].startswith("Own__test__epoch=0-")


# files and wrong requests


def test_a_predictions_file_is_named_after_task_split_and_checkpoint(tmp_path):
    for checkpoint in ("c/epoch=4-step=25", f"c/epoch=4-step=25/{STATE}", "epoch=4-step=25.ckpt"):
        file = predictions_file(tmp_path, "T", "a/b", Path(checkpoint))
        assert file == tmp_path / "predictions" / "T__a_b__epoch=4-step=25.json"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["data.test_split=TEST_03"],
            r"data.test_split: no file TEST_03.json .*Did you mean 'TEST_30'\? There are: TEST_30",
        ),
        (["data.test_split=TEST_gone"], r"data.test_split: 1 of the 3 test cases in .* are not there: .*cases/gone.pt"),
        ([TEST, "resources.workers=31"], "data.test_split: 30 test cases for 31 workers"),
        (["data.test_split=30"], "data.test_split: 30 given"),
        (
            ["run.mode=test", "init_from=file:w.pt"],
            r"run.mode: test needs test data: .*Give data.test_split one of: TEST_30",
        ),
        (
            ["stage=pretrain", TEST, "run.mode=test", "init_from=file:w.pt"],
            "run.mode: test runs a test loop, and the module of pretrain has none",
        ),
    ],
)
def test_wrong_requests_are_answered_before_anything_runs(words, expected, home):
    (home / "w.pt").write_bytes(b"PK")
    with pytest.raises(ConfigError, match=expected):
        asparagus.plan_of("experiment/digits", words)
    assert not (home / "models").exists()


def test_the_plan_counts_the_test_cases():
    assert asparagus.plan_of("experiment/digits", [TEST]).cases == {"train": 56, "val": 14, "test": TESTED}


def test_a_rehearsal_tests_too(capsys):
    assert run("launch", ["experiment/digits", TEST, "--check"]) == 0
    assert "ok   test       of the best checkpoint, after the fit: test/loss" in capsys.readouterr().out


# on Ray


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a48_two_workers_test_every_case_once_and_find_what_one_process_finds():
    outcome = launch([*TWO, "resources.workers=2", "data.batch_size=7"])
    looked = launch([TEST, "run.mode=test", "init_from=run:1/best", "data.batch_size=30"])
    assert len(read(outcome.folder)) == TESTED + 1
    assert read(outcome.folder) == read(looked.folder)
    for name in ("test/accuracy", "test/loss"):
        assert outcome.metrics[name] == pytest.approx(looked.metrics[name], rel=1e-5)
    assert not math.isnan(outcome.metrics["val/accuracy"])
    (figure,) = Path(outcome.folder).glob("plots/validation/*/confusion.png")
    with Image.open(figure) as confusion:
        right = round(outcome.metrics["val/accuracy"] * 20)
        assert confusion.text["Title"].endswith(f"{right} of 20 cases are right"), "those of both workers"
