"""What happens on each rank: an assignment becomes a Lightning Trainer, a module and a data module, and is fitted."""

from asparagus.worker.ranks import InProcess, Ranks
from asparagus.worker.work import work

__all__ = ["InProcess", "Ranks", "work"]
