"""What a loader's batch holds: images, views of them, labels; as a tensor, a tuple or a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from asparagus.errors import ConfigError

IMAGE, LABEL = "image", "label"


def image_of(batch: Any, name: str) -> Tensor:
    """Return the images [B, C, ...] of a batch: the first view where there are several."""
    return views_of(batch, name)[0]


def views_of(batch: Any, name: str) -> tuple[Tensor, ...]:
    """Return the views of a batch's images, each [B, C, ...]; one where nobody made several.

    Args:
        batch: Images; `(images, ...)`; or a mapping with `image`. In place of images there may be a tuple of views.
        name: Of its loader; for messages.

    Raises:
        ConfigError: There are no images in it.
    """
    if isinstance(batch, Mapping):
        if IMAGE not in batch:
            has = ", ".join(sorted(map(str, batch))) or "nothing"
            raise ConfigError(f"data.train.{name}: its batches have no `{IMAGE}`, they have {has}. Let it give one.")
        return _views(batch[IMAGE])
    if isinstance(batch, list | tuple) and not _are_views(batch):
        return _views(batch[0])
    return _views(batch)


def label_of(batch: Any, name: str) -> Tensor:
    """Return the labels [B] of a batch: what is called `label`, or stands second.

    Raises:
        ConfigError: There are none.
    """
    label = batch.get(LABEL) if isinstance(batch, Mapping) else None
    if isinstance(batch, list | tuple) and len(batch) > 1 and not _are_views(batch):
        label = batch[1]
    if not isinstance(label, Tensor):
        raise ConfigError(
            f"data.train.{name}: its batches have no labels, and they are needed there. Let its dataset give "
            f"(image, label), or a mapping with `{IMAGE}` and `{LABEL}`."
        )
    return label


def _views(images: Any) -> tuple[Tensor, ...]:
    return tuple(images) if isinstance(images, list | tuple) else (images,)


def _are_views(parts: Any) -> bool:
    """Tell several views without a label from images with one: they are alike."""
    first = parts[0]
    return isinstance(first, Tensor) and all(
        isinstance(part, Tensor) and part.shape == first.shape and part.is_floating_point() and part.ndim > 1
        for part in parts
    )
