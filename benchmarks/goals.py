"""The speed that is held to: all goals, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Goal:
    """What a figure may be.

    Args:
        limit: Of the median in its own unit, or of its ratio.
        of: Which of the two.
        at: Whether less is better, or more.
    """

    limit: float
    of: Literal["value", "ratio"]
    at: Literal["most", "least"] = "most"

    def met(self, value: float, ratio: float | None) -> bool:
        """Return whether a median, or its ratio, is within the limit."""
        judged = value if self.of == "value" else ratio
        if judged is None:
            raise AssertionError("a goal for a ratio, and nothing that it is compared with")
        return judged <= self.limit if self.at == "most" else judged >= self.limit

    def told(self, unit: str) -> str:
        """Return it as a table has it."""
        return f"{'<=' if self.at == 'most' else '>='} {self.limit:g}{'x' if self.of == 'ratio' else f' {unit}'}"


GOALS = {
    # a whole training of the digits, over the same one as a plain Lightning script
    "launch in-process": Goal(1.3, "ratio"),
    "launch on Ray": Goal(2.5, "ratio"),
    "launch on a Ray that stays up": Goal(1.5, "ratio"),
    # how long a reported checkpoint holds the training up, beyond writing it
    "checkpoint": Goal(0.1, "value"),
    "help": Goal(0.25, "value"),
    "dry run": Goal(0.8, "value"),
    # a training step with everything recorded, over one with no logger
    "record": Goal(1.02, "ratio"),
    # one more trial of a sweep, two at a time; and the stock way over it
    "trial": Goal(0.6, "value"),
    "trial, stock": Goal(20, "ratio", "least"),
    # patches a second, over MONAI's cache as fast as we could make it
    "patches": Goal(0.95, "ratio", "least"),
    # asp runs, asp lineage: whole commands, with 10,000 runs recorded
    "answer": Goal(1.0, "value"),
    # batches a second on a GPU, over the plain script
    "gpu": Goal(0.99, "ratio", "least"),
}
