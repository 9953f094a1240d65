"""The metrics that a run will log, as far as they are known before it starts."""

from __future__ import annotations

from collections.abc import Iterable

from asparagus.spec import Spec
from asparagus.stages import STAGES

LIGHTNINGS = "pytorch_lightning."


def logged(spec: Spec) -> tuple[str, ...] | None:
    """Return the names, one that ends with `/` for all below it; None where code of one's own may log more."""
    stage = STAGES.get(spec.stage)
    entries = [entry for part in (spec.callbacks, spec.plugins) for entry in part.values() if isinstance(entry, dict)]
    foreign = [entry for entry in entries if not str(entry.get("_target_", "")).startswith(LIGHTNINGS)]
    return None if stage is None or spec.own_module or foreign or not stage.metrics else tuple(stage.metrics)


def is_among(metric: str, names: Iterable[str]) -> bool:
    """Tell whether a metric is one of these names, or below one."""
    return any(metric == name or (name.endswith("/") and metric.startswith(name)) for name in names)
