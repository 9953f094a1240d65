"""Images of the everyday kind, one folder per class, and what is done to them; Pillow reads and resizes.

torchvision's names and defaults, without torchvision: what is random draws from torch's own stream, so that a run that
goes on draws what the unbroken one would have drawn, and loader processes draw differently from each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from asparagus.errors import ConfigError, DataError, one_of

Norms = tuple[Sequence[float], Sequence[float]]
Box = tuple[int, int, int, int]
"""Top, left, height, width; in pixels."""

ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
DEEP = ("I", "F")
"""Pillow's modes of more than 8 bits, in each of their byte orders: Pillow would clip them at 255."""
IMAGENET: Norms = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's channels: red, green, blue."""
TRIES = 10
"""How often a box is drawn before the whole image is taken, as in torchvision."""
CROP_RATIOS, ERASED_RATIOS = (3 / 4, 4 / 3), (0.3, 10 / 3)
ERASED_SHARES = (0.02, 1 / 3)
WAYS = {way.name.lower(): way for way in Image.Resampling}


class PictureFolder(Dataset[tuple[Any, int]]):
    """Images in one folder per class, at any depth below it: `(image, class number)`.

    Classes are numbered by the order of their folders' names; hidden files are left out. Images are RGB.

    Raises:
        DataError: There is no folder of a class, or one without an image.
    """

    def __init__(self, root: str | Path, image_transform: Callable[[Any], Any] | None = None) -> None:
        """List the files; none is read.

        Args:
            root: The folder of the classes' folders.
            image_transform: What is done to each image, a Pillow one; without it, a tensor [3, H, W] from 0 to 1.
        """
        self.root, self.transform = Path(root), image_transform or to_tensor
        if not self.root.is_dir():
            raise DataError(f"{self.root}: there is no such folder. It has to hold one folder per class.")
        self.classes = _folders(self.root)
        self.samples = [
            (file, number) for number, name in enumerate(self.classes) for file in _pictures(self.root / name)
        ]
        if not self.samples:
            raise DataError(f"{self.root}: there is no folder of a class with images in it.")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return an image and its class number."""
        file, number = self.samples[index]
        return self.transform(_read(file)), number


def image_folder(
    root: str | Path, subset: str | Sequence[str] | None = None, image_transform: Callable[[Any], Any] | None = None
) -> Dataset[Any]:
    """Read images in one folder per class, each an `(image, class number)` (SEEDS D20).

    Args:
        root: The folder of the subsets' folders.
        subset: One subset, or several in a row; None is every folder in `root` that is not hidden.
        image_transform: What is done to each image.

    Raises:
        DataError: There is no such folder, no subset, or one without images.
    """
    if isinstance(subset, str):
        return PictureFolder(Path(root) / subset, image_transform)
    if not Path(root).is_dir():
        raise DataError(f"{root}: there is no such folder. data.root is where the folders of the subsets lie.")
    names = _folders(Path(root)) if subset is None else list(subset)
    if not names:
        raise DataError(f"{root}: there is no subset, a folder of one folder per class.")
    return ConcatDataset([PictureFolder(Path(root) / name, image_transform) for name in names])


@dataclass(frozen=True)
class TrainTransform:
    """A random part of an image, in random light, mirrored or not: [3, crop_dim, crop_dim], normalised (SEEDS D32).

    Args:
        random_resized_crop: A random part of random size and shape, resized; otherwise a random square of the image,
            resized before.
        resize: The shorter side of the image then, in pixels.
        crop_dim: Height and width of what comes out, in pixels.
        scale: The share of the image's area that a random part has, from and to.
        interpolation: Pillow's name of how it is resized: bilinear, bicubic, nearest, ...
        gamma_range: From and to which exponent: x^g of values from 0 to 1.
        p_hflip: How often it is mirrored.
        norms: Mean and standard deviation of each channel.
        p_erase: How often a random box is filled with noise, after it is normalised (Zhong et al. 2020).

    Raises:
        ConfigError: A number outside its range.
    """

    random_resized_crop: bool = True
    resize: int = 256
    crop_dim: int = 224
    scale: Sequence[float] = (0.2, 1.0)
    interpolation: str = "bilinear"
    gamma_range: Sequence[float] = (0.5, 1.5)
    p_hflip: float = 0.5
    norms: Norms = IMAGENET
    p_erase: float = 0.0

    def __post_init__(self) -> None:
        _check(self)
        _check_span("scale", self.scale, 1.0)
        _check_span("gamma_range", self.gamma_range, math.inf)
        for name in ("p_hflip", "p_erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"image_transform.{name}: {getattr(self, name)!r} is not within 0 to 1.")

    def __call__(self, image: Image.Image) -> Tensor:
        """Return [3, crop_dim, crop_dim] of a Pillow image."""
        x = to_tensor(self._cut(image)) ** _uniform(*self.gamma_range)
        if _happens(self.p_hflip):
            x = x.flip(-1)
        x = normalised(x, self.norms)
        return erased(x) if _happens(self.p_erase) else x

    def _cut(self, image: Image.Image) -> Image.Image:
        size, way = self.crop_dim, WAYS[self.interpolation]
        if self.random_resized_crop:
            top, left, height, width = random_box(image.height, image.width, self.scale, CROP_RATIOS) or whole(image)
            return image.crop((left, top, left + width, top + height)).resize((size, size), way)
        image = shorter_side(image, self.resize, way)
        left, top = (int(torch.randint(max(side - size, 0) + 1, ())) for side in image.size)
        return image.crop((left, top, left + size, top + size))


@dataclass(frozen=True)
class CenterCrop:
    """The middle of an image: [3, crop_dim, crop_dim], normalised; where the image is smaller, there is black around.

    Args:
        resize: The shorter side of the image before, in pixels.
        crop_dim: Height and width of what comes out, in pixels.
        interpolation: Pillow's name of how it is resized.
        norms: Mean and standard deviation of each channel.

    Raises:
        ConfigError: A number outside its range.
    """

    resize: int = 256
    crop_dim: int = 224
    interpolation: str = "bilinear"
    norms: Norms = IMAGENET

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, image: Image.Image) -> Tensor:
        """Return [3, crop_dim, crop_dim] of a Pillow image."""
        size = self.crop_dim
        image = shorter_side(image, self.resize, WAYS[self.interpolation])
        left, top = (round((side - size) / 2) for side in image.size)
        return normalised(to_tensor(image.crop((left, top, left + size, top + size))), self.norms)


def to_tensor(image: Image.Image) -> Tensor:
    """Return [3, H, W], from 0 to 1, of a Pillow image of 8 bits."""
    return torch.from_numpy(np.array(image.convert("RGB"), dtype=np.uint8)).permute(2, 0, 1).float() / 255


def normalised(image: Tensor, norms: Norms) -> Tensor:
    """Return (x - mean) / std of [C, H, W], channel by channel."""
    mean, std = (torch.tensor(part).view(-1, 1, 1) for part in norms)
    return (image - mean) / std


def shorter_side(image: Image.Image, size: int, way: Image.Resampling = Image.Resampling.BILINEAR) -> Image.Image:
    """Return an image whose shorter side has this many pixels, its shape kept."""
    short = min(image.size)
    width, height = (size if side == short else int(size * side / short) for side in image.size)
    return image.resize((width, height), way)


def random_box(height: int, width: int, scale: Sequence[float], ratios: Sequence[float]) -> Box | None:
    """Draw a box within an image; None where none fits within `TRIES` (Szegedy et al. 2015).

    Args:
        height: Of the image.
        width: Of the image.
        scale: The share of its area, from and to: even.
        ratios: Width to height, from and to: even in their logarithms.
    """
    for _ in range(TRIES):
        area = height * width * _uniform(*scale)
        ratio = math.exp(_uniform(*map(math.log, ratios)))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            top, left = (int(torch.randint(room + 1, ())) for room in (height - high, width - wide))
            return top, left, high, wide
    return None


def whole(image: Image.Image) -> Box:
    """Return the box in the middle of an image that is as large as the ratios of a crop allow."""
    width, height = image.size
    wide = min(width, round(height * CROP_RATIOS[1]))
    high = min(height, round(width / CROP_RATIOS[0]))
    return (height - high) // 2, (width - wide) // 2, high, wide


def erased(image: Tensor) -> Tensor:
    """Fill a random box of [C, H, W] with noise of mean 0 and standard deviation 1."""
    box = random_box(image.shape[-2], image.shape[-1], ERASED_SHARES, ERASED_RATIOS)
    if box is not None:
        top, left, height, width = box
        part = image[..., top : top + height, left : left + width]
        part.copy_(torch.randn_like(part))
    return image


def _check(transform: TrainTransform | CenterCrop) -> None:
    for name in ("resize", "crop_dim"):
        if type(size := getattr(transform, name)) is not int or size < 1:
            raise ConfigError(f"image_transform.{name}: {size!r} is no number of pixels.")
    if transform.interpolation not in WAYS:
        raise ConfigError(one_of("image_transform.interpolation", transform.interpolation, WAYS))


def _check_span(name: str, span: Sequence[float], most: float) -> None:
    if len(span) != 2 or not 0 < span[0] <= span[1] <= most:  # noqa: PLR2004 - from and to
        raise ConfigError(f"image_transform.{name}: {list(span)} is not two numbers, from above 0 to at most {most:g}.")


def _uniform(least: float, most: float) -> float:
    return least + (most - least) * float(torch.rand(()))


def _happens(chance: float) -> bool:
    return bool(torch.rand(()) < chance)


def _folders(root: Path) -> list[str]:
    return sorted(item.name for item in root.iterdir() if item.is_dir() and not item.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    found = sorted(
        file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS and not file.name.startswith(".")
    )
    if not found:
        raise DataError(f"{folder}: there is no image in it. Known endings: {', '.join(ENDINGS)}.")
    return found


def _read(file: Path) -> Image.Image:
    """Read an image as RGB.

    Raises:
        DataError: It cannot be read, or has more than 8 bits per channel, which would be clipped.
    """
    try:
        with Image.open(file) as image:
            if image.mode.startswith(DEEP):
                raise DataError(
                    f"{file}: has more than 8 bits per channel ({image.mode}), and images of everyday kinds have 8. "
                    "Make it a case of a task (docs/training.md), or write a dataset of your own."
                )
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{file}: not readable as an image: {error}") from error
