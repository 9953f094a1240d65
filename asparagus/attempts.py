"""Where each try of a run leaves what it said and what is known of its end. Standard library only: all may read it.

A try is counted from 1 over the run's whole life: a launch, and each time that its workers are started anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

LOGS = "logs"
POST_MORTEM = "post_mortem"
SYSTEM = "system"
LEAVE = "leave"
"""In the folder of a run that is trained: whoever trains it writes a checkpoint and leaves. It holds the reason."""
FIRST = "post_mortem.json"
NUMBERED = re.compile(r"attempt=(\d+)")
OF_RANK = re.compile(r"rank=(\d+)\.log")


def log_of(folder: Path, attempt: int, rank: int) -> Path:
    """Return the file that a rank writes in a try of the run in `folder`."""
    return folder / LOGS / f"attempt={attempt}" / f"rank={rank}.log"


def post_mortem_of(folder: Path, attempt: int) -> Path:
    """Return the folder of what is known of the end of a try."""
    return folder / POST_MORTEM / f"attempt={attempt}"


def last_words_of(folder: Path, attempt: int, rank: int) -> Path:
    """Return the file in which a rank says why it ends; only one that fails does."""
    return post_mortem_of(folder, attempt) / f"rank={rank}.json"


def stack_of(folder: Path, attempt: int, rank: int) -> Path:
    """Return the file with the stacks of a rank's threads; only of a try that hung."""
    return post_mortem_of(folder, attempt) / f"rank={rank}.stack.txt"


def system_of(folder: Path, attempt: int, node: int) -> Path:
    """Return the file of measurements of a node's GPUs, CPU, memory and I/O."""
    return folder / SYSTEM / f"attempt={attempt}-node={node}.jsonl"


def attempts(folder: Path) -> list[int]:
    """Return the numbers of all tries of which there are logs."""
    return _numbered((folder / LOGS).glob("attempt=*"), NUMBERED)


def ranks(folder: Path, attempt: int) -> list[int]:
    """Return the ranks of which there are logs of a try."""
    return _numbered((folder / LOGS / f"attempt={attempt}").glob("rank=*.log"), OF_RANK)


def begin_attempt(folder: Path) -> int:
    """Take the number of the next try, and make the folder of its logs; one in which nobody spoke is taken again."""
    attempt = max(attempts(folder), default=0)
    attempt += int(attempt == 0 or any((folder / LOGS / f"attempt={attempt}").iterdir()))
    (folder / LOGS / f"attempt={attempt}").mkdir(parents=True, exist_ok=True)
    return attempt


def _numbered(paths: Iterable[Path], pattern: re.Pattern[str]) -> list[int]:
    found = (pattern.fullmatch(path.name) for path in paths)
    return sorted(int(match[1]) for match in found if match)
