"""A launch on a simulated cluster, what is broken in it on the way, and the report."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from asparagus.checkpoint.folder import STATE
from asparagus.faults import report as reports
from asparagus.faults.asked import (
    ENDS_THE_LAUNCH,
    KILL_DRIVER,
    KILL_NODE,
    KILL_TRACKING,
    PREEMPT_NODE,
    Fault,
)
from asparagus.faults.nodes import Nodes, simulated
from asparagus.faults.report import Report
from asparagus.faults.tracking import TrackingServer, tracking_server
from asparagus.faults.witness import REACHED, STRUCK, steps_in
from asparagus.journal import JOURNAL, JournalReader
from asparagus.plan import Plan

POLL_S = 0.05
PATIENCE_S = 900.0
"""So long without a step, and it is given up."""
LOG = "launch.log"
PLOT = "rehearsal.png"
OWN_FOLDERS = ("models", "results")
REPORT = "rehearsal.json"
LAUNCH = "from asparagus.cli.main import launch; launch()"


class Rehearsal:
    """One rehearsal, in a folder of its own: no run, store or cluster of the user's is touched.

    Args:
        plan: As it was checked, with the user's own folders.
        words: What `asp-launch` is given: config, options and overrides.
        faults: In the order of their steps.
        folder: New; becomes the models and results folder.
        say: Tells a line to whoever watches.
    """

    def __init__(
        self, plan: Plan, words: Sequence[str], faults: Sequence[Fault], folder: Path, say: Callable[[str], None]
    ) -> None:
        self._plan, self._words, self._faults = plan, words, faults
        self._folder, self._say = folder, say
        self._seen = folder / "seen"
        self._launches = 0
        self._told: set[Fault] = set()

    def run(self) -> Report:
        """Train, break, and report."""
        begun = time.monotonic()
        self._seen.mkdir(parents=True)
        with contextlib.ExitStack() as around:
            tracking = self._tracking(around)
            (self._folder / LOG).touch()
            cluster = around.enter_context(simulated(self._plan, _spare(self._faults)))
            finished = self._train(cluster, tracking)
            report = self._report(tracking, finished=finished, seconds=time.monotonic() - begun)
        steps = steps_in(self._seen)
        reports.draw(report, steps, self._folder / PLOT)
        (self._folder / REPORT).write_text(json.dumps(report.to_dict(), indent=2), encoding="utf-8")
        return report

    def _tracking(self, around: contextlib.ExitStack) -> TrackingServer | None:
        """Start an MLflow server, where one is to be killed."""
        if not any(fault.kind == KILL_TRACKING for fault in self._faults):
            return None
        self._say("starting an MLflow server")
        return around.enter_context(tracking_server(self._folder))

    def _train(self, cluster: Nodes, tracking: TrackingServer | None) -> bool:
        """Launch, strike where it waits for that, launch again where that is what follows; returns whether it ended."""
        process, may_return = self._launch(cluster, tracking), 0
        try:
            while True:
                self._tell()
                for fault in self._waiting():
                    self._strike(fault, process, cluster, tracking)
                if process.poll() is not None:
                    self._tell()
                    ended = sum(
                        self._struck(fault) is not None for fault in self._faults if fault.kind in ENDS_THE_LAUNCH
                    )
                    if process.returncode == 0 or ended <= may_return:
                        return process.returncode == 0
                    may_return, process = ended, self._launch(cluster, tracking)
                if self._stands_still():
                    self._say(f"no step for {PATIENCE_S / 60:.0f} min: given up")
                    return False
                time.sleep(POLL_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _launch(self, cluster: Nodes, tracking: TrackingServer | None) -> subprocess.Popen[bytes]:
        """Start the launch in a session of its own."""
        self._launches += 1
        self._say("launching" if self._launches == 1 else "the same command again")
        # Set, and not taken out: what is set wins over a .env.
        set_here = {f"ASPARAGUS_{name.upper()}": str(self._folder / name) for name in OWN_FOLDERS}
        set_here["MLFLOW_TRACKING_URI"] = self._uri(tracking)
        command = [sys.executable, "-c", LAUNCH, *self._words, *self._overrides(cluster.address, tracking)]
        own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        with (self._folder / LOG).open("ab") as log:
            return subprocess.Popen(command, env={**own, **set_here}, stdout=log, stderr=log, start_new_session=True)

    def _overrides(self, address: str, tracking: TrackingServer | None) -> Iterator[str]:
        """Yield what makes it this cluster's: a worker on each node, processors alone, and who sees the steps."""
        asked = self._plan.spec.resources
        by_kind: dict[str, list[int]] = {}
        for fault in self._faults:
            by_kind.setdefault(fault.kind, []).append(fault.step)
        named = ", ".join(f"{kind}: [{', '.join(map(str, steps))}]" for kind, steps in by_kind.items())
        seen = f"folder: {_quoted(self._seen)}, faults: {{{named}}}"
        yield f"+callbacks.rehearsal={{_target_: asparagus.faults.witness.Witness, {seen}}}"
        yield from ("site=cluster", f"site.address={address}", f"site.tracking_uri={_quoted(self._uri(tracking))}")
        yield from (f"paths.{name}={_quoted(self._folder / name)}" for name in OWN_FOLDERS)
        yield from (f"~logger.{name}" for name in self._plan.spec.logger)  # they would tell others
        if self._plan.workers == 0:
            yield "resources.workers=1"
        if asked.gpus_per_worker:
            yield from ("resources.gpus_per_worker=0", "trainer.accelerator=cpu", "trainer.precision=32-true")
        if asked.accelerator_type:
            yield "resources.accelerator_type=null"
        if asked.memory_per_worker:
            yield "resources.memory_per_worker=null"
        if asked.labels:
            yield "~resources.labels"
        if self._plan.parent is not None:  # its number is of the user's own record
            place = Path(self._plan.parent.checkpoint)
            yield f"init_from={_quoted(f'file:{place / STATE if place.is_dir() else place}')}"

    def _stands_still(self) -> bool:
        """Tell whether nothing has happened for too long."""
        signs = [self._folder / LOG, *self._seen.iterdir()]
        return time.time() - max(sign.stat().st_mtime for sign in signs) > PATIENCE_S

    def _uri(self, tracking: TrackingServer | None) -> str:
        return tracking.uri if tracking else f"sqlite:///{self._folder}/results/mlflow.db"

    def _waiting(self) -> Iterator[Fault]:
        """Yield the faults that the training has come to."""
        for fault in self._faults:
            if (self._seen / f"{REACHED}{fault.step}").exists() and self._struck(fault) is None:
                yield fault

    def _struck(self, fault: Fault) -> float | None:
        """Return when a fault struck."""
        file = self._seen / f"{STRUCK}{fault.step}"
        return float(file.read_text(encoding="utf-8") or "nan") if file.exists() else None

    def _strike(
        self, fault: Fault, process: subprocess.Popen[bytes], cluster: Nodes, tracking: TrackingServer | None
    ) -> None:
        """Break something outside of the training, and let it go on."""
        worker = int((self._seen / f"{REACHED}{fault.step}").read_text(encoding="utf-8") or 0)
        at = time.time()
        if fault.kind == KILL_DRIVER:
            process.kill()
            process.wait()
        elif fault.kind == KILL_NODE:
            cluster.kill(cluster.of(worker))
        elif fault.kind == PREEMPT_NODE:
            cluster.give_notice(cluster.of(worker))
        elif fault.kind == KILL_TRACKING and tracking is not None:
            tracking.kill()
        struck = self._seen / f"{STRUCK}{fault.step}"
        writing = struck.with_name("." + struck.name)
        writing.write_text(str(at), encoding="utf-8")
        writing.replace(struck)

    def _tell(self) -> None:
        """Say what has struck since it was last asked."""
        for fault in self._faults:
            if fault not in self._told and self._struck(fault) is not None:
                self._told.add(fault)
                self._say(f"{fault}: struck")

    def _report(self, tracking: TrackingServer | None, *, finished: bool, seconds: float) -> Report:
        steps = steps_in(self._seen)
        struck = [self._struck(fault) for fault in self._faults]
        return Report(
            costs=reports.costs(self._faults, struck, steps),
            books=_books(self._folder / "models", self._uri(tracking)),
            finished=finished,
            launches=self._launches,
            seconds=seconds,
            steps=max((step.step for step in steps), default=0),
            folder=str(self._folder),
        )


def _quoted(value: object) -> str:
    """Return a value as Hydra's grammar takes any text."""
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _spare(faults: Sequence[Fault]) -> int:
    """Return how many nodes more than workers are needed: one for each that goes."""
    return sum(fault.kind in (KILL_NODE, PREEMPT_NODE) for fault in faults)


def _books(models: Path, uri: str) -> reports.Books | None:
    """Hold what the journal of the one run says against what MLflow has of it."""
    from asparagus.record.book import recorded_name
    from asparagus.record.store import Store

    folder = next(models.glob("*/*/run_id=*"), None)
    if folder is None:
        return None
    events = [event for event in JournalReader(folder / JOURNAL).read() if event["kind"] == "metrics"]
    told = [(recorded_name(name), event["step"]) for event in events for name in event["values"]]
    return reports.books(told, Store(uri).points(int(folder.name.partition("=")[2])))
