"""What an evaluation box does beside a sweep: all weights are tried before the first run, and a table comes out."""

from __future__ import annotations

import logging
from pathlib import Path

from asparagus.errors import AsparagusError, ConfigError
from asparagus.record.eval_box import collect
from asparagus.record.eval_box_page import NAME, write
from asparagus.record.run_folder import RunFolder
from asparagus.spec import Paths
from asparagus.sweep_plan import SweepPlan

log = logging.getLogger("asparagus")


def weights_must_fit(plan: SweepPlan) -> None:
    """Refuse a box of which a row cannot start from a checkpoint.

    Raises:
        ConfigError: Every row that cannot, with the report of what became of the weights.
    """
    from asparagus.worker.fitting import fitting

    problems = []
    for name, stage in zip(plan.names, plan.stages, strict=True):
        if stage.parent is None:
            continue
        try:
            fitting(stage.spec, stage.parent)
        except AsparagusError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise ConfigError(*problems)


def folder_of_results(results: str | Path, sweep_id: int) -> Path:
    """Return where the table of a box lies beside the record."""
    return Path(results) / NAME / f"sweep_{sweep_id}"


def write_table(sweep_id: int, folder: RunFolder, paths: Paths) -> None:
    """Write the table of a box, as it stands, into its folder and among the results; a full disk changes nothing."""
    try:
        write(collect(Path(paths.models), sweep_id), folder.plots, folder_of_results(paths.results, sweep_id))
    except OSError as error:
        log.warning("the table cannot be written (%s)", error.strerror)
