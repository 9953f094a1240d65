"""How a loss counts in the sum: reduced to one number, times a factor, times a schedule of the optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from asparagus.errors import ConfigError, one_of

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": Tensor.mean,
    "sum": Tensor.sum,
    "none": lambda loss: loss,
}
"""What becomes of a loss of many numbers."""
KEYS = ("reduction", "scheduler", "scale_factor")
"""What a loss section says of how it counts; all of it may be left out."""


@dataclass(frozen=True)
class Weighting:
    """What stands beside a loss in its section."""

    key: str
    """Where the section stands in the config; for messages."""
    reduction: str = "mean"
    scheduler: Any = None
    """Called with the optimizer step, gives a number; None counts as 1."""
    scale_factor: float = 1.0

    @classmethod
    def of(cls, section: Mapping[str, Any], key: str, *, beside: Sequence[str]) -> Weighting:
        """Check a loss section.

        Args:
            section: The loss under one of the keys `beside`, and any of `KEYS`; None is as if it were left out.
            key: Where it stands in the config.
            beside: The keys that are not about how the loss counts.

        Raises:
            ConfigError: An unknown key or reduction, or a schedule or factor that is none.
        """
        known = (*beside, *KEYS)
        problems = [one_of(f"{key}.{name}", name, known) for name in section if name not in known]
        given = {name: section[name] for name in KEYS if section.get(name) is not None}
        made = cls(key, **given)
        if problems := problems + made._problems():
            raise ConfigError(*problems)
        return made

    def _problems(self) -> list[str]:
        found = []
        if self.reduction not in REDUCTIONS:
            found.append(one_of(f"{self.key}.reduction", self.reduction, REDUCTIONS))
        if self.scheduler is not None and not callable(self.scheduler):
            found.append(
                f"{self.key}.scheduler: {self.scheduler!r} given, but it is a function of the optimizer step. Give a "
                "section with its `_target_`, e.g. asparagus.stages.semi.schedules.SigmoidRampup."
            )
        number = isinstance(self.scale_factor, int | float) and not isinstance(self.scale_factor, bool)
        if not number or not math.isfinite(self.scale_factor):
            found.append(f"{self.key}.scale_factor: {self.scale_factor!r} is no number. Give one, e.g. 1.0.")
        return found

    def weight(self, step: int) -> float:
        """Return what the loss counts at an optimizer step."""
        return self.scale_factor * (1.0 if self.scheduler is None else float(self.scheduler(step)))

    def reduce(self, loss: Tensor) -> Tensor:
        """Return the loss as one number.

        Raises:
            ConfigError: `none` was asked for, and there are several.
        """
        reduced = REDUCTIONS[self.reduction](loss)
        if reduced.ndim:
            raise ConfigError(
                f"{self.key}.reduction: {self.reduction!r} leaves {reduced.numel()} numbers of {list(loss.shape)}, "
                "and a step needs one. Set it to mean or sum."
            )
        return reduced
