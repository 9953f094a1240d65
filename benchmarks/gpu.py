"""Throughput on a GPU, through the launcher and as a plain Lightning script, in turn."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.commands import BIN, RIVALS, Asked, LeftOut, environment, timed, with_rivals
from benchmarks.figures import Measured, Row

REPEATS = 3
SMALL = {"width": 4, "depth": 1, "steps": 40, "batch_size": 4, "size": 8, "num_workers": 0, "warm_up": 10}
PLAIN, HERE, ON_RAY = "plain Lightning script", "asp-launch, in-process", "asp-launch, 1 Ray worker"
TRAIN = ("train", "task=Own", "trainer.max_epochs=1", "trainer.log_every_n_steps=10", "run.resume=false")


def commands(file: Path, sizes: dict[str, int], precision: str, *, gpus: int) -> dict[str, list[str]]:
    """Return what is run, by name; each writes its speed into the file."""
    plain = [f"{key}={value}" for key, value in sizes.items()] + [f'precision="{precision}"']
    net = [f"+model.module.{key}={sizes[key]}" for key in ("width", "depth") if key in sizes]
    data = [f"+data.{key}={sizes[key]}" for key in ("steps", "batch_size", "size", "num_workers") if key in sizes]
    speed = f"+callbacks.speed={{_target_: throughput.Speed, file: {file}, warm_up: {sizes.get('warm_up', 50)}}}"
    own = ["model.module._target_=throughput.Net", "data._target_=throughput.Images"]
    ours = [str(BIN / "asp-launch"), *TRAIN, *own, *net, *data, speed, f"trainer.precision={precision}"]
    worker = ["resources.workers=1", f"resources.gpus_per_worker={gpus}"]
    return {
        PLAIN: [sys.executable, str(RIVALS / "throughput.py"), str(file), *plain],
        HERE: ours,
        ON_RAY: [*ours, *worker],
    }


def speed(command: list[str], file: Path, inside: dict[str, str]) -> float:
    """Run one and return its batches per second."""
    file.unlink(missing_ok=True)
    timed(command, inside, cwd=file.parent)
    return float(json.loads(file.read_text())["batches_per_s"])


def measure(asked: Asked) -> Measured:
    """Train on the GPU each way, in turn; quickly means a small one on whatever is here."""
    import torch

    there = torch.cuda.is_available()
    if not there and not asked.quick:
        raise LeftOut("there is no GPU here. With --quick a small training on the CPU shows that it runs.")
    sizes, precision = (SMALL, "32-true") if asked.quick else ({}, "bf16-mixed")
    repeats, speeds = asked.turns(REPEATS), dict[str, list[float]]()
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "speed.json"
        inside = environment(Path(home), **with_rivals())
        cases = commands(file, sizes, precision, gpus=int(there))
        for _ in range(repeats):
            for name, command in cases.items():
                speeds.setdefault(name, []).append(speed(command, file, inside))
                print(f"{name:<28} {speeds[name][-1]:9.2f} batches/s", flush=True)
    about = (
        f"On {torch.cuda.get_device_name() if there else 'the CPU'}; a residual network in {precision}, medians of "
        f"{repeats} in turn."
    )
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    unit = "batches per second"
    ours = [
        Row(name, value, unit, PLAIN, value / medians[PLAIN], "gpu") for name, value in medians.items() if name != PLAIN
    ]
    return Measured(about, (Row(PLAIN, medians[PLAIN], unit), *ours))
