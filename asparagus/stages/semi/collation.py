"""Collate functions that make a task of images without labels: rotated, shuffled in pieces, or seen several times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from asparagus.errors import DataError
from asparagus.stages.semi.batches import IMAGE
from asparagus.stages.semi.views import MultiViewTransform, Transform

QUARTERS = 4
JIGSAW_CLASSES = 6


class RotationTransformer:
    """Makes four images of every one: turned by 0, 90, 180 and 270 degrees, labelled 0 to 3 (Gidaris et al. 2018)."""

    def __call__(self, items: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Return images [4B, C, ..., H, W], those of one item side by side, and labels [4B].

        Raises:
            DataError: An image is not square.
        """
        images = [image_of_item(item) for item in items]
        for image in images:
            if image.shape[-1] != image.shape[-2]:
                raise DataError(
                    f"rotations: an image of {list(image.shape)} is not square, and a quarter turn changes its shape. "
                    "Crop the images of this loader to squares."
                )
        turned = [torch.rot90(image, turns, dims=(-2, -1)) for image in images for turns in range(QUARTERS)]
        return torch.stack(turned), torch.arange(QUARTERS).repeat(len(images))


class JigsawTransformer:
    """Makes six images of every one: as it is, and its tiles in five other orders, labelled 0 to 5.

    Order k puts tile (i + k) mod n in place i of n = grid^2: any two orders differ in every place, the largest Hamming
    distance that there is, which is how Noroozi & Favaro (2016) choose theirs. What does not fill a tile is 0.

    Args:
        grid: Tiles along each axis.
    """

    def __init__(self, grid: int = 3) -> None:
        self.grid = grid

    def __call__(self, items: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Return images [6B, C, H, W], those of one item side by side, and labels [6B].

        Raises:
            DataError: The images are smaller than the grid, or it has fewer tiles than there are orders.
        """
        images = [image_of_item(item) for item in items]
        shuffled = [self._shuffle(image, order) for image in images for order in range(JIGSAW_CLASSES)]
        return torch.stack(shuffled), torch.arange(JIGSAW_CLASSES).repeat(len(images))

    def _shuffle(self, image: Tensor, order: int) -> Tensor:
        height, width = (size // self.grid for size in image.shape[-2:])
        tiles = self.grid**2
        if not height or not width or tiles < JIGSAW_CLASSES:
            raise DataError(
                f"jigsaw: an image of {list(image.shape)} cannot be cut into {self.grid} x {self.grid} tiles for "
                f"{JIGSAW_CLASSES} orders. Set collate_fn.grid to 3 or more, and to no more than there are pixels."
            )
        made = torch.zeros_like(image)
        for place in range(tiles):
            (row, column), (from_row, from_column) = (
                divmod(place, self.grid),
                divmod((place + order) % tiles, self.grid),
            )
            tile = image[..., from_row * height :, from_column * width :][..., :height, :width]
            made[..., row * height : (row + 1) * height, column * width : (column + 1) * width] = tile
        return made


class Views:
    """Makes several views of every image, for datasets that know no `image_transform`; the rest of an item stays.

    Args:
        transforms: What makes each view, as of `MultiViewTransform`.
    """

    def __init__(self, transforms: Sequence[Transform | None]) -> None:
        self.transform = MultiViewTransform(transforms)

    def __call__(self, items: Sequence[Any]) -> Any:
        """Return the batch, with a list of views [B, C, ...] in place of the images."""
        return default_collate([self._seen(item) for item in items])

    def _seen(self, item: Any) -> Any:
        views = self.transform(image_of_item(item))
        if isinstance(item, Mapping):
            return {**item, IMAGE: views}
        return (views, *item[1:]) if isinstance(item, list | tuple) else views


def image_of_item(item: Any) -> Tensor:
    """Return the image [C, ...] of a dataset's item: an image, `(image, ...)`, or a mapping with `image`.

    Raises:
        DataError: There is no tensor there.
    """
    image = item.get(IMAGE) if isinstance(item, Mapping) else item[0] if isinstance(item, list | tuple) else item
    if not isinstance(image, Tensor):
        raise DataError(
            f"collate_fn: an item's image is a {type(image).__name__}, and a tensor [C, ...] is needed. Let the "
            "dataset's image_transform make one."
        )
    return image
