"""Throughput on a GPU, through the launcher and as a plain Lightning script, in turn.

python benchmarks/gpu.py [REPEATS]    needs a GPU; writes its section of benchmarks/RESULTS.md
python benchmarks/gpu.py rehearse     a small one on whatever is here; writes nothing
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from report import report

BIN, RIVALS = Path(sys.executable).parent, Path(__file__).parent / "rivals"
GOAL = 0.99
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


def measured(command: list[str], file: Path, environment: dict[str, str]) -> float:
    """Run one and return its batches per second."""
    file.unlink(missing_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=file.parent, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return float(json.loads(file.read_text())["batches_per_s"])


def main(word: str) -> None:
    import torch

    rehearsed = word == "rehearse"
    if not rehearsed and not torch.cuda.is_available():
        print("no GPU here: nothing is measured. `python benchmarks/gpu.py rehearse` shows that it runs.")
        return
    sizes, precision = (SMALL, "32-true") if rehearsed else ({}, "bf16-mixed")
    repeats, speeds = (1 if rehearsed else int(word)), {}
    with tempfile.TemporaryDirectory() as home:
        own = {"ASPARAGUS_HOME": home, "PYTHONPATH": str(RIVALS), "RAY_AUTH_MODE": "disabled"}
        file = Path(home) / "speed.json"
        cases = commands(file, sizes, precision, gpus=0 if rehearsed else 1)
        for _ in range(repeats):
            for name, command in cases.items():
                speeds.setdefault(name, []).append(measured(command, file, {**os.environ, **own}))
                print(f"{name:<28} {speeds[name][-1]:9.2f} batches/s", flush=True)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    rows = ["| what | batches per s | over the plain script | goal |", "|---|---|---|---|"]
    for name, value in medians.items():
        goal = "" if name == PLAIN else f">= {GOAL}"
        rows.append(f"| {name} | {value:.2f} | {value / medians[PLAIN]:.3f} | {goal} |")
    if rehearsed:
        print("\n".join(rows))
        return
    about = f"On {torch.cuda.get_device_name()}; a residual network in bf16, medians of {repeats} in turn."
    packages = ("asparagus", "ray", "torch", "pytorch-lightning")
    report("Throughput on a GPU", f"python benchmarks/gpu.py {repeats}", about, packages, rows)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "3")
