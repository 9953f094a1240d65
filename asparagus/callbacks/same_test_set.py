"""One test set for all data modules of a task: its digest is recorded at each test, and compared with the first."""

from __future__ import annotations

import json
import logging
from collections.abc import Sized
from pathlib import Path
from typing import Any

import torch.distributed
from pytorch_lightning import Callback, LightningModule, Trainer

from asparagus.data.digest import combined, item_digests
from asparagus.data.files import write_json
from asparagus.data.own import BaseDataModule
from asparagus.errors import DataError
from asparagus.journal import Journal

TEST_SET = "test_set.json"
"""Beside the runs of a task: what its first test was on."""

log = logging.getLogger("asparagus")


class SameTestSet(Callback):
    """Take the digest of a `BaseDataModule`'s test items before they are tested on (SEEDS C2, C3).

    Each rank reads its share once more. The journal has the digest, from where it becomes a tag of the run.

    Args:
        task_folder: Of the task's runs.
        task: Its name.
        journal: Rank 0's.
    """

    def __init__(self, task_folder: Path, task: str, journal: Journal | None) -> None:
        self._file, self._task, self._journal = task_folder / TEST_SET, task, journal

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the digest, on all ranks; compare it, on rank 0."""
        data: Any = getattr(trainer, "datamodule", None)
        items: Any = data.datasets.get("test") if isinstance(data, BaseDataModule) else None
        if not isinstance(items, Sized):
            return
        processes = int(data.val_dataloader_spec.get("num_workers") or 0)
        try:
            mine = item_digests(items, trainer.global_rank, trainer.world_size, processes)
        except DataError as error:
            log.warning("the test set is not compared: %s", error)
            return
        digest = combined(_of_all_ranks(mine, trainer))
        if self._journal is not None:
            now: dict[str, Any] = {
                "digest": digest,
                "items": len(items),
                "datamodule": f"{type(data).__module__}.{type(data).__name__}",
            }
            text = self._otherwise(now)
            self._journal.append("test_set", **now, text=text)
            if text:
                log.warning(text)

    def _otherwise(self, now: dict[str, Any]) -> str:
        """Say that the task was tested on other items before; nothing where it was not, or never."""
        if not self._file.is_file():
            write_json(self._file, now)
            return ""
        first = json.loads(self._file.read_text(encoding="utf-8"))
        if first["digest"] == now["digest"]:
            return ""
        return (
            f"test set: {now['datamodule']} gives {now['items']} items (digest {now['digest']}), and {self._task} was "
            f"tested on {first['items']} others before (digest {first['digest']}, {first['datamodule']}): the results "
            "do not compare. All data modules of a task have one test set, without anything random in it. Changed on "
            f"purpose? Remove {self._file}."
        )


def _of_all_ranks(mine: list[bytes], trainer: Trainer) -> list[bytes]:
    shares: list[Any] = [mine]
    if trainer.world_size > 1:
        shares = [None] * trainer.world_size
        torch.distributed.all_gather_object(shares, mine)
    return [digest for share in shares for digest in share]
