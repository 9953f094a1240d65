"""On a machine with GPUs: NCCL, half precision, one and several trials on a GPU. Skips itself elsewhere."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from asparagus.checkpoint.folder import manifests
from asparagus.checkpoint.transfer import read_weights
from asparagus.record.numbers import find_folder
from tests.clusters import events_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.ray,
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]
two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are fewer than two GPUs here")
WORDS = ("experiment/digits", "trainer.max_epochs=2", "optim.name=sgd", "optim.lr=0.1", "run.resume=false")
EVENLY = ("data.samples_per_epoch=80",)


@pytest.fixture
def trained(home, asp, monkeypatch):
    """Train, and return the run's folder."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))

    def train(*words: str) -> Path:
        seen = f"+callbacks.seen={{_target_: tests.fakes.Backend, file: {home}/backend}}"
        done = asp("asp-launch", *WORDS, *EVENLY, *words, seen, "--json", timeout=500)
        assert done.returncode == 0, done.stderr
        return Path(json.loads(done.stdout.splitlines()[-1])["folder"])

    return train


def weights_of(folder: Path):
    checkpoints = folder / "checkpoints"
    return read_weights(checkpoints / manifests(checkpoints)[-1].name)


def test_one_worker_trains_in_bf16_on_a_gpu_of_its_own(trained):
    folder = trained("resources=one_gpu", "trainer.precision=bf16-mixed", "data.batch_size=16")
    start = events_of(folder, "start")[0]
    assert start["device"].startswith("cuda")
    assert "bfloat16" in (folder / "train_cls.log").read_text()


def test_in_process_takes_the_gpu_too(trained):
    assert events_of(trained("trainer.accelerator=gpu", "data.batch_size=16"), "start")[0]["device"].startswith("cuda")


@two
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_workers_speak_nccl_and_train_what_one_trains(home, trained, strategy):
    one = trained("resources=one_gpu", "data.batch_size=16")
    more = ("resources.workers=2", "resources.gpus_per_worker=1", "data.batch_size=8", f"trainer.strategy={strategy}")
    both = trained(*more)
    assert (home / "backend").read_text() == "nccl"
    for name, weight in weights_of(both).items():
        torch.testing.assert_close(weight, weights_of(one)[name], rtol=1e-3, atol=1e-4)


@two
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_leaves_one_file_that_any_strategy_reads(trained, stage):
    more = ("resources.workers=2", "resources.gpus_per_worker=1", "data.batch_size=8")
    folder = trained(*more, f"trainer.strategy=deepspeed_stage_{stage}")
    run_id = folder.name.partition("=")[2]
    child = trained("resources=one_gpu", f"init_from=run:{run_id}/last", "data.batch_size=16")
    report = json.loads((child / "transfer.json").read_text())
    assert report["taken"]
    assert not report["fresh"]


@pytest.mark.parametrize("share", [1, 0.5])
def test_trials_have_a_gpu_each_or_share_one(home, asp, share):
    words = ("sweep.trials=4", "resources.workers=1", f"resources.gpus_per_worker={share}", "--json")
    done = asp("asp-launch", *WORDS, *EVENLY, "-m", "optim.lr=0.1,0.05,0.01,0.005", *words, timeout=550)
    assert done.returncode == 0, done.stderr
    starts = [events_of(find_folder(home / "models", run_id), "start")[0] for run_id in range(2, 6)]
    assert all(start["device"].startswith("cuda") for start in starts)
