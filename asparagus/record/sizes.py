"""What a checkpoint weighs, before one is written: what those of an earlier run with the same network do."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from asparagus.checkpoint.folder import manifests
from asparagus.record.run_folder import RunFolder
from asparagus.spec import Spec

LOOKED_AT = 10
"""So many runs, the newest first."""


def checkpoint_bytes(spec: Spec) -> int | None:
    """Return the bytes of a checkpoint of the newest run of this stage, task, network and optimizer; None of none."""
    for folder in itertools.islice(_newest_first(Path(spec.paths.models) / spec.task / spec.stage), LOOKED_AT):
        run = RunFolder(folder, spec.stage)
        try:
            written = manifests(run.checkpoints)
            if written and _decides(_spec_of(run)) == _decides(spec.to_dict()):
                return max(one.bytes for one in written)
        except (OSError, ValueError, KeyError, TypeError):  # not ours to read, half written, of an older version
            continue
    return None


def _newest_first(stage: Path) -> list[Path]:
    numbered = {folder: folder.name.rpartition("=")[2] for folder in stage.glob("run_id=*")}
    return sorted((folder for folder in numbered if numbered[folder].isdigit()), key=lambda f: -int(numbered[f]))


def _spec_of(run: RunFolder) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(run.plan.read_text(encoding="utf-8"))["spec"]
    return spec


def _decides(spec: dict[str, Any]) -> tuple[Any, Any]:
    """Return what decides how much there is to keep: weights, and the optimizer's state of each."""
    model = json.loads(json.dumps(spec["model"]))  # as it comes back from a file: no tuples
    return model, (spec["optim"] or {}).get("name")
