"""Networks that were made to classify, as backbones: without their last layer."""

from __future__ import annotations

import importlib
import logging
import re
from typing import Any

from torch import Tensor, nn

from asparagus.errors import ConfigError, one_of

WHERE = "model.module.backbone"
DEPTHS = (18, 34, 50, 101, 152, 200)
RESNETS = {f"resnet{depth}{stem}": f"resnet{depth}" for depth in DEPTHS for stem in ("", "d")}
"""timm's name -> MONAI's network of the same depth."""
POOLS: dict[str, type[nn.Module]] = {"avg": nn.AdaptiveAvgPool2d, "max": nn.AdaptiveMaxPool2d}
TIMM = "pip install 'asparagus[timm]'"

log = logging.getLogger("asparagus")


class PyTorchImageModels(nn.Module):
    """A network of timm (pytorch-image-models) by its name: images [B, 3, H, W] -> features [B, out_features].

    Where timm is not installed, MONAI's ResNet of the same depth takes the place of a ResNet, and a warning says so:
    the same blocks, but other first weights, and always the plain stem, which timm's `d` variants replace by three
    convolutions.
    """

    def __init__(
        self,
        name: str = "resnet50d",
        *,
        pretrained: bool = True,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        freeze: bool = False,
        **options: Any,
    ) -> None:
        """Build it.

        Args:
            name: timm's name of the network.
            pretrained: Begin with timm's weights; they are fetched when the network is built.
            global_pool: What becomes of the last feature map: `avg`, `max`, and of timm `avgmax` and `catavgmax`.
            drop_rate: How often a feature is dropped.
            freeze: Keep its weights as they are.
            options: Further arguments of `timm.create_model`.

        Raises:
            ConfigError: An unknown name; weights that cannot be fetched; what only timm has, without it.
        """
        super().__init__()
        wanted: dict[str, Any] = {"global_pool": global_pool, "drop_rate": drop_rate}
        try:
            timm = importlib.import_module("timm")
        except ModuleNotFoundError as error:
            if error.name != "timm":
                raise ConfigError(
                    f"{WHERE}: timm cannot be imported: {error}. {TIMM} installs what it needs."
                ) from error
            self.encoder, self.out_features = _of_monai(name, pretrained=pretrained, **wanted, **options)
        else:
            self.encoder = _of_timm(timm, name, pretrained=pretrained, **wanted, **options)
            self.out_features = int(self.encoder.num_features) * (2 if global_pool == "catavgmax" else 1)  # type: ignore[arg-type]
        self.requires_grad_(requires_grad=not freeze)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, out_features] of [B, 3, H, W]."""
        features: Tensor = self.encoder(x)
        return features


def without_head(net: nn.Module, head: str, *, key: str = "model.module.backbone.head") -> nn.Module:
    """Take a network's last layer off, and say in `out_features` how many features there are then.

    Args:
        net: Any network, e.g. of MONAI, torchvision, timm, or asparagus.models; it is changed.
        head: The dotted name of its last linear layer: `fc`, `class_layers.out`.
        key: Which setting names it; for messages.

    Raises:
        ConfigError: There is no linear layer of that name; those that there are are named.
    """
    linear = {name: part for name, part in net.named_modules() if isinstance(part, nn.Linear) and name}
    if head not in linear:
        raise ConfigError(one_of(key, head, linear, see="These are its linear layers."))
    parent, _, name = head.rpartition(".")
    setattr(net.get_submodule(parent), name, nn.Identity())
    net.out_features = linear[head].in_features  # type: ignore[assignment]
    return net


def _of_timm(timm: Any, name: str, *, pretrained: bool, **options: Any) -> nn.Module:
    if name.partition(".")[0] not in (known := timm.list_models()):
        near = one_of(f"{WHERE}.name", name, _alike(name, known), see="timm.list_models() lists all.")
        raise ConfigError(near)
    try:
        net: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except (OSError, RuntimeError) as error:  # no network; no such weights
        raise ConfigError(
            f"{WHERE}: timm cannot make {name} with pretrained={str(pretrained).lower()}: {error}. Set "
            f"{WHERE}.pretrained=false, or fetch weights where there is a network: init_from=file:/path/to/weights."
        ) from error
    return net


def _alike(name: str, known: list[str]) -> list[str]:
    """Return the names of the same family: timm has more than a thousand."""
    family = re.match(r"[a-z]*", name.lower())
    return [one for one in known if family and one.startswith(family[0] or " ")] or known


def _of_monai(
    name: str, *, pretrained: bool, global_pool: str, drop_rate: float, **options: Any
) -> tuple[nn.Module, int]:
    """Return MONAI's ResNet of the same depth, and how many features it gives."""
    if name not in RESNETS or global_pool not in POOLS or options or pretrained:
        what = f"name={name} pretrained={pretrained} global_pool={global_pool}".replace("True", "true")
        raise ConfigError(
            f"{WHERE}: {' '.join([what, *options])} needs timm, which is not installed: {TIMM}. Without it there are "
            f"{', '.join(RESNETS)}, with pretrained=false and global_pool {' or '.join(POOLS)}."
        )
    from monai.networks.nets import resnet

    log.warning("%s: timm is not installed; %s is MONAI's %s. For timm's own: %s", WHERE, name, RESNETS[name], TIMM)
    build = getattr(resnet, RESNETS[name])
    net = build(spatial_dims=2, n_input_channels=3, conv1_t_stride=2, bias_downsample=False, feed_forward=False)
    net.avgpool = POOLS[global_pool](1)
    return nn.Sequential(net, nn.Dropout(drop_rate)), int(net.in_planes)
