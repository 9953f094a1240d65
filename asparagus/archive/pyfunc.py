"""Archives as MLflow loads them (`mlflow.pyfunc.load_model`, `mlflow models serve`): arrays in, arrays out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from asparagus.archive.kept import kept_by
from asparagus.archive.layout import RUN
from asparagus.archive.restoring import restore
from asparagus.errors import DataError
from asparagus.stages.voxelwise import VoxelwiseModule


class ArrayModel:
    """A model that is asked with arrays.

    Args:
        model: Of an archive.
        channels: Of a case, where it is known.
        dimensions: Spatial ones of a case, where they are known.
    """

    def __init__(self, model: nn.Module, *, channels: int | None = None, dimensions: int | None = None) -> None:
        self.model, self.channels, self.dimensions = model.eval(), channels, dimensions

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:  # noqa: ARG002 - MLflow passes them
        """Return what the model says of each case: its logits or its reconstruction, as `forward` returns them.

        A segmentation looks at cases larger than a patch through the sliding window of its validation and test.

        Args:
            data: [N, C, *spatial], or what numpy makes such an array of.
            params: MLflow's; there are none.

        Raises:
            DataError: The array has another shape, or does not hold numbers.
        """
        weight = next(self.model.parameters(), torch.zeros(()))
        answer = self.model.predict_whole if isinstance(self.model, VoxelwiseModule) else self.model
        with torch.inference_mode():
            return _arrays(answer(torch.from_numpy(self._checked(data)).to(weight)))

    def _checked(self, data: Any) -> np.ndarray[Any, Any]:
        try:
            array = np.asarray(data, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"predict: the data are no array of numbers ({error}). Give [N, C, *spatial].") from error
        channels, dimensions = self.channels, self.dimensions
        fits = channels is None or (array.ndim > 1 and array.shape[1] == channels)
        if not fits or (dimensions is not None and array.ndim != dimensions + 2):
            raise DataError(
                f"predict: the array has the shape {list(array.shape)}, and the model takes [N, C, *spatial] with "
                f"{channels} channels and {dimensions} spatial dimensions."
            )
        return np.ascontiguousarray(array)


def _load_pyfunc(data_path: str) -> ArrayModel:
    """Load an archive; MLflow looks for this name.

    Args:
        data_path: The archive inside the model's folder.
    """
    model = restore(Path(data_path))
    kept = kept_by(model)
    if kept is None or kept.kind != RUN or "n_modalities" not in kept.cfg.task:
        return ArrayModel(model)
    given = kept.cfg.model.get("dimensions")
    dimensions = int(given[0]) if given else int(kept.cfg.task.dimensions)
    return ArrayModel(model, channels=int(kept.cfg.task.n_modalities), dimensions=dimensions)


def _arrays(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.cpu().numpy()
    if isinstance(output, dict):
        return {name: _arrays(value) for name, value in output.items()}
    return _arrays(output[0])  # of a network that is supervised at several depths, the finest
