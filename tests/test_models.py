"""Tests of asparagus.models: networks, and building them from a config and the data's sizes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from asparagus.compose.composer import Request, compose_config
from asparagus.errors import ConfigError
from asparagus.models.build import build_network
from asparagus.models.mlp import MLP, SmallConvNet
from asparagus.models.unet import EncoderClassifier, UNet
from asparagus.targets import instantiate

SIZES = {"spatial_dims": 3, "in_channels": 1, "out_channels": 5, "img_size": [16, 16, 16]}
UNET = {"_target_": "asparagus.models.unet.UNet", "features": [4, 8]}


@pytest.mark.parametrize(("dims", "features"), [(2, (4, 8)), (3, (4, 8, 16)), (2, (4, 6, 8, 12))])
def test_a_unet_of_any_depth_keeps_the_shape(dims, features):
    net = UNet(dims, 2, 3, features)
    assert net(torch.zeros(2, 2, *(32,) * dims)).shape == (2, 3, *(32,) * dims)


def test_odd_edges_are_kept_too():
    assert UNet(2, 1, 2, (4, 8, 16))(torch.zeros(1, 1, 19, 22)).shape == (1, 2, 19, 22)


def test_unet_and_classifier_share_the_encoders_names_and_shapes():
    unet, classifier = UNet(3, 1, 5, (4, 8, 16)), EncoderClassifier(3, 1, 3, (4, 8, 16))
    shapes = [
        {key: value.shape for key, value in net.state_dict().items() if key.startswith("encoder.")}
        for net in (unet, classifier)
    ]
    assert shapes[0] == shapes[1] != {}
    assert {key.split(".")[0] for key in unet.state_dict()} == {"encoder", "decoder", "head"}
    assert {key.split(".")[0] for key in classifier.state_dict()} == {"encoder", "head"}


def test_the_unet_is_monais_basic_unet_in_three_parts():
    from monai.networks.nets import BasicUNet

    ours, theirs = UNet(2, 1, 3, (4, 8, 16, 32, 64)), BasicUNet(2, 1, 3, (4, 8, 16, 32, 64, 4))
    # the last upsampling is the one place that differs: MONAI keeps all its channels there
    count = [sum(p.numel() for p in net.parameters()) for net in (ours, theirs)]
    assert 0 < count[1] - count[0] < 0.02 * count[1]


def test_every_weight_of_the_unet_gets_a_gradient():
    net = UNet(3, 1, 2, (4, 8))
    net(torch.randn(1, 1, 8, 8, 8)).square().mean().backward()
    # a convolution's bias right before an instance norm has none that counts
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_single_level_is_no_unet():
    with pytest.raises(ConfigError, match=r"features: \[8\]"):
        UNet(2, 1, 2, (8,))


def test_small_networks_classify():
    assert MLP(1, (8, 8), 10, hidden=(16,))(torch.zeros(4, 1, 8, 8)).shape == (4, 10)
    assert SmallConvNet(1, 10)(torch.zeros(4, 1, 8, 8)).shape == (4, 10)


def test_the_sizes_are_filled_in():
    net = build_network(UNET, SIZES)
    assert net(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 5, 8, 8, 8)
    mlp = build_network({"_target_": "asparagus.models.mlp.MLP"}, {**SIZES, "img_size": [8, 8]})
    assert mlp(torch.zeros(1, 1, 8, 8)).shape == (1, 5)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({"_target_": "monai.networks.nets.SegResNet", "init_filters": 8}, (1, 5, 16, 16, 16)),
        ({"_target_": "monai.networks.nets.DenseNet", "init_features": 4, "block_config": [1, 1]}, (1, 5)),
        (
            {
                "_target_": "monai.networks.nets.ResNet",
                "block": "basic",
                "layers": [1, 1, 1, 1],
                "block_inplanes": [4, 4, 4, 4],
            },
            (1, 5),
        ),
        (
            {"_target_": "monai.networks.nets.Classifier", "channels": [4, 8], "strides": [2, 2], "classes": 5},
            (1, 5),
        ),
    ],
)
def test_monais_networks_get_the_sizes_under_the_names_that_they_use(config, shape):
    assert build_network(config, SIZES).eval()(torch.zeros(1, 1, 16, 16, 16)).shape == shape


def test_a_size_that_contradicts_the_data_is_refused():
    with pytest.raises(ConfigError, match=r"model.seg_net.out_channels: 3 contradicts the data, which need 5"):
        build_network({**UNET, "out_channels": 3}, SIZES, key="model.seg_net")
    assert build_network({**UNET, "out_channels": 5}, SIZES)


def test_nested_targets_are_built_first():
    config = {"_target_": "torch.nn.Sequential"}
    assert len(instantiate(config, key="x")) == 0
    transform = {
        "_target_": "torch.nn.TransformerEncoder",
        "encoder_layer": {"_target_": "torch.nn.TransformerEncoderLayer", "d_model": 4, "nhead": 1},
        "num_layers": 1,
        "norm": {"_target_": "torch.nn.LayerNorm", "normalized_shape": [4]},
    }
    assert isinstance(instantiate(transform, key="x").norm, torch.nn.LayerNorm)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({}, "model.net._target_: None is not a dotted path"),
        ({"_target_": "asparagus.models.unit.UNet"}, "has no class or function .unit.. Did you mean .unet"),
        ({"_target_": "asparagus.models.unet.Unet"}, "no class or function 'Unet'. Did you mean 'UNet'"),
        ({**UNET, "feature": [4]}, "model.net.feature: .*takes no such argument. Did you mean 'features'"),
        ({"_target_": "torch.nn.Linear"}, "model.net: torch.nn.Linear needs in_features, out_features"),
        (
            {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 5, "kernel_size": 1, "groups": 2},
            "refused its arguments",
        ),
        ({"_target_": "fractions.Fraction"}, "made a Fraction, not an nn.Module"),
    ],
)
def test_wrong_network_sections_are_named(config, match):
    with pytest.raises((ConfigError), match=match):
        build_network(config, SIZES)


def test_the_mlp_is_built_without_monai():
    code = (
        "import sys; from asparagus.models.build import build_network as b;"
        "b({'_target_': 'asparagus.models.mlp.MLP'}, {'in_channels': 1, 'out_channels': 2, 'img_size': [8, 8]});"
        "print('monai' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


SHELF = [
    *(("unet", "pretrain_net", 16), ("unet", "seg_net", 16), ("unet", "cls_net", 16), ("mlp", "cls_net", 8)),
    *(("unet_b_lw_dec", f"{use}_net", 16) for use in ("pretrain", "seg", "cls", "plugin_seg")),
    *(("residual_unet", "pretrain_net", 16), ("segresnet", "pretrain_net", 16)),
    *(("unetr", "pretrain_net", 32), ("swin_unetr", "pretrain_net", 64)),
    *(("residual_unet", "seg_net", 16), ("segresnet", "seg_net", 16), ("resnet", "cls_net", 32)),
    *(("vit", "cls_net", 32), ("vit", "pretrain_net", 32), ("unetr", "seg_net", 32), ("swin_unetr", "seg_net", 64)),
]


def test_a32_no_network_of_the_shelf_is_left_out():
    there = {
        (file.stem, key)
        for file in (Path(__file__).parent.parent / "configs" / "model").glob("*.yaml")
        for key in yaml.safe_load(file.read_text())
        if key.endswith("_net")
    }
    assert there == {(name, key) for name, key, _ in SHELF}


@pytest.mark.parametrize("dimensions", ["2D", pytest.param("3D", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "key", "edge"), SHELF, ids=[f"{name}-{key}" for name, key, _ in SHELF])
def test_a32_every_model_of_the_shelf_takes_its_sizes_from_the_data(name, key, edge, dimensions):
    config = compose_config(Request("train_seg", (f"model={name}", "task=Any", f"model.dimensions={dimensions}")))
    section = OmegaConf.to_container(config.model, resolve=True)[key]
    axes = int(dimensions[0])
    sizes = {"spatial_dims": axes, "in_channels": 2, "out_channels": 3, "img_size": [edge] * axes}
    network = build_network(section, sizes, key=f"model.{key}").eval()
    with torch.no_grad():
        out = network(torch.zeros(1, 2, *sizes["img_size"]))
    out = out[0] if isinstance(out, tuple) else out
    assert out.shape == ((1, 3) if key == "cls_net" else (1, 3, *sizes["img_size"]))
