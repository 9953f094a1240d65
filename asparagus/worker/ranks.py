"""Who else trains, and what makes a checkpoint count: the same questions in one process and on Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pytorch_lightning import Callback


class Ranks(Protocol):
    """What a worker needs to know of the others."""

    rank: int
    world_size: int
    alone: bool
    """Nobody watches over it, or starts it anew."""

    def trainer_arguments(self, strategy: str) -> dict[str, Any]:
        """Return the Lightning Trainer arguments that say where it runs: accelerator, devices, strategy."""

    def commit(self, checkpoint: Path, metrics: dict[str, float]) -> None:
        """Make a whole checkpoint count; returns on all ranks when it does."""

    def once(self, action: Callable[[], object], *, per_node: bool) -> None:
        """Do something on the first rank, of each node or of all; returns on all ranks when it is done."""

    def callbacks(self) -> Sequence[Callback]:
        """Return what this way of running has to hear of the training, after each checkpoint."""


class InProcess:
    """One process, by itself."""

    rank = 0
    world_size = 1
    alone = True

    def trainer_arguments(self, strategy: str) -> dict[str, Any]:
        """Return arguments for one device."""
        return {"strategy": strategy}

    def commit(self, checkpoint: Path, metrics: dict[str, float]) -> None:
        """Do nothing: a checkpoint that lies in the folder counts."""

    def once(self, action: Callable[[], object], *, per_node: bool) -> None:  # noqa: ARG002 - there is one node
        """Do it."""
        action()

    def callbacks(self) -> Sequence[Callback]:
        """Return none."""
        return ()
