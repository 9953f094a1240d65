"""What more workers cost: seconds until the first step, and milliseconds that each step takes longer.

python benchmarks/scale.py [WORKERS ...]    one-CPU workers on this machine, however few cores it has
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from report import report

BIN = Path(sys.executable).parent
EPOCHS, STEPS = 3, 40


def words(workers: int) -> list[str]:
    """Return a training whose steps are as small as can be: what is left is what workers cost."""
    samples = f"data.samples_per_epoch={STEPS * max(1, workers)}"
    sizes = ["data.batch_size=1", samples, "model.cls_net.hidden=[8]", f"trainer.max_epochs={EPOCHS}"]
    quiet = ["trainer.limit_val_batches=0", "checkpoint.monitor=train/loss", "trainer.log_every_n_steps=1"]
    ray = (
        [f"resources.workers={workers}", f"site.cpus_per_node={workers}", "site.start_timeout_s=300"] if workers else []
    )
    return [str(BIN / "asp-launch"), "experiment/digits", "run.resume=false", "--json", *sizes, *quiet, *ray]


def measured(workers: int, environment: dict[str, str]) -> dict[str, float]:
    """Train once and read in the journal how long what took."""
    began = time.time()
    done = subprocess.run(words(workers), capture_output=True, text=True, env=environment, check=False)
    whole = time.time() - began
    if done.returncode:
        sys.exit(f"{workers} workers failed:\n{done.stdout}\n{done.stderr}")
    folder = Path(json.loads(done.stdout.splitlines()[-1])["folder"])
    events = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    start = next(event for event in events if event["kind"] == "start")
    steps = [event for event in events if event["kind"] == "metrics" and "train/loss" in event["values"]]
    gaps = [b["time"] - a["time"] for a, b in pairwise(steps) if a["epoch"] == b["epoch"]]
    commits = [event["commit_s"] for event in events if event["kind"] == "checkpoint"]
    return {
        "first": start["time"] - began,
        "step": 1000 * statistics.median(gaps),
        "commit": max(commits),
        "end": whole - (events[-1]["time"] - began),
    }


def main(counts: list[int]) -> None:
    rows = ["| workers | s to the first step | ms per step | s per checkpoint, beyond writing | s to end |"]
    rows.append("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "ASPARAGUS_HOME": home, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
        for command in (["data", "make", "Task001_Digits"], ["split", "-t", "Task001_Digits", "--fn", "split_80_20"]):
            subprocess.run([str(BIN / "asp"), *command], env=environment, check=True, capture_output=True)
        for workers in counts:
            took = measured(workers, environment)
            name = str(workers) if workers else "none, in-process"
            rows.append(
                f"| {name} | {took['first']:.1f} | {took['step']:.2f} | {took['commit']:.3f} | {took['end']:.1f} |"
            )
            print(rows[-1], flush=True)
    told = " ".join(str(count) for count in counts)
    about = (
        f"{EPOCHS} epochs of {STEPS} steps of a network of 8 units, one case per step and worker. All workers share "
        "the cores of this machine, so what grows with them here is work, not waiting."
    )
    report("What more workers cost", f"python benchmarks/scale.py {told}", about, ("asparagus", "ray", "torch"), rows)


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [0, 1, 2, 4, 8, 16])
