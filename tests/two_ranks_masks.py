"""One of two ranks that look at crops annotated to different extents: `python -m tests.two_ranks_masks FOLDER`.

Each writes the loss of its own crop, the gradient that the ranks average to, and the loss without gradients.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import torch
from torch import distributed

from asparagus.stages.losses import AnnotatedBCE

LOGITS = [[0.5, -1.0, 2.0, 0.0], [1.5, 0.3, -0.7, 1.0]]
TARGETS = [[1.0, 0.0, 1.0, 0.0], [math.nan, math.nan, 1.0, math.nan]]
"""Of each rank: all voxels are annotated, and one of four."""


def main(folder: Path) -> None:
    """Compute the loss as a training does, and as a validation does."""
    rank = int(os.environ["RANK"])
    distributed.init_process_group("gloo")
    logits, target = torch.tensor([LOGITS[rank]]), torch.tensor([TARGETS[rank]])
    weight = torch.ones(1, requires_grad=True)
    loss = AnnotatedBCE()(weight * logits, target)
    loss.backward()
    distributed.all_reduce(weight.grad)
    with torch.no_grad():  # ranks need not be asked as often as each other
        alone = AnnotatedBCE()(logits, target)
    found = {"loss": float(loss.detach()), "gradient": float(weight.grad) / 2, "alone": float(alone)}
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
