"""What people read in the MLflow UI: descriptions of runs and experiments, and the files shown with a run. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from asparagus.checkpoint.folder import Manifest, best_of
from asparagus.record.recorder import RunRecord
from asparagus.record.run_folder import RunFolder
from asparagus.spec import Parent

NOTE = "mlflow.note.content"
"""The tag that the UI shows as the description."""
PARENT_RUN = "mlflow.parentRunId"
"""The tag by which the UI shows a run below another one."""
SHOWN = (".png", ".svg", ".html", ".jpg", ".jpeg", ".gif", ".csv")
"""What the UI can show."""
LARGEST = 50_000_000
"""Bytes of a file that is sent to the tracking server; a larger one stays in the run folder."""
RESULT = "Result:"


def description(record: RunRecord, *, parent_page: str | None = None, checkpoints: Sequence[Manifest] = ()) -> str:
    """Return the description of a run, as Markdown.

    Args:
        record: What is known of it when it starts.
        parent_page: Address of the parent's page in the UI, from `run_page`.
        checkpoints: What it has written; then the best and the last are told.
    """
    result = [_result(checkpoints)] if checkpoints else []
    return " ".join([*_sentences(record, parent_page), *result])


def merged(current: str, opening: str, now: str) -> str:
    """Return what a description becomes: ours in its new form, and all that people wrote around it.

    Args:
        current: As it stands in the store; empty for none.
        opening: What was written when the run started.
        now: What is to be told now; it begins with `opening`.
    """
    if not current:
        return now
    before, ours, after = current.partition(opening)
    if not ours:  # somebody has put it in words of their own
        return current
    if after.startswith(f" {RESULT}"):
        _, newline, rest = after.partition("\n")
        after = newline + rest
    return f"{before}{now}{after}"


def run_page(experiment_id: str, mlflow_run_id: str) -> str:
    """Return the address of a run's page, relative to the UI."""
    return f"#/experiments/{experiment_id}/runs/{mlflow_run_id}?workflowType=machine_learning"


def experiment_description(task: str) -> str:
    """Return the description of the experiment that holds all runs of a task, as Markdown."""
    return (
        f"All runs on {task}. **Which is best:** show the column of a metric (*Columns*) and sort by it, or "
        f"`asp runs --task {task} --sort best`. **What came from what:** the description of a run names its parent, "
        "its artifact `lineage.html` draws the whole tree, `asp lineage N` does so in a terminal. **Which stage:** "
        "search for ``tags.`asparagus.stage` = 'pretrain'``."
    )


def nesting(record: RunRecord, mlflow_run_ids: Mapping[int, str]) -> dict[str, str]:
    """Return the tag by which the UI shows a trial below its sweep.

    Args:
        record: Of any run; one that is no trial has none.
        mlflow_run_ids: By the number of a run.
    """
    sweep = mlflow_run_ids.get(record.sweep_id) if record.sweep_id is not None else None
    return {PARENT_RUN: sweep} if sweep else {}


def files_to_attach(folder: RunFolder) -> list[tuple[Path, str]]:
    """Return the plots of a run that the UI can show, each with its folder among the artifacts."""
    found = sorted(path for path in folder.plots.rglob("*") if path.suffix.lower() in SHOWN and _can_be_sent(path))
    return [(path, path.parent.relative_to(folder.path).as_posix()) for path in found]


def _can_be_sent(path: Path) -> bool:
    return path.is_file() and 0 < path.stat().st_size <= LARGEST


def _sentences(record: RunRecord, parent_page: str | None) -> list[str]:
    number = record.run_id
    told = [f"**Run {number}**: {record.stage} on {record.task}."]
    if record.parent is not None:
        told.append(f"Starts from {_linked(_named(record.parent), parent_page)}{_checkpoint(record.parent)}.")
    if record.rerun_of is not None:
        told.append(f"Repeats run {record.rerun_of}.")
    if record.sweep_id is not None:
        told.append(f"A trial of sweep {record.sweep_id}.")
    told.append(f"Again: `asp rerun {number}`; all of it: `asp show {number}`; its ancestry: `asp lineage {number}`.")
    return told


def _named(parent: Parent) -> str:
    """Return a parent in words; its folder says what it was."""
    if parent.run_id is None:
        return f"the file `{parent.checkpoint}`"
    if parent.folder is None:
        return f"run {parent.run_id}"
    folder = Path(parent.folder)
    return f"run {parent.run_id} ({folder.parent.name}, {folder.parent.parent.name})"


def _checkpoint(parent: Parent) -> str:
    return f", checkpoint `{Path(parent.checkpoint).name}`" if parent.run_id is not None else ""


def _linked(text: str, address: str | None) -> str:
    return f"[{text}]({address})" if address else text


def _result(checkpoints: Sequence[Manifest]) -> str:
    best, last = best_of(checkpoints), checkpoints[-1]
    if best is None or best.monitor is None:
        return f"{RESULT} checkpoint `{last.name}`."
    told = f"{RESULT} {best.monitor} {best.metrics[best.monitor]:.6g} at `{best.name}`"
    return f"{told}, the last is `{last.name}`." if last != best else f"{told}, the last."
