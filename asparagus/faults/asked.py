"""What is to break in a rehearsal, and after which step: `kill_worker@step=50,kill_node@step=90`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from asparagus.errors import ConfigError, one_of

REHEARSE = "rehearse="
"""What an override begins with that says what is to break."""
KILL_WORKER = "kill_worker"
KILL_NODE = "kill_node"
PREEMPT_NODE = "preempt_node"
KILL_DRIVER = "kill_driver"
KILL_TRACKING = "kill_tracking"
FULL_DISK = "full_disk"
KINDS = {
    KILL_WORKER: "the process of rank 0 is killed",
    KILL_NODE: "the node of rank 0 is killed",
    PREEMPT_NODE: "the node of rank 0 is taken away, with notice",
    KILL_DRIVER: "the launch itself is killed, and the same command given again",
    KILL_TRACKING: "the MLflow server is killed, and is back after ten seconds",
    FULL_DISK: "the disk is full for rank 0; some room is made, and the same command given again",
}
"""What can break."""
ENDS_THE_LAUNCH = (KILL_DRIVER, FULL_DISK)
"""After these, the same command is given again."""
WRITTEN = re.compile(r"\s*(?P<kind>\w+)\s*@\s*step\s*=\s*(?P<step>\d+)\s*")
USAGE = "rehearse=KIND@step=N, several with commas: rehearse='kill_worker@step=50,kill_driver@step=90'."


@dataclass(frozen=True)
class Fault:
    """One thing that breaks."""

    kind: str
    step: int
    """After so many optimizer steps."""

    def __str__(self) -> str:
        return f"{self.kind}@step={self.step}"


def faults_of(text: str) -> tuple[Fault, ...]:
    """Read what is to break, in the order of steps.

    Raises:
        ConfigError: What is wrong with it, and what could be written.
    """
    found = sorted((_fault(part) for part in text.split(",")), key=lambda fault: fault.step)
    steps = [fault.step for fault in found]
    if len(set(steps)) < len(steps):
        raise ConfigError(f"rehearse: two faults after one step, in {text!r}: give each a step of its own.")
    return tuple(found)


def _fault(part: str) -> Fault:
    written = WRITTEN.fullmatch(part)
    if written is None:
        kinds = "\n".join(f"  {kind:<14} {about}" for kind, about in KINDS.items())
        raise ConfigError(f"rehearse: {part!r} is no fault. Write {USAGE} KIND is one of\n{kinds}")
    kind, step = written["kind"], int(written["step"])
    if kind not in KINDS:
        raise ConfigError(f"rehearse: {one_of('fault', kind, KINDS)}")
    if step < 1:
        raise ConfigError(f"rehearse: {part!r} strikes before anything is trained; the first step is 1.")
    return Fault(kind, step)
