"""Transforms of one's own, MONAI's above all, in a row: what is random in them follows from the item alone."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asparagus.errors import ConfigError, one_of

Transform = Callable[[Any], Any]
Transforms = Sequence[Transform] | Mapping[str, Transform] | None
"""Some in a row, or by name: an experiment can then replace one of them."""
LARGEST_SEED = 2**32 - 1


class Chain:
    """Transforms in a row.

    One with `keys`, as MONAI's dictionary transforms have, is given the item: `image` [C, ...] and, to segment, `label`
    [1, ...]. Any other is given the image alone.
    """

    def __init__(self, transforms: Transforms, key: str, *, names: Sequence[str], is_random: bool) -> None:
        """Check them.

        Args:
            transforms: The transforms; None is none.
            key: Where they stand in the config.
            names: What items hold.
            is_random: Whether they may be.

        Raises:
            ConfigError: One that cannot be called, asks for what no item has, or is random where that cannot be.
        """
        given = {} if transforms is None else transforms
        named = given.items() if isinstance(given, Mapping) else enumerate(given)
        self._steps = [
            _step(one, f"{key}[{at}]" if isinstance(at, int) else f"{key}.{at}", names, is_random=is_random)
            for at, one in named
            if one is not None
        ]
        self._state = np.random.RandomState()

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self._steps)

    def __call__(self, item: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Return the item transformed; what was given is left as it is."""
        item = {name: value.clone() if isinstance(value, Tensor) else value for name, value in item.items()}
        if rng is None:
            return self._applied(item)
        self._state.seed(int(rng.integers(LARGEST_SEED)))
        for one, _ in self._steps:
            if hasattr(one, "set_random_state"):
                one.set_random_state(state=self._state)  # one for all: to make another takes longer than to seed it
        with seeded(int(rng.integers(LARGEST_SEED))):
            return self._applied(item)

    def _applied(self, item: dict[str, Any]) -> dict[str, Any]:
        with _untracked():
            for one, whole in self._steps:
                item = dict(one(item)) if whole else {**item, "image": one(item["image"])}
        return {name: _plain(value) for name, value in item.items()}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Have Python's, numpy's and torch's generators begin at a seed, and go on afterwards as if nothing had been."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - what others draw from
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs of the training, too
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


@contextmanager
def _untracked() -> Iterator[None]:
    """Have MONAI, if it is in use, keep no account of what it does: nobody inverts it, and it takes time."""
    tracking: Any = sys.modules.get("monai.data.meta_obj")
    if tracking is None:
        yield
        return
    before = tracking.get_track_meta()
    tracking.set_track_meta(False)
    try:
        yield
    finally:
        tracking.set_track_meta(before)


def _step(one: Any, key: str, names: Sequence[str], *, is_random: bool) -> tuple[Transform, bool]:
    """Return a transform, and whether it is given the whole item."""
    if not callable(one):
        raise ConfigError(f"{key}: {one!r} is no transform. Give a section with its `_target_`.")
    if not is_random and _draws(one):
        advice = "Put it under data.augmentations, which follow it for each training item."
        raise ConfigError(f"{key}: {type(one).__name__} is random, and data.transforms are done once. {advice}")
    asked = [str(name) for part in _parts(one) for name in getattr(part, "keys", ())]
    for name in asked:
        if name not in names and not getattr(one, "allow_missing_keys", False):
            raise ConfigError(one_of(f"{key}.keys", name, names))
    return one, bool(asked)


def _parts(one: Any) -> Iterator[Any]:
    """Yield a transform, or those that a Compose is made of."""
    inside = getattr(one, "transforms", None)
    if not isinstance(inside, Sequence):
        yield one
        return
    for part in inside:
        yield from _parts(part)


def _draws(one: Any) -> bool:
    """Tell whether it is random in MONAI's words, which a Compose always is: then its parts tell."""
    if type(one).__name__ == "Compose":
        return any(map(_draws, one.transforms))
    return hasattr(one, "set_random_state")


def _plain(value: Any) -> Any:
    """Return a tensor of MONAI's or an array as a tensor of torch's."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return value.as_tensor() if hasattr(value, "as_tensor") else value
