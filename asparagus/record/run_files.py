"""What the files in a run's folder say of it, as plain values; a file that is missing or broken hides no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from asparagus.journal import JournalReader
from asparagus.record.run_folder import RunFolder

NUMBERED = "run_id="


@dataclass(frozen=True)
class RunFiles:
    """The contents of a run's folder; sections are empty where the file is missing or cannot be read."""

    folder: RunFolder
    run_id: int
    spec: dict[str, Any]
    """`config.yaml`."""
    record: dict[str, Any]
    """`record.json`: what was known when it started."""
    state: dict[str, Any]
    """`run.json`: how it stands."""
    transfer: dict[str, Any]
    problems: list[str] = field(default_factory=list)
    """Files that cannot be read, and why."""

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each metric; of a run that has not ended, from its journal."""
        return self.state.get("metrics") or _latest(self.folder.journal)


def read_run(folder: Path) -> RunFiles:
    """Read a run's folder.

    Args:
        folder: `<MODELS>/<task>/<stage>/run_id=<N>`.
    """
    paths, problems = RunFolder(folder, folder.parent.name), list[str]()
    return RunFiles(
        folder=paths,
        run_id=int(folder.name.removeprefix(NUMBERED)),
        spec=_read(paths.config, yaml.safe_load, problems),
        record=_read(paths.record, json.loads, problems),
        state=_read(paths.state, json.loads, problems),
        transfer=_read(paths.transfer, json.loads, problems),
        problems=problems,
    )


def children_of(folder: RunFolder) -> list[tuple[int, str]]:
    """Return the number and folder of each run that started from a checkpoint of this one, as they came."""
    if not folder.children.is_file():
        return []
    lines = [line.partition(",") for line in folder.children.read_text(encoding="utf-8").splitlines()]
    numbered = [(int(number), where.strip()) for number, _, where in lines if number.strip().isdigit()]
    return list(dict.fromkeys(numbered))


def _read(path: Path, parse: Callable[[str], Any], problems: list[str]) -> dict[str, Any]:
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        problems.append(f"{path}: cannot be read ({' '.join(str(error).split())})")
        return {}
    if not isinstance(values, dict):
        problems.append(f"{path}: holds no keys and values")
        return {}
    return values


def _latest(journal: Path) -> dict[str, float]:
    latest: dict[str, float] = {}
    for event in JournalReader(journal).read():
        if event["kind"] == "metrics":
            latest |= event["values"]
    return latest
