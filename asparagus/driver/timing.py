"""The driver's own time in a run's journal: what came before the training, and what came after it."""

from __future__ import annotations

import logging

from asparagus.errors import RunError, StoreError
from asparagus.journal import Journal
from asparagus.record import timing_page
from asparagus.record.run_folder import RunFolder
from asparagus.stopwatch import END, LAUNCH, TIMING, WATCH, Phase, Stopwatch
from asparagus.storage import kept

log = logging.getLogger("asparagus")


def note_launch(folder: RunFolder, attempt: int, watch: Stopwatch) -> None:
    """Write down what a launch has done before its training begins: a line by which launches are told apart.

    Raises:
        RunError: Another process writes the journal.
    """
    watch.lap(Phase.RECORD)
    journal = Journal(folder.journal)
    journal.append(TIMING, by=LAUNCH, attempt=attempt, **watch.tell())
    journal.close()
    kept.push_run(folder.path)


def note_end(folder: RunFolder, attempt: int) -> None:
    """Write down what a launch has done after its training: all is over, and must not end otherwise for this.

    So nobody is waited for: an interrupted run is free by now, and somebody may have gone on with it already.
    """
    WATCH.lap(Phase.END)
    try:
        journal = Journal(folder.journal, patience_s=0)
        journal.append(TIMING, by=END, attempt=attempt, **WATCH.tell())
        journal.close()
        timing_page.write(folder)
        kept.push_run(folder.path)
    except (RunError, OSError, StoreError) as error:
        log.debug("%s: how long its end took is not written down (%s)", folder.path, error)
