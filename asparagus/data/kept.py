"""The cases that a process keeps in memory between epochs: never more than it was allowed."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from torch.utils.data import get_worker_info

MOST_MAPPED = 10_000
"""So many files are mapped at a time: Linux lets a process have 65,530 mappings, and others need some."""


class Sized(Protocol):
    """What tells how many bytes it holds."""

    @property
    def held(self) -> int:
        """Zero where its file is mapped: those are the system's."""


Case = TypeVar("Case", bound=Sized)


class Kept(Generic[Case]):
    """Cases by their number, as long as they fit: those that do not are read each time.

    None is dropped for another one: a pass over all of them would then drop each before it is asked for again.

    Args:
        limit: Bytes for all loader processes of a worker together; each has its share.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._cases: dict[int, Case] = {}

    def __len__(self) -> int:
        """Return how many are kept."""
        return len(self._cases)

    def get(self, index: int) -> Case | None:
        """Return a case, if it is kept."""
        return self._cases.get(index)

    def offer(self, index: int, case: Case) -> None:
        """Keep a case, if there is room."""
        process = get_worker_info()
        room = self.limit // (process.num_workers if process else 1) - self.held
        if case.held > room or (len(self._cases) >= MOST_MAPPED and not case.held):
            return
        self._cases[index] = case
        self.held += case.held
