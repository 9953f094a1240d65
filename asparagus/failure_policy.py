"""What is done when a training fails, by kind of failure: pure decisions, and a bound to every retry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from asparagus.failure import Death, Kind
from asparagus.spec import Spec

BOUNDED = (Kind.LOST, Kind.COLLATERAL, Kind.UNKNOWN)
"""Counted together by `run.max_failures`."""
ACCUMULATE = "accumulate_grad_batches"


@dataclass(frozen=True)
class Decision:
    """What comes after a failure."""

    again: bool
    why: str
    halvings: int = 0
    """How often the batch of a worker is halved from here on."""
    leave_out: str = ""
    """A node."""


def decide(spec: Spec, before: Sequence[Death], death: Death, *, halvings: int = 0) -> Decision:
    """Decide whether the training is tried again.

    Args:
        spec: What was asked: `failures`, and `run.max_failures`.
        before: How the tries before ended, in this launch.
        death: How this one did: its first rank that failed.
        halvings: How often the batch was halved so far.
    """
    if death.kind in (Kind.BUG, Kind.REQUEST):
        return Decision(again=False, why="it would only be raised once more", halvings=halvings)
    if death.kind is Kind.OUT_OF_MEMORY and (made := _smaller(spec, halvings)):
        return Decision(again=True, why=made, halvings=halvings + 1)
    if death.kind is Kind.OUT_OF_MEMORY and not death.killed:
        return Decision(again=False, why="the same batch would not fit either", halvings=halvings)
    kind = Kind.LOST if death.kind is Kind.OUT_OF_MEMORY else death.kind
    if kind is Kind.UNKNOWN and before and before[-1].fingerprint == death.fingerprint:
        why = f"the same error twice at step {death.step}: it is a bug, and would only be raised once more"
        return Decision(again=False, why=why, halvings=halvings)
    name, most = _limit(spec, kind)
    count = 1 + sum(_counted_as(one) == _group(kind) for one in before)
    told = f"{name}={most}"
    if count > most:
        why = f"{told}: it has happened {count} times" if most else f"{told}: it is not tried again"
        return Decision(again=False, why=why, halvings=halvings)
    leave_out = death.node if kind is Kind.HARDWARE else ""
    return Decision(again=True, why=f"{told}: try {count} of {most} more", halvings=halvings, leave_out=leave_out)


def halved(spec: Spec, times: int) -> Spec:
    """Return a spec whose workers take smaller batches, of which more make a step: the global batch is what it was."""
    if not times:
        return spec
    factor = 2**times
    data = {**spec.data, "batch_size": int(spec.data["batch_size"]) // factor}
    trainer = {**spec.trainer, ACCUMULATE: int(spec.trainer.get(ACCUMULATE) or 1) * factor}
    return replace(spec, data=data, trainer=trainer)


def what_to_lower(spec: Spec, death: Death) -> str:
    """Say what a person can do about memory that ran out."""
    batch = spec.data.get("batch_size")
    accumulate = int(spec.trainer.get(ACCUMULATE) or 1)
    lines = []
    if isinstance(batch, int) and batch > 1:
        lines.append(
            f"Lower data.batch_size (now {batch} per worker); trainer.{ACCUMULATE}={accumulate * 2} with half of it "
            "keeps the global batch. failures.smaller_batch=2 does that by itself, up to twice."
        )
    rest = [f"data.patch_size (now {spec.data['patch_size']})"] if spec.data.get("patch_size") else []
    rest += ["trainer.precision=bf16-mixed", "a smaller network"]
    if death.killed or "cuda" not in death.told.lower():
        rest += ["data.num_workers", "data.cache=false", "more memory per worker (resources.cpus_per_worker)"]
    return "\n".join([*lines, f"Or: {', '.join(rest)}."])


def _smaller(spec: Spec, halvings: int) -> str:
    """Say what the next smaller batch is; nothing where there is none, or it is not asked for."""
    batch = spec.data.get("batch_size")
    if halvings >= spec.failures.smaller_batch or not isinstance(batch, int):
        return ""
    if batch % 2 ** (halvings + 1):
        return ""
    now = halved(spec, halvings + 1)
    return f"data.batch_size={now.data['batch_size']} trainer.{ACCUMULATE}={now.trainer[ACCUMULATE]} from here on"


def _limit(spec: Spec, kind: Kind) -> tuple[str, int]:
    failures = spec.failures
    named = {
        Kind.NAN_LOSS: ("failures.nan_loss", failures.nan_loss),
        Kind.PREEMPTION: ("failures.preemption", failures.preemption),
        Kind.HARDWARE: ("failures.hardware", failures.hardware),
        Kind.HUNG: ("failures.hung", failures.hung),
    }
    return named.get(kind, ("run.max_failures", spec.run.max_failures))


def _group(kind: Kind) -> Kind:
    return Kind.LOST if kind in BOUNDED else kind


def _counted_as(death: Death) -> Kind:
    if death.kind is Kind.OUT_OF_MEMORY:
        return Kind.LOST if death.killed else Kind.OUT_OF_MEMORY
    return _group(death.kind)
