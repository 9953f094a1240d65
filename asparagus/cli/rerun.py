"""`asp rerun N [OVERRIDE ...]` and `asp-launch --experimental-rerun FILE`: a run once more, from its record alone."""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

OF_RUN = re.compile(r"^# The exact experiment of run (\d+)", re.MULTILINE)
PICKLED = b"\x80"
FETCHED = "asp-rerun-"
NOT_REPEATED = {"~paths": "paths", "site.tracking_uri=null": "site.tracking_uri", "run.name=null": "run.name"}
"""What an override takes out of a saved config, and where it stands there."""


def rerun(arguments: Sequence[str]) -> int:
    """Run `asp rerun N`."""
    parser = argparse.ArgumentParser(
        "asp rerun",
        usage="asp rerun N [OVERRIDE ...] [--strict] [--dry-run] [--json]",
        description="Repeat a run from its record: config, seed, weights to start from. What is otherwise than it was "
        "(code, packages, data) is said; --strict refuses then. The new run has a number of its own.",
    )
    parser.add_argument("run_id", type=int, metavar="N", help="the run's number")
    options, rest = parser.parse_known_args(arguments)

    from asparagus.cli.launch import launch

    if words := _of_sweep(options.run_id):
        return launch([*words, *rest])
    with tempfile.TemporaryDirectory(prefix=FETCHED) as fetched:
        return launch([*words_of(_config_of(options.run_id, Path(fetched))), *rest])


def _of_sweep(run_id: int) -> list[str]:
    """Return what a sweep was launched with, to search once more; nothing for a run."""
    from asparagus.errors import RecordError
    from asparagus.paths import get_paths, load_environment
    from asparagus.record.numbers import find_folder
    from asparagus.record.sweeps import REQUEST, asked_of

    load_environment()
    try:
        folder = find_folder(Path(get_paths().models), run_id)
    except RecordError:  # the tracking store may know it
        return []
    return [*asked_of(folder)["words"], "-m", "sweep.resume=false"] if (folder / REQUEST).is_file() else []


def words_of(file: Path) -> list[str]:
    """Return what `asp-launch` is told to repeat the run whose saved config a file is.

    Raises:
        ConfigError: It is no such file; a pickle is refused, since loading one runs what is in it.
    """
    import yaml

    from asparagus.compose.tree import get
    from asparagus.errors import ConfigError

    advice = "Give the config.yaml of a run folder, or: asp rerun N"
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"--experimental-rerun: {file} cannot be read ({error.strerror}). {advice}") from error
    if content.startswith(PICKLED) or file.suffix in {".pickle", ".pkl"}:
        raise ConfigError(
            f"--experimental-rerun: {file} is a pickle, and loading one runs whatever code is in it. {advice}"
        )
    text = content.decode("utf-8", errors="replace")
    if file.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"--experimental-rerun: {file} is no YAML file. {advice}")
    words = [str(file), "run.resume=false"]
    # Where it ran then is no part of what it was; neither is a name, which stands for what ran under it.
    there = yaml.safe_load(text) or {}
    words += [word for word, key in NOT_REPEATED.items() if get(there, key) is not None]
    run_id = _run_of(file, text)
    return [*words, f"run.rerun_of={run_id}"] if run_id else words


def _run_of(file: Path, text: str) -> int | None:
    """Return the run whose config a file is; none where it is another models folder's, which counts for itself."""
    from asparagus.errors import RecordError
    from asparagus.paths import get_paths
    from asparagus.record.numbers import find_folder

    found = OF_RUN.search(text)
    if found is None:
        return None
    try:
        kept = find_folder(Path(get_paths().models), int(found[1])) / "config.yaml"
    except RecordError:
        return int(found[1]) if file.parent.name.startswith(FETCHED) else None
    return int(found[1]) if kept.is_file() and kept.read_bytes() == file.read_bytes() else None


def _config_of(run_id: int, folder: Path) -> Path:
    """Return the saved config of a run: in its folder, or fetched from MLflow if that is gone."""
    from asparagus.errors import RecordError
    from asparagus.paths import get_paths, load_environment
    from asparagus.record.numbers import find_folder

    load_environment()
    try:
        return find_folder(Path(get_paths().models), run_id) / "config.yaml"
    except RecordError as error:
        from asparagus.cli.runs import open_store, tracking_uri

        fetched = open_store(tracking_uri()).fetch(run_id, "config.yaml", folder)
        if fetched is None:
            raise
        print(f"{error}\nIt is repeated from what MLflow keeps of it.")
        return fetched
