"""Strategies: what can be asked for, and that each trains the same and leaves the same single file."""

from __future__ import annotations

import json

import pytest
import torch

from asparagus.spec import RAY_STRATEGIES
from tests.helpers import two_ranks


def test_what_may_be_asked_for_is_what_workers_know():
    from asparagus.worker.ray_ranks import DEEPSPEED, STRATEGIES
    from asparagus.worker.zero import STAGES

    assert STRATEGIES == RAY_STRATEGIES
    assert tuple(STAGES) == DEEPSPEED


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What two ranks made of one network with each strategy."""
    folder = tmp_path_factory.mktemp("strategies")
    two_ranks("tests.two_ranks", folder)
    return folder


def state(folder, name):
    return torch.load(folder / f"{name}.ckpt", weights_only=True)


@pytest.mark.parametrize("name", ["fsdp-4-resumed", "ddp-4-resumed"])
def test_either_strategy_goes_on_from_the_others_file_and_trains_the_same(trained, name):
    """AdamW's state comes along, or four epochs would not be four epochs."""
    found, expected = state(trained, name), state(trained, "ddp-4-fresh")
    assert found["global_step"] == expected["global_step"] == 16
    torch.testing.assert_close(found["state_dict"], expected["state_dict"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["optimizer_states"], expected["optimizer_states"], rtol=1e-3, atol=1e-6)


def test_a_sharded_checkpoint_is_one_file_of_plain_tensors(trained):
    found, expected = state(trained, "fsdp-2-fresh"), state(trained, "ddp-2-fresh")
    assert found.keys() == expected.keys()
    assert all(type(value) is torch.Tensor for value in found["state_dict"].values())
    torch.testing.assert_close(found["state_dict"], expected["state_dict"], rtol=1e-4, atol=1e-6)


def test_each_rank_trains_its_share_and_unequal_validation_ends(trained):
    seen = json.loads((trained / "seen.json").read_text())
    whole = seen["ddp-2-fresh.ckpt"]["trained_by_this_rank"]
    share = seen["fsdp-2-fresh.ckpt"]["trained_by_this_rank"]
    assert seen["fsdp-2-fresh.ckpt"]["parts"] == 2
    assert whole / 2 <= share < whole * 0.6  # odd sizes are rounded up
    for epochs in ("2-fresh", "4-resumed"):
        fsdp, ddp = seen[f"fsdp-{epochs}.ckpt"], seen[f"ddp-{epochs}.ckpt"]
        assert fsdp["val/loss"] == pytest.approx(ddp["val/loss"], rel=1e-3)
        assert fsdp["tested"][0]["val/loss"] == pytest.approx(fsdp["val/loss"], rel=1e-3)


def test_a_weight_without_a_dimension_is_refused_by_name():
    import pytorch_lightning as pl

    from asparagus.errors import RunError
    from asparagus.worker.sharded import shard

    class Odd(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.temperature = torch.nn.Parameter(torch.tensor(1.0))

    with pytest.raises(RunError, match=r"fsdp cannot share temperature of Odd: .* torch.ones\(1\), or use ddp"):
        shard(Odd(), None)


def test_deepspeed_that_is_not_there_is_said():
    from asparagus.errors import RunError
    from asparagus.worker.zero import zero_strategy

    pytest.importorskip("torch")
    if __import__("importlib.util").util.find_spec("deepspeed"):
        pytest.skip("deepspeed is installed")
    with pytest.raises(RunError, match=r"deepspeed_stage_3 needs deepspeed, which is not installed on this node"):
        zero_strategy("deepspeed_stage_3", torch.device("cpu"))
