"""What a loss counts at a step: pure functions of the optimizer step, 0-based.

s: the step, S: the step at which the weight has risen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from asparagus.errors import ConfigError

STEEPNESS = 5.0


def sigmoid_rampup(step: int, stop_rampup: int) -> float:
    """Return exp(-5 (1 - s/S)^2) with s clipped to [0, S], and 1 where S is 0 (Laine & Aila 2017, section 2.1)."""
    if stop_rampup == 0:
        return 1.0
    clipped = min(max(step, 0), stop_rampup)
    return math.exp(-STEEPNESS * (1 - clipped / stop_rampup) ** 2)


@dataclass(frozen=True)
class SigmoidRampup:
    """The weight of a loss that is let in slowly: `weight * exp(-5 (1 - s/S)^2)`, and `weight` from S on.

    Args:
        stop_rampup: S, in optimizer steps; 0 is the whole weight from the first step.
        weight: What it rises to.

    Raises:
        ConfigError: S is no whole number from 0 on.
    """

    stop_rampup: int
    weight: float = 1.0

    def __post_init__(self) -> None:
        if type(self.stop_rampup) is not int or self.stop_rampup < 0:
            raise ConfigError(f"stop_rampup: {self.stop_rampup!r} is no number of optimizer steps. Give 0 or more.")

    def __call__(self, step: int) -> float:
        """Return the weight at an optimizer step."""
        return self.weight * sigmoid_rampup(step, self.stop_rampup)
