"""`--check`: what only torch can tell is told before a machine is taken, and nothing is left behind."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from own_code import OWN, write_own_code

from asparagus.cli.main import run

DIGITS = "experiment/digits"
STOPPING = "callbacks.es._target_=pytorch_lightning.callbacks.EarlyStopping"

MORE = """
import pytorch_lightning as pl
import torch
from lab_rehearsal import Line


class Wide(torch.nn.Sequential):
    def __init__(self, img_size, width=3, depths=0):
        head = torch.nn.LazyLinear(width)
        super().__init__(torch.nn.Flatten(), head)
        self.depths = depths

    def forward(self, x):
        out = super().forward(x)
        return [out] * self.depths if self.depths else out


class LazyLine(Line):
    def __init__(self):
        super().__init__()
        self.model = torch.nn.LazyLinear(1)


class LazyUntilSetup(LazyLine):
    def setup(self, stage):
        self.model(torch.zeros(1, 2))


class Beside(pl.Callback):
    pass


CONSTANT = 5


def idle(note=""):
    pass


def by_hand(**given):
    given["trainer"].fit(given["module"], datamodule=given["datamodule"], ckpt_path=given["ckpt_path"])
"""


@pytest.fixture
def own(home, monkeypatch):
    """A module with code of one's own on the path."""
    return write_own_code(home / "src" / "lab_rehearsal.py", monkeypatch)


@pytest.fixture
def more(own, home, monkeypatch):
    """A second module with code of one's own, stranger than the first."""
    (home / "src" / "lab_rehearsal_more.py").write_text(MORE)
    return "lab_rehearsal_more"


def check(words, capsys) -> tuple[int, dict[str, tuple[str, str]]]:
    status = run("launch", [*words, "--check"])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    rows = [line.split(None, 2) for line in said.out.splitlines() if line.startswith(("ok ", "BAD "))]
    texts = {what: (state, rest) for state, what, rest in rows}
    return status, texts


def test_a_good_experiment_is_rehearsed_from_shapes_to_package(home, capsys):
    before = set(home.rglob("*"))
    status, found = check([DIGITS], capsys)
    assert status == 0
    assert {state for state, _ in found.values()} == {"ok"}
    assert "17,226 weights" in found["shapes"][1]
    assert "image [2, 1, 8, 8], label [2] through fit" in found["batch"][1]
    assert {"train/loss", "val/loss"} <= set(found["batch"][1].replace(",", " ").split())
    assert "val/accuracy is logged" in found["best"][1]
    assert "files" in found["package"][1]
    assert set(home.rglob("*")) == before


def test_a_network_that_does_not_fit_the_data_is_found_by_its_batch(home, capsys):
    network = "model.net={_target_: torch.nn.Linear, in_features: 3, out_features: 10}"
    status, found = check([DIGITS, network], capsys)
    assert status == 2
    assert found["batch"][0] == "BAD"
    assert "shapes cannot be multiplied" in found["batch"][1]


def test_too_few_outputs_for_the_classes_are_found_before_anything_is_built(home, capsys):
    words = [DIGITS, "model.net={_target_: asparagus.models.mlp.MLP, hidden: [4], out_channels: 3}", "--check"]
    assert run("launch", words) == 2
    assert "model.net.out_channels: 3 contradicts the data, which need 10" in capsys.readouterr().err


def test_a_parent_of_which_nothing_fits_is_found(home, capsys):
    torch.save({"state_dict": {"other.weight": torch.zeros(3)}}, home / "weights.pt")
    words = ["finetune_cls", "task=Task001_Digits", "model=mlp", "data=images", f"init_from=file:{home}/weights.pt"]
    status, found = check(words, capsys)
    assert status == 2
    assert found["weights"][0] == "BAD"


def test_a_parents_weights_are_matched_by_name_and_shape(home, capsys):
    weights = {"net.classify.weight": torch.zeros(1)}
    from asparagus.api import load_config, load_from_config

    _, module, _ = load_from_config(load_config([DIGITS]))
    torch.save({"state_dict": {**module.state_dict(), **weights}}, home / "weights.pt")
    words = ["finetune_cls", "task=Task001_Digits", "model=mlp", "data=images", f"init_from=file:{home}/weights.pt"]
    status, found = check(words, capsys)
    assert status == 0
    assert found["weights"][0] == "ok"


