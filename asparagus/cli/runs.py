"""`asp runs`, `asp lineage N`, `asp ui`: looking at the record."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.tree import Tree

    from asparagus.record.query import Lineage, RunSummary
    from asparagus.record.store import Store


WIDE = 160


RUN_ID = re.compile(r"###RUN-ID=(\d+)###")


def getid(arguments: Sequence[str]) -> int:
    """Run `asp getid FILE` (SEEDS A22, A44)."""
    parser = argparse.ArgumentParser(
        "asp getid", description="Print the run number that a log or output file speaks of."
    )
    parser.add_argument("file", type=Path, help="a log, or anything that asp-launch printed")
    file = parser.parse_args(arguments).file

    from asparagus.errors import RecordError

    if not file.is_file():
        raise RecordError(f"{file}: there is no such file. Give a log: <run folder>/<stage>.log.")
    found = RUN_ID.search(file.read_text(encoding="utf-8", errors="replace"))
    print(f"found run-ID: {found[1]}" if found else "found 0 run-IDs")
    return 0 if found else 2


def runs(arguments: Sequence[str]) -> int:
    """Run `asp runs`."""
    parser = argparse.ArgumentParser("asp runs", description="Recorded runs, newest first.")
    parser.add_argument("--stage", help="only of this stage")
    parser.add_argument("--task", help="only of this task")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    options = parser.parse_args(arguments)

    store = _store()
    from asparagus.record.query import list_runs

    found = list_runs(store, stage=options.stage, task=options.task)
    if options.json:
        print(json.dumps([run.to_dict() for run in found]))
        return 0
    _print_table(found)
    return 0


def lineage(arguments: Sequence[str]) -> int:
    """Run `asp lineage N`."""
    parser = argparse.ArgumentParser("asp lineage", description="What a run came from, and what came from it.")
    parser.add_argument("run_id", type=int, metavar="N", help="the run's number")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)

    store = _store()
    from asparagus.record.query import lineage as find

    found = find(store, options.run_id)
    if options.json:
        print(json.dumps(found.to_dict()))
        return 0
    console().print(_tree(found))
    return 0


def ui(arguments: Sequence[str]) -> int:
    """Run `asp ui`: the MLflow UI on the store, until Ctrl-C."""
    parser = argparse.ArgumentParser("asp ui", description="Start the MLflow UI on the store of your runs.")
    parser.add_argument("--port", type=int, default=5000, help="on this port of this machine (default 5000)")
    options = parser.parse_args(arguments)
    from asparagus.secrets import without_passwords

    uri = tracking_uri()
    if "://" in uri and not uri.startswith("sqlite"):
        print(f"The store is a server, and has its UI itself: {without_passwords(uri)}")
        return 0
    print(f"MLflow on {uri}\nOpen http://127.0.0.1:{options.port} (Ctrl-C ends it)", flush=True)
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--port", str(options.port)]
    return subprocess.run(command, env=environment, check=False).returncode


def tracking_uri() -> str:
    """Return where runs are recorded, as the environment says."""
    from asparagus.paths import get_paths, get_tracking_uri, load_environment

    load_environment()
    return get_tracking_uri(get_paths())


def _store() -> Store:
    uri = tracking_uri()
    local = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite") and not local.is_file():
        from asparagus.errors import RecordError

        raise RecordError(
            f"{local}: nothing has been recorded there yet. Train something: asp-launch experiment/digits."
        )
    from asparagus.record.store import Store

    return Store(uri)


def _print_table(found: Sequence[RunSummary]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("run", justify="right", no_wrap=True)
    for name in ("stage", "task", "state", "best by", "from", "started"):
        table.add_column(name, overflow="fold", no_wrap=name in ("stage", "state", "best by", "started"))
    for run in found:
        started = datetime.fromtimestamp(run.started, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
        table.add_row(str(run.run_id), run.stage, run.task, run.state, score(run), origin(run), started)
    console().print(table)


def console() -> Console:
    """Return a console for results; what goes into a file or a pipe is not folded to a terminal's width."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)


def score(run: RunSummary) -> str:
    """Return the best value of the monitored metric of a run as text."""
    return f"{run.monitor} {run.best:.4g}" if run.best is not None else "-"


def origin(run: RunSummary) -> str:
    """Return where a run's weights came from as text."""
    if run.parent_checkpoint is None:
        return "-"
    name = Path(run.parent_checkpoint).name
    return f"run {run.parent_id} {name}" if run.parent_id else name


def _label(run: RunSummary, checkpoint: str | None = None) -> str:
    edge = f"{Path(checkpoint).name} → " if checkpoint else ""
    return f"{edge}[bold]run {run.run_id}[/] {run.stage} {run.task} · {run.state} · {score(run)}"


def _tree(found: Lineage) -> Tree:
    """Draw the line of descent, oldest first; each edge is the checkpoint that the younger run started from."""
    from rich.tree import Tree

    root = Tree(found.origin or "", hide_root=found.origin is None)
    node, edge = root, found.origin
    for relative in reversed(found.ancestors):
        node, edge = node.add(_label(relative.run, edge)), relative.checkpoint
    nodes = {found.run.run_id: node.add(f"{_label(found.run, edge)}  [green]◀ this run[/]")}
    for relative in found.descendants:
        parent = nodes[relative.run.parent_id or 0]
        nodes[relative.run.run_id] = parent.add(_label(relative.run, relative.checkpoint))
    return root
