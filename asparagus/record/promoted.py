"""`promoted.jsonl` in a run's folder: which checkpoint was registered as which model, known without the registry."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from asparagus.record.run_folder import RunFolder

FILE = "promoted.jsonl"


@dataclass(frozen=True)
class Promotion:
    """A checkpoint that became a version of a registered model."""

    name: str
    alias: str | None
    version: str
    checkpoint: str
    """Name of its folder under `checkpoints/`."""
    digest: str
    time: float = field(default_factory=time.time)
    removed: bool = False
    """Whether this line says that the version was taken back."""

    @property
    def label(self) -> str:
        """The model's name, with the alias where there is one."""
        return f"{self.name}@{self.alias}" if self.alias else self.name

    def to_dict(self) -> dict[str, Any]:
        """Return the promotion as plain values."""
        return asdict(self)


def note(folder: RunFolder, promotion: Promotion) -> None:
    """Add a promotion; whoever reads it half written passes over it."""
    with (folder.path / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(promotion.to_dict()) + "\n")


def promotions(folder: RunFolder) -> list[Promotion]:
    """Return what was promoted and not taken back, in that order; where an alias moved, only the registry knows."""
    path = folder.path / FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = [promotion for line in lines if (promotion := _parse(line))]
    gone = {(promotion.name, promotion.version) for promotion in found if promotion.removed}
    return [promotion for promotion in found if (promotion.name, promotion.version) not in gone]


def _parse(line: str) -> Promotion | None:
    try:
        return Promotion(**json.loads(line))
    except (ValueError, TypeError):  # half a line, or more than this version knows
        return None
