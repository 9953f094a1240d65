"""What more workers cost: seconds until the first step, and milliseconds that each step takes longer.

The workers have one CPU each of this machine, however few cores it has.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from benchmarks.commands import BIN, Asked, digits_home, timed
from benchmarks.figures import Measured, Row

WORKERS, FEW_WORKERS = (0, 1, 2, 4, 8, 16), (0, 1)
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


def trained(workers: int, environment: dict[str, str]) -> dict[str, float]:
    """Train once and read in the journal how long what took."""
    began = time.time()
    whole, printed = timed(words(workers), environment)
    folder = Path(json.loads(printed.splitlines()[-1])["folder"])
    events = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    start = next(event for event in events if event["kind"] == "start")
    steps = [event for event in events if event["kind"] == "metrics" and "train/loss" in event["values"]]
    gaps = [b["time"] - a["time"] for a, b in pairwise(steps) if a["epoch"] == b["epoch"]]
    commits = [event["commit_s"] for event in events if event["kind"] == "checkpoint"]
    return {
        "first": start["time"] - began,
        "step": 1000 * statistics.median(gaps),
        "commit": max(commits),
        "end": whole - (steps[-1]["time"] - began),
    }


def rows(took: dict[int, dict[str, float]]) -> Iterator[Row]:
    """Yield what so many workers cost, over the fewest."""
    names = {count: f"{count} worker{'s' if count > 1 else ''}" if count else "in-process" for count in took}
    fewest = min(took)
    for count, one in took.items():
        also = {
            "s to the first step": f"{one['first']:.1f}",
            "s per checkpoint, beyond writing": f"{one['commit']:.3f}",
            "s to end": f"{one['end']:.1f}",
        }
        rival = "" if count == fewest else names[fewest]
        ratio = one["step"] / took[fewest]["step"] if rival else None
        yield Row(names[count], one["step"], "ms per step", rival, ratio, also=also)


def measure(asked: Asked) -> Measured:
    """Train once with each number of workers."""
    took: dict[int, dict[str, float]] = {}
    with digits_home(OMP_NUM_THREADS="1") as (_, environment):
        for count in asked.workers or (FEW_WORKERS if asked.quick else WORKERS):
            took[count] = trained(count, environment)
            print(
                f"{count} workers  {json.dumps({name: round(value, 4) for name, value in took[count].items()})}",
                flush=True,
            )
    about = (
        f"{EPOCHS} epochs of {STEPS} steps of a network of 8 units, one case per step and worker. All workers share "
        "the cores of this machine, so what grows with them here is work, not waiting."
    )
    return Measured(about, tuple(rows(took)))
