"""A network that was made to classify, as a backbone: without its last layer."""

from __future__ import annotations

from torch import nn

from asparagus.errors import ConfigError, one_of


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
