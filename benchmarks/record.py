"""What recording costs a training step: five metrics each step, with no logger, with ours, and with Lightning's own."""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import MLFlowLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from asparagus.callbacks.journal_logger import JournalLogger
from asparagus.journal import Journal
from asparagus.record.recorder import Recorder, RunRecord
from asparagus.record.run_folder import create
from asparagus.spec import Paths, Spec
from benchmarks.commands import Asked
from benchmarks.figures import Measured, Row

TURNS, STEPS, FEW_STEPS = 5, 10_000, 200
METRICS = 5
WIDTH, BATCH = 256, 256
"""A step of about two milliseconds on one core: what recording costs would be lost in a longer one."""
NONE, OURS, THEIRS = "no logger", "Asparagus: journal and recorder", "Lightning's MLFlowLogger"


class Steps(pl.LightningModule):
    """A small network that logs five metrics at each step, and times its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10)
        )
        self.seconds: list[float] = []
        self._last: float | None = None

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log_dict({f"train/metric_{number}": loss * number for number in range(METRICS)})
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


@contextmanager
def ours(folder: Path) -> Iterator[Any]:
    """Yield our logger, with the recorder behind it."""
    models = folder / "models"
    run = create(models, Spec("pretrain", "Task", paths=Paths(models=str(models))), 1, "{}")
    record = RunRecord(1, "pretrain", "Task", str(run.path), "pretrain-1", {})
    with Recorder(f"sqlite:///{folder}/mlflow.db", folder / "artifacts", models) as recorder:
        recorder.open(record)
        journal = Journal(run.journal)
        yield JournalLogger(journal, run.path)
        journal.close()
        recorder.close(1, state="finished")


@contextmanager
def theirs(folder: Path) -> Iterator[Any]:
    yield MLFlowLogger(
        "bench", tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_location=str(folder / "artifacts")
    )


@contextmanager
def nothing(folder: Path) -> Iterator[Any]:  # noqa: ARG001 - one of three
    yield False


WAYS = {NONE: nothing, OURS: ours, THEIRS: theirs}


def steps(way: str, count: int) -> list[float]:
    """Train `count` steps one way; returns the seconds of each."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(BATCH * 100, 64), torch.randint(0, 10, (BATCH * 100,)))
    module = Steps()
    with tempfile.TemporaryDirectory() as folder, WAYS[way](Path(folder)) as logger:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=count,
            logger=logger,
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(data, batch_size=BATCH, shuffle=True))
    return module.seconds


def measure(asked: Asked) -> Measured:
    """Train so many steps each way, in turns."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)  # the recorder has the other core, as it has on any machine that trains
    turns, count = asked.turns(TURNS), FEW_STEPS if asked.quick else STEPS
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    ratios: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(turns):
        taken = {way: sum(steps(way, count // turns)) / (count // turns) for way in WAYS}
        for way, seconds in taken.items():
            times[way].append(seconds)
            ratios[way].append(seconds / taken[NONE])
            print(f"{turn + 1}/{turns}  {way:<34} {1000 * seconds:7.3f} ms per step", flush=True)
    about = f"{count:,} steps of each in {turns} turns, {METRICS} metrics logged at every step; medians over the turns."
    return Measured(about, tuple(row(way, times[way], ratios[way]) for way in WAYS))


def row(way: str, times: list[float], ratios: list[float]) -> Row:
    """Return the median of one way, and of its ratios to a training without a logger in the same turn."""
    step, unit = 1000 * statistics.median(times), "ms per step"
    if way == NONE:
        return Row(way, step, unit)
    spread = {"smallest, largest": f"{min(ratios):.3f}, {max(ratios):.3f}"}
    return Row(way, step, unit, NONE, statistics.median(ratios), "record" if way == OURS else "", spread)
