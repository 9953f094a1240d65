"""What says of each step of a training when it was and who took it, so that somebody outside can kill and measure."""

from __future__ import annotations

import os
import time

import pytorch_lightning as pl


class Steps(pl.Callback):
    """Write a line per step: time, process, rank, step.

    Args:
        file: Appended to by all ranks; a line is one write.
        seconds: How long each step takes at least.
    """

    def __init__(self, file: str, seconds: float) -> None:
        self.file, self.seconds = file, seconds

    def on_train_batch_end(self, trainer, *_):
        time.sleep(self.seconds)
        line = f"{time.time()} {os.getpid()} {trainer.global_rank} {trainer.global_step}\n"
        descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())
        os.close(descriptor)
