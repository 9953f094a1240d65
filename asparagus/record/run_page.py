"""One run on a page, from its folder alone: what it is, where it came from, what came of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asparagus.checkpoint.folder import Manifest, best_of, manifests
from asparagus.checkpoint.holds import holds, told
from asparagus.record.promoted import Promotion, promotions
from asparagus.record.run_files import RunFiles, children_of
from asparagus.record.run_folder import FAILED, FINISHED, INTERRUPTED, RUNNING, STARTING, is_running

ENDED = (FINISHED, FAILED, INTERRUPTED)
UNKNOWN = "unknown"
THAT_MATTER = ("asparagus", "torch", "pytorch-lightning", "ray", "monai", "mlflow", "numpy")
"""Packages that a person asks for first; `--json` has them all."""
MOST_METRICS = 40
KIB = 1024
LABEL = 12


@dataclass(frozen=True)
class CheckpointRow:
    """A checkpoint as a line of a list."""

    name: str
    epoch: int
    step: int
    metric: str | None
    value: float | None
    bytes: int
    is_best: bool
    is_last: bool
    held: list[str]
    """Why it is kept whatever the rule of retention says."""


@dataclass(frozen=True)
class RunPage:
    """All that a person asks of one run; what no file tells is `None`, or empty."""

    run_id: int
    stage: str
    task: str
    name: str | None
    state: str
    is_running: bool
    attempts: int | None
    started: float | None
    """Seconds since the epoch, as all times here."""
    ended: float | None
    folder: str
    machine: dict[str, Any]
    command: list[str]
    code: dict[str, Any]
    fingerprint: str | None
    identity: str | None
    init_from: dict[str, Any] | None
    transfer: str | None
    """What became of the parent's weights, in a line."""
    rerun_of: int | None
    sweep_id: int | None
    children: list[tuple[int, str]]
    checkpoints: list[CheckpointRow]
    metrics: dict[str, float]
    log: str
    plots: list[str]
    promoted: list[Promotion]
    mlflow_run_id: str | None
    problems: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return what `asp show --json` prints; a metric that is not a number is null."""
        children = [{"run_id": run_id, "folder": folder} for run_id, folder in self.children]
        return {
            **asdict(self),
            "children": children,
            "metrics": {key: _finite(self.metrics[key]) for key in self.metrics},
        }


def page_of(files: RunFiles) -> RunPage:
    """Put together what the files of a run say."""
    state, record, folder = files.state, files.record, files.folder
    running = is_running(folder)
    stands = str(state.get("state", UNKNOWN))
    return RunPage(
        run_id=files.run_id,
        stage=folder.stage,
        task=folder.path.parent.parent.name,
        name=record.get("name"),
        state=stands,
        is_running=running,
        attempts=state.get("attempt"),
        started=record.get("started"),
        ended=state.get("updated") if stands in ENDED and not running else None,
        folder=str(folder.path),
        machine=record.get("machine") or {},
        command=record.get("command") or [],
        code=record.get("code") or {},
        fingerprint=record.get("fingerprint"),
        identity=record.get("identity"),
        init_from=record.get("parent") or state.get("init_from"),
        transfer=_transferred(files.transfer),
        rerun_of=record.get("rerun_of"),
        sweep_id=record.get("sweep_id"),
        children=children_of(folder),
        checkpoints=checkpoint_rows(folder.checkpoints),
        metrics=files.metrics,
        log=str(folder.log),
        plots=[str(path) for path in sorted(folder.plots.rglob("*")) if path.is_file()],
        promoted=promotions(folder),
        mlflow_run_id=state.get("mlflow_run_id"),
        problems=[*_unknown(files), *files.problems],
    )


def checkpoint_rows(checkpoints: Path) -> list[CheckpointRow]:
    """Return the whole checkpoints in a folder as rows, oldest first."""
    found = manifests(checkpoints)
    best = best_of(found)
    return [_row(checkpoints, one, is_best=one == best, is_last=one == found[-1]) for one in found]


def lines(page: RunPage) -> Iterator[str]:
    """Yield the page as lines for a terminal; what is not known is left out, or said to be unknown."""
    yield f"run {page.run_id} · {page.stage} · {page.task} · {_standing(page)}"
    for label, value in _facts(page):
        yield f"  {label:<{LABEL}}{value}"
    for title, rows in _tables(page).items():
        if rows:
            yield f"  {title}"
            yield from (f"    {row}" for row in rows)
    yield from (f"  ! {problem}" for problem in page.problems)


def size(count: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < KIB:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= KIB
    return f"{count:.1f} TiB"


def moment(seconds: float | None) -> str:
    """Return a time as this place writes it."""
    if seconds is None:
        return UNKNOWN
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _facts(page: RunPage) -> Iterator[tuple[str, str]]:
    if page.name and page.name != f"{page.stage}-{page.run_id}":
        yield "name", page.name
    yield "started", moment(page.started)
    if page.ended is not None:
        yield "ended", moment(page.ended)
    yield from _where(page)
    if page.command:
        yield "command", " ".join(page.command)
    if page.code:
        yield "code", _code(page)
        yield "data", page.fingerprint or "no fingerprint"
    yield "identity", page.identity or UNKNOWN
    yield from _came_from(page)
    yield "folder", page.folder
    yield "log", page.log if Path(page.log).is_file() else f"{page.log} (not there)"
    yield "mlflow", page.mlflow_run_id or "not recorded there"


def _where(page: RunPage) -> Iterator[tuple[str, str]]:
    machine = page.machine
    if not machine:
        yield "where", UNKNOWN
        return
    gpus = f", {len(machine['gpus'])} x {machine['gpus'][0]}" if machine.get("gpus") else ""
    yield (
        "where",
        f"{machine.get('user')}@{machine.get('host')}: {machine.get('cpus')} CPUs{gpus}, {machine.get('system')}",
    )
    packages = machine.get("packages") or {}
    named = [f"{name} {packages[name]}" for name in THAT_MATTER if name in packages]
    yield "packages", ", ".join([f"python {machine.get('python')}", *named])


def _code(page: RunPage) -> str:
    if not page.code.get("commit"):
        return "no git repository"
    changed = page.code.get("diff_digest")
    return f"{page.code['commit']} on {page.code.get('branch')}, " + (
        "with uncommitted changes (uncommitted.diff)" if changed else "no uncommitted changes"
    )


def _came_from(page: RunPage) -> Iterator[tuple[str, str]]:
    parent = page.init_from
    if parent:
        run = f"run {parent['run_id']} " if parent.get("run_id") is not None else ""
        yield (
            "from",
            f"{run}{parent['checkpoint']}" + ("" if Path(parent["checkpoint"]).exists() else " (not there now)"),
        )
        yield "", f"sha256 {parent.get('digest') or UNKNOWN}"
    if page.transfer:
        yield "weights", page.transfer
    if page.rerun_of is not None:
        yield "rerun of", f"run {page.rerun_of}"
    if page.sweep_id is not None:
        yield "trial of", f"sweep {page.sweep_id}"


def _tables(page: RunPage) -> dict[str, list[str]]:
    metrics = [f"{key:<32} {value:.6g}" for key, value in list(page.metrics.items())[:MOST_METRICS]]
    more = len(page.metrics) - MOST_METRICS
    return {
        "last metrics": metrics + ([f"and {more} more: --json has them"] if more > 0 else []),
        "checkpoints": [_told(row) for row in page.checkpoints],
        "registered": [
            f"{one.label} (version {one.version}, {moment(one.time)}): {one.checkpoint}" for one in page.promoted
        ],
        "children": [f"run {run_id:<6} {folder}" for run_id, folder in page.children],
        "plots": page.plots,
    }


def _told(row: CheckpointRow) -> str:
    value = f"{row.metric} {row.value:.6g}" if row.metric and row.value is not None else "-"
    marks = [mark for mark, is_so in (("best", row.is_best), ("last", row.is_last)) if is_so]
    marks += row.held
    return f"{row.name:<24} {value:<24} {size(row.bytes):>10}  {', '.join(marks)}".rstrip()


def _standing(page: RunPage) -> str:
    attempt = f", attempt {page.attempts}" if page.attempts and page.attempts > 1 else ""
    if page.state in (RUNNING, STARTING) and not page.is_running:
        return f"{page.state}, but nobody is training it (launch it again to go on, or asp doctor --fix){attempt}"
    return (RUNNING if page.is_running else page.state) + attempt


def _row(checkpoints: Path, manifest: Manifest, *, is_best: bool, is_last: bool) -> CheckpointRow:
    value = manifest.metrics.get(manifest.monitor or "")
    return CheckpointRow(
        manifest.name,
        manifest.epoch,
        manifest.step,
        manifest.monitor,
        None if value is None else _finite(value),
        manifest.bytes,
        is_best=is_best,
        is_last=is_last,
        held=[told(reason) for reason in holds(checkpoints / manifest.name)],
    )


def _unknown(files: RunFiles) -> list[str]:
    name = files.folder.record.name
    if files.record or any(name in problem for problem in files.problems):
        return []
    return [f"there is no {name}: with which command, code, packages and data it was started is unknown"]


def _transferred(report: dict[str, Any]) -> str | None:
    if not report:
        return None
    taken, fresh, left = (len(report.get(key, ())) for key in ("taken", "fresh", "left"))
    return f"{taken} of {taken + fresh} tensors taken, {fresh} fresh, {left} of the parent's not used"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
