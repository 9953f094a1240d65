"""What is written down when a try ends badly: who was first, the last lines of all, stacks, environment, GPUs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asparagus.attempts import FIRST, log_of, post_mortem_of, ranks
from asparagus.failure import Death
from asparagus.failure_policy import Decision
from asparagus.record.rank_logs import RankLog, read_log
from asparagus.secrets import hide
from asparagus.worker.here import out_of_memory_kills

LAST = 40
"""Lines of each rank."""
NVIDIA = ("nvidia-smi", "-q", "-d", "MEMORY,UTILIZATION,TEMPERATURE,ECC,PERFORMANCE,PIDS")
LOOK_S = 10.0


@dataclass(frozen=True)
class PostMortem:
    """The end of one try."""

    attempt: int
    world_size: int
    first: Death
    deaths: dict[int, Death] = field(default_factory=dict)
    decision: Decision | None = None
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Of each rank: host, process, environment."""
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What each node says of itself afterwards."""

    def who(self) -> str:
        """Return which rank it was, in words."""
        where = f" on {self.first.host}" if self.first.host else ""
        return f"rank {self.first.rank} of {self.world_size}{where}, in attempt {self.attempt}"


def write(folder: Path, mortem: PostMortem, secrets: Iterable[str]) -> None:
    """Write it into the run's folder; a disk that is full must not hide what happened."""
    names, place = set(secrets), post_mortem_of(folder, mortem.attempt)
    told = {
        "attempt": mortem.attempt,
        "world_size": mortem.world_size,
        "first": mortem.first.to_dict(),
        "ranks": {rank: death.to_dict() for rank, death in sorted(mortem.deaths.items())},
        "again": mortem.decision.again if mortem.decision else False,
        "why": mortem.decision.why if mortem.decision else "",
        "time": time.time(),
    }
    with contextlib.suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        _text(place / FIRST, json.dumps(told, indent=2), names)
        _text(place / "environment.json", json.dumps(mortem.facts, indent=2), names)
        _text(place / "last_lines.txt", _last_lines(folder, mortem.attempt), names)
        if mortem.nodes:
            _text(place / "nodes.json", json.dumps(mortem.nodes, indent=2), names)


def read(folder: Path, attempt: int) -> PostMortem | None:
    """Return the post-mortem of a try, as far as it is needed to speak of it."""
    try:
        told = json.loads((post_mortem_of(folder, attempt) / FIRST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    first = Death.from_dict(told["first"])
    return PostMortem(attempt, told["world_size"], first, decision=Decision(told["again"], told["why"]))


def node_state() -> dict[str, Any]:
    """Return what this node says of its memory, its load and its GPUs."""
    gpus = "no nvidia-smi here"
    if shutil.which(NVIDIA[0]):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            asked = subprocess.run(NVIDIA, capture_output=True, text=True, timeout=LOOK_S, check=False)
            gpus = asked.stdout or asked.stderr
    memory: Mapping[str, str] = {}
    with contextlib.suppress(OSError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        memory = dict(line.replace(" ", "").split(":") for line in lines[:5])
    return {
        "time": time.time(),
        "load": os.getloadavg(),
        "memory": memory,
        "kills": out_of_memory_kills(),
        "gpus": gpus,
    }


def _last_lines(folder: Path, attempt: int) -> str:
    parts = []
    for rank in ranks(folder, attempt):
        lines = read_log(RankLog(attempt, rank, log_of(folder, attempt, rank)), last=LAST)
        parts.append("\n".join([f"===== rank {rank} =====", *lines]))
    return "\n\n".join(parts)


def _text(path: Path, text: str, secrets: set[str]) -> None:
    path.write_text(hide(text, secrets) + "\n", encoding="utf-8")