def test_a_monitor_that_a_module_of_ones_own_does_not_log_is_found(own, capsys):
    assert check([*OWN(own), "checkpoint.monitor=val/loss"], capsys)[0] == 0
    status, found = check([*OWN(own), "checkpoint.monitor=val/dice"], capsys)
    assert status == 2
    assert found["best"][0] == "BAD"
    assert "val/dice is not logged. Logged: train/loss, val/loss." in found["best"][1]


def test_an_exception_in_code_of_ones_own_is_the_finding(own, capsys):
    status, found = check([*OWN(own), "model.module.fails=true"], capsys)
    assert status == 2
    state, told = found["batch"]
    assert (state, told.partition(" [")[0]) == ("BAD", "ZeroDivisionError: on purpose")
    assert "lab_rehearsal.py:" in told


def test_a_loss_that_is_not_a_number_is_found(own, capsys):
    status, found = check([*OWN(own), "model.module.nan=true"], capsys)
    assert status == 2
    assert "not a number: train/loss" in found["batch"][1]


def test_a_tracking_server_that_is_away_is_found(home, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    status, found = check([DIGITS], capsys)
    assert status == 2
    assert found["tracking"][0] == "BAD"
    assert "MLFLOW_TRACKING_URI" in found["tracking"][1]


def test_as_json_it_is_one_object_on_the_last_line(home, capsys):
    assert run("launch", [DIGITS, "--check", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["plan"]["spec"]["stage"] == "train_cls"
    assert {"shapes", "built", "batch", "best by", "tracking", "package"} == {row["what"] for row in told["check"]}


# what is watched


def test_a_callback_that_watches_what_nobody_logs_is_found(own, capsys):
    assert check([*OWN(own), f"{STOPPING}", "callbacks.es.monitor=val/loss"], capsys)[0] == 0
    status, found = check([*OWN(own), f"{STOPPING}", "callbacks.es.monitor=val/lss"], capsys)
    assert status == 2
    assert found["monitor"][0] == "BAD"
    assert found["monitor"][1].startswith("callbacks.es.monitor: val/lss is not logged. Logged: train/loss, val/loss.")
    assert found["best"][0] == "ok"


def test_a_callback_of_lightnings_logs_nothing_that_could_be_watched(own, capsys):
    summary = "callbacks.x._target_=pytorch_lightning.callbacks.ModelSummary"
    status, found = check([*OWN(own), summary, "checkpoint.monitor=val/lss"], capsys)
    assert status == 2
    assert found["best"][0] == "BAD"
    assert "val/lss is not logged" in found["best"][1]


def test_a_callback_of_ones_own_may_log_what_is_watched(own, more, capsys):
    words = [*OWN(own), f"callbacks.x._target_={more}.Beside", STOPPING, "callbacks.es.monitor=val/lss"]
    status, found = check(words, capsys)
    assert status == 0
    assert found["monitor"][1].endswith("val/lss is not logged by the module; it has to come from callbacks.x")


def test_what_segmentation_beside_pretraining_logs_is_known():
    from asparagus.callbacks.online_segmentation import METRICS, OnlineSegmentation
    from asparagus.worker.monitors import logged_by

    assert logged_by({"plugins.seg": OnlineSegmentation("Task997", {})}) == (set(METRICS), [])


def test_a_metric_of_a_validation_that_never_happens_is_found(home, capsys):
    for silent in (
        "trainer.check_val_every_n_epoch=10",
        "trainer.limit_val_batches=0",
        "trainer.limit_val_batches=0.0",
    ):
        status, found = check([DIGITS, silent], capsys)
        assert (status, found["best"][0]) == (2, "BAD")
        assert f"val/accuracy is logged in validation alone, and there is none: {silent}" in found["best"][1]
        assert "train/loss" in found["best"][1]
        assert check([DIGITS, silent, "checkpoint.monitor=train/loss_epoch"], capsys)[1]["best"][0] == "ok"
    for heard in (["trainer.check_val_every_n_epoch=5"], [silent, "trainer.fast_dev_run=true"]):
        assert check([DIGITS, *heard], capsys)[1]["best"][0] == "ok"


def test_a_schedule_that_waits_for_what_nobody_logs_is_found(home, capsys):
    sched = "optim.sched={_target_: torch.optim.lr_scheduler.ReduceLROnPlateau, monitor: "
    status, found = check([DIGITS, sched + "val/loss, interval: epoch}"], capsys)
    assert (status, found["monitor"][1]) == (0, "optim.sched.monitor: val/loss is logged")
    status, found = check([DIGITS, sched + "val/lss, interval: epoch}"], capsys)
    assert (status, found["monitor"][0]) == (2, "BAD")
    assert found["monitor"][1].startswith("optim.sched.monitor: val/lss is not logged. Logged: optim/lr, train/loss,")
    status, found = check([DIGITS, sched + "val/loss, interval: step}"], capsys)
    assert (status, found["monitor"][0]) == (2, "BAD")
    assert "val/loss is not there yet after the first step" in found["monitor"][1]
    assert check([DIGITS, sched + "train/loss, interval: step}"], capsys)[0] == 0


# networks


def test_a_network_with_other_channels_than_classes_is_found(more, capsys):
    net = f"model.net={{_target_: {more}.Wide, width: "
    status, found = check([DIGITS, net + "3}"], capsys)
    assert status == 2
    assert found["batch"][0] == "BAD"
    assert found["batch"][1].startswith("model.net: gives 3 channels, and Task001_Digits has 10 classes. Set")
    assert check([DIGITS, net + "10}"], capsys)[0] == 0
    assert run("launch", [DIGITS, net + "3}", "trainer.max_epochs=1"]) == 3
    assert "model.net: gives 3 channels" in capsys.readouterr().err


def test_lazy_layers_of_a_network_get_their_shapes_from_the_data(more, home, capsys):
    net = f"model.net={{_target_: {more}.Wide, width: 10}}"
    status, found = check([DIGITS, net], capsys)
    assert status == 0
    assert "650 weights" in found["shapes"][1]
    assert run("launch", [DIGITS, net, "trainer.max_epochs=1"]) == 0
    capsys.readouterr()
    again = ["finetune_cls", "task=Task001_Digits", "model=mlp", "data=images", "init_from=run:1/last", net]
    assert "2 of 2 tensors taken" in check(again, capsys)[1]["weights"][1]


def test_lazy_layers_of_a_module_of_ones_own_have_to_meet_data_before_its_optimizer(own, more, capsys):
    words, data = ["train", "task=Own", "trainer.max_epochs=1"], f"data._target_={own}.Points"
    module = f"model.module._target_={more}."
    status, found = check([*words, data, f"{module}LazyLine"], capsys)
    assert status == 2
    assert f"model.module: {more}.LazyLine has 2 lazy weights (model.weight, ...)" in found["shapes"][1]
    status, found = check([*words, data, f"{module}LazyUntilSetup"], capsys)
    assert status == 0
    assert "0 weights, 0.0 MB, and 2 lazy weights" in found["shapes"][1]
    assert run("launch", [*words, data, f"{module}LazyUntilSetup"]) == 0


# weights


@pytest.fixture
def saved(home, capsys):
    """The folder of a whole checkpoint of the digits' network."""
    assert run("launch", [DIGITS, "trainer.max_epochs=1"]) == 0
    capsys.readouterr()
    return next(home.glob("models/*/*/run_id=1/checkpoints/epoch=*"))


def test_a_state_to_resume_is_looked_at(saved, capsys):
    for given in (saved, saved / "checkpoint.ckpt"):
        status, found = check([DIGITS, f"run.resume_from_checkpoint='{given}'"], capsys)
        assert status == 0
        assert "tensors and the state of epoch 0 from" in found["weights"][1]


def test_a_state_that_cannot_be_resumed_is_found_here_and_told_by_the_run(saved, home, capsys):
    state = torch.load(saved / "checkpoint.ckpt", weights_only=True)
    weights = dict(state["state_dict"])
    torn = (saved / "checkpoint.ckpt").read_bytes()[:5000]
    torch.save({"state_dict": weights}, home / "bare.pt")
    torch.save({key: value for key, value in state.items() if key != "optimizer_states"}, home / "weights.ckpt")
    (home / "torn.ckpt").write_bytes(torn)
    told = {
        "bare.pt": "has no pytorch-lightning_version, optimizer_states, lr_schedulers",
        "weights.ckpt": "has no optimizer_states",
        "torn.ckpt": "was cut short",
    }
    for name, text in told.items():
        resume = f"run.resume_from_checkpoint={home}/{name}"
        status, found = check([DIGITS, resume], capsys)
        assert (status, found["weights"][0]) == (2, "BAD")
        assert found["weights"][1].startswith("run.resume_from_checkpoint: ")
        assert text in found["weights"][1]
        assert run("launch", [DIGITS, resume]) == 3
        assert text in capsys.readouterr().err


def test_a_state_of_another_network_is_found(saved, capsys):
    words = [DIGITS, f"run.resume_from_checkpoint='{saved}'", "model.net={_target_: asparagus.models.mlp.MLP}"]
    assert check([*words, "model.net.hidden=[128, 64]"], capsys)[0] == 0
    status, _ = check([*words, "model.net.hidden=[4]"], capsys)
    assert status == 2
    assert run("launch", [*words, "model.net.hidden=[4]"]) == 3
    said = capsys.readouterr().err
    assert "the weights in" in said
    assert "net.encoder.1.weight: shape (128, 64), here (4, 64)" in said


def test_files_that_hold_no_weights_are_told_apart(home, capsys):
    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    (home / "old.pkl").write_bytes(pickle.dumps(Evil(), protocol=2))
    (home / "plain.pkl").write_bytes(pickle.dumps({"a": 1}))
    (home / "half.pkl").write_bytes(b"\x80\x02garbage")
    (home / "half.pt").write_bytes(b"PK garbage")
    torch.save(Evil(), home / "evil.pt")
    told = {
        "old.pkl": "code would have to rebuild what is in it (",
        "plain.pkl": "it is no file that torch.save wrote",
        "evil.pt": "code would have to rebuild what is in it",
        "half.pkl": "it is no file that torch.save wrote",
        "half.pt": "it is no archive of torch.save, or was cut short",
    }
    for name, text in told.items():
        words = ["finetune_cls", "task=Task001_Digits", "model=mlp", "data=images", f"init_from=file:{home}/{name}"]
        status, found = check(words, capsys)
        assert (status, found["weights"][0]) == (2, "BAD")
        assert found["weights"][1].startswith(f"init_from: {home}/{name} cannot be read as weights: {text}")


def test_what_is_validated_has_all_of_its_weights_from_its_parent(saved, capsys):
    words = [DIGITS, "run.mode=validate", "init_from=run:1/last"]
    status, found = check(words, capsys)
    assert (status, found["weights"][0]) == (0, "ok")
    other = "model.net={_target_: asparagus.models.mlp.MLP, hidden: [128, 9]}"
    status, found = check([*words, other], capsys)
    assert (status, found["weights"][0]) == (2, "BAD")
    assert found["weights"][1].startswith("run.mode: validate measures the weights of run 1")
    assert run("launch", [*words, other]) == 3
    assert "run.mode: validate measures the weights of run 1" in capsys.readouterr().err


# scripts


@pytest.mark.parametrize(
    ("name", "text"),
    [("Beside", "is a class"), ("CONSTANT", "is a int"), ("idle", "takes note. Give a function that takes")],
)
def test_a_script_that_could_not_train_is_found(own, more, capsys, name, text):
    words = [*OWN(own), f"script._target_={more}.{name}"]
    status, found = check(words, capsys)
    assert (status, found["script"][0]) == (2, "BAD")
    assert found["script"][1].startswith(f"script._target_: {more}.{name} {text}")
    assert run("launch", words) == 3
    assert f"script._target_: {more}.{name} {text}" in capsys.readouterr().err


def test_a_script_that_takes_anything_is_given_everything(own, more, capsys):
    words = [*OWN(own), f"script._target_={more}.by_hand"]
    assert "is called with trainer, module, datamodule, ckpt_path" in check(words, capsys)[1]["script"][1]
    assert run("launch", [*words, "--json"]) == 0
    assert "val/loss" in json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]


# data


def test_no_data_is_said_to_be_no_data(own, capsys):
    status, found = check([*OWN(own), "data.n=0"], capsys)
    assert status == 2
    assert found["data"][0] == "BAD"
    assert found["data"][1].startswith("data: the training data are empty: Points gives no batch.")


def test_a_dataset_that_fails_is_named_by_its_whole_key(home, capsys):
    status, found = check(["experiment/coming_from_sesemi", "data.val.dataset.subset=trian"], capsys)
    assert status == 2
    assert found["data"][0] == "BAD"
    assert found["data"][1].startswith("data.val.dataset.subset: 'trian' is not known.")


def test_validation_needs_no_training_data(saved, capsys):
    words = ["experiment/coming_from_sesemi", "data.train=null", "run.mode=validate", "init_from=run:1/last"]
    status, found = check([*words, "optim.sched=null"], capsys)
    assert status == 0
    assert "through validate" in found["batch"][1]
