"""What a test found of each case, as `predictions/<task>__<split>__<checkpoint>.json` in the run folder (SEEDS A48)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from asparagus.callbacks.volumes import map_file, write_map
from asparagus.checkpoint.folder import STATE
from asparagus.data.datasets import NamedCaseDataset
from asparagus.data.files import write_json

FOLDER = "predictions"
"""In the run folder."""

log = logging.getLogger("asparagus")


class Predictions(Callback):
    """Write what a module offers of its test: `test_step` returns `{"cases": {name: plain values}}`.

    Rank 0 writes the cases of all ranks, by name, when the test has ended, and beside them what the module's
    `summarize_cases(cases)` returns, where it has one. NaN becomes null. A module that offers nothing gets no file.
    With `maps`, what it offers as `predicted`, class indices [B, ...], is written as NIfTI by each rank for its cases.

    Args:
        folder: The run folder.
        task: Whose cases.
        weights: What the weights are called that are tested without a checkpoint being loaded.
        maps: Whether class maps are written too.
    """

    def __init__(self, folder: Path, task: str, weights: str, *, maps: bool = False) -> None:
        self._folder = folder
        self._task = task
        self._weights = weights
        self._with_maps = maps
        self._cases: dict[str, Any] = {}
        self._maps: dict[str, str] = {}
        self.file: Path | None = None
        """What the last test has written; None on other ranks, and where there were no cases."""
        self.cases: dict[str, Any] = {}
        """What it found of each case, as the file has it."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with no case."""
        self._cases, self._maps, self.file, self.cases = {}, {}, None, {}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what the module offers of this batch."""
        if isinstance(outputs, Mapping) and isinstance(cases := outputs.get("cases"), Mapping):
            self._cases.update(cases)
            if self._with_maps and "predicted" in outputs:
                self._write_maps(dict(zip(cases, outputs["predicted"], strict=True)), trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write all ranks' cases."""
        cases, maps = _of_all_ranks(self._cases, trainer), _of_all_ranks(self._maps, trainer)
        if not cases or trainer.global_rank != 0:
            return
        summarize = getattr(pl_module, "summarize_cases", None)
        whole = {**cases, **(summarize(cases) if summarize else {})}
        for name, file in maps.items():
            whole[name] = {**cases[name], "file": file}
        self.file, self.cases = self._file(trainer), _plain(cases)
        write_json(self.file, _plain(whole))
        log.info("predictions for %d test cases: %s", len(cases), self.file)

    def _file(self, trainer: Trainer) -> Path:
        loaded = Path(trainer.ckpt_path) if trainer.ckpt_path else Path(self._weights)
        return predictions_file(self._folder, self._task, name_of_test(trainer.datamodule), loaded)

    def _write_maps(self, predicted: Mapping[str, Tensor], trainer: Trainer) -> None:
        """Write one batch's class maps, and note for each case where it is, seen from the JSON."""
        folder = self._file(trainer).with_suffix("")
        test_set: Any = getattr(trainer.datamodule, "test_set", None)
        for name, classes in predicted.items():
            file = map_file(folder, name)
            write_map(file, classes, test_set.properties_of(name) if isinstance(test_set, NamedCaseDataset) else {})
            self._maps[name] = file.relative_to(folder.parent).as_posix()


def predictions_file(folder: Path, task: str, split: str, checkpoint: Path) -> Path:
    """Return the file for what a checkpoint predicts.

    Args:
        folder: The run folder.
        task: Whose cases.
        split: What the test data are called.
        checkpoint: A checkpoint folder of ours, the state in it, or a file of weights.
    """
    weights = checkpoint.parent.name if checkpoint.name == STATE else checkpoint.stem
    name = "__".join(part.replace("/", "_") for part in (task, split, weights))
    return folder / FOLDER / f"{name}.json"


def name_of_test(datamodule: Any) -> str:
    """Return what a data module calls its test data; `test` where it does not say."""
    return str(getattr(datamodule, "test_name", "test"))


def of_each_rank(mine: Any, trainer: Trainer) -> list[Any]:
    """Return the plain values of each rank, by rank; each of them has to ask."""
    shares: list[Any] = [mine]
    if trainer.world_size > 1:
        shares = [None] * trainer.world_size
        torch.distributed.all_gather_object(shares, mine)
    return shares


def _of_all_ranks(mine: dict[str, Any], trainer: Trainer) -> dict[str, Any]:
    """Return the cases of all ranks, in the order of their names."""
    return dict(sorted((name, found) for share in of_each_rank(mine, trainer) for name, found in share.items()))


def _plain(node: Any) -> Any:
    """Return values as strict JSON has them: no tensors, no NaN."""
    if hasattr(node, "tolist"):
        node = node.tolist()
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node
