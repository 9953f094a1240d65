"""`asp demo`: the main job from nothing, in a few minutes on two cores: data, pretraining, finetuning, the record."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from asparagus.hardware import cpus_here

TASKS = ("Task998_LauritSyn", "Task997_LauritSynSeg", "Task996_LauritSynCls", "Task001_Digits")
FINETUNES = ("experiment/laurit_finetune_seg", "experiment/laurit_finetune_cls")


def demo(arguments: Sequence[str]) -> int:
    """Run `asp demo`."""
    parser = argparse.ArgumentParser(
        "asp demo", description="Make four tasks, pretrain on two Ray workers, finetune, and show what was recorded."
    )
    parser.parse_args(arguments)

    from asparagus.paths import get_paths, load_environment

    load_environment()
    started = time.monotonic()
    _make_data(Path(get_paths().data))
    workers = "two_workers" if cpus_here() > 1 else "one_worker"
    parent = _train("experiment/laurit_pretrain", f"resources={workers}")
    for experiment in FINETUNES:
        _train(experiment, f"init_from=run:{parent}/best")
    _train("experiment/digits")
    _show(parent, time.monotonic() - started)
    return 0


def _make_data(root: Path) -> None:
    from asparagus.cli.data import make_task

    for task in TASKS:
        print(f"data    {make_task(task, root)}", flush=True)


def _train(experiment: str, *overrides: str) -> int:
    """Do what `asp-launch EXPERIMENT OVERRIDE ...` does, and return the run's number."""
    from asparagus.cli.launch import carry_out, plan_request
    from asparagus.compose import Request

    print(f"\n$ asp-launch {' '.join([experiment, *overrides])}", flush=True)
    return carry_out(plan_request(Request(experiment, overrides))).run_id


def _show(parent: int, seconds: float) -> None:
    from asparagus.cli.lineage import lineage
    from asparagus.cli.runs import runs, tracking_uri
    from asparagus.secrets import without_passwords

    print("\n$ asp runs")
    runs([])
    print(f"$ asp lineage {parent}")
    lineage([str(parent)])
    home, asp = os.environ.get("ASPARAGUS_HOME"), Path(sys.argv[0]).absolute()
    print(f"\nAll of it took {seconds:.0f} s. The MLflow store: {without_passwords(tracking_uri())}")
    if home:
        print(f"Look at it from this shell:  export ASPARAGUS_HOME={shlex.quote(home)}")
    if shutil.which("asp") is None and (asp.parent / "activate").is_file():
        print(f"The commands on your path:   . {asp.parent / 'activate'}")
    print(f"Then:  asp ui    asp show {parent}    asp-launch experiment/digits optim.lr=1e-3    asp-launch --help")
