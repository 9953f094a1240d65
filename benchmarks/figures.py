"""What was measured, typed: a row, the section that it stands in, and the file that keeps them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.goals import GOALS, Goal

KEPT = "figures.json"


@dataclass(frozen=True)
class Row:
    """One median, and what it is compared with."""

    what: str
    value: float
    unit: str
    rival: str = ""
    """The row of the same run that it is divided by."""
    ratio: float | None = None
    """The median of the ratios where both were measured in turn, else the ratio of the medians."""
    goal: str = ""
    """One of GOALS."""
    also: dict[str, str] = field(default_factory=dict)
    """Further columns of its section's table, as they are printed."""

    def __post_init__(self) -> None:
        if bool(self.rival) != (self.ratio is not None):
            raise ValueError(f"{self.what}: a ratio and what it is over belong together")
        if self.goal and self.goal not in GOALS:
            raise ValueError(f"{self.what}: no goal is called {self.goal!r}. Known: {', '.join(GOALS)}")

    @property
    def aim(self) -> Goal | None:
        """What it may be; `None` for what is compared and not promised."""
        return GOALS[self.goal] if self.goal else None

    @property
    def met(self) -> bool | None:
        """Whether it is within its goal; `None` without one."""
        return self.aim.met(self.value, self.ratio) if self.aim else None


@dataclass(frozen=True)
class Measured:
    """What a part returns."""

    about: str
    """How it was measured, in a sentence or two."""
    rows: tuple[Row, ...]
    remarks: tuple[str, ...] = ()
    """Below the table."""


@dataclass(frozen=True)
class Section:
    """What was measured by one part, where and when."""

    part: str
    title: str
    command: str
    date: str
    machine: str
    versions: dict[str, str]
    measured: Measured

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Rebuild a section from its `asdict`."""
        inner = values["measured"]
        rows = tuple(Row(**row) for row in inner["rows"])
        return cls(**{**values, "measured": Measured(inner["about"], rows, tuple(inner["remarks"]))})


def load(folder: Path) -> list[Section]:
    """Return the sections that are kept in a folder; none if nothing was measured yet."""
    file = folder / KEPT
    if not file.is_file():
        return []
    return [Section.from_dict(values) for values in json.loads(file.read_text(encoding="utf-8"))]


def kept_with(new: Section, before: Iterable[Section], order: Sequence[str]) -> list[Section]:
    """Return all sections in the order of their parts, the new one in place of its elder."""
    others = [section for section in before if section.part != new.part]
    return sorted(
        [*others, new], key=lambda section: order.index(section.part) if section.part in order else len(order)
    )


def save(folder: Path, sections: Iterable[Section]) -> None:
    """Keep sections in a folder, whole or not at all."""
    text = json.dumps([dataclasses.asdict(section) for section in sections], indent=1) + "\n"
    replace(folder / KEPT, text)


def replace(file: Path, text: str) -> None:
    """Write a file that an interruption leaves as it was."""
    making = file.with_name(f".{file.name}.making")
    making.write_text(text, encoding="utf-8")
    making.replace(file)
